"""Compilation of numba kernels, and a machine-code cache inside the installed package.

Independent of the stages: `python -m stages._kernels` calls every model to compile its kernels.
"""
