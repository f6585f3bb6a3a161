"""RAFT's networks from torchvision, run over the frames of a clip in both directions.

torchvision's `forward` takes pairs, works out the features of every frame anew for each, and
upsamples the flow after every refinement. Here a frame's features serve all its pairs, and only
the last flow is upsampled; the operations and their order are the same.

Shapes: T frames, H x W px (multiples of 8), h x w = H/8 x W/8, N pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torchvision.models import optical_flow
from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow

from pipeline.weights import Weights, fit, read_tensors

__all__ = ["Raft"]

Precision = Literal["float32", "float16", "bfloat16"]


class Raft:
    """One of torchvision's two networks, with its weights, on a device."""

    def __init__(
        self, size: str, weights: Weights, *, device: str, precision: Precision, iterations: int
    ) -> None:
        """Build and fill it.

        Args:
            size: `large` or `small`.
            weights: Its file.
            device: As torch names it.
            precision: Of the convolutions; the rest is float32.
            iterations: Refinements of a flow.

        Raises:
            UsageError: The file is damaged, or holds the weights of something else.
        """
        build = optical_flow.raft_large if size == "large" else optical_flow.raft_small
        network: Any = build(weights=None, progress=False)
        fit(network, read_tensors(weights.path), weights, f"raft_{size}")
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = device
        self._precision = precision
        self._iterations = iterations

    @torch.inference_mode()
    def flows(self, images: Any, pairs: list[tuple[int, int]], batch: int) -> Iterator[Any]:
        """Yield the flow of each pair: float32 [H, W, 2] px, on the CPU.

        Args:
            images: uint8 [T, H, W, 3], H and W multiples of 8 from 128 px up.
            pairs: Frames (from, to).
            batch: Frames or pairs at a time.
        """
        # float32 [T, 3, H, W] in -1..1, as torchvision's own preset has it.
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        features: list[Any] = []
        contexts: list[Any] = []
        for some in pixels.split(batch):
            scaled = some.to(self._device).float().div(255).sub(0.5).div(0.5).contiguous()
            with self._cast():
                features += self._network.feature_encoder(scaled).float().unbind()
                contexts += self._network.context_encoder(scaled).float().unbind()
        for at in range(0, len(pairs), batch):
            some = pairs[at : at + batch]
            first = torch.stack([features[a] for a, _ in some])
            second = torch.stack([features[b] for _, b in some])
            context = torch.stack([contexts[a] for a, _ in some])
            flow = self._refined(first, second, context)
            yield from flow.permute(0, 2, 3, 1).float().cpu().numpy()

    def _refined(self, first: Any, second: Any, context: Any) -> Any:
        """Return the flow [N, 2, H, W] of features [N, C, h, w] (Teed and Deng 2020, section 3)."""
        network = self._network
        network.corr_block.build_pyramid(first, second)
        hidden_size = network.update_block.hidden_state_size
        hidden, inputs = context.split([hidden_size, context.shape[1] - hidden_size], dim=1)
        hidden, inputs = torch.tanh(hidden), torch.relu(inputs)
        count, _, h, w = first.shape
        start = make_coords_grid(count, h, w).to(first.device)
        now = start.clone()
        for _ in range(self._iterations):
            looked_up = network.corr_block.index_pyramid(centroids_coords=now)
            with self._cast():
                hidden, step = network.update_block(hidden, inputs, looked_up, now - start)
            now = now + step.float()
        mask = None
        if network.mask_predictor is not None:
            with self._cast():
                mask = network.mask_predictor(hidden).float()
        # The pyramid is the largest thing here by far.
        network.corr_block.corr_pyramid = []
        return upsample_flow(flow=now - start, up_mask=mask)

    def _cast(self) -> AbstractContextManager[Any]:
        if self._precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.partition(":")[0], getattr(torch, self._precision))
