"""How large a cluster must be: `reel3d plan`.

Runs the real scheduler in virtual time against measured costs; must not know Ray or `cluster`.
Read `simulator.py` first.
"""
