"""`frames.parquet`: one row for every sampled frame."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.contract import Context, Frames, Keyframes, Motion, Options, Stage
from stages.export._publish import publish
from stages.export._scratch import Scratch, Spool

__all__ = ["SCHEMA", "Config", "Model"]

ROW_GROUP = 4096

PASSING = [
    pa.field("index", pa.int64(), nullable=False),
    pa.field("pts_s", pa.float64(), nullable=False),
    pa.field("clip", pa.string(), nullable=False),
    pa.field("shot", pa.int32(), nullable=False),
    pa.field("sharpness", pa.float32()),
    pa.field("motion_px", pa.float32()),
]
"""What is known of a frame as it passes.

`index` is the frame's number in the source, `pts_s` its presentation time, `clip` the first clip
that held it, `sharpness` the variance of the Laplacian, and `motion_px` the median length of the
flow to the next sampled frame, in px of the sampled frames; null where there is no such flow (the
last frame of a shot)."""

SCHEMA = pa.schema([*PASSING, pa.field("keyframe", pa.bool_(), nullable=False)])
"""`keyframe` says whether the frame was chosen for reconstruction."""


class Config(Options):
    """No options."""


class Model(Stage[Config]):
    """Rows go to a spool as they pass; the keyframes, known at the end, are joined from there."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def open(self, context: Context) -> None:
        """Begin with an empty table."""
        super().open(context)
        assert context.folder is not None, "exporters are opened with a run folder"
        self._scratch = Scratch(self)
        self._spool = Spool(self._scratch, "rows", context.folder / "frames.parquet")
        self._newest: dict[str, Any] | None = None
        """Waits for its motion, which stands in the next clip."""
        self._keyframes: set[int] = set()
        self._last_ns = -1

    def process(
        self,
        frames: Frames | None = None,
        motion: Motion | None = None,
        keyframes: Keyframes | None = None,
    ) -> None:
        """Take the frames of a clip that no clip before held, or the choice of keyframes."""
        if keyframes is not None:
            self._keyframes.update(keyframes.index.tolist())
        if frames is None:
            return
        motion_px = _median_px(motion)
        # The motion away from the last frame of a clip stands in the clip after it.
        seen = np.flatnonzero(frames.pts_ns == self._last_ns)
        if len(seen) and self._newest is not None and seen[0] < len(motion_px):
            self._newest["motion_px"] = motion_px[seen[0]]
        rows = [] if self._newest is None else [self._newest]
        for t in np.flatnonzero(frames.pts_ns > self._last_ns):
            sharpness = float(frames.sharpness[t])
            rows.append(
                {
                    "index": int(frames.index[t]),
                    "pts_s": int(frames.pts_ns[t]) / 1e9,
                    "clip": frames.clip,
                    "shot": frames.shot,
                    "sharpness": sharpness if np.isfinite(sharpness) else None,
                    "motion_px": motion_px[t] if t < len(motion_px) else None,
                }
            )
            self._last_ns = int(frames.pts_ns[t])
        if rows:
            *complete, self._newest = rows
            self._put_aside(complete)

    def _put_aside(self, rows: list[dict[str, Any]]) -> None:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._spool.append("".join(lines).encode())

    def snapshot(self) -> dict[str, Any] | None:
        """Return where the table stands; its rows lie in the scratch folder."""
        if not self._scratch.lasts:
            return None
        return {
            "spool": self._spool.length,
            "newest": self._newest,
            "keyframes": np.array(sorted(self._keyframes), np.int64),
            "last_ns": self._last_ns,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._spool.restore(state["spool"])
        self._newest, self._last_ns = state["newest"], state["last_ns"]
        self._keyframes = set(state["keyframes"].tolist())

    def finish(self) -> None:
        """Join the keyframes and write the table, one row group at a time."""
        if self._newest is not None:
            self._put_aside([self._newest])
            self._newest = None
        chosen = pa.array(sorted(self._keyframes), pa.int64())
        with (
            publish(self, "frames.parquet", "frame table") as path,
            self._spool.reading() as lines,
            pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer,
        ):
            while rows := [json.loads(line) for line in islice(lines, ROW_GROUP)]:
                table = pa.Table.from_pylist(rows, schema=pa.schema(PASSING))
                keyframe = pc.is_in(table.column("index"), value_set=chosen)  # type: ignore[attr-defined]
                writer.write_table(pa.table([*table.columns, keyframe], schema=SCHEMA))

    def close(self) -> None:
        """Give the spool back."""
        if hasattr(self, "_spool"):
            self._spool.close()
            self._scratch.close()


def _median_px(motion: Motion | None) -> list[float | None]:
    """Return the median length of each flow field over every fourth known pixel."""
    lengths: list[float | None] = []
    for flow in motion.flow if motion is not None else ():
        u, v = flow[::2, ::2, 0], flow[::2, ::2, 1]
        known = np.isfinite(u) & np.isfinite(v)
        if known.mean() < 0.1:
            # Sparse flow: every tracked point counts.
            u, v = flow[..., 0], flow[..., 1]
            known = np.isfinite(u) & np.isfinite(v)
        lengths.append(float(np.median(np.hypot(u[known], v[known]))) if known.any() else None)
    return lengths
