"""A folder of images as a source: one frame a file, with the poses that came along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.contract import Probe, Source, Timeline
from pipeline.errors import SourceError
from stages._geometry.transforms import scale_intrinsics
from stages.decode._delivery import fitted
from stages.decode._error_text import named, one_line
from stages.decode._images.calibration import CameraModel, Lens
from stages.decode._images.datasets import find_calibration
from stages.decode._images.image_file import BadImage, read_image
from stages.decode._images.listing import find_images
from stages.decode._images.right_views import RightViews, find_right
from stages.decode._images.sensor_depth import SensorDepth, find_depth, read_depth
from stages.decode._options import DecodeOptions
from stages.decode._stereo_packing import split
from stages.decode._video.gap_report import Reporter

__all__ = ["ImageReader", "StillImage"]

AnyImage = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Map = npt.NDArray[np.float32]

SAME_SHAPE = 0.01
"""How far the aspect of an image may differ from the first one's."""
SMALLEST_SIDE_PX = 16
MOST_LENSES = 8
"""Undistortion maps held at once; some data sets have a camera for each image."""


class StillImage:
    """One frame that has its delivered size already."""

    __slots__ = (
        *("T_world_camera", "_depth", "_image", "_right", "index", "intrinsics", "keyframe"),
        "pts_ns",
    )

    def __init__(
        self,
        image: AnyImage,
        *,
        index: int,
        pts_ns: int,
        keyframe: bool = True,
        intrinsics: Floats | None = None,
        T_world_camera: Floats | None = None,
        depth: Callable[[], Map | None] = lambda: None,
        right: Callable[[], AnyImage | None] = lambda: None,
    ) -> None:
        self._image = image
        self.index = index
        self.pts_ns = pts_ns
        self.keyframe = keyframe
        self.intrinsics = intrinsics
        self.T_world_camera = T_world_camera
        self._depth = depth
        self._right = right

    def luma(self, width: int) -> AnyImage:
        """Return a small gray preview, uint8 [h, width]."""
        h, w = self._image.shape[:2]
        size = (width, max(1, round(width * h / w)))
        return cv2.cvtColor(
            cv2.resize(self._image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )

    def rgb(self) -> AnyImage:
        """Return the image, uint8 [H, W, 3]."""
        return self._image

    def depth(self) -> Map | None:
        """Read the sensor's depth, float32 [H, W] in meters: only of frames that are kept."""
        return self._depth()

    def right(self) -> AnyImage | None:
        """Read the right view of the stereo pair, uint8 [H, W, 3]: only of frames that are kept."""
        return self._right()


class ImageReader:
    """An opened folder, glob or still."""

    def __init__(
        self,
        source: Source,
        options: DecodeOptions,
        reporter: Reporter,
        *,
        fps: float,
        stereo: str = "none",
        depth: bool = True,
        depth_per_m: float | None = None,
    ) -> None:
        self.source = source
        self._options = options
        self._reporter = reporter
        self._stopped = False
        self._images, root = find_images(source)
        self._calibration = find_calibration(self._images, root)
        for warning in self._calibration.warnings:
            reporter.warn(warning)
        found = find_depth(self._images, root, depth_per_m) if depth else SensorDepth()
        for warning in found.warnings:
            reporter.warn(warning)
        self._sensor = found
        self._layout = "" if stereo in ("auto", "none") else stereo
        self._pairs = find_right(self._images) if stereo == "auto" else RightViews()
        for warning in self._pairs.warnings:
            reporter.warn(warning)
        self.metric = self._calibration.metric
        self.baseline_m = self._calibration.baseline_m
        self._lenses: dict[object, Lens] = {}
        first = self._first()
        height, width = first.shape[:2]
        self._aspect = width / height
        self._size = fitted(width, height, options.max_side)
        times = self._calibration.times_s
        nominal = np.arange(len(self._images)) / fps
        seconds = np.asarray(times) - times[0] if len(times) else nominal
        self._pts_ns = np.round(seconds * 1e9).astype(np.int64)
        timed = len(times) > 1
        self.probe = Probe(
            kind="images",
            width=self._size[0],
            height=self._size[1],
            source_width=width,
            source_height=height,
            duration_s=float(seconds[-1]) if timed else None,
            fps=(len(times) - 1) / float(seconds[-1]) if timed else None,
            frames=len(self._images),
            codec=self._images[0].suffix.lower().lstrip("."),
            pixel_format="rgb24",
            container="folder" if len(self._images) > 1 else "still",
            poses=self._calibration.origin,
            depth=found.origin,
            stereo=self._layout or self._pairs.origin,
        )

    def close(self) -> None:
        """Nothing stays open between images."""

    def stop(self) -> None:
        """End `scan` and `frames_at` after the image they are at."""
        self._stopped = True

    def timeline(self) -> Timeline:
        """Return the times of all images; every one is a keyframe."""
        count = len(self._images)
        return Timeline(
            pts_ns=self._pts_ns,
            keyframe=np.ones(count, dtype=bool),
            index=np.arange(count, dtype=np.int64),
        )

    def scan(self) -> Iterator[StillImage]:
        """Read every image in order."""
        return self.frames_at(range(len(self._images)))

    def frames_at(
        self, wanted: Iterable[int], first: int = 0, again: Iterable[int] = ()
    ) -> Iterator[StillImage]:
        """Read the images of these rising indices; those that cannot be read are lost.

        `first` and `again` go on where another reader of this source was left: of the frames
        before number `first`, which it delivered, only those of `again` come once more.
        """
        for index in sorted({*again, *(i for i in wanted if i >= first)}):
            if self._stopped:
                return
            path = self._images[index]
            try:
                yield self._image_frame(index, path)
            except BadImage as error:
                self._reporter.lost(f"image {one_line(path.name)}", str(error))

    def _first(self) -> AnyImage:
        """Return the first image that can be read: it settles the size of all."""
        trouble = ""
        for path in self._images:
            try:
                image, _ = self._views(path)
            except BadImage as error:
                trouble = trouble or f"{one_line(path.name)}: {error}"
                continue
            if min(image.shape[:2]) >= SMALLEST_SIDE_PX:
                return image
            h, w = image.shape[:2]
            trouble = trouble or (
                f"{one_line(path.name)} is {w}x{h}; pictures need at least "
                f"{SMALLEST_SIDE_PX}x{SMALLEST_SIDE_PX} pixels"
            )
        count = len(self._images)
        what = "the image cannot" if count == 1 else f"none of {count} images can"
        raise SourceError(f"{named(self.source)}: {what} be used ({trouble})")

    def _read(self, path: Path) -> AnyImage:
        image = read_image(path, self._options.max_pixels)
        camera = self._calibration.cameras.get(path)
        h, w = image.shape[:2]
        if (
            camera is not None
            and camera.width
            and (camera.height, camera.width) == (w, h) != (h, w)
        ):
            # Calibrated as it lies in the file, before its EXIF orientation.
            image = read_image(path, self._options.max_pixels, upright=False)
        return image

    def _views(self, path: Path) -> tuple[AnyImage, AnyImage | None]:
        """Return an image, and the right view where it holds both."""
        image = self._read(path)
        if not self._layout:
            return image, None
        try:
            return split(image, self._layout)
        except ValueError as error:
            raise BadImage(str(error)) from None

    def _image_frame(self, index: int, path: Path) -> StillImage:
        image, right = self._views(path)
        h, w = image.shape[:2]
        if abs(w / h / self._aspect - 1) > SAME_SHAPE:
            raise BadImage(
                f"it is {w}x{h}, which has another shape than the first image; "
                "images of one source must have one shape"
            )
        image = self._resized(image)
        camera = self._calibration.cameras.get(path)
        intrinsics, lens = None, None
        if camera is not None:
            lens = self._lens(camera, (w, h))
            image, intrinsics = lens.straighten(image), lens.K
        return StillImage(
            image,
            index=index,
            pts_ns=int(self._pts_ns[index]),
            intrinsics=intrinsics,
            T_world_camera=self._calibration.poses.get(path),
            depth=lambda: self._depth(path, (w, h), lens),
            right=lambda: self._right(path, right, (w, h), lens),
        )

    def _resized(self, image: AnyImage) -> AnyImage:
        if image.shape[1::-1] == self._size:
            return image
        shrunk = image.shape[1] > self._size[0]
        how = cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR
        return cv2.resize(image, self._size, interpolation=how)

    def _right(
        self, path: Path, packed: AnyImage | None, size: tuple[int, int], lens: Lens | None
    ) -> AnyImage | None:
        """Return the right view of the frame in `path`, all 0 where it alone has none."""
        if not self._layout and not self._pairs:
            return None
        image, file = packed, self._pairs.files.get(path)
        if file is not None:
            try:
                image = read_image(file, self._options.max_pixels)
                if image.shape[1::-1] != size:
                    h, w = image.shape[:2]
                    raise BadImage(
                        f"it is {w}x{h} and the left one {size[0]}x{size[1]}: the images of a "
                        "rectified pair have one size"
                    )
            except BadImage as error:
                image = None
                self._reporter.lost(
                    f"right image {one_line(file.parent.name)}/{one_line(file.name)}", str(error)
                )
        if image is None:
            return np.zeros((*self._size[::-1], 3), np.uint8)
        # Rectified to one another, both were taken as if by one camera.
        resized = self._resized(image)
        return resized if lens is None else lens.straighten(resized)

    def _depth(self, path: Path, size: tuple[int, int], lens: Lens | None) -> Map | None:
        """Return the depth of the frame in `path`, all unknown where it alone has none."""
        if not self._sensor:
            return None
        file = self._sensor.files.get(path)
        if file is not None:
            try:
                depth = read_depth(file, self._sensor, size, self._options.max_pixels)
            except BadImage as error:
                self._reporter.lost(f"depth image {one_line(file.name)}", str(error))
            else:
                if depth.shape[::-1] != self._size:
                    depth = cv2.resize(depth, self._size, interpolation=cv2.INTER_NEAREST_EXACT)
                return depth if lens is None else lens.straighten_depth(depth)
        return np.full(self._size[::-1], np.nan, np.float32)

    def _lens(self, camera: CameraModel, size: tuple[int, int]) -> Lens:
        key = (camera.K.tobytes(), camera.distortion, camera.width, size)
        if key not in self._lenses:
            if len(self._lenses) == MOST_LENSES:
                self._lenses.clear()
            if not camera.width:
                # KITTI states no size: its numbers are of the images as they are.
                camera = CameraModel(*size, camera.K, camera.distortion)
            elif size != (camera.width, camera.height):
                scaled = scale_intrinsics(camera.K, size[0] / camera.width, size[1] / camera.height)
                camera = CameraModel(*size, scaled, camera.distortion)
            self._lenses[key] = Lens(camera, self._size)
        return self._lenses[key]
