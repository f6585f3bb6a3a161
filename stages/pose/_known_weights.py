"""Weights that learned front ends can download: URLs and licenses.

Kornia's URLs and file names in torch's cache are those in its own source (0.9), so that files
downloaded by kornia are found. It publishes no hashes of them.

Licenses: cvg/LightGlue lists LightGlue's own weights and DISK's under Apache-2.0 and ALIKED's
under BSD-3-Clause (whose notice is in kornia's source); verlab/accelerated_features lists XFeat
and LighterGlue under Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.weights import Checkpoint, Known, Weights, checkpoint, torch_cache

__all__ = ["CHECKPOINTS", "DETECTORS", "GLUES", "every", "hub", "kornia"]

INSTEAD = "pose.model=colmap"
FEATURES, MATCHING = "image features", "feature matching"
KORNIA = "https://huggingface.co/kornia"


@dataclass(frozen=True, kw_only=True)
class _KnownWeights:
    """A file that kornia downloads."""

    id: str
    task: str
    license: str
    nbytes: int
    url: str
    file: str
    """File name in torch's cache."""


DETECTORS = {
    "aliked": _KnownWeights(
        id="aliked-n16",
        task=FEATURES,
        license="BSD-3-Clause",
        nbytes=2_700_000,
        url=f"{KORNIA}/aliked/resolve/main/aliked-n16.pth",
        file="aliked-n16.pth",
    ),
    "disk": _KnownWeights(
        id="disk-depth",
        task=FEATURES,
        license="Apache-2.0",
        nbytes=4_400_000,
        url=f"{KORNIA}/disk/resolve/main/depth-save.pth",
        file="depth-save.pth",
    ),
    "xfeat": _KnownWeights(
        id="xfeat",
        task=FEATURES,
        license="Apache-2.0",
        nbytes=6_200_000,
        url="https://github.com/verlab/accelerated_features/raw/main/weights/xfeat.pt",
        file="xfeat.pt",
    ),
}
GLUES = {
    "aliked": _KnownWeights(
        id="lightglue-aliked",
        task=MATCHING,
        license="Apache-2.0",
        nbytes=47_500_000,
        url=f"{KORNIA}/lightglue/resolve/main/aliked_lightglue.pth",
        file="aliked_lightglue_v0-1_arxiv-pth",
    ),
    "disk": _KnownWeights(
        id="lightglue-disk",
        task=MATCHING,
        license="Apache-2.0",
        nbytes=47_500_000,
        url=f"{KORNIA}/lightglue/resolve/main/disk_lightglue.pth",
        file="disk_lightglue_v0-1_arxiv-pth",
    ),
    "xfeat": _KnownWeights(
        id="lighterglue-xfeat",
        task=MATCHING,
        license="Apache-2.0",
        nbytes=4_500_000,
        url=f"{KORNIA}/lightglue/resolve/main/xfeat-lighterglue.pt",
        file="xfeat-lighterglue.pt",
    ),
}

SUPERPOINT_LICENSE = "superpoint-noncommercial"
"""Magic Leap's license, for research only (the LICENSE file of the checkpoint). The model cards
give `other`, which is ambiguous: accepting this one must not mean accepting any other."""

CHECKPOINTS = {
    "superpoint": Known(
        name="magic-leap-community/superpoint",
        license=SUPERPOINT_LICENSE,
        nbytes=5_210_000,
        about="keypoints for nearest neighbors",
    ),
    "superpoint+lightglue": Known(
        name="ETH-CVG/lightglue_superpoint",
        license=SUPERPOINT_LICENSE,
        nbytes=55_000_000,
        about="SuperPoint's keypoints and their matcher",
    ),
    "efficient_loftr": Known(
        name="zju-community/efficientloftr",
        license="apache-2.0",
        nbytes=64_300_000,
        about="matches without keypoints",
    ),
}


def kornia(known: _KnownWeights) -> Weights:
    """Return a kornia file with its path in torch's cache."""
    return Weights(
        id=known.id,
        task=known.task,
        license=known.license,
        nbytes=known.nbytes,
        url=known.url,
        path=torch_cache() / known.file,
        instead=INSTEAD,
    )


def hub(kind: str, name: str = "") -> Checkpoint:
    """Return the checkpoint `name` (hub name or path), or the default one of `CHECKPOINTS[kind]`.

    Raises:
        UsageError: `name` is neither a folder nor a valid hub name.
    """
    return checkpoint(
        name or CHECKPOINTS[kind].name,
        task=FEATURES if kind == "superpoint" else MATCHING,
        known=CHECKPOINTS.values(),
        instead=INSTEAD,
        option="pose.checkpoint",
    )


def every() -> tuple[Weights, ...]:
    """Return all weights that can be downloaded."""
    files = (*DETECTORS.values(), *GLUES.values())
    return (*(kornia(file) for file in files), *(hub(kind) for kind in CHECKPOINTS))
