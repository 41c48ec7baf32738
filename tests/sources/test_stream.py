"""What follows from an event of the link to the site, whatever link it is."""

from types import SimpleNamespace

import pytest

from redisrepl.changes import KINDS, Position
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.outbound import Outbound
from redisrepl.sources.stream import StreamOptions, StreamSource
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.psync import Continued, SnapshotEnd

AT = Position("a" * 40, 10)


@pytest.mark.parametrize("event", [Continued(AT), SnapshotEnd(AT)])
def test_which_keys_a_link_told_of_is_known_from_where_it_began(event):
    outbound = Outbound(ChangeDecoder(lambda _key: True, KINDS), ExpectedEvents(0))
    listener = SimpleNamespace(attached=lambda **_: None)
    source = StreamSource(
        None, outbound, (b"ns:",), None, SimpleNamespace(), options=StreamOptions(1.0, 1.0, {}), listener=listener
    )
    source._take(event, None)
    outbound.read([[b"SET", b"ns:k", b"v"]], 30)
    told = outbound.take_streamed_keys()

    assert [told.later_than(offset) for offset in (9, 10, 30)] == [None, {b"ns:k"}, set()]
    assert outbound.following.read_to == 30
    source._take(Continued(Position("b" * 40, 20)), None)
    assert outbound.following.read_to == 20


async def test_a_link_ends_with_whoever_takes_its_events(monkeypatch):
    links = []

    class Link:
        def __init__(self, *_, **__):
            self.open = True
            links.append(self)

        async def events(self):
            try:
                yield None
            finally:
                self.open = False

    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr("redisrepl.sources.stream.ReplicaLink", Link)

    async def nothing():
        pass

    retry = {"attempts": None, "timeout": None, "wait_initial": 0.001, "wait_max": 0.001, "wait_jitter": 0.0}
    outbound = Outbound(ChangeDecoder(lambda _key: True, KINDS), ExpectedEvents(0))
    source = StreamSource(
        None,
        outbound,
        (b"ns:",),
        None,
        SimpleNamespace(),
        options=StreamOptions(1.0, 1.0, retry),
        listener=SimpleNamespace(about_to_follow=nothing, wake=fail, detached=lambda: None),
    )
    with pytest.raises(ZeroDivisionError):
        await source.run()
    assert [link.open for link in links] == [False]
