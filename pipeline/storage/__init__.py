"""The run folder on disk: artifacts, ledger, journal, snapshots, and what a resumed run may skip.

Must not know who runs the stages. Read `run_folder.py` first.
"""
