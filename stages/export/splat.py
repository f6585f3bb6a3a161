"""`splats.splat`: 32 bytes a Gaussian for viewers in the browser (antimatter15/splat)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from pipeline.contract import Options, Splats, Stage
from pipeline.errors import PartNotMade
from stages._formats.gaussian_encoding import opacity_bytes, take, to_bytes, writable
from stages._gaussians.spherical_harmonics import SH0
from stages.export._publish import publish

__all__ = ["Config", "Model"]

NAME = "splats.splat"

ROW = np.dtype(
    [
        ("position", "<f4", 3),
        ("scale", "<f4", 3),
        ("rgba", "u1", 4),
        ("rotation", "u1", 4),
    ]
)
"""Linear scales; color of degree 0 alone; (wxyz + 1) * 128."""


class Config(Options):
    """No options."""


class Model(Stage[Config]):
    """Writes the most important Gaussians first, for viewers that draw while they load.

    The format has no header and no color that depends on the direction of view.
    """

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, splats: Splats) -> None:
        """Write the scene.

        Raises:
            PartNotMade: Nothing of it is visible: a file of 0 bytes would say nothing to readers.
        """
        kept = writable(self, splats, NAME)
        # What rounds to no opacity is not seen; Open3D would read it as half opaque.
        visible = take(kept, opacity_bytes(kept) > 0)
        if len(visible.means) == 0:
            raise PartNotMade(
                f"{NAME} has no header and cannot say that there are no Gaussians to see; "
                "export splats.ply"
            )
        if splats.antialiased:
            self.warn(
                f"{NAME} cannot say that its Gaussians are antialiased: viewers will draw the "
                "small ones too strong; splats.ply and splats.spz say it"
            )
        table = pack(visible)
        with publish(self, NAME, "splats") as path, path.open("wb") as file:
            # `tofile` does not say that the disk is full, `write` does.
            file.write(table.view(np.uint8).data)


def pack(splats: Splats) -> np.ndarray:
    """Return the rows of the file, the largest and most opaque first."""
    logits = splats.opacity_logits.astype(np.float64)
    # The converters' order, volume times opacity, in logarithms: the product would overflow.
    importance = splats.log_scales.sum(axis=1, dtype=np.float64) - np.logaddexp(0, -logits)
    ordered = take(splats, np.argsort(-importance, kind="stable"))
    table = np.empty(len(ordered.means), ROW)
    table["position"] = ordered.means
    with np.errstate(over="ignore"):
        scales = np.exp(ordered.log_scales)
    table["scale"] = np.minimum(scales, np.finfo(np.float32).max)
    # The nearest byte, as Open3D writes; antimatter15's converter cuts, which darkens.
    table["rgba"][:, :3] = to_bytes(255 * (0.5 + SH0 * ordered.sh[:, 0]))
    table["rgba"][:, 3] = opacity_bytes(ordered)
    length = np.linalg.norm(ordered.quats.astype(np.float64), axis=1, keepdims=True)
    table["rotation"] = to_bytes(128 * (ordered.quats / length) + 128)
    return table
