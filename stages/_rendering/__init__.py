"""Pictures of finished runs: camera paths, points and splats drawn, video written.

Used by export, report, view and `reel3d render`. Read `scene.py` first.
"""
