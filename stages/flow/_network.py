"""RAFT's networks from torchvision, run over the frames of a clip in both directions.

torchvision's `forward` takes pairs, works out the features of every frame anew for each, and
upsamples the flow after every refinement. Here a frame's features serve all its pairs, and only
the last flow is upsampled; the operations and their order are the same.

Shapes: T frames, H x W px (multiples of 8), h x w = H/8 x W/8, N pairs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any, Literal

import torch
from torchvision.models import optical_flow
from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow

from pipeline.weights import Weights, fit, read_tensors
from stages._networks.inference import pack

__all__ = ["RaftNetwork"]

Precision = Literal["float32", "float16", "bfloat16"]


class RaftNetwork:
    """One of torchvision's two networks, with its weights, on a device."""

    def __init__(
        self,
        size: str,
        weights: Weights,
        *,
        device: str,
        precision: Precision,
        iterations: int,
        threads: int,
    ) -> None:
        """Build and fill it.

        Args:
            size: `large` or `small`.
            weights: Its file.
            device: As torch names it.
            precision: Of the convolutions; the rest is float32.
            iterations: Refinements of a flow.
            threads: On a CPU, so many batches at a time.

        Raises:
            UsageError: The file is damaged, or holds the weights of something else.
        """
        build = optical_flow.raft_large if size == "large" else optical_flow.raft_small
        network: Any = build(weights=None, progress=False)
        fit(network, read_tensors(weights.path), weights, f"raft_{size}")
        self._network = network.eval().requires_grad_(False).to(device)
        if device == "cpu":
            # It has few pixels and many calls, each of which would lay out the weights anew.
            pack(network.update_block)
        self._device = device
        self._precision = precision
        self._iterations = iterations
        # Each with one of torch's: how many work at a sum changes its last bits.
        torch.set_num_threads(1)
        self._threads = threads if device == "cpu" else 1

    def flows(self, images: Any, pairs: list[tuple[int, int]], batch: int) -> list[Any]:
        """Return the flow of each pair: float32 [H, W, 2] px, on the CPU.

        Args:
            images: uint8 [T, H, W, 3], H and W multiples of 8 from 128 px up.
            pairs: Frames (from, to).
            batch: Frames or pairs at a time.
        """
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        with ThreadPoolExecutor(self._threads) as pool:
            read = [row for some in pool.map(self._read, pixels.split(batch)) for row in some]
            together = [pairs[at : at + batch] for at in range(0, len(pairs), batch)]
            flows = pool.map(lambda some: self._flows(read, some), together)
            return [flow for some in flows for flow in some]

    @torch.inference_mode()
    def _read(self, pixels: Any) -> list[tuple[Any, Any]]:
        """Return the features and the context of frames, uint8 [T, 3, H, W]."""
        # In -1..1, as torchvision's own preset has it.
        scaled = pixels.to(self._device).float().div(255).sub(0.5).div(0.5).contiguous()
        with self._cast():
            features = self._network.feature_encoder(scaled).float().unbind()
            contexts = self._network.context_encoder(scaled).float().unbind()
        return list(zip(features, contexts, strict=True))

    @torch.inference_mode()
    def _flows(self, read: list[tuple[Any, Any]], pairs: list[tuple[int, int]]) -> list[Any]:
        first = torch.stack([read[a][0] for a, _ in pairs])
        second = torch.stack([read[b][0] for _, b in pairs])
        context = torch.stack([read[a][1] for a, _ in pairs])
        flow = self._refined(first, second, context)
        return list(flow.permute(0, 2, 3, 1).float().cpu().numpy())

    def _refined(self, first: Any, second: Any, context: Any) -> Any:
        """Return the flow [N, 2, H, W] of features [N, C, h, w] (Teed and Deng 2020, section 3)."""
        network = self._network
        # Its pyramid is its own: other threads are at other pairs.
        correlation = copy(network.corr_block)
        correlation.build_pyramid(first, second)
        hidden_size = network.update_block.hidden_state_size
        hidden, inputs = context.split([hidden_size, context.shape[1] - hidden_size], dim=1)
        hidden, inputs = torch.tanh(hidden), torch.relu(inputs)
        count, _, h, w = first.shape
        start = make_coords_grid(count, h, w).to(first.device)
        now = start.clone()
        for _ in range(self._iterations):
            looked_up = correlation.index_pyramid(centroids_coords=now)
            with self._cast():
                hidden, step = network.update_block(hidden, inputs, looked_up, now - start)
            now = now + step.float()
        mask = None
        if network.mask_predictor is not None:
            with self._cast():
                mask = network.mask_predictor(hidden).float()
        return upsample_flow(flow=now - start, up_mask=mask)

    def _cast(self) -> AbstractContextManager[Any]:
        if self._precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.partition(":")[0], getattr(torch, self._precision))
