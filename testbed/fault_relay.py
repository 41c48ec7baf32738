"""The process behind `FaultProxy`: relays TCP connections and, when told so, harms them.

In: connections on one port, and orders as JSON lines on the control socket. Out: the bytes to the target and back,
late, held, cut short or not at all; one JSON line of counters per order, sent when the order is carried out.
Left to others: which fault when (the test), the life of this process (`fault_proxy`).

It is a process of its own so that neither the event loop nor the interpreter lock of the code under test distorts
its timing. It uses the standard library alone and starts with `python -S`.

A delay lasts from the moment when bytes arrive, as the kernel notes it, until they are sent on: never less, and little
more. A processor that sleeps takes 0.1 to 0.3 ms to wake, for bytes as for a timer, and the kernel may let a timer come
50 us late. So it does not count from when we look, the kernel is asked for exact timers, and the last bit of a delay is
waited for by itself, by a processor that is awake.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import selectors
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["main"]

CHUNK = 128 * 1024
IN_FLIGHT = 64 * 1024 * 1024  # a delay must not limit throughput: 100 ms at 500 MB/s
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with time 0: close sends RST
TO_TARGET, TO_CLIENT = "to_target", "to_client"

SO_TIMESTAMPNS = 35  # Linux; Python has no name for it
TIMESTAMP = struct.Struct("@ll")  # struct timespec
LATEST = 0.005  # seconds that bytes may have lain here before we look; if longer, something held them back
LAST_BIT = 0.0005  # seconds of a delay that are waited for by themselves
TIMER_SLACK = Path("/proc/self/timerslack_ns")


@dataclass(slots=True)
class Way:
    """What happens to the bytes of all connections in one direction."""

    delay: float = 0.0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    trickle: tuple[int, float] | None = None
    left_before_truncation: int | None = None
    delivered: int = 0

    def __post_init__(self) -> None:
        self.flowing.set()

    def obey(self, order: dict[str, Any]) -> None:
        match order:
            case {"do": "delay", "seconds": seconds}:
                self.delay = seconds
            case {"do": "stall"}:
                self.flowing.clear()
            case {"do": "resume"}:
                self.flowing.set()
            case {"do": "trickle", "size": size, "every": every}:
                self.trickle = (size, every) if size else None
            case {"do": "truncate", "after": after}:
                self.left_before_truncation = after
            case unknown:
                raise ValueError(f"unknown order {unknown}")

    def heal(self) -> None:
        self.delay = 0.0
        self.trickle = None
        self.left_before_truncation = None
        self.flowing.set()


class TruncatedError(Exception):
    """The agreed number of bytes has been delivered."""


class Pipe:
    """One direction of one connection: what was received waits in a queue until its time has come."""

    def __init__(self, way: Way, source: socket.socket, sink: socket.socket, not_before: float) -> None:
        self.way = way
        self.source = source
        self.sink = sink
        self._not_before = not_before
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._arrival = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def receive(self) -> None:
        """Take bytes from the source, as fast as they come, until it ends; the end travels like a byte."""
        loop = asyncio.get_running_loop()
        while True:
            await self.way.flowing.wait()
            await self._room.wait()
            data, age = await receive(self.source)
            self._queue.append((max(loop.time() - age + self.way.delay, self._not_before), data))
            self._queued += len(data)
            self._arrival.set()
            if self._queued >= IN_FLIGHT:
                self._room.clear()
            if not data:
                return

    async def deliver(self) -> None:
        """Hand the bytes to the sink when they are due."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                self._arrival.clear()
                await self._arrival.wait()
            due, data = self._queue.popleft()
            self._queued -= len(data)
            self._room.set()
            if (wait := due - loop.time()) > LAST_BIT:
                await asyncio.sleep(wait - LAST_BIT)
            while (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            await self.way.flowing.wait()
            if not data:
                self.sink.shutdown(socket.SHUT_WR)
                return
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            piece, pause = view, 0.0
            if self.way.trickle:
                size, pause = self.way.trickle
                piece = piece[:size]
            if self.way.left_before_truncation is not None:
                piece = piece[: self.way.left_before_truncation]
            await asyncio.get_running_loop().sock_sendall(self.sink, piece)
            self.way.delivered += len(piece)
            if self.way.left_before_truncation is not None:
                self.way.left_before_truncation -= len(piece)
                if self.way.left_before_truncation <= 0:
                    self.way.left_before_truncation = None
                    raise TruncatedError
            view = view[len(piece) :]
            if pause:
                await asyncio.sleep(pause)
                await self.way.flowing.wait()


async def receive(source: socket.socket) -> tuple[bytes, float]:
    """Bytes, and for how many seconds the last of them has been here."""
    while True:
        try:
            data, notes, _, _ = source.recvmsg(CHUNK, socket.CMSG_SPACE(TIMESTAMP.size))
        except BlockingIOError:
            await readable(source)
        else:
            break
    for level, kind, note in notes:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = TIMESTAMP.unpack(note)
            age = (time.time_ns() - seconds * 1_000_000_000 - nanoseconds) / 1e9
            return data, min(max(age, 0.0), LATEST)
    return data, 0.0  # an end carries no time


async def readable(source: socket.socket) -> None:
    """Return when there is something to receive."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(source, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(source)


class Connection:
    """A client's connection and the one to the target."""

    def __init__(self, relay: Relay, client: socket.socket) -> None:
        self.relay = relay
        self.client = client
        self.target: socket.socket | None = None

    async def run(self) -> None:
        """Relay until both directions have ended, one side fails, or we are cancelled (cut)."""
        how = "reset"
        try:
            self.target = await self._connect()
            await self._relay(self.target)
            how = "close"
        except (OSError, asyncio.CancelledError):
            pass  # a failure of one side is shown to the other as what it is: a reset
        finally:
            self._close(self.client, how)
            if self.target:
                self._close(self.target, how)

    async def _connect(self) -> socket.socket:
        target = socket.socket()
        try:
            target.setblocking(False)
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(target, self.relay.address)
        except BaseException:
            target.close()
            raise
        return target

    async def _relay(self, target: socket.socket) -> None:
        ways = self.relay.ways
        for end in (self.client, target):
            end.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        # The kernel accepted at once. Over a real link of this delay the client would have waited a round trip
        # before it could send, so its first bytes are later by that much.
        round_trip = ways[TO_TARGET].delay + ways[TO_CLIENT].delay
        now = asyncio.get_running_loop().time()
        there = Pipe(ways[TO_TARGET], self.client, target, now + round_trip + ways[TO_TARGET].delay)
        back = Pipe(ways[TO_CLIENT], target, self.client, now + round_trip)
        truncated: Pipe | None = None

        async def deliver(pipe: Pipe) -> None:
            nonlocal truncated
            try:
                await pipe.deliver()
            except TruncatedError:
                truncated = pipe
                raise

        jobs = [asyncio.create_task(job) for job in (there.receive(), back.receive(), deliver(there), deliver(back))]
        try:
            await asyncio.gather(*jobs)
        except TruncatedError:
            pass
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        if truncated:
            await self._end_after(truncated)

    async def _end_after(self, pipe: Pipe) -> None:
        """End in order: closing with unread bytes in the socket would reset, and overtake what was delivered."""
        self._close(pipe.source, "reset")
        pipe.sink.shutdown(socket.SHUT_WR)
        while await asyncio.get_running_loop().sock_recv(pipe.sink, CHUNK):
            pass

    @staticmethod
    def _close(end: socket.socket, how: str) -> None:
        with contextlib.suppress(OSError):
            if how == "reset":
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()


class Relay:
    """The listening port, the open connections, and the orders."""

    def __init__(self, port: int, address: tuple[str, int]) -> None:
        self.port = port
        self.address = address
        self.ways = {TO_TARGET: Way(), TO_CLIENT: Way()}
        self.accepted = 0
        self._open: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        if self._listener is None:
            listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
            listener.setblocking(False)
            self._listener = asyncio.create_task(self._accept(listener))

    async def refuse(self) -> None:
        """Close the port, so that the kernel answers with a refusal."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None

    async def cut(self) -> None:
        doomed = list(self._open)
        for connection in doomed:
            connection.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)

    async def obey(self, order: dict[str, Any]) -> None:
        match order:
            case {"do": "count"}:
                pass
            case {"do": "heal"}:
                for way in self.ways.values():
                    way.heal()
                await self.listen()
            case {"do": "listen"}:
                await self.listen()
            case {"do": "refuse"}:
                await self.refuse()
            case {"do": "cut"}:
                await self.cut()
            case {"do": "aim", "port": port}:
                self.address = ("127.0.0.1", port)
            case {"way": "both"}:
                for way in self.ways.values():
                    way.obey(order)
            case {"way": name}:
                self.ways[name].obey(order)

    def counters(self) -> dict[str, int]:
        return {
            "accepted": self.accepted,
            "open": len(self._open),
            "bytes_to_target": self.ways[TO_TARGET].delivered,
            "bytes_to_client": self.ways[TO_CLIENT].delivered,
        }

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                client, _ = await loop.sock_accept(listener)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.accepted += 1
                connection = asyncio.create_task(Connection(self, client).run())
                self._open.add(connection)
                connection.add_done_callback(self._open.discard)


async def serve(control: socket.socket, port: int, address: tuple[str, int]) -> None:
    """Carry out orders until the control socket ends, which it does when the test process dies."""
    reader, writer = await asyncio.open_connection(sock=control)
    relay = Relay(port, address)
    await relay.listen()
    await _answer(writer, relay)
    while line := await reader.readline():
        await relay.obey(json.loads(line))
        await _answer(writer, relay)
    await relay.refuse()
    await relay.cut()
    writer.close()


async def _answer(writer: asyncio.StreamWriter, relay: Relay) -> None:
    writer.write(json.dumps(relay.counters()).encode() + b"\n")
    await writer.drain()


def main(control: str, port: str, target_port: str) -> None:
    """Run with the descriptor of the control socket, the port to listen on and the port to connect to."""

    def loop_with_fine_timers() -> asyncio.AbstractEventLoop:
        # Python's epoll rounds a timeout up to the next whole millisecond; select takes microseconds.
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with contextlib.suppress(OSError):  # not everywhere is there such a file
        TIMER_SLACK.write_text("1")
    with asyncio.Runner(loop_factory=loop_with_fine_timers) as runner, contextlib.suppress(ConnectionError):
        runner.run(serve(socket.socket(fileno=int(control)), int(port), ("127.0.0.1", int(target_port))))


if __name__ == "__main__":
    main(*sys.argv[1:])
