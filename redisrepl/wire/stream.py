"""Parses the commands of a replication stream, with the offset at which each of them ends.

In: the bytes that follow a handshake and snapshot. Out: `Commands`. Left to others: handshake and snapshot
(`wire.psync`), RESP, and leaving out arguments (`wire.resp`), what a command means (`wire.commands`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import hiredis

from redisrepl.errors import LimitExceededError, LinkLostError, ProtocolError
from redisrepl.wire.resp import DAMAGED, PIECE, RespReader
from redisrepl.wire.unwanted import Unwanted
from redisrepl.wire.walker import LEFT_OUT

__all__ = ["CommandStream", "Commands", "encode_command"]

#: Bytes of one command, without skipped arguments.
_LARGEST_COMMAND = 1 << 30


@dataclass(frozen=True, slots=True)
class Commands:
    """Whole commands of the stream, in order.

    Attributes:
        commands: arguments of each.
        ends: for each, the offset right after it.
        wants_ack: whether the master asked for an acknowledgement now (`REPLCONF GETACK`).
    """

    commands: Sequence[Sequence[bytes]]
    ends: Sequence[int]
    wants_ack: bool


def encode_command(*argv: bytes) -> bytes:
    """A command as a RESP array, the way clients send it."""
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in argv)


#: Bytes in the stream of an argument of n bytes, with `$<n>` and both line ends, for every common n.
_SIZES = [n + len(b"$%d\r\n\r\n" % n) for n in range(4096)]
_GETACK_SIZE = len(encode_command(b"REPLCONF", b"GETACK", b"*"))


def _command_size(argv: Sequence[bytes]) -> int:
    """Bytes of a command in the stream: a master's framing is canonical, so they follow from its arguments."""
    size = len(b"*%d\r\n" % len(argv)) if len(argv) > 9 else 4  # noqa: PLR2004 - one digit: `*n\r\n`
    for argument in argv:
        if type(argument) is not bytes:
            raise TypeError("an argument is not a string")
        length = len(argument)
        size += _SIZES[length] if length < len(_SIZES) else length + len(b"$%d\r\n\r\n" % length)
    return size


class CommandStream:
    """The stream of one link.

    Args:
        unwanted: decides which large arguments to skip; None: none.

    Attributes:
        received: the offset of the end of the last whole command.
    """

    __slots__ = ("_reader", "_unwanted", "received")

    def __init__(self, unwanted: Unwanted | None = None) -> None:
        self._reader = RespReader(
            _LARGEST_COMMAND, skip=unwanted, thin=None if unwanted is None else unwanted.thin, flat=True
        )
        self._unwanted = unwanted
        self.received = 0

    def feed(self, data: bytes) -> list[Commands]:
        """Parse bytes of the stream; return the commands that they complete as one `Commands`, or nothing.

        Raises:
            ProtocolError: they make no sense. LinkLostError: the server ended the link with an error.
        """
        reader = self._reader
        if reader.idle:
            data = data.lstrip(b"\n")  # a keepalive at a command boundary; hiredis would call it an error
        commands: list[Sequence[bytes]] = []
        ends: list[int] = []
        received, wants_ack = self.received, False
        pieces = (data,) if reader.walking else [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
        for piece in pieces:
            try:
                found = reader.feed(piece)
                if reader.sizes is not None:
                    for argv, size in zip(found, reader.sizes, strict=True):
                        received += size
                        amounting = self._amounting(argv)
                        commands += amounting
                        ends += [received] * len(amounting)
                    continue
                before = received
                for argv in found:
                    if type(argv) is not list or not argv or type(argv[0]) is not bytes:
                        raise _not_a_command(argv)
                    # Nearly every command has three short arguments: without a loop this takes half the time.
                    if len(argv) == 3 and type(key := argv[1]) is type(value := argv[2]) is bytes:  # noqa: PLR2004
                        try:
                            size = 4 + _SIZES[len(argv[0])] + _SIZES[len(key)] + _SIZES[len(value)]
                        except IndexError:
                            size = _command_size(argv)
                    else:
                        size = _command_size(argv)
                    received += size
                    commands.append(argv)
                    ends.append(received)
                    if size == _GETACK_SIZE and [word.upper() for word in argv[:2]] == [b"REPLCONF", b"GETACK"]:
                        wants_ack = True
                reader.taken(received - before)
            except LimitExceededError as error:
                raise LimitExceededError(
                    f"{error.what} of the replication stream, after offset {received},", error.size, error.limit
                ) from error
            except (ProtocolError, *DAMAGED) as error:
                raise ProtocolError(f"the replication stream is damaged after offset {received}: {error}") from error
        self.received = received
        return [Commands(commands, ends, wants_ack)] if commands else []

    def _amounting(self, argv: object) -> list[Sequence[bytes]]:
        """The commands that replace one with skipped arguments; any other command as it is."""
        command = _command(argv)
        if self._unwanted is not None and any(argument is LEFT_OUT for argument in command):
            return self._unwanted.rest_of(command)
        return [command]


def _command(argv: object) -> Sequence[bytes]:
    """A value that was read element by element, if it is a command."""
    if type(argv) is not list or not argv or not all(type(argument) is bytes for argument in argv):
        raise _not_a_command(argv)
    return argv


def _not_a_command(reply: object) -> Exception:
    if isinstance(reply, hiredis.ReplyError):
        return LinkLostError(f"the server ended the link: {reply}")
    return ProtocolError("the replication stream holds something that is not a command")
