"""The run folder on disk: artifacts, ledger, journal, snapshots, and what a resumed run may skip.

Must not know who runs the stages. Read `run_folder.py` first.
"""

from pipeline.storage.journal import ClipRecord, Journal, JournalState
from pipeline.storage.plan import PlannedStage
from pipeline.storage.run_folder import STATE, RunFolder, clean_name, fingerprint, free_folder
from pipeline.storage.snapshots import Snapshots

__all__ = [
    "STATE",
    "ClipRecord",
    "Journal",
    "JournalState",
    "PlannedStage",
    "RunFolder",
    "Snapshots",
    "clean_name",
    "fingerprint",
    "free_folder",
]
