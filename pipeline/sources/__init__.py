"""Addresses of videos: schemes, credentials and their masking, local copies of remote files.

Must not know how a video is decoded. Read `urls.py` first.
"""
