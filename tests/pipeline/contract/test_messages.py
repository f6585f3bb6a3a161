"""Messages check themselves, are frozen, and print shapes."""

import pickle
from typing import get_type_hints

import numpy as np
import pytest

from pipeline.contract.messages import (
    Actions,
    Array,
    Frames,
    Keyframes,
    Message,
    Motion,
    Views,
)


def frames(t: int = 2, **changed: object) -> Frames:
    values: dict[str, object] = {
        "clip": "a/0-1",
        "images": np.zeros((t, 4, 6, 3), np.uint8),
        "pts_ns": np.arange(t, dtype=np.int64) * 10**9,
        "index": np.arange(t, dtype=np.int64),
        "sharpness": np.zeros(t, np.float32),
    }
    return Frames(**{**values, **changed})  # type: ignore[arg-type]


def test_a_message_prints_shapes_and_no_pixels() -> None:
    text = repr(frames())
    assert "images=uint8[2, 4, 6, 3]" in text
    assert "clip='a/0-1'" in text


def test_arrays_are_read_only_and_the_givers_array_stays_writeable() -> None:
    given = np.zeros((2, 4, 6, 3), np.uint8)
    message = frames(images=given)
    with pytest.raises(ValueError, match="read-only"):
        message.images[0, 0, 0, 0] = 1
    given[0, 0, 0, 0] = 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.zeros((2, 4, 6, 3))}, "Frames.images must be uint8, got float64"),
        ({"images": [[1]]}, "Frames.images must be uint8, got list"),
        ({"images": np.zeros((2, 4, 6), np.uint8)}, r"shape \[T, H, W, 3\], got \[2, 4, 6\]"),
        ({"images": np.zeros((2, 4, 6, 4), np.uint8)}, r"with 3 = 3, got \[2, 4, 6, 4\]"),
        ({"index": np.arange(3)}, r"Frames.index must have shape \[T\] with T = 2, got \[3\]"),
        ({"pts_ns": np.array([5, 5])}, r"must rise strictly, got \[5, 5\]"),
    ],
)
def test_a_wrong_array_is_refused_by_name(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frames(**changed)


def test_an_empty_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        frames(0)


@pytest.mark.parametrize("t", [1, 2, 5])
def test_motion_has_one_row_less_than_its_clip(t: int) -> None:
    flow = np.zeros((t - 1, 4, 6, 2), np.float32)
    assert len(Motion(clip="a", flow=flow, confidence=flow[..., 0]).flow) == t - 1


def test_motion_refuses_a_confidence_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"Motion.confidence must have shape \[T-1, H, W\]"):
        Motion(
            clip="a",
            flow=np.zeros((3, 4, 6, 2), np.float32),
            confidence=np.zeros((2, 4, 6), np.float32),
        )


def test_messages_survive_a_pickle() -> None:
    message = frames(3)
    again = pickle.loads(pickle.dumps(message, protocol=5))
    assert again.clip == message.clip
    np.testing.assert_array_equal(again.pts_ns, message.pts_ns)


def test_joined_actions_are_ordered_by_start() -> None:
    def actions(start: int, label: str) -> Actions:
        at = np.array([start], np.int64)
        return Actions(
            start_ns=at,
            end_ns=at + 5,
            score=np.ones(1, np.float32),
            label=(label,),
            kind=("camera",),
            model=("m",),
        )

    joined = Actions.concat([actions(7, "late"), actions(1, "early")])
    assert joined.label == ("early", "late")
    assert joined.start_ns.tolist() == [1, 7]


def test_the_annotations_are_the_specification_and_help_shows_it() -> None:
    assert Frames.SPEC["images"] == ("uint8", "T H W 3")
    assert "images: uint8 [T, H, W, 3]" in (Frames.__doc__ or "")
    assert (Frames.__doc__ or "").count("Arrays:") == 1
    arrays = {
        name for name, hint in get_type_hints(Frames).items() if hint in (Array, Array | None)
    }
    assert arrays == set(Frames.SPEC)


@pytest.mark.parametrize(("kind", "rows"), [(Frames, "T"), (Keyframes, "K"), (Views, "K")])
def test_what_messages_share_has_as_many_rows_as_their_images(
    kind: type[Message], rows: str
) -> None:
    assert kind.SPEC["right"] == ("uint8", f"{rows} H W 3")
    assert kind.SPEC["T_world_camera"] == ("float64", f"{rows} 4 4")
    # The first one that differs is blamed: never `images`, by what comes with them.
    assert next(iter(kind.SPEC)) == "images"


def test_a_right_view_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Frames.right must have shape \[T, H, W, 3\] with W = 6"):
        frames(right=np.zeros((2, 4, 5, 3), np.uint8))
