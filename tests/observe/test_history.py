"""An hour of numbers in little memory."""

from redisrepl.observe.history import PERIOD, SERIES, History


def sampled(*samples):
    history = History()
    for now, lag, document in samples:
        history.sample(now, lag, document if history.is_due(now) else None)
    return history


def document(waiting=0, pushed=0, applied=0):
    return {"waiting_keys": waiting, "pushed": pushed, "applied": applied}


def test_a_point_holds_the_highest_lag_and_what_was_done_in_a_second():
    seconds = [(float(now), 3.0 if now == 4 else 0.0, document(7, now * 5, now)) for now in range(PERIOD + 1)]
    history = sampled(*seconds)

    assert [history.points(name) for name in SERIES] == [[3.0], [7.0], [5.0], [1.0]]


def test_what_nobody_knows_is_a_hole():
    history = sampled((0.0, 0.0, document()), (5.0, None, None), (10.0, 0.0, document()), (20.0, 0.0, document()))

    assert history.points("lag_s") == [None, 0.0]


def test_a_daemon_that_only_pushes_has_no_applies():
    history = sampled((0.0, 0.0, {"waiting_keys": 0, "pushed": 1}), (10.0, 0.0, {"waiting_keys": 0, "pushed": 2}))

    assert history.points("applied_per_s") == [0.0]
    assert history.points("pushed_per_s") == [0.1]


def test_an_hour_is_kept():
    history = sampled(*((now * 10.0, 0.0, document(now)) for now in range(500)))

    assert len(history.points("waiting_keys")) == 360
    assert history.points("waiting_keys")[-1] == 499
