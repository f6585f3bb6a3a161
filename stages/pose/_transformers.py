"""SuperPoint, LightGlue and EfficientLoFTR of transformers, run over many images and pairs.

transformers encodes both images of a pair again for every pair. Here each image is encoded once:
the network's encoder is replaced by one that returns the stored encoding (`_Remembered`), and the
rest of the network runs unchanged.

One pair at a time, since batches of pairs are wrong: LightGlue's results are put back in the wrong
order where pairs stop at different layers (transformers 5.23, `_concat_early_stopped_outputs`:
the order is applied twice instead of undone).
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from pipeline.contract import Array
from pipeline.errors import UsageError
from pipeline.weights import Checkpoint
from stages._networks.checkpoints import LearnedOptions, check_finite, load, processor
from stages.pose._features import Features
from stages.pose._image_transform import SMALLEST_SIDE, ImageTransform, reduced_size, strongest

__all__ = ["EfficientLoftr", "LightGlue", "SuperPoint"]

STEP = 32
"""EfficientLoFTR's coarsest maps have an eighth of the size and are pooled four by four."""


class _Prepared:
    """A network of transformers and its processor."""

    def __init__(
        self, auto: str, weights: Checkpoint, *, device: str, side: int, task: str
    ) -> None:
        options = LearnedOptions.model_validate({"device": device})
        self.network = load(auto, weights, options, step="pose", task=task)
        self.processor = processor("AutoImageProcessor", weights)
        self.device = device
        self._side = side
        check_finite(self.network, weights)

    def pixels(self, images: Array, *, pairs: bool) -> Any:
        """Convert images uint8 [N, H, W, 3] to network input, float32 [N, 3, h, w]."""
        full = (images.shape[2], images.shape[1])
        how: dict[str, Any] = {"return_tensors": "pt", "input_data_format": "channels_last"}
        if self._side:
            width, height = reduced_size(full, self._side, STEP)
            how["size"] = {"height": height, "width": width}
        # The arrays of a message are read-only, which makes torch warn.
        some = [image.copy() for image in images]
        if pairs:
            # The matchers' processors accept only pairs.
            some = [*some, some[-1]] if len(some) % 2 else some
            made = self.processor([some[at : at + 2] for at in range(0, len(some), 2)], **how)
            return made["pixel_values"].flatten(0, 1)[: len(images)].to(self.device)
        return self.processor(some, **how)["pixel_values"].to(self.device)

    def size(self, full: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) of the network input for images of size `full`."""
        if self._side:
            return reduced_size(full, self._side, STEP)
        if not self.processor.do_resize:
            return full
        return self.processor.size["width"], self.processor.size["height"]


class _Remembered(torch.nn.Module):
    """Replaces a network's encoder and returns stored encodings."""

    def __init__(self) -> None:
        super().__init__()
        # Each thread processes another pair.
        self._here = threading.local()

    def remind(self, seen: Any) -> None:
        """Set what the next call in this thread returns."""
        self._here.seen = seen

    def forward(self, pixel_values: Any) -> Any:
        """Return the stored encoding."""
        del pixel_values
        return self._here.seen


class SuperPoint:
    """SuperPoint (DeTone et al., CVPRW 2018), standalone or from a LightGlue checkpoint."""

    def __init__(
        self, weights: Checkpoint, *, device: str, side: int, inside: LightGlue | None = None
    ) -> None:
        """Load the network.

        Args:
            weights: The checkpoint.
            device: torch device.
            side: Longer side of its input in px; 0 for the checkpoint's own.
            inside: The LightGlue whose detector to use.

        Raises:
            UsageError: The checkpoint is of another network, damaged or incomplete.
        """
        self._pairs = inside is not None
        if inside is not None:
            self._prepared, self._network = inside.prepared, inside.detector
        else:
            self._prepared = _Prepared(
                "AutoModelForKeypointDetection",
                weights,
                device=device,
                side=side,
                task="keypoint detection",
            )
            self._network = self._prepared.network

    def image_transform(self, full: tuple[int, int]) -> ImageTransform:
        """Return the mapping to keyframes of size `full` (width, height)."""
        return ImageTransform(size=self._prepared.size(full), full=full)

    @torch.inference_mode()
    def extract(self, images: Array, most: int) -> list[Features]:
        """Return the strongest features of images, uint8 [N, H, W, 3]; thread-safe."""
        transform = self.image_transform((images.shape[2], images.shape[1]))
        if min(*transform.size, *transform.full) < SMALLEST_SIDE:
            return [Features.none()] * len(images)
        output = self._network(self._prepared.pixels(images, pairs=self._pairs))
        # transformers' post-processing truncates to whole pixels; here decimals are kept.
        xy = output.keypoints * torch.tensor(transform.size, device=output.keypoints.device)
        return [
            strongest(
                transform, xy[n, mask], output.descriptors[n, mask], output.scores[n, mask], most
            )
            for n, mask in enumerate(output.mask.bool())
        ]


class LightGlue:
    """LightGlue (Lindenberger et al., ICCV 2023) with the detector in its checkpoint."""

    def __init__(self, weights: Checkpoint, *, device: str, side: int) -> None:
        """Load the network.

        Raises:
            UsageError: The checkpoint is of another network, damaged or incomplete.
        """
        self.prepared = _matcher(weights, "lightglue", device=device, side=side)
        network = self.prepared.network
        _check_type(network.keypoint_detector, "superpoint", weights, "pose.features=superpoint")
        self.detector = network.keypoint_detector
        self._remembered = network.keypoint_detector = _Remembered()

    @torch.inference_mode()
    def pair(self, a: Features, b: Features, transform: ImageTransform) -> Array | None:
        """Return matches int64 [M, 2], or None if scores are NaN; thread-safe."""
        if min(len(a), len(b)) < 2:
            return np.zeros((0, 2), np.int64)
        width, height = transform.size
        device, most = self.prepared.device, max(len(a), len(b))
        keypoints = torch.zeros((2, most, 2))
        descriptors = torch.zeros((2, most, a.descriptors.shape[1]))
        mask = torch.zeros((2, most), dtype=torch.int)
        for n, one in enumerate((a, b)):
            relative = transform.to_network(one.xy) / np.array([width, height], np.float32)
            keypoints[n, : len(one)] = torch.from_numpy(relative)
            descriptors[n, : len(one)] = torch.from_numpy(one.descriptors)
            mask[n, : len(one)] = 1
        seen = (keypoints.to(device), None, descriptors.to(device), mask.to(device))
        self._remembered.remind(seen)
        # The network uses only the size of the images.
        output = self.prepared.network(
            torch.zeros((), device=device).expand(1, 2, 1, height, width)
        )
        matches, scores = output.matches[0, 0, : len(a)], output.matching_scores[0, 0, : len(a)]
        if torch.isnan(scores).any():
            return None
        good = (scores > 0) & (matches > -1) & (matches < len(b))
        rows = torch.nonzero(good)[:, 0]
        return torch.stack([rows, matches[rows].long()], dim=1).cpu().numpy()


class EfficientLoftr:
    """EfficientLoFTR (Wang et al., CVPR 2024): matches without keypoints.

    transformers 5.23 indexes the matches of a pair by the cells of the second image on one side
    and by those of the first on the other, and refines and returns them slot by slot as if they
    were the same: wherever something moved, a slot holds two halves of different matches. Here both
    sides are indexed by the cells of the first image (`_numbered_alike`), and the network's own
    refinement follows. Without motion the two agree.
    """

    def __init__(self, weights: Checkpoint, *, device: str, side: int) -> None:
        """Load the network.

        Raises:
            UsageError: The checkpoint is of another network, damaged or incomplete.
        """
        self.prepared = _matcher(weights, "efficient_loftr", device=device, side=side)
        network = self.prepared.network
        numbered = network._get_matches_from_scores
        network._get_matches_from_scores = lambda scores: _numbered_alike(*numbered(scores))
        self._backbone = network.efficientloftr.backbone
        self._remembered = network.efficientloftr.backbone = _Remembered()

    def image_transform(self, full: tuple[int, int]) -> ImageTransform:
        """Return the mapping to keyframes of size `full` (width, height)."""
        return ImageTransform(size=self.prepared.size(full), full=full)

    @torch.inference_mode()
    def extract(self, images: Array) -> list[Any]:
        """Return the network's feature maps of each image, uint8 [N, H, W, 3]."""
        gray = self.prepared.pixels(images, pairs=True)[:, :1]
        return list(zip(*(maps.split(1) for maps in self._backbone(gray)), strict=True))

    @torch.inference_mode()
    def pair(self, a: Any, b: Any, transform: ImageTransform) -> tuple[Array, Array, Array] | None:
        """Return points [M, 2] px of both images and scores [M]; None if scores are NaN.

        Args:
            a: Feature maps of the first image, from `extract`.
            b: Feature maps of the second image.
            transform: Coordinate mapping of both images.
        """
        width, height = transform.size
        self._remembered.remind([torch.cat(both) for both in zip(a, b, strict=True)])
        blank = torch.zeros((), device=self.prepared.device).expand(1, 2, 1, height, width)
        output = self.prepared.network(blank)
        scores = output.matching_scores[0, 0]
        if torch.isnan(scores).any():
            return None
        good = (scores > 0) & (output.matches[0] > -1).all(0)
        size = torch.tensor(transform.size, device=scores.device)
        xy = (output.keypoints[0, :, good] * size).float().cpu().numpy()
        return (
            transform.to_image(xy[0]),
            transform.to_image(xy[1]),
            scores[good].float().cpu().numpy(),
        )


def _numbered_alike(indices: Any, scores: Any) -> tuple[Any, Any]:
    """Reindex both sides so that slot i is cell i of the first image.

    Args:
        indices: int64 [1, 2, N]: slot j of the first row is the cell of the first image that
            matches cell j of the second; slot i of the second row is the reverse; -1 for none.
        scores: float [1, 2, N], in the same slots.
    """
    second, certain = indices[:, 1:], scores[:, 1:]
    cells = torch.arange(indices.shape[2], device=indices.device).expand_as(second)
    first = torch.where(second > -1, cells, -1)
    return torch.cat([first, second], dim=1), torch.cat([certain, certain], dim=1)


def _matcher(weights: Checkpoint, name: str, *, device: str, side: int) -> _Prepared:
    """Load the matcher named by `pose.matcher`."""
    prepared = _Prepared(
        "AutoModelForKeypointMatching", weights, device=device, side=side, task="keypoint matching"
    )
    _check_type(prepared.network, name.replace("_", ""), weights, f"pose.matcher={name}")
    return prepared


def _check_type(network: Any, wanted: str, weights: Checkpoint, option: str) -> None:
    found = network.config.model_type
    if found != wanted:
        raise UsageError(
            f"{weights.id} is a {found} checkpoint; {option} needs {wanted}: set pose.checkpoint"
        )
