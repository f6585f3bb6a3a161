"""How networks that know pictures and words compare a video with a text.

Each gives a feature for the video and one for each text, both of unit length; `scale` times their
product (plus `bias`) is the logit, as each network's documentation in transformers has it:

- CLIP (Radford et al. 2021): of a video the mean of its frames' features, made unit length again;
  softmax over the texts.
- SigLIP and SigLIP 2 (Zhai et al. 2023, Tschannen et al. 2025): the same; sigmoid of each text.
- X-CLIP (Ni et al. 2022): a transformer joins the frames, and the texts' features are changed by
  what the video shows; softmax.
- VideoPrism (Zhao et al. 2024): a feature of the whole video; softmax at a temperature of 0.01, as
  in its authors' example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FAMILIES", "Family", "VideoTextModel"]

VIDEOPRISM_TEMPERATURE = 0.01


@dataclass(frozen=True)
class Family:
    """What tells one kind of network from another."""

    padding: str | bool
    """Of the texts, as the network was trained."""
    exclusive: bool
    """Whether the texts compete (softmax), or each is judged alone (sigmoid)."""
    sees: str = "vision_model"
    """The part of the network that takes the pictures."""


FAMILIES = {
    "clip": Family(padding=True, exclusive=True),
    "siglip": Family(padding="max_length", exclusive=False),
    "siglip2": Family(padding="max_length", exclusive=False),
    "xclip": Family(padding=True, exclusive=True),
    "videoprism": Family(padding="max_length", exclusive=True, sees="video_model"),
}
"""By `model_type`."""


class VideoTextModel:
    """A network with the texts that it looks for.

    Args:
        network: Of one of `FAMILIES`.
        processor: The checkpoint's own.
        texts: Several wordings for each class; their features are averaged and made unit length
            again (Radford et al. 2021, section 3.1.4).
    """

    def __init__(self, network: Any, processor: Any, texts: Sequence[Sequence[str]]) -> None:
        import torch

        self._network = network
        self._processor = processor
        self._kind: str = network.config.model_type
        self.family = FAMILIES[self._kind]
        with torch.inference_mode():
            flat = [text for wordings in texts for text in wordings]
            options = {"max_length": 64} if self.family.padding == "max_length" else {}
            ready = processor(
                text=flat,
                padding=self.family.padding,
                truncation=True,
                return_tensors="pt",
                **options,
            ).to(network.device)
            features = _pooled(network.get_text_features(**ready)).float()
        self._wordings = [len(wordings) for wordings in texts]
        self._texts = features if self._kind == "xclip" else self._ensembled(features)

    @property
    def frames(self) -> int | None:
        """How many frames the network must have; None for any number."""
        count = getattr(self._network.config.vision_config, "num_frames", None)
        return int(count) if count else None

    def scores(self, videos: Sequence[Any]) -> Any:
        """Return the scores [N, classes] of N videos, each uint8 [T, H, W, 3], of equal length."""
        import torch

        with torch.inference_mode():
            if self._kind == "xclip":
                logits = self._of_xclip(videos)
            elif self._kind == "videoprism":
                logits = self._of_video(videos) @ self._texts.T / VIDEOPRISM_TEMPERATURE
            else:
                scale = self._network.logit_scale.float().exp()
                logits = self._of_frames(videos) @ self._texts.T * scale
                if not self.family.exclusive:
                    logits = logits + self._network.logit_bias.float()
            score = logits.softmax(-1) if self.family.exclusive else logits.sigmoid()
            return score.cpu().numpy()

    def _of_frames(self, videos: Sequence[Any]) -> Any:
        """Return features [N, D] of videos by those of their frames."""
        ready = self._ready(images=[frame for video in videos for frame in video])
        features = _unit(_pooled(self._network.get_image_features(**ready)).float())
        return _unit(features.unflatten(0, (len(videos), -1)).mean(dim=1))

    def _of_video(self, videos: Sequence[Any]) -> Any:
        ready = self._ready(videos=[list(v) for v in videos], do_sample_frames=False)
        return _unit(_pooled(self._network.get_video_features(**ready)).float())

    def _of_xclip(self, videos: Sequence[Any]) -> Any:
        """Return logits [N, classes], as `XCLIPModel.forward` has them for one wording each."""
        network = self._network
        pixels = self._ready(images=[f for video in videos for f in video])["pixel_values"]
        pixels = pixels.reshape(-1, *pixels.shape[-3:])
        seen = network.vision_model(pixel_values=pixels)
        count = len(videos)
        frames = network.visual_projection(seen.pooler_output).unflatten(0, (count, -1))
        video = _unit(_pooled(network.mit(frames)).float())
        patches = network.prompts_visual_layernorm(seen.last_hidden_state[:, 1:])
        patches = patches @ network.prompts_visual_projection
        patches = patches.unflatten(0, (count, -1)).mean(dim=1)
        texts = self._texts.to(patches.dtype).expand(count, -1, -1)
        texts = _unit((texts + network.prompts_generator(texts, patches)).float())
        texts = _unit(_means(texts, self._wordings, dim=1))
        return (texts @ video.unsqueeze(-1)).squeeze(-1) * network.logit_scale.float().exp()

    def _ensembled(self, features: Any) -> Any:
        return _unit(_means(_unit(features), self._wordings, dim=0))

    def _ready(self, **inputs: Any) -> dict[str, Any]:
        # Said, since of tiny frames it cannot be told which side holds the colors.
        ready = self._processor(return_tensors="pt", input_data_format="channels_last", **inputs)
        device, dtype = self._network.device, self._network.dtype
        return {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in ready.items()
        }


def _pooled(output: Any) -> Any:
    """Return the features [N, D]: older releases of transformers hand them out bare."""
    return getattr(output, "pooler_output", output).flatten(1)


def _unit(features: Any) -> Any:
    return features / features.norm(dim=-1, keepdim=True)


def _means(features: Any, counts: Sequence[int], *, dim: int) -> Any:
    """Return the means of groups of features that follow one another."""
    import torch

    parts = features.split(list(counts), dim=dim)
    return torch.stack([part.mean(dim=dim) for part in parts], dim=dim)
