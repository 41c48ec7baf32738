"""Which keys the stream told of last, and before which offset."""

import json

import pytest

from redisrepl.engine.streamedkeys import StreamedKeys


def test_which_keys_a_stream_told_of_after_an_offset():
    told = StreamedKeys()
    told.add([b"an event, which has no offset"])
    assert told.later_than(0) is None
    told.whole_to = 100
    for offset, key in ((110, b"a"), (120, b"b"), (130, b"a")):
        told.add([key])
        told.reached(offset)
    assert told.later_than(99) is None
    assert (told.later_than(110), told.later_than(120), told.later_than(130)) == ({b"a", b"b"}, {b"a"}, set())
    told.add(b"%d" % number for number in range(30_000))
    told.reached(140)
    assert told.later_than(125) is None  # too many to remember
    assert told.later_than(140) == set()


def streamed_of(*batches, whole_to=0):
    streamed = StreamedKeys()
    streamed.whole_to = whole_to
    for offset, keys in batches:
        streamed.add(keys)
        streamed.reached(offset)
        streamed.saved()  # piece by piece
    return streamed


def as_loaded(streamed, number=7):
    return StreamedKeys.load(json.loads(json.dumps({"ring": number, **streamed.saved()})))


def test_the_next_process_knows_which_keys_the_stream_told_of():
    streamed = streamed_of((10, [b"a", b"\xff"]), (20, [b"b"]), (30, [b"a"]), whole_to=5)
    for _ in range(3):
        told = [streamed.later_than(offset) for offset in (4, 5, 10, 20, 30)]
        assert told == [None, {b"a", b"\xff", b"b"}, {b"b", b"a"}, {b"a"}, set()]
        streamed = as_loaded(streamed)
        assert streamed.known_to == 7
    assert as_loaded(streamed_of(whole_to=5)).later_than(5) == set()
    assert as_loaded(StreamedKeys()).later_than(5) is None


@pytest.mark.parametrize("batch", [1, 100, 1024, 5000, 15_000])
def test_of_many_keys_that_were_streamed_the_last_are_saved(batch):
    """What is not saved is not known; all that was told after some offset is."""
    streamed = StreamedKeys()
    streamed.whole_to = 0
    for number in range(0, 30_000, batch):
        streamed.add([b"%d" % key for key in range(number, number + batch)])
        streamed.reached(number + batch)
        if number % 3 == 0:
            streamed.saved()
    loaded = as_loaded(streamed)
    known = [offset for offset in range(0, number + batch + 1, batch) if loaded.later_than(offset) is not None]
    assert known[-1] == number + batch
    for offset in known[:: len(known) // 50 + 1]:
        assert loaded.later_than(offset) == streamed.later_than(offset)
    if batch < 1024:
        assert len(loaded.later_than(known[0])) > 1000


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"streamed": 5},
        {"streamed": [5]},
        {"streamed": [5, "x"]},
        {"streamed": [5, 1], "streamed 0": [0, [9, "x"]]},
        {"streamed": [5, 1], "streamed 0": [0, [9]]},
        {"streamed": [5, 1], "streamed 0": [0, 7]},
        {"streamed": [5, 1]},
    ],
)
def test_streamed_keys_that_cannot_be_read_are_not_known(document):
    assert StreamedKeys.load(document).later_than(1 << 40) is None


def test_before_which_offset_the_stream_had_told_all_that_it_told_of_some_keys():
    streamed = StreamedKeys()
    assert streamed.offsets([b"a"]) is streamed.written([b"a"]) is None  # there is no stream
    streamed.whole_to = 5
    for offset, key in ((10, b"a"), (20, b"b"), (30, b"a")):
        streamed.add([key])
        streamed.reached(offset)
    # What it told of before it was listened to lies before that.
    assert streamed.offsets([b"a", b"b", b"other"]) == {b"a": 30, b"b": 20, b"other": 5}
    for keys, offset in (([b"b", b"a"], 30), ([b"b", b"other"], 20), ([b"other"], 5), ([], 5)):
        assert streamed.written(keys) == (offset, {})
    streamed.add([b"b", b"new"], applied=True)
    streamed.reached(40)
    assert streamed.offsets([b"a", b"b", b"new"]) == {b"a": 30, b"b": 40, b"new": 40}
    assert streamed.written([b"b", b"new"]) == (20, {})
    assert streamed.later_than(30) == {b"b", b"new"}


def test_what_was_written_recently_is_placed_apart_from_what_has_waited():
    streamed = streamed_of((10, [b"a"]), (20, [b"b"]), whole_to=5)
    streamed.looked(20)
    streamed.add([b"c", b"b"])
    streamed.reached(30)
    assert streamed.written([b"a", b"c"]) == (30, {})  # nobody has looked since
    streamed.looked(30)
    streamed.add([b"d"])
    streamed.reached(40)
    assert streamed.written([b"a", b"c", b"d"]) == (10, {b"c": 30, b"d": 40})
    assert streamed.written([b"c", b"b", b"d"]) == (40, {})  # all are recent
    assert streamed.written([b"other", b"d"]) == (5, {b"d": 40})


def test_what_is_not_remembered_lies_before_what_is():
    streamed = streamed_of((10, [b"a"]), (20, [b"%d" % key for key in range(45_000)]), (30, [b"last"]), whole_to=5)
    assert streamed.offsets([b"a", b"last"]) == {b"a": 20, b"last": 30}


def test_keys_that_went_with_a_flush_lie_behind_it():
    """The stream names none of them."""
    streamed = streamed_of((10, [b"a"]), whole_to=5)
    streamed.flushed()
    streamed.add([b"b"])
    streamed.reached(20)
    assert streamed.offsets([b"a", b"b"]) == {b"a": 20, b"b": 20}
    assert streamed.later_than(15) is None
    assert as_loaded(streamed).later_than(15) is None
    streamed.add([b"b"])
    streamed.reached(30)
    assert (streamed.later_than(20), as_loaded(streamed).later_than(20)) == ({b"b"}, {b"b"})
