"""Differentiable rasterization of 3D Gaussians on the CPU (numba), loss and optimizer.

Depends on geometry, not on files or stages. Read `rasterize.py` first.
"""
