"""Saying what a file is that does not open as a video."""

from __future__ import annotations

from pathlib import Path

__all__ = ["what_it_is"]

HEAD_BYTES = 4096
PLAYLISTS = (
    b"#EXTM3U",
    b"ffconcat",
    b"v=0\r",
    b"v=0\n",
    b"[playlist]",
    b"<?xml",
    b"<MPD",
    b"<smil",
)
PICTURES = {
    b"\x89PNG": "a PNG",
    b"\xff\xd8\xff": "a JPEG",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
}


def what_it_is(path: str, error: Exception) -> str:
    """Return what is known of a file that FFmpeg refused, and what to do."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD_BYTES)
        size = Path(path).stat().st_size
    except OSError as trouble:
        return str(trouble.strerror)
    text = _is_text(head)
    if text and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(PLAYLISTS):
        return (
            "it is a playlist, which may name other files and is not followed; "
            "give the video file itself"
        )
    if text:
        return f"it holds text ({size} bytes), not video; give a video file"
    for magic, kind in PICTURES.items():
        if head.startswith(magic):
            return f"it is {kind} picture; pictures are read with decode.model=images"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "it is a WebP picture; pictures are read with decode.model=images"
    if head[4:8] in (b"ftyp", b"mdat", b"wide", b"free", b"skip"):
        boxes = _boxes(path, size)
        if "moov" not in boxes:
            return (
                "its index (the moov atom) is missing, as when a recording or a copy was cut off; "
                "copy it again, or repair it with a tool such as untrunc"
            )
        if "mdat" not in boxes and "moof" not in boxes:
            return "it holds an index but no video data (no mdat atom); copy it again"
    why = str(getattr(error, "strerror", "") or type(error).__name__)
    return (
        f"no video format that is allowed fits it ({why}); it may be damaged, or convert it with "
        "'ffmpeg -i FILE out.mp4'"
    )


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The last character may be cut by the end of the sample.
        return error.start > len(head) - 4
    return True


def _boxes(path: str, size: int) -> list[str]:
    """List the top-level atoms of an ISO media file (ISO/IEC 14496-12, 4.2)."""
    found: list[str] = []
    with Path(path).open("rb") as file:
        position = 0
        while position + 8 <= size and len(found) < 1000:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            found.append(header[4:8].decode("latin-1"))
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length < 8:
                break
            position += length
    return found
