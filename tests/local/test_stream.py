"""One replica link: to real servers, and to a scripted master that says exactly what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest

from redisrepl.changes import Position
from redisrepl.errors import (
    CertificateError,
    LinkLostError,
    PeerUnavailableError,
    ProtocolError,
    PsyncRefusedError,
    RefusedError,
    SilentError,
)
from redisrepl.local.address import SiteAddress, parse_address
from redisrepl.local.linger import Linger
from redisrepl.local.stream import ReplicaLink
from redisrepl.tls.contexts import CertificateFiles
from redisrepl.wire.psync import Commands, Continued, FullSync, SnapshotData, SnapshotEnd
from redisrepl.wire.rdb import Entry, RdbReader
from testbed import RedisServer, eventually_async, free_port
from tests.hasty import HastyServer, early_ends
from tests.samples import ALL_BYTES, REPLID, resp


@pytest.fixture
def server():
    with RedisServer(users=["narrow on >pw ~* &* +@all -psync"], unix_socket=True) as server:
        yield server
        server.kill()  # told to stop, it would wait for replicas that acknowledge nothing


def address_of(server, **options):
    return parse_address(f"127.0.0.1:{server.port}", **options)


class StreamSource:
    """A link that is read in the background."""

    def __init__(self, address, position=None, **options):
        self.events = []
        self.received = 0
        options = {"acknowledged": lambda: self.received, "snapshot": RdbReader(), "ack_period": 0.05} | options
        self.link = ReplicaLink(address, position, **options)

    async def _read(self):
        async with contextlib.aclosing(self.link.events()) as events:
            async for event in events:
                self.events.append(event)
                if isinstance(event, Commands):
                    self.received = event.ends[-1]
                elif isinstance(event, FullSync | Continued):
                    self.received = event.position.offset

    async def __aenter__(self):
        self.task = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task])

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def commands(self):
        return [argv for event in self.of(Commands) for argv in event.commands]

    async def until(self, condition):
        def checked():
            if self.task.done():
                self.task.result()
            return condition()

        await eventually_async(checked)

    async def ended(self):
        """The error that the link ended with."""
        async with asyncio.timeout(10):
            await asyncio.wait([self.task])
        return self.task.exception()


async def test_what_is_there_and_what_comes(server):
    client = server.client()
    client.set("before", ALL_BYTES)
    async with StreamSource(address_of(server)) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        client.set("after", ALL_BYTES)
        await link.until(lambda: [b"SET", b"after", ALL_BYTES] in link.commands)

        entries = [entry for event in link.of(SnapshotData) for entry in event.events if isinstance(entry, Entry)]
        assert [(entry.key, entry.value) for entry in entries] == [(b"before", ALL_BYTES)]
        info = client.info("replication")
        assert link.link.position == Position(
            info["master_replid"].decode() if isinstance(info["master_replid"], bytes) else info["master_replid"],
            info["master_repl_offset"],
        )


async def test_an_offset_is_the_master_s_own(server):
    """After values of all sizes, a transaction and a SELECT."""
    client = server.client()
    async with StreamSource(address_of(server)) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        for length in (0, 9, 10, 99, 100, 4095, 4096, 70_000):
            client.set("k", b"x" * length)
        client.mset({f"k{number}": number for number in range(150)})
        server.client(db=3).incr("n")
        with client.pipeline() as pipe:
            pipe.set("a", 1).set("b", 2).execute()
        await link.until(lambda: link.commands and link.commands[-1] == [b"EXEC"])
        assert link.link.position.offset == client.info("replication")["master_repl_offset"]


async def test_wait_means_what_we_acknowledge(server):
    client = server.client()
    acknowledged = 0
    async with StreamSource(address_of(server), acknowledged=lambda: acknowledged) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        client.set("k", "v")
        await link.until(lambda: [b"SET", b"k", b"v"] in link.commands)
        assert await asyncio.to_thread(client.wait, 1, 100) == 0
        acknowledged = link.received
        client.set("k", "w")
        await link.until(lambda: [b"SET", b"k", b"w"] in link.commands)
        acknowledged = link.received
        assert await asyncio.to_thread(client.wait, 1, 5000) == 1


async def test_nothing_is_acknowledged_during_a_pause_and_all_of_it_afterwards(server):
    """To a server that is gone the system would refuse it, and drop what that had sent last."""
    asked, linger, client = 0, Linger(3600.0), server.client()

    def acknowledged():
        nonlocal asked
        asked += 1
        return link.received

    async with StreamSource(address_of(server), linger=linger, acknowledged=acknowledged) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        client.set("k", "v")
        await link.until(lambda: linger.pausing)
        before = asked
        await asyncio.sleep(0.3)  # several periods
        assert asked == before
        with linger.hurried():
            await link.until(lambda: asked > before)


async def test_a_ping_of_the_master_begins_no_pause(server):
    linger, client = Linger(3600.0), server.client()
    client.config_set("repl-ping-replica-period", 1)
    async with StreamSource(address_of(server), linger=linger) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        for _ in range(2):  # the second is read after the first
            pings = len(link.commands)
            await link.until(lambda pings=pings: len(link.commands) > pings)
        assert not linger.pausing
        client.set("k", "v")
        await link.until(lambda: linger.pausing)


async def test_a_position_is_where_the_next_link_goes_on(server):
    client = server.client()
    async with StreamSource(address_of(server)) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        client.set("k", 1)
        await link.until(lambda: [b"SET", b"k", b"1"] in link.commands)
        position = link.link.position
    client.set("k", 2)
    async with StreamSource(address_of(server), position) as link:
        await link.until(lambda: link.commands)

        assert link.events[0] == Continued(position)
        assert link.commands[0] == [b"SET", b"k", b"2"]
        assert not link.of(FullSync)


async def test_a_position_of_another_history_means_a_snapshot(server):
    async with StreamSource(address_of(server), Position("0" * 40, 5)) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        assert link.of(FullSync)


async def test_a_snapshot_without_data_can_be_asked_for(server):
    server.client().set("before", "x")
    async with StreamSource(address_of(server), empty_snapshot=True) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        server.client().set("after", "x")
        await link.until(lambda: [b"SET", b"after", b"x"] in link.commands)

    assert not [entry for event in link.of(SnapshotData) for entry in event.events if isinstance(entry, Entry)]


async def test_a_unix_socket(server):
    async with StreamSource(parse_address(server.unix_url)) as link:
        await link.until(lambda: link.of(SnapshotEnd))


@pytest.mark.parametrize("password", ["wrong", None])
async def test_a_wrong_or_missing_password(password):
    with RedisServer(password="secret") as server:
        async with StreamSource(address_of(server, password=password)) as link:
            assert type(await link.ended()) is RefusedError
        async with StreamSource(address_of(server, password="secret")) as link:
            await link.until(lambda: link.of(SnapshotEnd))
        server.kill()


async def test_a_user_that_may_not_replicate(server):
    async with StreamSource(address_of(server, username="narrow", password="pw")) as link:
        error = await link.ended()

    assert type(error) is PsyncRefusedError


async def test_a_server_without_a_free_place():
    with RedisServer(config={"maxclients": 1}) as server, server.client() as only:
        only.ping()
        async with StreamSource(address_of(server)) as link:
            error = await link.ended()
    assert type(error) is PeerUnavailableError
    assert "max number of clients" in str(error)


async def test_a_port_where_nobody_listens():
    async with StreamSource(SiteAddress(port=free_port())) as link:
        error = await link.ended()

    assert type(error) is PeerUnavailableError
    assert "cannot be reached" in str(error)


async def test_a_server_that_goes(server):
    async with StreamSource(address_of(server)) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        server.kill()
        assert type(await link.ended()) is LinkLostError


async def test_a_server_that_falls_silent(server):
    async with StreamSource(address_of(server), silence=0.3) as link:
        await link.until(lambda: link.of(SnapshotEnd))
        server.pause()
        error = await link.ended()
        server.resume()

    assert type(error) is SilentError
    assert "no byte from" in str(error)


# TLS.


async def test_tls(certificates):
    files = CertificateFiles(certificates.ca, certificates.client, certificates.client_key)
    with RedisServer(tls=certificates) as server:
        async with StreamSource(parse_address(server.tls_url, files=files)) as link:
            await link.until(lambda: link.of(SnapshotEnd))
            server.client().set("k", ALL_BYTES)
            await link.until(lambda: [b"SET", b"k", ALL_BYTES] in link.commands)
        server.kill()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_that_the_site_refuses(certificates, version):
    stranger = certificates.foreign_client()
    with RedisServer(tls=certificates) as server:
        for files in (
            CertificateFiles(certificates.ca, None, None),
            CertificateFiles(certificates.ca, stranger.cert, stranger.key),
        ):
            address = parse_address(server.tls_url, files=files)
            address.context.maximum_version = version
            async with StreamSource(address) as link:
                assert type(await link.ended()) is CertificateError


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize(
    ("client", "silent", "kind", "says"), [end for end in early_ends(LinkLostError) if end[0] != "none"]
)
async def test_an_end_that_overtakes_the_reason(certificates, monkeypatch, client, silent, kind, says, resets):
    """With TLS 1.3 the handshake is over for us, and we have spoken, when the server says no."""
    monkeypatch.setattr("redisrepl.tls.verdict.VERDICT_WAIT", 0.1)
    pair = certificates.client_pair if client == "good" else certificates.foreign_client()
    files = CertificateFiles(certificates.ca, pair.cert, pair.key)
    async with (
        HastyServer(certificates, silent, resets=resets) as server,
        StreamSource(parse_address(server.url, files=files)) as link,
    ):
        error = await link.ended()
        assert type(error) is kind
        assert says in str(error)
        assert server.connections == 2


async def test_a_site_of_another_authority(certificates):
    files = CertificateFiles(certificates.foreign_ca(), certificates.client, certificates.client_key)
    with RedisServer(tls=certificates) as server:
        async with StreamSource(parse_address(server.tls_url, files=files)) as link:
            error = await link.ended()
    assert type(error) is CertificateError
    assert "not signed by the given CA" in str(error)


# A scripted master.


class FakeMaster:
    """Says what the test wants, and hears what the link says."""

    def __init__(self):
        self.heard = b""
        self._writers = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        self.address = SiteAddress(port=self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader, writer):
        self._writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.heard += data

    async def hears(self, *argv, times=1):
        await eventually_async(lambda: self.heard.count(resp(*argv)) >= times, description=f"{argv}, {times} times")

    def says(self, data):
        self._writers[-1].write(data)

    async def attach(self, offset):
        """Grant a partial resynchronisation."""
        await self.hears(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2")
        self.says(b"+OK\r\n-ERR Unrecognized REPLCONF option: version\r\n")
        await self.hears(b"PSYNC", REPLID.encode(), b"%d" % (offset + 1))
        self.says(b"+CONTINUE\r\n")


async def test_a_silent_master_gets_acknowledgements_from_the_start():
    """Offset 0 included, and though nothing ever comes."""
    async with FakeMaster() as master, StreamSource(master.address, Position(REPLID, 0)) as link:
        await master.attach(0)
        await master.hears(b"REPLCONF", b"ACK", b"0", times=5)
        assert not link.task.done()


async def test_a_diskless_snapshot_is_acknowledged_more_than_once():
    """A master loses an acknowledgement that comes before it has reaped its child, and then keeps the stream back."""
    mark = b"m" * 40
    async with FakeMaster() as master, StreamSource(master.address, snapshot=None, ack_period=60) as link:
        await master.hears(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2")
        master.says(b"+OK\r\n+OK\r\n\n+FULLRESYNC " + REPLID.encode() + b" 7\r\n\n$EOF:" + mark + b"\r\nREDIS" + mark)
        await master.hears(b"REPLCONF", b"ACK", b"7", times=3)
        assert link.of(SnapshotEnd) == [SnapshotEnd(Position(REPLID, 7))]


async def test_nothing_is_acknowledged_before_the_snapshot_is_complete():
    async with FakeMaster() as master, StreamSource(master.address, snapshot=None) as link:
        await master.hears(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2")
        master.says(b"+OK\r\n+OK\r\n+FULLRESYNC " + REPLID.encode() + b" 7\r\n$10\r\n12345")
        await link.until(lambda: link.of(SnapshotData))
        assert b"ACK" not in master.heard
        master.says(b"67890")
        await master.hears(b"REPLCONF", b"ACK", b"7")


async def test_a_request_for_an_acknowledgement_is_answered_at_once():
    """Within the 21 that follow a new link, and so long before the next one of a period of a minute."""
    options = {"ack_period": 60, "acknowledged": lambda: 4711}
    async with FakeMaster() as master, StreamSource(master.address, Position(REPLID, 0), **options) as link:
        await master.attach(0)
        await master.hears(b"REPLCONF", b"ACK", b"4711", times=21)
        master.says(resp(b"REPLCONF", b"GETACK", b"*"))
        await master.hears(b"REPLCONF", b"ACK", b"4711", times=22)
        assert link.of(Commands)[-1].wants_ack


async def test_a_command_that_comes_in_pieces():
    data = resp(b"SET", b"k", ALL_BYTES)
    async with FakeMaster() as master, StreamSource(master.address, Position(REPLID, 100)) as link:
        await master.attach(100)
        master.says(data[:50])
        await master.hears(b"REPLCONF", b"ACK", b"100", times=2)
        assert link.commands == []
        assert link.link.position == Position(REPLID, 100)
        master.says(data[50:])
        await link.until(lambda: link.commands == [[b"SET", b"k", ALL_BYTES]])
        assert link.link.position == Position(REPLID, 100 + len(data))


@pytest.mark.parametrize(
    ("last_words", "kind"),
    [
        (b"garbage\r\n", ProtocolError),
        (b"-ERR no more\r\n", LinkLostError),
        (b"*2\r\n$3\r\nSET\r\n*0\r\n", ProtocolError),
    ],
)
async def test_a_master_that_makes_no_sense(last_words, kind):
    async with FakeMaster() as master, StreamSource(master.address, Position(REPLID, 0)) as link:
        await master.attach(0)
        master.says(last_words)
        error = await link.ended()

    assert type(error) is kind


async def test_a_master_that_hangs_up():
    async with FakeMaster() as master, StreamSource(master.address, Position(REPLID, 0)) as link:
        await master.attach(0)
        await link.until(lambda: link.of(Continued))
        master._writers[-1].close()
        error = await link.ended()

    assert type(error) is LinkLostError
    assert "closed the replication link" in str(error)


async def test_a_master_that_is_loading():
    async with FakeMaster() as master, StreamSource(master.address) as link:
        await master.hears(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2")
        master.says(b"-LOADING Redis is loading the dataset in memory\r\n")
        assert type(await link.ended()) is PeerUnavailableError


async def test_a_link_that_is_closed_says_nothing_more():
    async with FakeMaster() as master:
        async with StreamSource(master.address, Position(REPLID, 0), ack_period=0.01) as link:
            await master.attach(0)
            await master.hears(b"REPLCONF", b"ACK", b"0", times=2)
        heard = len(master.heard)
        async with StreamSource(master.address, Position(REPLID, 0)):
            await master.hears(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2", times=2)
        assert link.task.cancelled()
        assert master.heard[heard:].count(b"ACK") == 0
