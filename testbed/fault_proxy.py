"""A TCP proxy on loopback whose link a test can slow down, hold up, cut short and cut off.

In: a target port, then orders at any time from any thread. Out: each order carried out when its method returns.
Left to others: moving the bytes (`fault_relay`, a process of its own).
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from testbed.ports import free_port, release_port
from testbed.processes import at_exit, end_group, forget_at_exit, spawn
from testbed.server import ServerFailedError

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType
    from typing import Self

__all__ = ["Counters", "FaultProxy", "Way"]

Way = Literal["both", "to_target", "to_client"]

_RELAY = Path(__file__).with_name("fault_relay.py")
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Counters:
    """What has crossed the proxy so far: connections, and bytes handed to each side."""

    accepted: int
    open: int
    bytes_to_target: int
    bytes_to_client: int


class FaultProxy:
    """Relays connections from `port` to `target_port`, both on loopback, undisturbed until told otherwise.

    Faults hold for all connections, open and new, until `heal`. A connection that cannot reach the target is reset.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[Any] | None = None
        self._control: socket.socket | None = None
        at_exit(self, self.close)

    def start(self) -> Self:
        """Start to listen."""
        for _ in range(5):
            ours, theirs = socket.socketpair()
            with theirs:
                orders = [str(theirs.fileno()), str(self.port), str(self.target_port)]
                self._process = spawn(
                    [sys.executable, "-E", "-S", "-W", "ignore", str(_RELAY), *orders], pass_fds=[theirs.fileno()]
                )
            ours.settimeout(_PATIENCE)
            self._control = ours
            if self._answer():
                return self
            self.stop()
            release_port(self.port)
            self.port = free_port()
        raise ServerFailedError("the fault proxy found no port to listen on; its traceback is on stderr")

    def stop(self) -> None:
        """Reset all connections and stop to listen."""
        if self._control:
            self._control.close()
            self._control = None
        if self._process:
            end_group(self._process)
            self._process = None

    def close(self) -> None:
        """Stop, and give the port back."""
        forget_at_exit(self)
        self.stop()
        release_port(self.port)

    def delay(self, seconds: float, way: Way = "both") -> None:
        """Deliver each byte `seconds` after it came; throughput is not limited.

        Connections opened from now on also lose the round trip of the TCP handshake, as on a real link.
        """
        self._order("delay", seconds=seconds, way=way)

    def cut(self) -> None:
        """Reset (RST) all connections on both sides; new ones are accepted."""
        self._order("cut")

    def refuse(self) -> None:
        """Close the port: new connections are refused, open ones go on."""
        self._order("refuse")

    def listen(self) -> None:
        """Accept new connections again."""
        self._order("listen")

    def down(self) -> None:
        """Refuse new connections and cut the open ones."""
        self.refuse()
        self.cut()

    def stall(self, way: Way = "both") -> None:
        """Hold all bytes back; connections stay open and new ones are accepted."""
        self._order("stall", way=way)

    def resume(self, way: Way = "both") -> None:
        """End a stall; what was held goes out."""
        self._order("resume", way=way)

    def trickle(self, size: int, every: float, way: Way = "both") -> None:
        """Deliver at most `size` bytes per connection and `every` seconds; size 0 ends it."""
        self._order("trickle", size=size, every=every, way=way)

    def truncate(self, after: int, way: Way) -> None:
        """Once: deliver `after` more bytes, then end the connection that carried the last of them.

        The receiver sees an orderly end (FIN) behind exactly these bytes; the sender is reset.
        """
        self._order("truncate", after=after, way=way)

    def heal(self) -> None:
        """No fault any more; connections that are open stay so."""
        self._order("heal")

    def aim(self, target_port: int) -> None:
        """Lead new connections to another port."""
        self.target_port = target_port
        self._order("aim", port=target_port)

    def counters(self) -> Counters:
        return self._order("count")

    def _order(self, verb: str, **details: object) -> Counters:
        with self._lock:
            if self._control is None:
                raise RuntimeError("the fault proxy is not running")
            self._control.sendall(json.dumps({"do": verb, **details}).encode() + b"\n")
            answer = self._answer()
        if not answer:
            raise RuntimeError(f"the fault proxy died over {verb!r}; its traceback is on stderr")
        return Counters(**json.loads(answer))

    def _answer(self) -> bytes:
        """One line from the relay, or nothing if it is gone."""
        line = bytearray()
        while self._control and not line.endswith(b"\n"):
            received = self._control.recv(4096)
            if not received:
                return b""
            line += received
        return bytes(line)

    def __enter__(self) -> Self:
        return self if self._process else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
