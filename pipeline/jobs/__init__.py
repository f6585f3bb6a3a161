"""Runs as jobs of a Ray cluster: submission, status, logs, cancellation.

Knows how a command line is shipped to a cluster, not how it runs there. Importing the package needs
the standard library alone (`preflight`). Read `submission.py` first.
"""
