"""A filmed scene: its pictures, and exact answers to whatever is asked about them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from tests.support.scenes.atlas import paint
from tests.support.scenes.cache import cached_array
from tests.support.scenes.furniture import furnish, solids_of
from tests.support.scenes.geometry import Solids
from tests.support.scenes.paths import Path
from tests.support.scenes.raycast import Camera, correspond, trace
from tests.support.scenes.shading import shade


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """What spoils the pictures (never the truth) during ``span_s``; None spoils all of them.

    Attributes:
        blur_px: Standard deviation of a Gaussian blur.
        gain: Factor on the brightness.
        noise: Standard deviation of the sensor's noise, in gray levels of 255.
        span_s: (start, end) in seconds.
    """

    blur_px: float = 0.0
    gain: float = 1.0
    noise: float = 0.0
    span_s: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A film of one room by one camera; frames are counted from 0.

    Attributes:
        seed: Of the room.
        path: Of the camera.
        width: Columns of the pictures.
        height: Rows.
        T_world_ball: ``float64 [T, 4, 4]``, the pose of the one object that moves.
        moving_s: The interval in which it does, None when it rests.
        plain: Every surface has a single color: no texture.
        effects: What spoils the pictures.
    """

    seed: int
    path: Path
    width: int
    height: int
    T_world_ball: np.ndarray
    moving_s: tuple[float, float] | None = None
    plain: bool = False
    effects: tuple[Effects, ...] = ()

    def __len__(self) -> int:
        return len(self.path.pts_ns)

    @property
    def pts_ns(self) -> np.ndarray:
        """Presentation times ``int64 [T]`` in nanoseconds."""
        return self.path.pts_ns

    @property
    def fps(self) -> float:
        """Mean frame rate."""
        return 1e9 * (len(self) - 1) / float(self.pts_ns[-1] - self.pts_ns[0])

    @property
    def T_world_camera(self) -> np.ndarray:
        """Poses ``float64 [T, 4, 4]``, OpenCV axes, meters."""
        return self.path.T_world_camera

    @property
    def K(self) -> np.ndarray:
        """Intrinsics ``float64 [T, 3, 3]`` in pixels, pixel centers at 0.5."""
        return np.stack([self.camera(i).K for i in range(len(self))])

    @property
    def segments(self) -> list[tuple[str, float, float]]:
        """(label, start_s, end_s) of camera and object motion, in order of start."""
        moving = [("object-moving", *self.moving_s)] if self.moving_s else []
        return sorted([*self.path.labels, *moving], key=lambda s: s[1])

    @cached_property
    def images(self) -> np.ndarray:
        """Pictures RGB ``uint8 [T, H, W, 3]``: read-only, mapped from the cache on disk."""
        shape = (len(self), self.height, self.width, 3)
        key = (
            self.seed,
            self.path.T_world_camera,
            self.path.focal_px,
            self.T_world_ball,
            self.plain,
            self.effects,
            self.path.pts_ns,
            shape,
        )
        return cached_array(key, shape, self._render)

    def camera(self, i: int) -> Camera:
        """Return the camera of frame i."""
        return Camera(
            T_world_camera=self.path.T_world_camera[i],
            width=self.width,
            focal_px=float(self.path.focal_px[i]),
            height=self.height,
        )

    def solids(self, i: int) -> Solids:
        """Return the geometry at frame i; the last solid is the ball."""
        return self._still.moved(-1, self.T_world_ball[i])

    def depth(self, i: int) -> np.ndarray:
        """Return the z-depth of frame i, ``float32 [H, W]`` in meters."""
        return trace(self.solids(i), self.camera(i))[1].astype(np.float32)

    def flow(self, i: int, j: int | None = None) -> np.ndarray:
        """Return the displacement ``float32 [H, W, 2]`` px of frame i's pixels into j (i + 1)."""
        return self.flow_and_visible(i, j)[0]

    def visible(self, i: int, j: int | None = None) -> np.ndarray:
        """Return ``bool [H, W]``: what the pixel of frame i shows is seen in frame j (i + 1)."""
        return self.flow_and_visible(i, j)[1]

    def flow_and_visible(self, i: int, j: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return `flow` and `visible` together, for the cost of one."""
        j = i + 1 if j is None else j
        flow, visible = correspond(self.solids(i), self.camera(i), self.solids(j), self.camera(j))
        return flow.astype(np.float32), visible

    def ball(self, i: int) -> np.ndarray:
        """Return ``bool [H, W]``: the pixel of frame i shows the object that moves at some time."""
        return trace(self.solids(i), self.camera(i))[0] == len(self._still.kind) - 1

    def moving(self, i: int) -> np.ndarray:
        """Return ``bool [H, W]``: the pixel shows an object that is moving at frame i."""
        if self.moving_s and self.moving_s[0] <= self.pts_ns[i] / 1e9 <= self.moving_s[1]:
            return self.ball(i)
        return np.zeros((self.height, self.width), np.bool_)

    def points(self, i: int, every: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return world points ``float64 [N, 3]`` and RGB ``uint8 [N, 3]`` of what rests in i."""
        rows = np.s_[::every, ::every]
        depth = trace(self.solids(i), self.camera(i))[1][rows]
        v, u = np.mgrid[: self.height, : self.width][(slice(None), *rows)] + 0.5
        rays = np.stack([u - self.width / 2, v - self.height / 2], -1) / self.path.focal_px[i]
        local = np.concatenate([rays, np.ones_like(u)[..., None]], -1) * depth[..., None]
        pose = self.T_world_camera[i]
        keep = ~self.ball(i)[rows]
        return (local @ pose[:3, :3].T + pose[:3, 3])[keep], self.images[i][rows][keep]

    @cached_property
    def _still(self) -> Solids:
        return solids_of(furnish(self.seed))

    def _render(self) -> Iterator[np.ndarray]:
        # Texels as large as a pixel some 2 m away: small pictures need no fine textures.
        texel_m = round(0.004 * max(640 / self.width, 1.0), 4)
        atlas = paint(self.seed, texel_m, self.plain)

        def frame(i: int) -> np.ndarray:
            return self._spoiled(i, shade(self.solids(i), atlas, self.camera(i)))

        with ThreadPoolExecutor(2) as pool:
            for first in range(0, len(self), 16):
                yield from pool.map(frame, range(first, min(first + 16, len(self))))

    def _spoiled(self, i: int, image: np.ndarray) -> np.ndarray:
        t = self.pts_ns[i] / 1e9
        for effect in self.effects:
            if effect.span_s is None or effect.span_s[0] <= t < effect.span_s[1]:
                spoiled = image.astype(np.float32)
                if effect.blur_px > 0:
                    spoiled = cv2.GaussianBlur(spoiled, (0, 0), effect.blur_px)
                rng = np.random.default_rng([self.seed, 5, i])
                noise = rng.normal(0, effect.noise, image.shape) if effect.noise else 0.0
                spoiled = effect.gain * spoiled + noise
                image = np.clip(spoiled + 0.5, 0, 255).astype(np.uint8)
        return image
