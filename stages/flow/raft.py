"""RAFT (Teed and Deng, ECCV 2020), with torchvision's networks and weights.

Exact where patches fail: large motion, little texture, thin things. On a CPU it takes about a
second a pair of 640 x 360, so it is for a GPU, or for few frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Context, Frames, Motion, Resources, Stage
from pipeline.errors import require
from pipeline.weights import Weights, own_file, torch_cache
from stages._networks.batching import Batches
from stages._networks.checkpoints import check_device, device_of
from stages.flow._consistency import confidence
from stages.flow._pairs import SMALLEST_PX, FlowOptions, scaled_flow, working_size
from stages.flow._tiles import Tile, blended, tiles

__all__ = ["Config", "Model"]

STRIDE = 8
"""The networks work at an eighth of the size."""
SMALLEST_TILE_PX = 128
"""Less leaves the coarsest level of the correlation pyramid without two values a side."""
OVERLAP_PX = 128
GPU_BATCH = 8
TASK = "optical flow"


class Config(FlowOptions):
    """Options of `flow/raft`."""

    size: Literal["large", "small"] = Field(
        "large", description="network: raft_large (5.3 M parameters) or raft_small (1 M)"
    )
    weights: str = Field(
        "", description="file of weights (.safetensors, .pth) in place of torchvision's own"
    )
    iterations: int = Field(12, ge=1, le=64, description="refinements of a flow")
    batch: int = Field(
        0,
        ge=0,
        le=64,
        description="pairs at a time; 0: 8 on a GPU (fewer where its memory runs out), 1 on a CPU",
    )
    tile: int = Field(
        1024,
        ge=256,
        le=4096,
        multiple_of=STRIDE,
        description="pictures with a longer side in px are cut into overlapping tiles",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where one is")
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of the convolutions, on a GPU"
    )


class Model(Stage[Config]):
    """Flow of a recurrent network over all pairs of features."""

    step: ClassVar[str] = "flow"
    """Whose options it goes by, for messages; depth/stereo takes it for flow between two views."""
    instead: ClassVar[str] = "flow.model=dis"
    """What to use where its weights cannot be had."""

    @property
    def resources(self) -> Resources:
        """What one worker needs."""
        if self.device == "cuda":
            return Resources(cpus=1, gpus=0.25, memory_bytes=2_000_000_000)
        return Resources(cpus=1, memory_bytes=1_000_000_000)

    @property
    def device(self) -> str:
        """Where it runs."""
        return device_of(self.config.device)

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The file of the chosen network."""
        if self.config.weights:
            return (own_file(self.config.weights, task=TASK),)
        return (torchvision_weights(self.config.size, self.instead),)

    @classmethod
    def catalog(cls) -> tuple[Weights, ...]:
        """All files that it can fetch."""
        return (
            torchvision_weights("large", cls.instead),
            torchvision_weights("small", cls.instead),
        )

    def open(self, context: Context) -> None:
        """Load the network.

        Raises:
            UsageError: There is no such device, or the weights do not fit.
        """
        super().open(context)
        require("torchvision")
        check_device(self.step, self.device, self.config.precision)
        cv2.setNumThreads(context.threads)
        # Several pairs at a time leave a CPU's caches (measured: 8 % slower).
        self._batches: Batches[list[Any]] = Batches(
            self.config.batch or (GPU_BATCH if self.device == "cuda" else 1),
            "pairs",
            f"lower {self.step}.tile (now {self.config.tile}) or {self.step}.working_side",
            self.warn,
        )
        from stages.flow._network import RaftNetwork

        config = self.config
        self._network = RaftNetwork(
            config.size,
            self.weights[0],
            device=self.device,
            precision=config.precision,
            iterations=config.iterations,
            threads=context.threads,
        )

    def process(self, frames: Frames) -> Motion:
        """Return the flow of every pair of neighboring frames.

        Frames with a side under `SMALLEST_PX` at the working size get zero flow of no confidence.
        """
        count, height, width = len(frames.images) - 1, *frames.images.shape[1:3]
        flow = np.zeros((max(count, 0), height, width, 2), np.float32)
        trust = np.zeros((max(count, 0), height, width), np.float32)
        size = working_size(width, height, self.config.working_side)
        if count > 0 and min(size) >= SMALLEST_PX:
            images = np.stack([_resized(image, size) for image in frames.images])
            for t, (there, back) in enumerate(self._both_ways(images)):
                flow[t], trust[t] = scaled_flow(there, confidence(there, back), (width, height))
        return Motion(clip=frames.clip, flow=flow, confidence=trust)

    def _both_ways(self, images: Any) -> list[tuple[Any, Any]]:
        """Return the flows there and back, [h, w, 2], of neighbors in uint8 [T, h, w, 3]."""
        pairs = [pair for t in range(len(images) - 1) for pair in ((t, t + 1), (t + 1, t))]
        height, width = images.shape[1:3]
        parts: list[list[tuple[Tile, Any]]] = [[] for _ in pairs]
        for tile in tiles(height, width, self.config.tile, OVERLAP_PX):
            for place, flow in enumerate(self._flows(images[:, *tile], pairs)):
                parts[place].append((tile, flow))
        flows = [blended(part, height, width) for part in parts]
        return list(zip(flows[::2], flows[1::2], strict=True))

    def _flows(self, images: Any, pairs: list[tuple[int, int]]) -> list[Any]:
        height, width = images.shape[1:3]
        full = [max(SMALLEST_TILE_PX, -(-length // STRIDE) * STRIDE) for length in (height, width)]
        more = [(0, 0), (0, full[0] - height), (0, full[1] - width), (0, 0)]
        padded = np.ascontiguousarray(np.pad(images, more, mode="edge"))
        flows = self._batches.attempt(lambda size: self._network.flows(padded, pairs, size))
        return [flow[:height, :width] for flow in flows]


@dataclass(frozen=True, kw_only=True)
class TorchvisionWeights(Weights):
    """Weights that torchvision publishes; it is asked for their address only to fetch them.

    Importing it takes seconds, and what there is can be listed without it.
    """

    size: str

    @property
    def is_own(self) -> bool:
        """It is torchvision's."""
        return False

    def download(self) -> Weights:
        """Bring it to `path`; see `Weights.download`."""
        return Weights.download(replace(self, url=self.address()))

    def address(self) -> str:
        """Return where torchvision has the weights that it takes by default."""
        require("torchvision")
        from torchvision.models import optical_flow

        kinds: Any = optical_flow
        large = self.size == "large"
        return (kinds.Raft_Large_Weights if large else kinds.Raft_Small_Weights).DEFAULT.url


FILES = {
    "large": ("C_T_SKHT_V2", "raft_large_C_T_SKHT_V2-ff5fadd5.pth", 21_106_789),
    "small": ("C_T_V2", "raft_small_C_T_V2-01064c6d.pth", 4_006_609),
}
"""What torchvision 0.26 to 0.29 takes by default: name, file, about how many bytes. The file's name
ends with the first digits of its hash."""


def torchvision_weights(size: str, instead: str = Model.instead) -> TorchvisionWeights:
    """Return torchvision's own weights of a network, the ones that it takes by default."""
    name, file, nbytes = FILES[size]
    return TorchvisionWeights(
        id=f"raft_{size}-{name}",
        task=TASK,
        license="BSD-3-Clause",
        nbytes=nbytes,
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        path=torch_cache() / file,
        instead=instead,
        size=size,
    )


def _resized(image: Any, size: tuple[int, int]) -> Any:
    if (image.shape[1], image.shape[0]) == size:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
