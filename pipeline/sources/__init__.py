"""Addresses of videos: schemes, credentials and their masking, local copies of remote files.

Must not know how a video is decoded. Read `urls.py` first.
"""

from pipeline.sources.cache import check_scheme
from pipeline.sources.urls import (
    CAMERAS,
    mask,
    masked,
    plain_path,
    scheme,
    scrub,
    secret_in,
    with_login,
)

__all__ = [
    "CAMERAS",
    "check_scheme",
    "mask",
    "masked",
    "plain_path",
    "scheme",
    "scrub",
    "secret_in",
    "with_login",
]
