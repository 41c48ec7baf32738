"""Every exception of redisrepl, and which of them are worth another try.

RedisreplError
 ├── ConfigError            a file, flag or value is unusable                       exit 78
 ├── OutputError            standard output is full or closed                       exit 74
 ├── RefusedError           auth, ACL or TLS said no: waiting alone will not help     exit 77
 │    ├── CertificateError  a certificate or key was refused or cannot be used
 │    ├── KeyDeniedError    an ACL denies a key, not a command
 │    └── PsyncRefusedError the server does not let us attach as a replica
 ├── PeerUnavailableError   a server cannot be reached or is not ready: transient     exit 69
 ├── LinkLostError          an established link ended: transient
 │    ├── SilentError          .. or is open and says nothing
 │    ├── OutcomeUnknownError  a request was sent and its answer lost
 │    └── FencedError          the hub refused a request of an earlier epoch, and executed nothing of it
 ├── HubError               the hub answered with an error
 │    ├── CommandRefusedError  one command was refused; its key is named, others go on: exit 77
 │    └── BodyTooLargeError    HTTP 413 and the like: the request must be split
 │         └── ValueTooLargeError   one value in it is larger than the hub's Redis takes
 └── ProtocolError          a peer sent bytes that make no sense
      ├── LimitExceededError   a length over its limit, before anything was allocated
      └── RdbError             a snapshot that cannot be read: offset, type and version named
"""

from __future__ import annotations

import re
from enum import IntEnum

__all__ = [
    "BodyTooLargeError",
    "CertificateError",
    "CommandRefusedError",
    "ConfigError",
    "ExitCode",
    "FencedError",
    "HubError",
    "KeyDeniedError",
    "LimitExceededError",
    "LinkLostError",
    "OutcomeUnknownError",
    "OutputError",
    "PeerUnavailableError",
    "ProtocolError",
    "PsyncRefusedError",
    "RdbError",
    "RedisreplError",
    "RefusedError",
    "SilentError",
    "ValueTooLargeError",
    "concerns_value",
    "denies_key",
    "exit_code",
    "is_transient",
    "without_frames",
]


class ExitCode(IntEnum):
    """How the process ends; the numbers are those of sysexits.h where it has one."""

    OK = 0
    UNEXPECTED = 1
    DIFFERENT = 1
    USAGE = 2
    UNAVAILABLE = 69
    OUTPUT = 74
    STARTING = 75
    REFUSED = 77
    CONFIG = 78
    INTERRUPTED = 130


def exit_code(error: BaseException) -> ExitCode:
    """With which code a process ends that this error ended."""
    match error:
        case ConfigError():
            return ExitCode.CONFIG
        case OutputError():
            return ExitCode.OUTPUT
        case RefusedError() | CommandRefusedError():
            return ExitCode.REFUSED
        case PeerUnavailableError() | LinkLostError() | HubError():
            return ExitCode.UNAVAILABLE
        case _:
            return ExitCode.UNEXPECTED


class RedisreplError(Exception):
    """The root: its text is one sentence for the person who runs the program.

    Attributes:
        may_be_executed: of a request to the hub that failed so: whether it, or a part of it, may have been executed, or
            will be.
    """

    may_be_executed = False


class ConfigError(RedisreplError):
    """A file, flag or value is unusable; the text names it and says what to do."""


class OutputError(RedisreplError):
    """What a command found out cannot be written to standard output."""


class RefusedError(RedisreplError):
    """A peer refused us for good: wrong password, missing permission, untrusted certificate."""


class CertificateError(RefusedError):
    """A certificate or key cannot be used, or the other side does not accept it."""


class KeyDeniedError(RefusedError):
    """An ACL does not let us have one of the keys that were named together."""


class PsyncRefusedError(RefusedError):
    """The server does not let us attach as a replica (managed Redis, ACL)."""


class PeerUnavailableError(RedisreplError):
    """A server cannot be reached, or says that it is not ready yet."""


class LinkLostError(RedisreplError):
    """An established link ended."""


class SilentError(LinkLostError):
    """A link is open, and what should come over it does not."""


class OutcomeUnknownError(LinkLostError):
    """A request was sent and its answer lost: whether it was, or will be, executed is not known."""

    may_be_executed = True


class FencedError(LinkLostError):
    """The hub knows a later epoch of this site than that of the request, and has executed nothing of it."""


#: A proxy, or Webdis, answers with one of these too if it loses the server behind it while that executes a request.
_SERVER_ERRORS = range(500, 600)


class HubError(RedisreplError):
    """The hub answered a request with an error.

    Attributes:
        status: the HTTP status, 200 for an error inside a good answer.
        retry_after: seconds the hub asked us to wait, None if it did not.
    """

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.may_be_executed = status in _SERVER_ERRORS


class CommandRefusedError(HubError):
    """One command was refused (WRONGTYPE, NOPERM, ...): repeating it changes nothing."""


class BodyTooLargeError(HubError):
    """A proxy before the hub limits the request body: HTTP 413, or another status that small ones do not get."""


class ValueTooLargeError(BodyTooLargeError):
    """The hub's Redis limits a value (`proto-max-bulk-len`), and does not say which: smaller requests find it."""


class ProtocolError(RedisreplError):
    """A peer sent bytes that its protocol does not allow."""

    may_be_executed = True  # they are the answer


class LimitExceededError(ProtocolError):
    """A length announced by a peer is over the limit; nothing was allocated for it."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} of {size} bytes is over the limit of {limit}")
        self.what = what
        self.size = size
        self.limit = limit


class RdbError(ProtocolError):
    """A snapshot cannot be read.

    Attributes:
        reason: what was wrong, without the place.
        offset: bytes from the start of the snapshot.
        rdb_type: the value type or opcode being read, None outside of one.
        version: RDB version of the snapshot, None before its header was read.
    """

    def __init__(self, reason: str, *, offset: int, rdb_type: int | None = None, version: int | None = None) -> None:
        place = f"at byte {offset}"
        if rdb_type is not None:
            place += f", type {rdb_type}"
        if version is not None:
            place += f", RDB version {version}"
        super().__init__(f"{reason} ({place})")
        self.reason = reason
        self.offset = offset
        self.rdb_type = rdb_type
        self.version = version


#: `access one of the keys used as arguments`; in later versions `access a key`, `access the 'name' key`. What a script
#: `attempted to access` is a key of another node of a cluster.
_KEY_DENIED = re.compile(r"(?<!attempted to )\baccess\b.*\bkeys?\b", re.DOTALL)
#: The key has another type, or the server cannot restore this type or format, or takes no such value, or none so large.
_OF_VALUE = re.compile(
    r"(ERR )?(WRONGTYPE|BUSYKEY|DUMP payload version|Bad data format|invalid expire time|value is not|string exceeds"
    r"|Protocol error: invalid (multi)?bulk length)"
)


def denies_key(error: str) -> bool:
    """Whether an ACL's refusal is about a key, not about the command."""
    return _KEY_DENIED.search(error) is not None


def concerns_value(error: str) -> bool:
    """Whether a server's error is about what this key holds or is to hold, not about other keys, or its own state."""
    return _OF_VALUE.match(error) is not None


def without_frames(error: BaseException) -> None:
    """Have an error that is kept, and what caused it, forget the calls that it came through.

    Their variables hold what was being read or sent, which may be large; and one that holds the error itself is a cycle
    that waits for the collector.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        known = waiting.pop()
        if known is not None and id(known) not in seen:
            seen.add(id(known))
            known.__traceback__ = None
            waiting += known.__cause__, known.__context__


def is_transient(error: BaseException) -> bool:
    """Whether trying the same again later can succeed without anybody changing anything."""
    match error:
        case PeerUnavailableError() | LinkLostError():
            return True
        case CommandRefusedError() | BodyTooLargeError():
            return False
        case HubError():
            return True
        case ProtocolError():
            return True
        case _:
            return False
