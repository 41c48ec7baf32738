"""What is lost where a server lacks a command that replication can do without, or not (docs/permissions.md).

In: kinds, a namespace, what was refused. Out: commands to ask a server for, findings. Left to others: asking
(`check_hub`, `check_site`), what each kind cannot do without (`needs`).

Each command is one that changes nothing when it is executed, like those of `needs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redisrepl.errors import ExitCode
from redisrepl.settings.settings import Settings
from redisrepl.subcommands.finding import Finding
from redisrepl.subcommands.refusals import Command, Refusals

__all__ = ["HUB_LOSSES", "SITE_LOSSES", "Loss", "losses_for", "without"]

#: Stand for a key of the namespace, the mark at the site and the fence at the hub.
_KEY, _MARK, _FENCE = b"{key}", b"{mark}", b"{fence}"
#: What the keys of mark and fence begin with, before the name of the first namespace.
_PLACES = {_MARK: b"redisrepl:mark:", _FENCE: b"redisrepl:fence:"}
#: Is refused once the permission is there; Webdis damages what a scan would reply.
_NO_CURSOR = b"none"
_HASH_OF_NONE = b"0" * 40


@dataclass(frozen=True, slots=True)
class Loss:
    """A line of the table.

    Attributes:
        topic: names the finding, after the side.
        commands: without any of these,
        lost: this is lost.
        code: see `Finding`.
        kinds: one of which must be replicated for that to matter; empty: it always does.
        rc: whether it matters with `-rc`, without, or (None) both ways.
        queued: whether to ask between MULTI and DISCARD, since it cannot be taken back.
        beside: it matters only if one of these is refused too.
    """

    topic: str
    commands: tuple[Command, ...]
    lost: str
    code: ExitCode | None = None
    kinds: frozenset[str] = frozenset()
    rc: bool | None = None
    queued: bool = False
    beside: tuple[Command, ...] = ()


_EVAL = (b"EVAL", b"return 1", b"0")
_SCAN = (b"SCAN", _NO_CURSOR)
_INFO = (b"INFO", b"replication")
_NOTHING_APPLIED = "nothing of the hub's can be applied"
_PEXPIRETIME, _PTTL = (b"PEXPIRETIME", _KEY), (b"PTTL", _KEY)
_TIME = (b"TIME",)
_NO_OPTION = b"redisrepl-check"  # of that name: to set it is refused once the permission is there
_NO_FIELD_EXPIRIES = "expiry times of fields of hashes are not replicated, in either direction"
_FIELDS_EXPIRE = frozenset({"fields-expire"})
_HPEXPIRETIME = (b"HPEXPIRETIME", _KEY, b"FIELDS", b"1", b"f")
_HPEXPIREAT = (b"HPEXPIREAT", _KEY, b"1", b"FIELDS", b"1", b"f")
_NO_STREAMS = Loss("streams", (_EVAL,), "streams are not replicated", ExitCode.REFUSED, frozenset({"streams"}))


def _large(lost: str) -> tuple[Loss, ...]:
    """What is lost where large collections cannot be read in parts."""
    return tuple(
        Loss(topic, commands, lost, kinds=frozenset({kind}))
        for topic, kind, commands in (
            ("large hashes", "hset", ((b"HLEN", _KEY), (b"HSCAN", _KEY, _NO_CURSOR))),
            ("large sets", "sets", ((b"SCARD", _KEY), (b"SSCAN", _KEY, _NO_CURSOR))),
            ("large sorted sets", "zsets", ((b"ZCARD", _KEY), (b"ZSCAN", _KEY, _NO_CURSOR))),
            ("large streams", "streams", ((b"XLEN", _KEY),)),  # without the others, no stream is read at all
        )
    )


SITE_LOSSES = (
    Loss("applying", (_INFO, (b"MULTI",), (b"EXEC",)), _NOTHING_APPLIED, ExitCode.REFUSED, rc=True),
    Loss("facts", (_INFO,), "its backlog is not known, nor why a link is lost", rc=False),
    Loss("comparisons", (_SCAN,), "what was missed in an outage is not found (sweep.failed)", ExitCode.REFUSED),
    Loss("scripts", (_EVAL,), "keys are read by single commands, and compared by their values"),
    _NO_STREAMS,
    Loss("expiry of fields", (_HPEXPIRETIME,), _NO_FIELD_EXPIRIES, kinds=_FIELDS_EXPIRE),
    Loss("expiry of fields", (_HPEXPIREAT,), _NO_FIELD_EXPIRIES, kinds=_FIELDS_EXPIRE, rc=True),
    *_large("a large collection is read by one command, which holds the site's Redis up"),
    Loss("watch", ((b"WATCH", _KEY),), "an apply may replace what a client wrote in the same moment", rc=True),
    Loss("watch", ((b"UNWATCH",),), "an apply may have to be tried twice", rc=True),
    Loss(
        "origin",
        ((b"PUBLISH", b"redisrepl:origin", b""),),
        "after a restart, writes that came from the hub are pushed to it again",
        rc=True,
        queued=True,
    ),
    Loss(
        "mark",
        ((b"GET", _MARK), (b"EVAL", b"return 1", b"1", _MARK)),
        "after a restart of the site's Redis, fewer of its writes are known to be newer",
        rc=True,
    ),
    Loss("clock", (_TIME,), "before Redis 7.0 or without EVAL, expiry times are reckoned by our own clock"),
)

HUB_LOSSES = (
    Loss("flushes", (_INFO,), "a FLUSHALL there is undone, not replicated, and evictions are not noticed"),
    Loss("clock", (_TIME,), "its clock is not known, and what the feed tells is fetched instead"),
    Loss("scripts", (_EVAL,), "each write is a request of its own"),
    _NO_STREAMS,
    Loss("script names", ((b"EVALSHA", _HASH_OF_NONE, b"0"),), "each request carries its script"),
    Loss(
        "fence",
        (
            _EVAL,
            (b"HGET", _FENCE, b"f"),
            (b"HSET", _FENCE, b"f", b"v", b"f"),
            (b"HGETALL", _FENCE),
            (b"EXPIRE", _FENCE, b"1"),
        ),
        "a request that timed out may be executed late, over a newer value",
    ),
    Loss("key names", (_SCAN,), "keys are listed by KEYS, which holds the hub's Redis up"),
    Loss(
        "comparisons",
        ((b"KEYS", _KEY),),
        "what was missed in an outage is not found (sweep.failed)",
        ExitCode.REFUSED,
        beside=(_SCAN, _EVAL),
    ),
    Loss("expiry of fields", (_HPEXPIRETIME, _HPEXPIREAT), _NO_FIELD_EXPIRIES, kinds=_FIELDS_EXPIRE),
    *_large("each write of others to a large collection brings all of it"),
    Loss("expiries", (_PEXPIRETIME,), "expiry times are reckoned from PTTL", ExitCode.OK),
    Loss("expiries", (_PTTL,), "expiry times are read by PEXPIRETIME alone, of Redis 7.0 and later"),
    Loss("expiries", (_PTTL,), "nothing can be fetched (fetch.failed)", ExitCode.REFUSED, beside=(_PEXPIRETIME,)),
    Loss("expiries", (_TIME,), "no key that expires can be fetched", ExitCode.REFUSED, beside=(_PEXPIRETIME,)),
    Loss(
        "flags",
        ((b"CONFIG", b"SET", _NO_OPTION, b""),),
        "no missing flag can be added; leave it so if `hub notifications` is ok, else",
        ExitCode.OK,
        rc=True,
    ),
)


def losses_for(table: Sequence[Loss], settings: Settings, prefix: bytes) -> list[Loss]:
    """Those that matter with these settings, of a namespace."""
    found = []
    for loss in table:
        if loss.rc not in (None, settings.rc) or (loss.kinds and loss.kinds.isdisjoint(settings.kinds)):
            continue
        found.append(loss)
    return [_placed(loss, prefix) for loss in found]


def _placed(loss: Loss, prefix: bytes) -> Loss:
    """With the keys of a namespace."""
    keys = {_KEY: prefix + b"redisrepl:check"} | {word: head + prefix + b"check" for word, head in _PLACES.items()}

    def placed(commands: Sequence[Command]) -> tuple[Command, ...]:
        return tuple(tuple(keys.get(word, word) for word in command) for command in commands)

    words = (loss.topic, placed(loss.commands), loss.lost, loss.code, loss.kinds, loss.rc, loss.queued)
    return Loss(*words, placed(loss.beside))


def without(side: str, losses: Sequence[Loss], refusals: Refusals, prefix: bytes) -> Iterator[Finding]:
    """A finding for each of these that is lost.

    Args:
        side: `site` or `hub`.
        losses: what was asked for.
        refusals: what of it was refused.
        prefix: the namespace of which the keys are.
    """
    for loss in losses:
        heads = {head for head in _PLACES.values() for command in loss.commands for w in command if w.startswith(head)}
        missing = [c for c in refusals.among(loss.commands) if heads or not refusals.of_key(c)]  # else: see `needs`
        if not missing or (loss.beside and not refusals.among(loss.beside)):
            continue
        remedy = refusals.remedy(missing, keys=b"".join(heads) + prefix, channel=b"redisrepl:origin")
        yield Finding(f"{side} {loss.topic}", f"{refusals.said(missing)}, so {loss.lost}: {remedy}", loss.code)
