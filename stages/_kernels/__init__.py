"""Compiling numba kernels, and the cache of machine code that the installed package owns.

Knows no stage: `python -m stages._kernels` asks every model to compile its kernels.
"""
