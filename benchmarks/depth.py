"""Depth models and fusion on a rendered tour with true poses, against StereoSGBM.

    python -m benchmarks.depth [--seed 0] [--every 6]

Prints a row for each depth model and for the peer (OpenCV's StereoSGBM on each view rectified with
the next one far enough to the side): CPU seconds a map on one thread, AbsRel, share of pixels
known, share within 3 % of the truth, and precision, recall and F-score at 5 cm of the cloud that
`fuse/tsdf` makes of the maps. The moving ball does not count. The last lines give the ratios.
Compiling and rendering are not timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np

from pipeline.contract import Context, DepthMaps, Views
from pipeline.contract.stage import find, options_of
from stages._geometry.transforms import invert
from tests.support.posed import posed_views
from tests.support.scenes import cloud_score, depth_error, tour, true_cloud

SIDEWAYS_PX = 20.0
"""Parallax that the peer's second view must have at the median depth."""


def model(name: str) -> Callable[[Views], np.ndarray]:
    """Return a call of a depth model with its defaults, on one thread."""
    stage = find("depth", name)(options_of("depth", name)())
    stage.open(Context(threads=1))
    return lambda views: stage.process(views=views).depth


def stereo_sgbm(views: Views) -> np.ndarray:
    """Return what StereoSGBM finds between each view and the next one far enough away."""
    depth = np.full(views.images.shape[:3], np.nan, np.float32)
    usual = float(np.median(np.linalg.norm(views.points - views.points.mean(0), axis=1)))
    for i in range(len(views.images)):
        step = np.linalg.norm(
            views.T_world_camera[:, :3, 3] - views.T_world_camera[i, :3, 3], axis=1
        )
        enough = views.intrinsics[i, 0, 0] * step / usual > SIDEWAYS_PX
        apart = [j for j in sorted(range(len(step)), key=lambda j, i=i: abs(j - i)) if enough[j]]
        if apart:
            _stereo(views, i, apart[0], depth[i])
    return depth


def _stereo(views: Views, i: int, j: int, out: np.ndarray) -> None:
    rows, columns = out.shape
    T = invert(views.T_world_camera[j]) @ views.T_world_camera[i]
    # The peer wants the left view first: mirror the pictures instead of swapping them.
    flip = T[0, 3] > 0
    if flip:
        mirror = np.diag([-1.0, 1, 1, 1])
        T = mirror @ T @ mirror
    gray = [cv2.cvtColor(views.images[k], cv2.COLOR_RGB2GRAY) for k in (i, j)]
    cameras = [views.intrinsics[k].copy() for k in (i, j)]
    for k, K in enumerate(cameras):
        K[:2, 2] -= 0.5
        if flip:
            gray[k] = np.ascontiguousarray(gray[k][:, ::-1])
            K[0, 2] = columns - 1 - K[0, 2]
    none = np.zeros(5)
    R1, R2, P1, P2, Q, *_ = cv2.stereoRectify(
        cameras[0],
        none,
        cameras[1],
        none,
        (columns, rows),
        T[:3, :3].copy(),
        T[:3, 3:].copy(),
        alpha=-1,
    )
    if abs(P2[1, 3]) > abs(P2[0, 3]):
        return
    left, right = (
        cv2.remap(g, *cv2.initUndistortRectifyMap(K, none, R, P, (columns, rows), cv2.CV_32FC1),
                  cv2.INTER_LINEAR)
        for g, K, R, P in ((gray[0], cameras[0], R1, P1), (gray[1], cameras[1], R2, P2))
    )  # fmt: skip
    matcher = cv2.StereoSGBM_create(
        0, 96, 5, P1=8 * 25, P2=32 * 25, disp12MaxDiff=1, uniquenessRatio=10,
        speckleWindowSize=100, speckleRange=2, mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )  # fmt: skip
    disparity = matcher.compute(left, right).astype(np.float32) / 16
    found = disparity > 0
    xyz = cv2.reprojectImageTo3D(np.where(found, disparity, 1.0), Q) @ R1
    z = np.where(found & (xyz[..., 2] > 0), xyz[..., 2], np.nan).astype(np.float32)
    # Back from the rectified picture to the view's own pixels.
    H = P1[:, :3] @ R1 @ np.linalg.inv(cameras[0])
    back = cv2.warpPerspective(
        z, H, (columns, rows), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderValue=np.nan
    )
    out[:] = back[:, ::-1] if flip else back


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=6, help="frames from one view to the next")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    truth = tour(given.seed)
    frames = range(0, len(truth), given.every)
    views = posed_views(truth, frames)
    few = posed_views(truth, list(frames)[:3] + list(frames)[-3:])
    true = np.stack([truth.depth(i) for i in frames])
    rests = ~np.stack([truth.ball(i) for i in frames])
    world = true_cloud(truth, list(frames)[::2], 0.02, 2)
    tsdf = find("fuse", "tsdf")(options_of("fuse", "tsdf")())
    tsdf.open(Context(threads=1))
    calls = {n: model(n) for n in ("multiview", "plane_sweep")} | {"StereoSGBM": stereo_sgbm}
    print(f"{len(views.images)} views {truth.width}x{truth.height}, seed {given.seed}")
    print(f"{'':12} {'cpu-s/map':>9} {'AbsRel':>7} {'known':>6} {'<3 %':>6} "
          f"{'fuse':>6} {'prec.':>6} {'recall':>6} {'F':>6}")  # fmt: skip
    found = {}
    for name, call in calls.items():
        call(few)
        start = time.process_time()
        depth = call(views)
        spent = (time.process_time() - start) / len(frames)
        error = depth_error(depth, true, rests)
        start = time.process_time()
        points = tsdf.process(views=views, depth=DepthMaps(depth=np.where(rests, depth, np.nan)))
        fused = time.process_time() - start
        score = cloud_score(points.xyz, world, 0.05)
        found[name] = spent, error.abs_rel, score.f
        print(f"{name:12} {spent:9.3f} {error.abs_rel:7.4f} {error.complete:6.3f} "
              f"{error.good:6.3f} {fused:6.2f} {score.precision:6.3f} {score.recall:6.3f} "
              f"{score.f:6.3f}")  # fmt: skip
    peer = found["StereoSGBM"]
    for name in ("multiview", "plane_sweep"):
        ours = found[name]
        time_, error, f = (ours[k] / peer[k] for k in range(3))
        print(f"{name} / StereoSGBM: time {time_:.1f}, error {error:.2f}, F-score {f:.2f}")


if __name__ == "__main__":
    main()
