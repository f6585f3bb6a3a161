"""Messages taken apart for the object store and put together again."""

import numpy as np

from pipeline.contract import Actions, Frames, Motion
from pipeline.worker import serialization as packing
from pipeline.worker.serialization import ForwardedArray, pack, slots, unpack


def frames(count: int = 4) -> Frames:
    images = np.arange(count * 100 * 200 * 3, dtype=np.uint8).reshape(count, 100, 200, 3)
    return Frames(
        clip="film/0-3",
        images=images,
        pts_ns=np.arange(count),
        index=np.arange(count),
        sharpness=np.ones(count, np.float32),
    )


def test_large_arrays_go_beside_and_come_back_as_they_are():
    clip = frames()
    parcel, arrays = pack(clip, [])
    kind, head, names = parcel
    assert (kind, names) == ("Frames", ("images",))
    assert arrays[0] is clip.images
    assert len(head) < 2000
    again = unpack(parcel, [clip.images])
    assert isinstance(again, Frames)
    assert again.images.base is clip.images or again.images is clip.images
    assert again.index.tolist() == clip.index.tolist()
    assert again.clip == clip.clip


def test_what_came_in_is_forwarded_and_what_only_looks_like_it_is_not():
    clip = frames()
    given = [np.zeros(1), clip.images]
    _, arrays = pack(frames(), given)
    assert not isinstance(arrays[0], ForwardedArray)
    _, arrays = pack(clip, given)
    assert arrays == [ForwardedArray(1)]
    # A part of what came in lies at the same place and is another array.
    part = Frames(
        clip="film/0-2",
        images=clip.images[:3],
        pts_ns=clip.pts_ns[:3],
        index=clip.index[:3],
        sharpness=clip.sharpness[:3],
    )
    (array,) = pack(part, given)[1]
    assert not isinstance(array, ForwardedArray)


def test_small_pictures_travel_with_the_call():
    small = Frames(
        clip="film/0-0",
        images=np.zeros((1, 4, 4, 3), np.uint8),
        pts_ns=np.zeros(1, np.int64),
        index=np.zeros(1, np.int64),
        sharpness=np.ones(1, np.float32),
    )
    assert small.images.nbytes < packing.INLINE_BYTES
    parcel, arrays = pack(small, [])
    assert arrays == []
    again = unpack(parcel, [])
    assert isinstance(again, Frames)
    assert again.clip == "film/0-0"


def test_a_call_has_room_for_every_array_that_may_be_large():
    assert slots([Frames]) == 3
    assert slots([Motion]) == 2
    assert slots([Frames, Motion]) == 5
    assert slots([Actions]) == len(Actions.SPEC)
