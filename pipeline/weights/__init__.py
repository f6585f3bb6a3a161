"""Weights of models: fetched, verified, read, and their licenses.

Must not know any model: a stage names what it needs. Read `files.py` first.
"""
