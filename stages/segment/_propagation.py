"""SAM 2 on a clip: from the box of a thing in one frame to its mask in every frame.

SAM 2 (Ravi et al., 2024) remembers what it has masked, and so follows it. Things that are given in
the same frame share a session; each is decoded by itself, so their number changes nothing. What is
done is the documented usage of transformers' `Sam2VideoModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.contract import Array

__all__ = ["Followed", "Propagation"]


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """One thing through a clip."""

    logits: Array
    """float32 [T, h, w] at the network's own size: above 0 it is the thing; -inf where the
    network's output is no number."""
    score: Array
    """float32 [T] in 0..1: how sure the network is that it is in view; 0 where that is unknown."""
    lost: int
    """Frames in which the output is no number."""


class Propagation:
    """A clip as the network takes it.

    Args:
        network: `Sam2VideoModel`.
        processor: `Sam2VideoProcessor`.
        images: uint8 [T, H, W, 3].
    """

    def __init__(self, network: Any, processor: Any, images: Array) -> None:
        import torch

        self._network, self._processor = network, processor
        self._count = len(images)
        self.size: tuple[int, int] = (images.shape[1], images.shape[2])
        # Channels first: of a picture 3 px high the processor cannot tell which they are.
        video = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with torch.inference_mode():
            self._session = processor.init_video_session(
                video=video,
                inference_device=network.device,
                processing_device="cpu",
                video_storage_device="cpu",
                dtype=network.dtype,
            )

    def follow(self, frame: int, boxes: Sequence[Array]) -> list[Followed]:
        """Return the things that boxes show in a frame, forwards and backwards from there.

        Args:
            frame: Of the clip.
            boxes: float [4] px each: left, top, right, bottom.
        """
        import torch

        session, numbers = self._session, list(range(1, len(boxes) + 1))
        session.reset_tracking_data()
        self._processor.add_inputs_to_inference_session(
            inference_session=session,
            frame_idx=frame,
            obj_ids=numbers,
            input_boxes=[[box.tolist() for box in boxes]],
        )
        made: dict[int, tuple[Any, Any]] = {}
        with torch.inference_mode():
            self._network(inference_session=session, frame_idx=frame)
            for reverse in (False, True):
                for out in self._network.propagate_in_video_iterator(
                    session, start_frame_idx=frame, reverse=reverse
                ):
                    masks, score = out.pred_masks[:, 0], out.object_score_logits[:, 0]
                    made[out.frame_idx] = (masks.float().cpu(), score.float().cpu())
                    self._forget(out.frame_idx)
            session.reset_tracking_data()
            masks = torch.stack([made[t][0] for t in range(self._count)], dim=1)
            score = torch.stack([made[t][1] for t in range(self._count)], dim=1).sigmoid()
            good = masks.isfinite().flatten(2).all(2) & score.isfinite()
            masks[~good], score[~good] = -torch.inf, 0
        return [
            Followed(m.numpy(), s.numpy(), int((~g).sum()))
            for m, s, g in zip(masks, score, good, strict=True)
        ]

    def enlarged(self, followed: Followed, frame: int) -> Array:
        """Return the logits of a thing in a frame, float32 [H, W]."""
        import torch

        if not (followed.logits[frame] > 0).any():
            return np.full(self.size, -np.inf, np.float32)
        with torch.inference_mode():
            (logits,) = self._processor.post_process_masks(
                [torch.from_numpy(followed.logits[frame])[None, None]],
                original_sizes=[list(self.size)],
                binarize=False,
            )
        return logits[0, 0].numpy()

    def _forget(self, frame: int) -> None:
        """Drop the masks at the size of the network's input: 4 MB a thing and frame, read once."""
        for outputs in self._session.output_dict_per_obj.values():
            for of_kind in outputs.values():
                of_kind.get(frame, {}).pop("high_res_masks", None)
