"""Inference of transformers' depth networks, as in their documentation, at the size of the views.

The checkpoint's processor handles images one by one; only the network runs in batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stages._networks.batching import Batches
from stages.depth._networks import Network

__all__ = ["Predictor"]

Map = npt.NDArray[np.float32]


class Predictor:
    """A loaded network.

    Args:
        network: Network of transformers, on its device.
        processor: Its image processor.
        family: Properties of the network family.
        device: torch device.
        precision: Name of the network's dtype.
        mirror: Whether to average with the prediction for the mirrored image.
        threads: Number of batches in parallel on a CPU.
        batches: Batch size of images, reduced when memory runs out.
    """

    def __init__(
        self,
        network: Any,
        processor: Any,
        family: Network,
        *,
        device: str,
        precision: str,
        mirror: bool,
        threads: int,
        batches: Batches[list[Map]],
    ) -> None:
        self._network = network
        self._processor = processor
        self._family = family
        self._device = device
        self._precision = getattr(torch, precision)
        self._mirror = mirror
        self._threads = threads if device == "cpu" else 1
        self._batches = batches

    def maps(
        self, images: npt.NDArray[np.uint8], prompts: Sequence[Map] | None = None
    ) -> Iterator[Map]:
        """Yield the network's prediction for each image, float32 [H, W].

        Args:
            images: uint8 [K, H, W, 3], RGB.
            prompts: Rough depth of each image, float32 [h, w], for networks that take prompts.

        Raises:
            UsageError: Not even one image fits into the GPU's memory.
        """
        at = 0
        while at < len(images):
            # One group of batches that run in parallel per attempt.
            group = slice(at, at + self._batches.size * self._threads)
            shown = prompts[group] if prompts is not None else None
            found = self._batches.attempt(lambda n, g=group, p=shown: self._group(images[g], p, n))
            yield from found
            at += len(found)

    def _group(
        self, images: npt.NDArray[np.uint8], prompts: Sequence[Map] | None, size: int
    ) -> list[Map]:
        spans = [slice(at, at + size) for at in range(0, len(images), size)]

        def one(span: slice) -> list[Map]:
            return self._batch(images[span], prompts[span] if prompts is not None else None)

        with ThreadPoolExecutor(self._threads) as pool:
            return [made for batch in pool.map(one, spans) for made in batch]

    @torch.inference_mode()
    def _batch(self, images: npt.NDArray[np.uint8], prompts: Sequence[Map] | None) -> list[Map]:
        shown = prompts if prompts is not None else [None] * len(images)
        ready = [self._prepared(i, p) for i, p in zip(images, shown, strict=True)]
        inputs = {name: torch.cat([one[name] for one in ready]) for name in ready[0]}
        inputs = {n: t.to(self._device, self._precision) for n, t in inputs.items()}
        sizes = {self._family.sized: [images.shape[1:3]] * len(images)}
        if self._mirror:
            mirrored = {name: torch.flip(tensor, dims=[3]) for name, tensor in inputs.items()}
            sizes["outputs_flipped"] = _whole(self._network(**mirrored))
        outputs = _whole(self._network(**inputs))
        made = self._processor.post_process_depth_estimation(outputs, **sizes)
        return [one["predicted_depth"].reshape(images.shape[1:3]).cpu().numpy() for one in made]

    def _prepared(self, image: npt.NDArray[np.uint8], prompt: Map | None) -> Any:
        more: dict[str, Any] = {}
        if prompt is not None:
            # Processors expect millimeters; these depths are already in the units of the views.
            more = {"prompt_depth": prompt, "prompt_scale_to_meter": 1.0}
        # Arrays of messages are read-only, which makes torch warn.
        own = np.require(image, requirements="W")
        return self._processor(
            images=own, input_data_format="channels_last", return_tensors="pt", **more
        )


def _whole(outputs: Any) -> Any:
    """Convert outputs to float32, since 16 bits would quantize the depth into steps."""
    outputs.predicted_depth = outputs.predicted_depth.float()
    if getattr(outputs, "field_of_view", None) is not None:
        outputs.field_of_view = outputs.field_of_view.float()
    return outputs
