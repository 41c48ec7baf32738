"""Keeps a Redis namespace and a hub behind Webdis equal, both ways; and what that takes, for other programs.

In: nothing. Out: the library: `ReplicaStream` follows a server's replication stream, `read_rdb` reads a snapshot file.
Left to others: everything. Names are loaded when first used, so that commands which need none of them start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redisrepl.changes import Position
    from redisrepl.errors import RedisreplError
    from redisrepl.local.replica import Command, LinkOptions, ReplicaStream, SnapshotEnd, SnapshotStart, StreamEvent
    from redisrepl.rdbfile import read_rdb
    from redisrepl.tls.contexts import CertificateFiles
    from redisrepl.wire.rdb import Consumer, Entry, Function, Group, Stream

__all__ = [
    "CertificateFiles",
    "Command",
    "Consumer",
    "Entry",
    "Function",
    "Group",
    "LinkOptions",
    "Position",
    "RedisreplError",
    "ReplicaStream",
    "SnapshotEnd",
    "SnapshotStart",
    "Stream",
    "StreamEvent",
    "__version__",
    "read_rdb",
]

__version__ = "2.0.0"

_HOMES = {
    "redisrepl.changes": ("Position",),
    "redisrepl.errors": ("RedisreplError",),
    "redisrepl.local.replica": (
        *("Command", "LinkOptions", "ReplicaStream", "SnapshotEnd", "SnapshotStart", "StreamEvent"),
    ),
    "redisrepl.rdbfile": ("read_rdb",),
    "redisrepl.tls.contexts": ("CertificateFiles",),
    "redisrepl.wire.rdb": ("Consumer", "Entry", "Function", "Group", "Stream"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
