"""How far an estimated trajectory lies from the true one, once both are in one frame.

Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
PAMI 1991, eqs. 34-43; absolute trajectory error after Sturm et al., IROS 2012.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """``y = scale * R @ x + t``, with R ``float64 [3, 3]`` and t ``float64 [3]``."""

    scale: float
    R: np.ndarray
    t: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the points ``[N, 3]`` moved."""
        return self.scale * points @ self.R.T + self.t


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryError:
    """Absolute trajectory error of camera centers.

    Attributes:
        rmse_m: Root mean square distance after alignment, in the units of the truth.
        percent: The same as a percentage of the length of the true path.
        alignment: What takes the estimate to the truth.
        count: Poses compared.
    """

    rmse_m: float
    percent: float
    alignment: Similarity
    count: int


def umeyama(source: np.ndarray, target: np.ndarray, *, with_scale: bool = True) -> Similarity:
    """Return the least-squares similarity (or rigid motion) from ``source`` to ``target``.

    Args:
        source: ``[N, 3]``.
        target: ``[N, 3]``; row i is the same point.
        with_scale: False keeps the scale at 1.

    Raises:
        ValueError: Fewer than three points, points that do not match, or all on one spot or line.
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3:
        raise ValueError(f"{source.shape = } and {target.shape = } are not both [N, 3]")
    if len(source) < 3 or not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError(f"{len(source)} points: at least three, all finite, fix a similarity")
    source, target = source.astype(np.float64), target.astype(np.float64)
    from_mean, to_mean = source.mean(0), target.mean(0)
    x, y = source - from_mean, target - to_mean
    U, spread, Vt = np.linalg.svd(y.T @ x / len(x))
    if spread[1] <= 1e-12 * max(spread[0], 1e-300):
        raise ValueError("the points lie on one spot or line: any turn about it fits as well")
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * flip) @ Vt
    scale = float((spread * flip).sum() / x.var(0).sum()) if with_scale else 1.0
    return Similarity(scale=scale, R=R, t=to_mean - scale * R @ from_mean)


def trajectory_error(
    estimated: np.ndarray,
    true: np.ndarray,
    *,
    with_scale: bool = True,
    length_m: float | None = None,
) -> TrajectoryError:
    """Return the error of camera centers ``[N, 3]`` (or poses ``[N, 4, 4]``) of the same moments.

    ``length_m`` is the length of the whole path; None sums the steps of ``true``.
    """
    estimated, true = (p[:, :3, 3] if p.ndim == 3 else p for p in (estimated, true))
    alignment = umeyama(estimated, true, with_scale=with_scale)
    rmse = float(np.sqrt(((alignment(estimated) - true) ** 2).sum(1).mean()))
    if length_m is None:
        length_m = float(np.linalg.norm(np.diff(true, axis=0), axis=1).sum())
    return TrajectoryError(
        rmse_m=rmse, percent=100 * rmse / length_m, alignment=alignment, count=len(true)
    )


def associate(
    first_s: np.ndarray, second_s: np.ndarray, within_s: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
    """Pair timestamps as the TUM RGB-D tools do: nearest pairs first, each used once.

    Returns:
        Two ``int64 [N]`` of rows of the two arrays, in order of the first.
    """
    near = np.searchsorted(second_s, [first_s - within_s, first_s + within_s])
    pairs = [
        (abs(first_s[i] - second_s[j]), i, j)
        for i in range(len(first_s))
        for j in range(near[0, i], near[1, i])
    ]
    free_i, free_j, kept = set(range(len(first_s))), set(range(len(second_s))), []
    for _, i, j in sorted(pairs):
        if i in free_i and j in free_j:
            free_i.remove(i)
            free_j.remove(j)
            kept.append((i, j))
    rows = np.array(sorted(kept), np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
