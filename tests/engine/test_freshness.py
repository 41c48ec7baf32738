"""What is news of a key, by the hub's clock."""

import math

from redisrepl.engine.freshness import Freshness


def test_only_what_is_newer_than_all_that_is_known_is_news():
    fresh = Freshness(10)
    fresh.learn([b"k"], 5)

    assert [fresh.is_news(b"k", time) for time in (4, 5, 6)] == [False, False, True]
    assert fresh.is_news(b"other", 1)

    fresh.learn([b"k"], 3)
    assert not fresh.is_news(b"k", 5)


def test_many_keys_at_once_make_older_news_of_any_key_old():
    fresh = Freshness(1000)
    fresh.learn([b"%d" % n for n in range(101)], 5)

    assert [fresh.is_news(b"other", time) for time in (5, 6)] == [False, True]


def test_when_it_is_full_it_errs_towards_old():
    fresh = Freshness(10)
    for number in range(11):
        fresh.learn([b"%d" % number], 10 - number)

    assert not fresh.is_news(b"0", 10)
    assert not fresh.is_news(b"other", 10)
    assert fresh.is_news(b"other", 11)


def test_starting_over_keeps_the_latest_time():
    fresh = Freshness(10)
    fresh.learn([b"a"], 5)
    fresh.learn([b"b"], 7)
    fresh.start_over()
    fresh.start_over()

    assert [fresh.is_news(b"a", time) for time in (6, 7, 8)] == [False, False, True]


def test_what_is_known_at_no_known_time_makes_everything_old():
    fresh = Freshness(10)
    fresh.learn([b"a"], math.inf)
    fresh.learn([b"a"], 5)

    assert not fresh.is_news(b"b", 10**18)

    fresh.start_over()
    assert fresh.is_news(b"b", 6)
