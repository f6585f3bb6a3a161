"""All that the author of a stage reads: messages, the Stage, sources, events.

Must not know any runner or any model. Read `messages.py` first, then `stage.py`.
"""
