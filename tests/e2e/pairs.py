"""A site and a hub with a daemon between them that ends and starts again, judged by what both sides hold then.

In: servers, flags, writes of a test. Out: an AssertionError that counts, by kind of key, what is not as it must be.
Left to others: the servers and their faults (`testbed`), what is written and what must come of it (the tests).
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
from collections import Counter

from testbed import eventually
from tests.e2e.support import PREFIX, SWIFT, wait_until_live

__all__ = ["REMOVALS", "Pair", "emptied", "held", "overrun", "some", "write", "written"]

#: Removals are replicated too, expiry times are not.
REMOVALS = ("--replicate", "set,hset,del")

_MARKERS = b"~marker"
_REMOVING = {b"DEL", b"UNLINK", b"GETDEL", b"HDEL", b"FLUSHALL", b"FLUSHDB", b"SWAPDB"}
_WRITING = {b"SET", b"MSET", b"HSET", b"HMSET"}
_numbers = itertools.count(1)


def some(kind, count, value):
    """Names and values of strings: this many keys of a kind, all of the same value."""
    return {b"%s%s:%d" % (PREFIX, kind.encode(), number): value.encode() for number in range(count)}


def write(client, values):
    """Write each key with a command of its own: a dict is a hash, of which the fields that are named are set."""
    with client.pipeline(transaction=False) as pipeline:
        for key, value in values.items():
            if isinstance(value, dict):
                pipeline.hset(key, mapping=value)
            else:
                pipeline.set(key, value)
        pipeline.execute()


def held(client):
    """All keys of the namespace and their values: a hash is a dict, and of another type there is only its name."""
    keys = sorted(key for key in client.keys(PREFIX + b"*") if _MARKERS not in key)
    types = _each(client, "type", keys)
    strings = [key for key, kind in zip(keys, types, strict=True) if kind == b"string"]
    hashes = [key for key, kind in zip(keys, types, strict=True) if kind == b"hash"]
    found = dict(zip(keys, types, strict=True))
    found |= zip(strings, _each(client, "get", strings), strict=True)
    found |= zip(hashes, _each(client, "hgetall", hashes), strict=True)
    return found


def _each(client, command, keys):
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            getattr(pipeline, command)(key)
        return pipeline.execute(raise_on_error=False)


@contextlib.contextmanager
def overrun(client):
    """What is written here is more than the site's backlog holds: the stream cannot be continued from before.

    What the test writes need not be that much: the rest is written outside the namespace.
    """
    before = client.info("replication")
    client.config_set("repl-backlog-size", "16kb")
    yield
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(8):
            pipeline.set("outside", bytes(100_000))
        pipeline.execute()
    client.config_set("repl-backlog-size", "1mb")
    after = client.info("replication")
    if before["repl_backlog_active"]:
        assert after["repl_backlog_first_byte_offset"] > before["master_repl_offset"] + 1


def emptied(monitor):
    """Keys of the namespace that were named in a command that removes, or that command where it names none."""
    found = Counter()
    for argv in monitor.commands():
        if argv and argv[0].upper() in _REMOVING:
            found.update([key for key in argv[1:] if key.startswith(PREFIX) and _MARKERS not in key])
            if argv[0].upper() in {b"FLUSHALL", b"FLUSHDB", b"SWAPDB"}:
                found[argv[0]] += 1
    return found


def written(monitor, value):
    """Commands that wrote this value over whatever was there."""
    commands = [argv for argv in monitor.commands() if argv[:1] and argv[0].upper() in _WRITING and value in argv]
    return [argv for argv in commands if b"NX" not in map(bytes.upper, argv)]


def _wrong(found, expected):
    """How many keys are not as expected, by kind and way, and one example of each."""
    wrong, examples = Counter(), {}
    for key in found.keys() | expected.keys():
        if found.get(key) == expected.get(key):
            continue
        way = "is there" if key not in expected else "is missing" if key not in found else "has another value"
        name = f"{key.removeprefix(PREFIX).partition(b':')[0].decode()} {way}"
        wrong[name] += 1
        examples[name] = f"{found.get(key)!r:.40} for {expected.get(key)!r:.40}"
    return {name: f"{count} of {len(expected)}, as {examples[name]}" for name, count in sorted(wrong.items())}


class Pair:
    """A daemon with `-rc` between a site and a hub, and clients of both.

    Args:
        source: psync or notify.
        site_at, hub_at: what the daemon takes in place of the servers' own addresses: ports of proxies, for example.
    """

    def __init__(self, daemons, site, hub, *flags, source="psync", site_at=None, hub_at=None):
        self.site, self.hub = site, hub
        self.at_site, self.at_hub = site.client(), hub.redis
        self.source = source
        args = (*SWIFT, "--shutdown-timeout", "0.5", "--source", source, *flags)
        self.daemon = daemons.start(site_at or site, hub_at or hub, *args)
        self.wait_until_live(0)

    def wait_until_live(self, mark):
        """Both directions are open, since this mark of the log."""
        self.wait_for_site(mark)
        self.daemon.wait_for_log("subscribe.started", after=mark)

    def wait_for_site(self, mark):
        """The site's writes are seen, since this mark of the log."""
        if self.source == "notify":
            self.daemon.wait_for_log("notice.started", 20, after=mark)
        else:
            wait_until_live(self.daemon, pull=False, after=mark)

    def wait_for_hub(self, mark):
        """The hub's writes are heard, since this mark of the log."""
        self.daemon.wait_for_log("subscribe.started", 20, after=mark)

    def end(self, way):
        """Stop the daemon in order, or kill it."""
        if way == "stop":
            assert self.daemon.stop() == 0
        else:
            self.daemon.kill()

    def start_again(self):
        """Start the daemon as it was; both directions are open afterwards."""
        mark = self.daemon.mark()
        self.daemon.start()
        self.wait_until_live(mark)

    def level(self):
        """Both sides were compared, if that was due, and what was written before has arrived."""

        def compared():
            sweep = self.daemon.state()["sweep"]
            return sweep["runs"] and sweep["running"] is None and sweep["owed"] is None

        eventually(compared, 40, "no comparison is due or under way")
        for here, there, way in ((self.at_site, self.at_hub, "up"), (self.at_hub, self.at_site, "down")) * 2:
            key = self._marker()
            here.set(key, "v")
            eventually(lambda: there.exists(key), 20, f"a marker went {way}")  # noqa: B023 - called at once

    @staticmethod
    def _marker():
        """A new key: an older one may count as a conflict."""
        return b"%s%s:%d" % (PREFIX, _MARKERS, next(_numbers))

    def saved(self):
        """What both sides hold now, the daemon will remember if it is killed."""
        key, args = self._marker(), list(map(str, self.daemon.args))
        given = args[args.index("--state-dir") + 1] if "--state-dir" in args else self.daemon.env["STATE_DIRECTORY"]
        state = pathlib.Path(given)
        self.at_site.set(key, "v")

        def named():
            return any(key.hex().encode() in path.read_bytes() for path in state.glob("*.journal"))

        eventually(named, 10, "the last change of the site was saved")

    def expect(self, *parts, timeout=10.0):
        """Both sides come to hold just these keys with these values, once they were compared."""
        self.expect_each(parts, parts, timeout)

    def expect_each(self, site, hub, timeout=10.0):
        """Likewise, but they do not hold the same."""
        self.level()

        def right():
            wrong = {
                name: found
                for name, client, parts in (("site", self.at_site, site), ("hub", self.at_hub, hub))
                if (found := _wrong(held(client), {key: value for part in parts for key, value in part.items()}))
            }
            assert not wrong, wrong
            return True

        eventually(right, timeout, "both sides hold what they must")

    def fill(self, *parts):
        """Both sides hold just these keys, which the site wrote; and the daemon remembers it."""
        for part in parts:
            write(self.at_site, part)
        self.expect(*parts)
        self.saved()
