"""The fault proxy: what it does to connections, and what it leaves alone."""

import contextlib
import socket
import threading
import time

import pytest

from testbed import FaultProxy, eventually


class Peer:
    """A TCP server that echoes, or only counts what it receives, and says how its connections ended."""

    def __init__(self, *, echo=True):
        self.echo = echo
        self.received = 0
        self.endings = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := connection.recv(1 << 20):
                self.received += len(data)
                if self.echo:
                    connection.sendall(data)
            self.endings.append("end")
        except OSError:
            self.endings.append("reset")
        connection.close()

    def close(self):
        with contextlib.suppress(OSError):  # closed by the test already
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def proxy(peer):
    with FaultProxy(peer.port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy):
    with contextlib.ExitStack() as stack:

        def connect(port=None):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port or proxy.port), timeout=10))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection

        yield connect


def exchange(connection, data=b"ping"):
    connection.sendall(data)
    return receive(connection, len(data))


def receive(connection, size):
    received = b""
    while len(received) < size and (more := connection.recv(size - len(received))):
        received += more
    return received


def is_silent(connection, seconds=0.15):
    connection.settimeout(seconds)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)
    return False


def round_trip(connection, times=9):
    """The shortest of some: a busy machine makes the others longer, but none shorter than the delay."""
    figures = []
    for _ in range(times):
        began = time.perf_counter()
        exchange(connection)
        figures.append(time.perf_counter() - began)
    return min(figures)


def test_bytes_pass_and_are_counted(proxy, connect):
    first, second = connect(), connect()
    assert exchange(first, b"one") == b"one"
    assert exchange(second, b"three") == b"three"
    counters = proxy.counters()
    assert (counters.accepted, counters.open) == (2, 2)
    assert (counters.bytes_to_target, counters.bytes_to_client) == (8, 8)
    first.close()
    eventually(lambda: proxy.counters().open == 1)


def test_an_end_passes_in_one_direction_at_a_time(peer, connect):
    connection = connect()
    connection.sendall(b"last words")
    connection.shutdown(socket.SHUT_WR)
    assert receive(connection, 100) == b"last words"
    assert peer.endings == ["end"]


@pytest.mark.parametrize("delay", [0.005, 0.025, 0.1])
def test_a_delay_holds_each_way_to_a_millisecond(proxy, connect, delay):
    connection = connect()
    proxy.delay(delay)
    assert 2 * delay <= round_trip(connection) < 2 * delay + 0.003


@pytest.mark.parametrize("gap", [0, 0.0004, 0.003])
def test_no_byte_is_ever_early(proxy, connect, gap):
    """Whether it comes alone, or with others while earlier ones wait."""
    connection = connect()
    proxy.delay(0.004)
    sent, received = [], []

    def take():
        while len(received) < 100:
            data = connection.recv(100)
            received.extend([time.perf_counter()] * len(data))

    taker = threading.Thread(target=take)
    taker.start()
    for _ in range(100):
        sent.append(time.perf_counter())
        connection.sendall(b"x")
        time.sleep(gap)
    taker.join()
    assert min(arrived - left for left, arrived in zip(sent, received, strict=True)) >= 0.008


def test_a_delay_can_hold_one_way(proxy, connect):
    connection = connect()
    proxy.delay(0.05, "to_client")
    assert 0.05 <= round_trip(connection, 3) < 0.06
    proxy.delay(0)
    assert round_trip(connection, 3) < 0.01


def test_a_new_connection_over_a_slow_link_pays_for_the_handshake(proxy, connect):
    proxy.delay(0.025)
    began = time.perf_counter()
    connection = connect()
    round_trip(connection, 1)
    assert 0.1 <= time.perf_counter() - began < 0.15
    assert 0.05 <= round_trip(connection) < 0.06


def test_a_delay_does_not_limit_throughput():
    """64 MB over a link of 25 ms one way; one flight at a time would take a hundred times as long."""
    sink = Peer(echo=False)
    with FaultProxy(sink.port) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        proxy.delay(0.025)
        block = bytes(1 << 20)
        began = time.perf_counter()
        for _ in range(64):
            connection.sendall(block)
        eventually(lambda: sink.received == 64 << 20)
        assert time.perf_counter() - began < 0.64
    sink.close()


def test_a_cut_resets_both_sides_and_lets_new_connections_in(proxy, peer, connect):
    connection = connect()
    exchange(connection)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    eventually(lambda: peer.endings == ["reset"])
    assert proxy.counters().open == 0
    assert exchange(connect()) == b"ping"


def test_refusing_leaves_open_connections_alone(proxy, connect):
    connection = connect()
    exchange(connection)
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert exchange(connection) == b"ping"
    proxy.listen()
    assert exchange(connect()) == b"ping"


def test_down_ends_everything_until_healed(proxy, connect):
    connection = connect()
    exchange(connection)
    proxy.down()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.heal()
    assert exchange(connect()) == b"ping"


def test_a_stall_holds_bytes_until_resumed(proxy, connect):
    connection = connect()
    exchange(connection)
    proxy.stall()
    connection.sendall(b"held")
    newcomer = connect()
    newcomer.sendall(b"held too")
    assert is_silent(connection)
    assert is_silent(newcomer)
    proxy.resume()
    assert receive(connection, 4) == b"held"
    assert receive(newcomer, 8) == b"held too"


def test_a_stall_can_hold_one_way(proxy, peer, connect):
    connection = connect()
    proxy.stall("to_client")
    connection.sendall(b"arrives")
    eventually(lambda: peer.received == 7)
    assert is_silent(connection)
    proxy.resume("to_client")
    assert receive(connection, 7) == b"arrives"


def test_a_stall_holds_the_sender_back(proxy, peer, connect):
    connection = connect()
    exchange(connection)
    proxy.stall("to_target")
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.sendall(bytes(64 << 20))
    assert peer.received == 4


def test_a_stalled_connection_can_be_cut(proxy, connect):
    connection = connect()
    proxy.stall()
    connection.sendall(b"never")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_a_trickle_delivers_so_many_bytes_per_tick(proxy, connect):
    connection = connect()
    exchange(connection)
    proxy.trickle(10, every=0.02, way="to_client")
    began = time.perf_counter()
    connection.sendall(b"x" * 50)
    assert len(connection.recv(50)) == 10
    assert receive(connection, 40) == b"x" * 40
    assert 0.08 <= time.perf_counter() - began < 0.5
    proxy.trickle(0, every=0, way="to_client")
    assert round_trip(connection) < 0.01


@pytest.mark.parametrize("after", [0, 1, 99])
def test_a_truncation_ends_behind_exactly_so_many_bytes(proxy, peer, connect, after):
    connection = connect()
    exchange(connection)
    proxy.truncate(after, "to_client")
    connection.sendall(b"x" * 100)
    assert receive(connection, 200) == b"x" * after
    assert connection.recv(1) == b""
    eventually(lambda: peer.endings == ["reset"])
    assert exchange(connect(), b"y" * 100) == b"y" * 100


def test_a_truncation_on_the_way_to_the_target(proxy, peer, connect):
    connection = connect()
    proxy.truncate(3, "to_target")
    connection.sendall(b"hello")
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    eventually(lambda: peer.endings == ["end"])
    assert peer.received == 3


def test_a_target_that_is_not_there_shows_as_a_reset(peer, connect):
    peer.close()
    with pytest.raises(ConnectionResetError):
        exchange(connect())


def test_new_connections_can_be_led_elsewhere(proxy, peer, connect):
    other = Peer()
    connection = connect()
    exchange(connection)
    proxy.aim(other.port)
    exchange(connect(), b"elsewhere")
    exchange(connection)
    assert (peer.received, other.received) == (8, 9)
    other.close()


def test_a_slow_reader_holds_the_sender_back_and_loses_nothing(connect):
    connection = connect()
    total = 8 << 20
    sender = threading.Thread(target=connection.sendall, args=(bytes(total),))
    sender.start()
    assert len(receive(connection, total)) == total
    sender.join()


def test_orders_may_come_from_many_threads(proxy, connect):
    connection = connect()
    threads = [threading.Thread(target=proxy.delay, args=(0.001 * number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    proxy.heal()
    assert round_trip(connection) < 0.01


def test_an_order_to_a_closed_proxy_is_refused(peer):
    proxy = FaultProxy(peer.port)
    with proxy:
        pass
    with pytest.raises(RuntimeError, match="not running"):
        proxy.cut()
