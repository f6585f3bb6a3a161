"""Optical flow between neighbouring frames: `Frames` to `Motion`."""
