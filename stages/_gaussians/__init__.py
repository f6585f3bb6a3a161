"""Differentiable rasterization of 3D Gaussians on the CPU (numba), and what training needs of it.

Knows geometry, not files or stages. Read `rasterize.py` first.
"""
