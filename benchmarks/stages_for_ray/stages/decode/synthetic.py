"""A source without a film: batches out of one buffer, so that only the way they go costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import Field

from pipeline.contract import DecodedFrame, Options, Probe, Reader, Source, Stage, Timeline


class Config(Options):
    """Options of `decode/synthetic`."""

    width: int = Field(1920, ge=16, description="px")
    height: int = Field(1080, ge=16, description="px")
    frames: int = Field(1, ge=1, description="frames of a batch")
    batches: int = Field(200, ge=1, description="batches of the stream")


class Synthetic:
    """An opened source that `sample/batches` asks for what it is to make."""

    metric = False

    def __init__(self, source: Source, config: Config) -> None:
        self.source = source
        self.config = config
        self.probe = Probe(
            kind="images",
            width=config.width,
            height=config.height,
            source_width=config.width,
            source_height=config.height,
            duration_s=None,
            fps=None,
            frames=config.frames * config.batches,
            codec="none",
        )

    def timeline(self) -> Timeline:
        """There are no frames that could be listed."""
        raise NotImplementedError

    def frames_at(
        self, wanted: Iterable[int], first: int = 0, again: Iterable[int] = ()
    ) -> Iterator[DecodedFrame]:
        """There is nothing to decode."""
        raise NotImplementedError

    def scan(self) -> Iterator[DecodedFrame]:
        """There is nothing to decode."""
        raise NotImplementedError

    def stop(self) -> None:
        """Nothing to stop."""

    def close(self) -> None:
        """Nothing to give back."""


class Model(Stage[Config]):
    """Opens nothing."""

    def process(self, source: Source) -> Reader:
        """Return the description of the batches."""
        return Synthetic(source, self.config)
