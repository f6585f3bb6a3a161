"""Incremental structure from motion with COLMAP, in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.contract import Array
from pipeline.errors import later
from stages.pose._features import Features
from stages.pose._matching import Pair

pycolmap = later("pycolmap")

__all__ = ["fill_database", "map_incrementally", "triangulate"]

SMALLEST_MODEL = 3
MAX_DISTORTION = 0.4
"""Upper bound of COLMAP's radial coefficient; action cameras reach 0.3."""
FOCAL_RATIOS = (0.2, 8.0)
"""Range of focal length over longer side: 136 degrees of view to a long telephoto lens."""


def fill_database(
    features: list[Features], cameras: list[pycolmap.Camera], pairs: list[Pair]
) -> pycolmap.Database:
    """Return an in-memory database; image i has the id i + 1, cameras keep their ids."""
    database = pycolmap.Database.open(":memory:")
    rigs: dict[int, int] = {}
    for camera in {c.camera_id: c for c in cameras}.values():
        database.write_camera(camera, use_camera_id=True)
        rig = pycolmap.Rig(rig_id=camera.camera_id)
        rig.add_ref_sensor(camera.sensor_id)
        rigs[camera.camera_id] = database.write_rig(rig, use_rig_id=True)
    for i, camera in enumerate(cameras):
        image = pycolmap.Image(
            name=f"{i:06d}", camera_id=camera.camera_id, image_id=i + 1, frame_id=i + 1
        )
        frame = pycolmap.Frame(frame_id=i + 1, rig_id=rigs[camera.camera_id])
        frame.add_data_id(image.data_id)
        database.write_frame(frame, use_frame_id=True)
        database.write_image(image, use_image_id=True)
        database.write_keypoints(i + 1, features[i].xy)
    for pair in pairs:
        database.write_matches(pair.i + 1, pair.j + 1, pair.inliers.astype(np.uint32))
        database.write_two_view_geometry(pair.i + 1, pair.j + 1, pair.geometry)
    return database


def map_incrementally(
    database: pycolmap.Database,
    *,
    seed: int,
    refine_focal: bool,
    init_min_tri_angle_deg: float,
    init_min_num_inliers: int,
    registered: Callable[[], None],
) -> list[pycolmap.Reconstruction]:
    """Run the incremental mapper and return its models, the largest first."""
    options = pycolmap.IncrementalPipelineOptions()
    # With several threads the order of summation varies: poses differ between runs and computers,
    # for no gain (measured: 6.1 s with one, 6.0 s and more CPU time with two, 4,303 points).
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = seed
    options.extract_colors = False
    # Its generalized solver takes minutes on images that cannot be registered (measured: lund,
    # more than 300 s against 6 s), and the images it adds have the worst poses.
    options.structure_less_registration_fallback = False
    options.min_model_size = SMALLEST_MODEL
    options.max_num_models = 6
    # Limited to lenses of video cameras: beyond, extreme lenses fit what should be rejected.
    options.max_extra_param = MAX_DISTORTION
    options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RATIOS
    # Global bundle adjustment after 20 % more images, not 10 %: half the time, same accuracy
    # (measured on the rendered tours).
    options.ba_global_frames_ratio = 1.2
    options.ba_global_points_ratio = 1.2
    options.ba_refine_focal_length = refine_focal
    options.ba_refine_extra_params = refine_focal
    options.mapper.random_seed = seed
    options.mapper.abs_pose_refine_focal_length = False
    options.mapper.abs_pose_refine_extra_params = False
    # A dashboard camera moves forward: the angle alone decides what a good initial pair is.
    options.mapper.init_max_forward_motion = 1.0
    options.mapper.init_min_tri_angle = init_min_tri_angle_deg
    options.mapper.init_min_num_inliers = init_min_num_inliers
    options.triangulation.random_seed = seed
    models = pycolmap.ReconstructionManager()
    pipeline_run = pycolmap.IncrementalPipeline(options, database, models)
    stages = pycolmap.IncrementalPipelineCallback
    pipeline_run.add_callback(stages.NEXT_IMAGE_REG_CALLBACK, registered)
    pipeline_run.run()
    return sorted((models.get(i) for i in range(models.size())), key=_size, reverse=True)


def _size(model: pycolmap.Reconstruction) -> tuple[int, int]:
    """Return the sort key of a model: registered images, then points."""
    return model.num_reg_images(), model.num_points3D()


def triangulate(
    database: pycolmap.Database, T_camera_world: Array, *, seed: int
) -> pycolmap.Reconstruction:
    """Return a model with the given poses [K, 4, 4] and the points triangulated from them."""
    cache = pycolmap.DatabaseCache.create(database, pycolmap.DatabaseCacheOptions())
    model = pycolmap.Reconstruction()
    model.load(cache)
    for i, pose in enumerate(T_camera_world):
        frame = model.frame(i + 1)
        frame.rig_from_world = pycolmap.Rigid3d(pose[:3])
        model.register_frame(i + 1)
    mapper = pycolmap.IncrementalMapper(cache)
    mapper.begin_reconstruction(model)
    options = pycolmap.IncrementalTriangulatorOptions()
    options.random_seed = seed
    for i in range(len(T_camera_world)):
        mapper.triangulate_image(options, i + 1)
    mapper.complete_and_merge_tracks(options)
    mapper.filter_points(pycolmap.IncrementalMapperOptions())
    mapper.end_reconstruction(False)
    model.update_point_3d_errors()
    return model
