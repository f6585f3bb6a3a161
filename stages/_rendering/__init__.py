"""Rendering of finished runs: camera paths, points, splats, and video output.

Used by export, report, view and `reel3d render`. Read `scene.py` first.
"""
