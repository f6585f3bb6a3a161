"""`frames.parquet`: one row for every sampled frame."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.atomic import disk_errors
from pipeline.messages import Frames, Keyframes, Motion
from pipeline.stage import Context, Options, Stage
from stages.export._publish import publish

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
        self._rows: list[dict[str, Any]] = []
        self._keyframes: set[int] = set()
        self._last_ns = -1
        self._spool: Path | None = None
        self._writer: pq.ParquetWriter | None = None

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
        if len(seen) and self._rows and seen[0] < len(motion_px):
            self._rows[-1]["motion_px"] = motion_px[seen[0]]
        # All but the newest row are complete now.
        if len(self._rows) > ROW_GROUP:
            self._flush(self._rows[:-1])
            self._rows = self._rows[-1:]
        for t in np.flatnonzero(frames.pts_ns > self._last_ns):
            sharpness = float(frames.sharpness[t])
            self._rows.append(
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

    def _flush(self, rows: list[dict[str, Any]]) -> None:
        assert self.context.folder is not None, "exporters are opened with a run folder"
        schema = pa.schema(PASSING)
        with disk_errors(self.context.folder / "frames.parquet"):
            if self._writer is None:
                handle, name = tempfile.mkstemp(
                    prefix=".writing-", suffix=".spool", dir=self.context.folder
                )
                os.close(handle)
                self._spool = Path(name)
                self._writer = pq.ParquetWriter(name, schema)
            self._writer.write_table(pa.Table.from_pylist(rows, schema=schema))

    def finish(self) -> None:
        """Join the keyframes and write the table, one row group at a time."""
        self._flush(self._rows)
        self._rows = []
        assert self._writer is not None
        assert self._spool is not None
        self._writer.close()
        chosen = pa.array(sorted(self._keyframes), pa.int64())
        with (
            publish(self, "frames.parquet", "frame table") as path,
            pq.ParquetFile(self._spool) as spool,
            pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer,
        ):
            for batch in spool.iter_batches(batch_size=ROW_GROUP):
                keyframe = pc.is_in(batch.column("index"), value_set=chosen)  # type: ignore[attr-defined]
                columns = [*batch.columns, keyframe]
                writer.write_batch(pa.record_batch(columns, schema=SCHEMA))

    def close(self) -> None:
        """Remove the spool."""
        if getattr(self, "_writer", None) is not None:
            self._writer.close()  # type: ignore[union-attr]
        if getattr(self, "_spool", None) is not None:
            self._spool.unlink(missing_ok=True)  # type: ignore[union-attr]


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
