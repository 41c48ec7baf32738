"""A hub, two sites and their daemons behind faulty links, with clients that write everywhere.

In: a seed. Out: what differs, is lost or strays once the clients pause. Left to others: the faults (`faults`).
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Self

from redisrepl.engine.winners import BOTH_CHANGED
from redisrepl.store.kept import KeptConflicts
from testbed import Daemon, FaultProxy, Hub, RedisServer, SmallDisk, eventually
from tests.chaos.collections import contents, elements_of, type_of
from tests.chaos.groups import announce
from tests.chaos.sites import EventsSite, SentinelSite, Site
from tests.chaos.writers import NAMESPACE, Contents, Miss, Writer

__all__ = ["SWIFT", "Scene"]

#: Short times, so that a fault is noticed in a test's time.
SWIFT = ("--canary-period", "0.5", "--timeout", "3", "--retry-max", "1")
#: Copies may differ this long after the writers have paused and the faults have ended, in seconds.
PATIENCE = 60.0
#: The daemons' own keys at the hub.
FENCES = b"redisrepl:fence:"
#: And those at the sites.
MARKS = b"redisrepl:mark:"
#: Bytes for the state of all daemons: enough for every fault but a full disk.
DISK = 256 << 20
#: What tells whether a daemon can write what it has to remember.
_OF_DISK = frozenset({"daemon.started", "store.failed", "store.recovered"})
#: Seconds after which a daemon knows what it forgot while its disk was full: it looks once a second.
FORGOTTEN_BY = 2.0
#: Megabytes that a daemon may have held at most.
MOST_MEMORY = 150


class Scene:
    """All of it; a context manager. The first site has one address, the second a Sentinel, and a third gives no PSYNC.

    Args:
        seed: of all choices.
        pause: seconds between the bursts of each writer.
        flags: further ones of the daemons.
        all_types: the clients of the hub and of the first site write keys of all types, which the daemon there
            replicates; at the others all likewise, or strings and hashes only, as the seed has it.
        events: there is a third site.
        groups: clients read streams by consumer groups, which are replicated.
    """

    def __init__(
        self,
        seed: int,
        *,
        pause: float = 0.002,
        flags: tuple[str, ...] = SWIFT,
        all_types: bool = True,
        events: bool = False,
        groups: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self._all = [all_types, *([all_types and self.rng.random() < 0.5] * (2 if events else 1))]  # by site
        self._events = events
        self._groups = groups
        self._pause = pause
        self._flags = flags
        self._stack = contextlib.ExitStack()
        self._most_memory = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._start(stack.enter_context)
            self._stack = stack.pop_all()
        return self

    def _start(self, enter) -> None:
        self.hub = enter(Hub(redis={"persistent": True}))
        self.disk = enter(SmallDisk(DISK))
        self.streamed_sites: list[Site] = [enter(Site()), enter(SentinelSite())]
        self.sites = [*self.streamed_sites, *([enter(EventsSite())] if self._events else [])]
        self.proxies = [enter(FaultProxy(self.hub.port)) for _ in self.sites]
        pair = self.hub.certificates
        secrets = ["--cert", pair.client, "--key", pair.client_key, "--ca", pair.ca]
        what = ["-rc", "--ns", NAMESPACE.decode(), "--log-format", "json", *self._flags]
        self.daemons = [
            enter(
                Daemon(
                    [
                        *secrets,
                        *what,
                        *site.flags,
                        *(["--linger", "20"] if n else []),
                        *(["--replicate", "all,streams-groups" if self._groups else "all"] if everything else []),
                        *("--haddr", self.hub.url_at(proxy.port)),
                        *("--state-dir", self.disk.path / f"site{n}"),
                    ]
                )
            )
            for n, (site, proxy, everything) in enumerate(zip(self.sites, self.proxies, self._all, strict=True))
        ]
        for daemon, site in zip(self.daemons, self.sites, strict=True):
            daemon.wait_for_log(site.followed)
            daemon.wait_for_log("subscribe.started")
            daemon.wait_for_log("sweep.finished")
        self._marks = [daemon.mark() for daemon in self.daemons]
        masters = [lambda: self.hub.server, *(lambda site=site: site.master for site in self.sites)]
        self.writers = [
            Writer(name, master, self.rng.random(), self._pause, all_types=everything, reads=self._groups)
            for name, master, everything in zip(
                ("hub", *(f"site{n}" for n in range(len(self.sites)))), masters, (self._all[0], *self._all), strict=True
            )
        ]
        for writer in self.writers:
            writer.start()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            error.add_note(f"what the daemons said, and what they were at in the end: {self._keep_words()}")
        for writer in self.writers:
            writer.stop()
        self._stack.close()

    @property
    def servers(self) -> list[RedisServer]:
        return [self.hub.server, *(site.master for site in self.sites)]

    def daemon_of(self, site: Site) -> Daemon:
        return self.daemons[self.sites.index(site)]

    def written(self, count: int) -> None:
        """Return when the clients have written this much more: time in this scene is counted in writes."""
        goal = self._attempts() + count
        eventually(lambda: self._attempts() >= goal, timeout=60)

    def _attempts(self) -> int:
        return sum(writer.accepted + writer.refused for writer in self.writers)

    @contextlib.contextmanager
    def silence(self, *writers: Writer) -> Iterator[None]:
        """These clients, or all, pause."""
        writers = writers or tuple(self.writers)
        for writer in writers:
            writer.pause()
        try:
            yield
        finally:
            for writer in writers:
                writer.resume()

    # What must hold in the end.

    def check(self) -> None:
        """Pause all clients and wait until all copies are equal; then nothing is lost, strayed, or grown too large."""
        with self.silence():
            if self._groups:
                self._announce()
            held = self._settle()
            forgot = [False, *map(self._forgot, self.daemons, self._marks)]
            back = [False, *map(self._went_back, self.daemons, self._marks)]
            lost = [
                miss
                for writer, forgetful in zip(self.writers, forgot, strict=True)
                for miss in writer.misses(held, forgot=forgetful, undoes=any([*forgot, *back]))
            ]

            surprises = [] if any([*forgot, *back]) else [why for writer in self.writers for why in writer.surprises]
            assert not surprises, f"{len(surprises)} groups were not as they were left, such as {surprises[0]}"

            def nothing_is_lost() -> bool:
                """Where nobody knows what a server had held, the other's value wins, and this server's is kept."""
                gone = self._not_kept(lost, undoes=any([*forgot, *back]))
                assert not gone, f"{len(gone)} writes are lost, such as {gone[:9]}; forgot: {forgot}, went back: {back}"
                return True

            eventually(nothing_is_lost, 5)
            for daemon in self.daemons:  # what was forgotten, or went back, must not bear on what comes next
                eventually(partial(_is_at_rest, daemon), PATIENCE, "a daemon has dealt with all that it found")
            eventually(lambda: not [*self.disk.path.glob("*/*.behind")], PATIENCE, "the next daemon will know it")
            strays = self._strays()
            assert not strays, f"outside the namespace: {strays[:3]}"
            for writer in self.writers:
                writer.settled(held)
            self._marks = [daemon.mark() for daemon in self.daemons]
        for daemon in self.daemons:
            assert daemon.running, f"a daemon has ended: {daemon.stderr[-2000:]}"
            assert "Traceback" not in daemon.stderr
            self.note_memory(daemon)
        assert self._most_memory < MOST_MEMORY << 10, f"a daemon held {self._most_memory >> 10} MB"

    def _keep_words(self) -> Path:
        """Write down all that the daemons logged, and copy what they remember; outlives the test."""
        directory = Path(tempfile.mkdtemp(prefix="redisrepl-chaos-"))
        for number, daemon in enumerate(self.daemons):
            with contextlib.suppress(AssertionError, RuntimeError):  # it may have ended, or be stuck
                daemon.state()
            lines = "".join(json.dumps(record) + "\n" for record in daemon.records)
            directory.joinpath(f"daemon{number}.jsonl").write_text(lines)
            shutil.copytree(self.disk.path / f"site{number}", directory / f"site{number}", ignore=_no_files)
        return directory

    def _announce(self) -> None:
        """What clients read where daemons go by events comes with the next change of the stream; elsewhere at once."""
        streamed = [site.master for site in self.streamed_sites]
        for writer, server in zip(self.writers, self.servers, strict=True):
            if server in streamed:
                continue
            with server.client() as client:
                for of_whom in (writer.name.encode() + b":*", b"[0-9]"):  # its own, and those of all
                    announce(client, client.scan_iter(NAMESPACE + b"c:stream:" + of_whom, count=10_000))

    def _settle(self) -> Contents:
        """Wait until all copies are equal; what they hold. Only what differed is looked at again and again."""
        suspects: set[bytes] | None = None

        def equal() -> bool:
            nonlocal suspects
            differences = self._differences(suspects)
            suspects = {key for _, key, *_ in differences} or None
            assert not differences, f"{len(differences)} differences, such as {differences[:3]}"
            return not self._differences(None)

        eventually(equal, timeout=PATIENCE)
        return self._contents(self.hub.server, None)

    def _differences(self, keys: set[bytes] | None) -> list[tuple[int, bytes, object, object]]:
        hub, *sites = [self._contents(server, keys) for server in self.servers]
        return [
            (number, key, hub.get(key), site.get(key))
            for number, site in enumerate(sites)
            for key in sorted(hub.keys() | site.keys())
            if hub.get(key) != site.get(key) and (self._all[number] or _type_of(key) in (b"string", b"hash"))
        ]

    @staticmethod
    def _contents(server: RedisServer, keys: set[bytes] | None) -> dict[bytes, object]:
        """What these keys hold, or all of the namespace."""
        with server.client() as client:
            wanted = sorted(keys if keys is not None else client.scan_iter(NAMESPACE + b"*", count=10_000))
            return contents(client, [(key, _type_of(key)) for key in wanted])

    def _not_kept(self, lost: Collection[Miss], *, undoes: bool) -> list[Miss]:
        """Of writes that are lost, those that no daemon has kept of a server that went back.

        Where a removal may be undone (`undoes`), what comes back can conflict with what was written afterwards.
        """
        kept: dict[bytes, list[tuple[bytes | None, object]]] = {key: [] for key, *_ in lost}
        for path in self.disk.path.glob("*/*.conflicts"):
            with KeptConflicts(path) as file:
                for entry in file.entries():
                    if entry.key in kept and (undoes or entry.reason != BOTH_CHANGED):
                        kept[entry.key] += elements_of(file.state(entry))
        return [miss for miss in lost if (miss[1], miss[3]) not in kept[miss[0]]]

    @staticmethod
    def _forgot(daemon: Daemon, mark: int) -> bool:
        """Whether it does not know all that was agreed on, so that the hub wins where both sides have a value.

        It was killed before it could write that, or had too much of it to write.
        """
        events = [record["event"] for record in daemon.records[mark:] if record["event"] in _OF_DISK]
        return bool(daemon.logged("store.forgot", after=mark)) or ("store.failed", "daemon.started") in pairwise(events)

    @staticmethod
    def _went_back(daemon: Daemon, mark: int) -> bool:
        """Whether a server may hold older values for all that the daemon knows: then it removes nothing."""
        return any(daemon.logged(f"{side}.went_back", after=mark) for side in ("site", "hub"))

    def _strays(self) -> list[bytes]:
        """Keys outside the namespace that are where nobody wrote them."""
        found = []
        for writer, server in zip(self.writers, self.servers, strict=True):
            with server.client() as client:
                keys = client.scan_iter(count=10_000)
                found += [
                    key for key in keys if not key.startswith((NAMESPACE, FENCES, MARKS)) and key != writer.key_outside
                ]
        return found

    def note_memory(self, daemon: Daemon) -> None:
        """Remember the most that a daemon has held; to be called before it is killed."""
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        self._most_memory = max(self._most_memory, int(re.search(r"VmHWM:\s+(\d+)", status)[1]))


def _no_files(directory: str, names: list[str]) -> list[str]:
    """Sockets, for example."""
    return [name for name in names if not Path(directory, name).is_file()]


def _type_of(key: bytes) -> bytes:
    return type_of(key.removeprefix(NAMESPACE))


def _is_at_rest(daemon: Daemon) -> bool:
    """Whether it agrees with both sides on all keys, as far as it knows, and has looked whether it forgot any."""
    state = daemon.state()
    sweep = state["sweep"]
    busy = sweep["owed"] or sweep["running"] or state["dirty_keys"] or state["fetching_keys"] or state["waiting_keys"]
    last = next(record for record in reversed(daemon.records) if record["event"] in _OF_DISK)
    since = datetime.fromisoformat(last["timestamp"]).timestamp()
    looked = last["event"] != "store.failed" and state["asked_at"] > since + FORGOTTEN_BY
    return bool(looked and sweep["settled"] and not busy)
