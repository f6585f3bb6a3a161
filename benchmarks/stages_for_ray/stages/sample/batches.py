"""The batches of `decode/synthetic`."""

from __future__ import annotations

from collections.abc import Iterator

from stages.decode.synthetic import Synthetic

from benchmarks.batches import Buffer
from pipeline.contract import Frames, Options, Reader, Stage


class Config(Options):
    """`sample/batches` has no options."""


class Model(Stage[Config]):
    """Makes one batch after the other."""

    def process(self, reader: Reader) -> Iterator[Frames]:
        """Yield the batches."""
        assert isinstance(reader, Synthetic)
        wanted = reader.config
        buffer = Buffer(wanted.frames, wanted.height, wanted.width)
        for number in range(wanted.batches):
            yield buffer.batch(number)
