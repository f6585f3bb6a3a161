"""Decoder and sampler of one stream: makes its clips, and makes lost ones again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.contract import Frames, Probe, Source, Stage
from pipeline.sources import cache
from pipeline.storage import Snapshots
from pipeline.telemetry import Meter, meter_from_dict, meter_to_dict
from pipeline.worker.clip_metadata import ClipMetadata

__all__ = ["ClipSource"]


class ClipSource:
    """Decoder and sampler of one stream: makes its clips in order, and any of them again."""

    def __init__(self, decode: Stage[Any], sample: Stage[Any], source: Source) -> None:
        self._decode = decode
        self._sample = sample
        self._source = source
        self._reader: Any = None
        self._clips: Iterator[Frames] = iter(())
        self._again: Any = None
        """A reader of its own for clips that are made again: the first one reads on."""

    def open(
        self,
        place: int,
        snapshots: Snapshots | None,
        meters: dict[str, Meter],
        decode: str,
        sample: str,
    ) -> Probe:
        """Open the reader and bring the sampler to a place.

        Args:
            place: Number of the next clip; -1 where clips are only decoded again.
            snapshots: Of the sampler; None where the run folder is not visible.
            meters: Of the stages, by name; counted here.
            decode: Name of the decoder.
            sample: Name of the sampler.
        """
        self._snapshots, self._meters, self._names = snapshots, meters, (decode, sample)
        self._made = 0
        self._source = cache.local(self._source)
        self._reader = self._decode.process(self._source)
        probe: Probe = self._reader.probe
        if place < 0:
            # All clips are known: it only makes some of them again.
            return probe
        if place and probe.kind != "camera":
            self._go_to(place)
        elif snapshots is not None:
            snapshots.clear()
        if not self._made:
            self._clips = iter(self._sample.process(self._reader))
        while self._made < place and probe.kind != "camera":
            # Nobody wrote down where the sampler stood: it chooses once more from the beginning.
            if self.next() is None:
                break
        return probe

    def _go_to(self, place: int) -> None:
        if self._snapshots is None or place not in self._snapshots.numbers:
            return
        try:
            state, told = self._snapshots.load(place)
        except ValueError:
            return
        self._sample.restore(state)
        for name in self._names:
            self._meters[name].__dict__.update(vars(meter_from_dict(told[name])))
        self._clips = iter(self._sample.process(self._reader))
        self._made = place

    def next(self) -> Frames | None:
        """Return the next clip, or None at the end."""
        decode, sample = (self._meters[name] for name in self._names)
        with decode.timed():
            clip = next(self._clips, None)
        if clip is not None:
            self._made += 1
            sample.items += len(clip.images) - clip.overlap
            decode.items = sample.items
        return clip

    def save(self, safe: int) -> None:
        """Save the sampler's state; snapshots before clip `safe` are removed."""
        if self._snapshots is None:
            return
        state = self._sample.snapshot()
        if state is not None:
            told = {name: meter_to_dict(self._meters[name]) for name in self._names}
            self._snapshots.save(self._made, state, told, needed_from=safe)

    def redecode(self, clip: ClipMetadata) -> Frames:
        """Decode the frames of a clip again."""
        if self._again is None:
            self._again = self._decode.process(self._source)
        frames = [(p.rgb(), p.depth(), p.right()) for p in self._again.frames_at(clip.index)]
        if len(frames) != len(clip.index):
            raise ValueError(
                f"{self._source.shown}: {len(frames)} of {len(clip.index)} frames could be "
                "decoded again"
            )
        images, depth, right = zip(*frames, strict=True)
        return clip.with_pixels(images, depth, right)

    def stop(self) -> None:
        """End a camera; from any thread."""
        self._reader.stop()

    def close(self) -> None:
        """Close the readers."""
        for reader in (self._reader, self._again):
            if reader is not None:
                reader.close()
