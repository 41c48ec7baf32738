"""Clients of the site: replies of any shape and size are values of the type that was asked for, or errors of ours."""

import asyncio
import contextlib
import resource
import ssl

import pytest
import redis.exceptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redisrepl.errors import CertificateError, LinkLostError, PeerUnavailableError, ProtocolError, RedisreplError
from redisrepl.local.address import SiteAddress, parse_address
from redisrepl.local.apply import SiteWriter
from redisrepl.local.client import Followed, ask, ask_all, plain_client, translated
from redisrepl.local.connection import find_master
from redisrepl.local.info import ask_info, ask_place
from redisrepl.local.notify import SiteEvents
from redisrepl.local.read import SiteReader
from redisrepl.local.sentinel import ask_sentinels
from redisrepl.tls.contexts import CertificateFiles
from testbed import Certificates, RedisServer
from tests.hasty import HastyServer, early_ends

of = pytest.mark.parametrize
HUGE = b"*1000000000\r\n"


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@contextlib.asynccontextmanager
async def a_site_that_answers(data, *, again=False):
    """With these bytes, whatever it is asked, and then with a farewell; or again and again, but for a greeting."""
    tasks = set()

    async def answer(reader, writer):
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            while said := await reader.read(65536 if again else 1):
                greeting = again and said.count(b"CLIENT")
                writer.write(b"+OK\r\n" * greeting or data)
                await writer.drain()
                if not again:
                    break
            writer.write_eof()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield SiteAddress("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def everything_that_is_asked(address):
    client = plain_client(address, 2.0, 1)
    reader, keys = SiteReader(client, address), [b"k", b"l"]
    without = SiteReader(client, address)
    without._scripts.refused()

    async def turn():
        async with SiteWriter(client, address, b"o").turn(keys) as turn:
            await turn.apply([])

    async def events():
        async for _ in SiteEvents(address, client, [b"k"], frozenset({"set"}), connect_wait=2.0).events():
            return

    sentinels = SiteAddress(service="m", sentinels=((address.host, address.port),))
    questions = [
        lambda: reader.states(keys),
        lambda: reader.states(keys, large=frozenset(keys)),
        lambda: without.first_states(keys, 100),
        lambda: reader.page(b"k", b"0", 10),
        lambda: reader.fields(b"k", [b"f"]),
        turn,
        events,
        lambda: SiteEvents(address, client, [b"k"], frozenset({"set"}))._ensure_flags(),
        lambda: ask_info(address, 2.0),
        lambda: ask_place(address, 2.0),
        lambda: ask_sentinels(sentinels, 2.0),
        lambda: find_master(sentinels, 2.0),
    ]
    try:
        for question in questions:
            with contextlib.suppress(RedisreplError):
                await question()
    finally:
        await client.aclose()


REPLIES = [
    HUGE,
    b"*3\r\n:1\r\n:2\r\n:3\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"$-1\r\n",
    b":7\r\n",
    b"+\xff\xfe\r\n",
    b"$4\r\n\xff\xfe\xfd\x00\r\n",
    b"-NOPERM this user has no permissions\r\n",
    b"*2\r\n$-1\r\n*1\r\n:1\r\n",
    b"*2\r\n*1\r\n$1\r\na\r\n*1\r\n$1\r\na\r\n",
    b"%1\r\n*0\r\n$1\r\na\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"$25\r\nmaster_repl_offset:" + b"9" * 6 + b"\r\n",
    b"$5019\r\nmaster_repl_offset:" + b"9" * 5000 + b"\r\n",
    b"*2\r\n$7\r\nlist:xy\r\n*0\r\n",
    b"*2\r\n$2\r\n10\r\n*1\r\n:1\r\n",
    b"*3\r\n$6\r\nmaster\r\n$1\r\nx\r\n$1\r\ny\r\n",
    b"*1\r\n$3\r\n1 x\r\n",
]


@of("reply", REPLIES)
async def test_replies_of_any_shape_are_values_or_errors_of_ours(reply):
    async with a_site_that_answers(reply * 12) as address:
        await everything_that_is_asked(address)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(REPLIES), max_size=12).map(b"".join) | st.binary(max_size=200))
def test_any_bytes_are_values_or_errors_of_ours(data):
    async def scene():
        async with a_site_that_answers(data) as address:
            await everything_that_is_asked(address)

    asyncio.run(scene())


@of("cut", [1, 3, 1000])
async def test_a_list_is_not_made_before_its_elements_come(cut):
    rss = peak()
    async with a_site_that_answers(HUGE[:cut]) as address:
        client = plain_client(address, 2.0, 1)
        with pytest.raises((ProtocolError, LinkLostError)), translated(address):
            await ask(client, b"KEYS", b"*")
        await client.aclose()

    assert peak() - rss < 64


TWO_MEGABYTES = b"$2000000\r\n%b\r\n" % bytes(2_000_000)


async def asked_alone(client, argv):
    return await ask(client, *argv)


async def asked_together(client, argv):
    return (await ask_all(client, [argv]))[0]


async def asked_in_a_turn(client, argv):
    connection = await client.connection_pool.get_connection()
    try:
        return (await connection.exchange([argv]))[0]
    finally:
        await client.connection_pool.release(connection)


@of("way", [asked_alone, asked_together, asked_in_a_turn])
@of("argv", [(b"TIME",), (b"CONFIG", b"GET", b"x"), (b"INFO", b"replication"), (b"PEXPIRETIME", b"k"), (b"TYPE", b"k")])
async def test_only_a_reply_with_values_may_be_large(way, argv):
    async with (
        a_site_that_answers(TWO_MEGABYTES, again=True) as address,
        contextlib.aclosing(plain_client(address, 2.0, 1)) as client,
    ):
        with pytest.raises(ProtocolError, match="is over the limit"), translated(address):
            await way(client, argv)
        for reading in ((b"GET", b"k"), (b"HGETALL", b"k"), (b"EVAL", b"x", b"0"), (b"EXEC",)):
            assert len(await way(client, reading)) == 2_000_000


async def test_large_replies_arrive_whole_between_small_ones():
    """Those that hiredis does not get to see."""
    words = [b"field:%d" % n for n in range(240_000)]
    with RedisServer() as server:
        address = SiteAddress("127.0.0.1", server.port)
        client = plain_client(address, 10.0, 1)
        await ask(client, b"HSET", b"h", *words)
        await ask(client, b"SET", b"s", b"*1000000\r\n" * 200_000)
        commands = [[b"PING"], [b"HGETALL", b"h"], [b"NONE"], [b"GET", b"s"], [b"GET", b"none"], [b"ECHO", b"x"]]
        for _ in range(2):
            pong, hash_, error, string, none, echo = await ask_all(client, commands)

            assert (pong, string, none, echo) == (b"PONG", b"*1000000\r\n" * 200_000, None, b"x")
            assert dict(zip(hash_[::2], hash_[1::2], strict=True)) == dict(zip(words[::2], words[1::2], strict=True))
            assert "unknown command" in str(error)
        await client.aclose()


async def test_another_server_at_the_address_is_left():
    """What it holds, or is told, is not of the history that is followed; nor is it while nobody is followed."""
    with RedisServer() as site:
        address, followed = parse_address(site.url), Followed()
        client = plain_client(address, 2.0, 1, followed)
        info = site.client().info("replication")
        await ask(client, b"PING")

        followed.found(info["master_replid"])
        await ask(client, b"PING")
        assert not followed.differs

        followed.found("0" * 40)
        with pytest.raises((LinkLostError, PeerUnavailableError), match="another server"), translated(address):
            await ask(client, b"PING")
        assert followed.differs

        followed.lost()
        assert not followed.differs
        with pytest.raises((LinkLostError, PeerUnavailableError), match="another server"), translated(address):
            await ask(client, b"PING")
        assert not followed.differs  # or what comes to follow it would leave it at once
        followed.found(info["master_replid"])
        await ask(client, b"PING")
        await client.aclose()


@pytest.mark.parametrize("known", [True, False])
async def test_a_server_that_does_not_tell_its_history_is_spoken_with_while_it_is_followed(known):
    with RedisServer() as site:
        site.client().acl_setuser("narrow", enabled=True, nopass=True, commands=["+ping"])
        address, followed = parse_address(site.url, username="narrow", password="any"), Followed()
        client = plain_client(address, 2.0, 1, followed)
        followed.found("0" * 40 if known else "")
        await ask(client, b"PING")
        followed.lost()
        await client.connection_pool.disconnect()
        with pytest.raises((LinkLostError, PeerUnavailableError), match="another server"), translated(address):
            await ask(client, b"PING")
        await client.aclose()


async def test_replies_that_come_together_set_one_timer_not_one_each(monkeypatch):
    loop = asyncio.get_running_loop()
    timers, call_at = [], loop.call_at
    with RedisServer() as server:
        client = plain_client(SiteAddress("127.0.0.1", server.port), 10.0, 1)
        await ask(client, b"PING")  # which connects
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_at", lambda *args, **kw: timers.append(call_at(*args, **kw)) or timers[-1])
            replies = await ask_all(client, [[b"ECHO", b"%d" % number] for number in range(50)] + [[b"NONE"]])
        await client.aclose()

    assert replies[:50] == [b"%d" % number for number in range(50)]
    assert isinstance(replies[50], redis.exceptions.ResponseError)
    assert len(timers) < 10


async def test_an_empty_answer_of_a_reading_script_is_no_answer():
    """It would be asked again for ever."""

    class Client:
        async def execute_command(self, *_):
            return [b"1 "]

    with pytest.raises(ProtocolError, match="told of 0 of 1 keys"):
        await SiteReader(Client(), SiteAddress()).states([b"k"])


async def test_only_the_authority_that_was_given_is_trusted(certificates, monkeypatch):
    """Not those of the system beside it: what is pinned is who gets the password."""
    heard = []
    with Certificates() as others:
        monkeypatch.setenv("SSL_CERT_FILE", str(others.ca))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(others.server, others.server_key)

        async def listen(reader, writer):
            heard.append(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
        files = CertificateFiles(certificates.ca, None, None)
        address = parse_address(f"rediss://me:secret@localhost:{server.sockets[0].getsockname()[1]}", files=files)
        client = plain_client(address, 5.0, 1)
        with pytest.raises(CertificateError, match="not signed by the given CA"), translated(address):
            await ask(client, b"PING")
        await client.aclose()
        server.close()

    assert not heard


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize(("client", "silent", "kind", "says"), early_ends(LinkLostError))
@pytest.mark.parametrize("login", ["", "me:secret@"])
async def test_an_end_before_the_first_reply(certificates, monkeypatch, client, silent, kind, says, resets, login):
    """In TLS 1.3 the end of a connection can overtake the alert that says why."""
    monkeypatch.setattr("redisrepl.tls.verdict.VERDICT_WAIT", 0.1)
    pair = certificates.client_pair if client == "good" else certificates.foreign_client()
    files = CertificateFiles(certificates.ca, *((None, None) if client == "none" else (pair.cert, pair.key)))
    async with HastyServer(certificates, silent, resets=resets) as server:
        for ask_it in (lambda client: ask(client, b"PING"), lambda client: ask_all(client, [[b"PING"], [b"PING"]])):
            server.connections = 0
            address = parse_address(server.url.replace("://", f"://{login}"), files=files)
            client = plain_client(address, 5.0, 1)
            with pytest.raises(kind, match=says), translated(address):
                await ask_it(client)
            await client.aclose()
            assert server.connections == 2


async def test_an_end_after_the_first_reply_is_not_asked_about(certificates):
    with RedisServer(tls=certificates) as server:
        files = CertificateFiles(certificates.ca, certificates.client, certificates.client_key)
        address = parse_address(server.tls_url, files=files)
        client = plain_client(address, 5.0, 1)
        await ask(client, b"PING")
        server.kill()
        with pytest.raises(LinkLostError) as caught, translated(address):
            await ask(client, b"PING")
        await client.aclose()

    assert "certificate" not in str(caught.value)
