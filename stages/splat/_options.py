"""Training options, the same for every backend."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from pipeline.contract import Options

__all__ = ["TrainingOptions"]


class TrainingOptions(Options):
    """Duration of the training, size of the scene, loss and corrections."""

    steps: int | None = Field(
        1400, ge=0, le=10_000_000, description="number of training steps; null: limited by seconds"
    )
    seconds: float = Field(
        115.0, ge=0, description="stop after this time even if the steps are not done"
    )
    until_best: bool = Field(
        False,
        description="continue in rounds of twice the steps until the held-out views stop "
        "improving; needs 8 views",
    )
    strategy: Literal["default", "mcmc"] = Field(
        "default", description="how Gaussians are added: gsplat's DefaultStrategy or MCMC"
    )
    gaussians: int = Field(
        0, ge=0, le=20_000_000, description="number to grow to; 0: from the size of the images"
    )
    largest_px: int = Field(640, ge=16, le=8192, description="longer side of training images, px")
    degree: int = Field(3, ge=0, le=3, description="degree of the spherical harmonics, 0 to 3")
    dssim: float = Field(0.2, ge=0, le=1, description="weight of the structural loss")
    antialiased: bool = Field(False, description="Mip-Splatting's compensation for the blur")
    learning_rate: float = Field(
        1.0, gt=0, le=100, description="factor on the splats' learning rates"
    )
    refine_poses: bool = Field(
        False,
        description="optimize the camera poses too; the run's camera files keep the old poses",
    )
    exposure: bool = Field(False, description="optimize a correction of each image's exposure")

    @field_validator("steps", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return None if value == "none" else value
