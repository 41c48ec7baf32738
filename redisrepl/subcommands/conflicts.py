"""`redisrepl conflicts`: what lost a conflict, listed, shown, and written back.

In: the files of kept losers in a state directory. Out: a table, JSON lines or one value; with `restore`, a write at the
site. Left to others: keeping losers (`store.conflicts`), replicating what is restored (the daemon, as any write).

Whatever a client chose (keys, fields, values) is escaped before it reaches a terminal.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from redisrepl.changes import ExpirySet, HashSet, HashState, SequenceSet, SequenceState, State, StringSet, StringState
from redisrepl.errors import ConfigError, ExitCode, RedisreplError
from redisrepl.local.address import SiteAddress
from redisrepl.namespaces import printable
from redisrepl.stdio import writing
from redisrepl.store.kept import Kept, KeptConflicts
from redisrepl.store.losers import SUFFIX
from redisrepl.store.unusable import UnusableError
from redisrepl.subcommands.jsonlines import encode_bytes, encode_number
from redisrepl.subcommands.needs import AT_SITE, TO_APPLY, commands_for
from redisrepl.wire.entries import entry_words, is_entry, plain_id
from redisrepl.wire.opaque import OPAQUE, restore_command
from redisrepl.wire.replies import as_clock

__all__ = ["Choice", "run"]

#: Losers in the table; JSON has all of them.
_LISTED = 1000
_WIDTH = 120
#: From here on JSON writes a character as two.
_ASTRAL = 0x10000

#: A site: its address, and the number of the database there.
_Place = tuple[str, int]


class _Found(NamedTuple):
    """A loser, and the file that it is in."""

    kept: Kept
    file: KeptConflicts


class AnyKey(Enum):
    """In the place of a key: whichever has the given number. No shell can give a key with a NUL."""

    OF_NUMBER = auto()


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be done with what is kept.

    Attributes:
        key: None: all is listed.
        number: of the values of that key, the one of this number; None: the one that was lost last.
        restore: write it at the site, instead of showing it.
        as_json: one object a line with the value, instead of what people read.
    """

    key: bytes | AnyKey | None = None
    number: int | None = None
    restore: bool = False
    as_json: bool = False

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> Choice:
        """As the flags say; `--show` and `--restore` without a key are True.

        Raises:
            ConfigError: they do not go together.
        """
        restore, number = flags["restore"] is not None, flags["number"]
        given = flags["restore"] if restore else flags["show"]
        if given is None and number is not None:
            raise ConfigError("--number says which value is meant: give it with --show or --restore")
        if given is True and number is None:
            flag = "--restore" if restore else "--show"
            raise ConfigError(f"{flag}: does not say which value is meant: {flag} KEY, or {flag} --number N")
        key = AnyKey.OF_NUMBER if given is True else None if given is None else os.fsencode(given)
        return cls(key, number, restore, flags["json"])


def run(directory: Path, choice: Choice, address: SiteAddress, wait: float, *, out: BinaryIO) -> ExitCode:
    """List what is kept, show one value, or write it back.

    Args:
        directory: of the daemons' state.
        choice: what is to be done.
        address: of the site's Redis, to restore a value there.
        wait: seconds for its answers.
        out: where is printed what was found, or done.

    Raises:
        RedisreplError: a file is damaged, nothing is kept of the key, or what is kept cannot be written.
        ConfigError: the directory or a file cannot be read, or holds the state of another site.
        PeerUnavailableError, LinkLostError, RefusedError: the site's Redis does not take it.
    """
    with writing(out), _opened(directory) as files:
        if choice.key is not None and choice.restore:
            lines = iter([asyncio.run(_restore(files, choice.key, choice.number, address, wait))])
        elif choice.key is not None:
            found = _find(files, choice.key, choice.number)
            lines = iter([_json_line(found)]) if choice.as_json else _shown(found)
        elif choice.as_json:
            lines = (_json_line(found) for found in _losers(files))
        else:
            lines = _table(_losers(files), directory, terminal=out.isatty())
        out.writelines(line.encode() + b"\n" for line in lines)
    return ExitCode.OK


async def _restore(
    files: list[KeptConflicts], chosen: bytes | AnyKey, number: int | None, address: SiteAddress, wait: float
) -> str:
    """Write a value where it was lost; returns what was done."""
    from redisrepl.local.connection import open_client, translated  # noqa: PLC0415 - who only looks needs no client

    place = str(address), address.database
    ours = [file for file in files if not file.site or (file.site, file.database) == place]
    found = _find(ours or files, chosen, number)
    key = found.kept.key
    if not ours:
        raise ConfigError(
            f"--raddr: {printable(key)} was lost at {_place((found.file.site, found.file.database))}, "
            f"not at {_place(place)}: give the address as the daemon has it"
        )
    state = found.file.state(found.kept)
    if state is None or isinstance(state, str):
        raise RedisreplError(f"{printable(key)}: {_lost(found.kept)}: there is no value to restore")
    client = open_client(address, wait, connections=1)
    pool = client.connection_pool
    try:
        with translated(address):
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                return f"{_place(place)}: {await _write(connection, key, state)}"
            finally:
                await connection.disconnect(nowait=True)  # it may be in a transaction
                await pool.release(connection)
    finally:
        await client.aclose()


async def _write(connection: Any, key: bytes, state: StringState | HashState | SequenceState) -> str:
    """Write it, all or nothing; returns what was done."""
    from redisrepl.local.apply import as_site_takes, site_commands  # noqa: PLC0415 - as above
    from redisrepl.local.whole import ask_permission, run_whole  # noqa: PLC0415

    if isinstance(state, HashState) and state.type == "stream":
        # The script removes entries to insert others before them: what it may not add again would be gone.
        needs = (*commands_for(AT_SITE, ["streams"], key), *commands_for(TO_APPLY, ["streams"], key))
        await ask_permission(connection, [command for kind, command in needs if kind])
    # A user who may not WATCH restores all the same; then a client's write of the same moment may be replaced.
    _, kind, clock = await connection.exchange([[b"WATCH", key], [b"TYPE", key], [b"TIME"]])
    for reply in (kind, clock):
        if isinstance(reply, Exception):
            raise reply
    holds = kind.decode("ascii", "backslashreplace")
    name, expires_at_ms = printable(key), state.expires_at_ms
    # Otherwise elements are added to a key that has an expiry of its own.
    whole = not isinstance(state, HashState) or holds == "none"
    if whole and expires_at_ms is not None and expires_at_ms <= as_clock(clock, "TIME") // 1000:
        raise RedisreplError(f"{name}: what was lost has expired on {_time(expires_at_ms / 1000)}: --show still has it")
    expiry = site_commands(ExpirySet(key, expires_at_ms)) if whole and expires_at_ms is not None else []
    if isinstance(state, StringState):
        commands = site_commands(StringSet(key, state.value, expires_at_ms))
        said = f"{name}: wrote a string of {_bytes(len(state.value))}"
    elif isinstance(state, SequenceState) and state.type == OPAQUE:
        # The server may refuse the value when it runs the command, so nothing must follow it.
        commands = [restore_command(key, state.items[0], expires_at_ms or 0)]
        said = f"{name}: wrote {_elements(len(state.items), state.type)}"
    elif isinstance(state, SequenceState):
        commands = [[b"DEL", key], *site_commands(SequenceSet(key, state.items, state.type)), *expiry]
        said = f"{name}: wrote {_elements(len(state.items), state.type)}"
    elif holds in {"none", state.type}:
        commands = [*site_commands(HashSet(key, dict(state.fields), state.type)), *expiry]
        said = f"{name}: wrote {_elements(len(state.fields), state.type)}"
        said += " that was gone" if holds == "none" else ""
    else:
        elements = _elements(0, state.type).removeprefix("0 ")
        raise RedisreplError(f"{name}: a {holds} is there, which takes no {elements}: remove it first")
    if not isinstance(state, HashState) and holds != "none":
        said += f" in place of the {holds} there"
    if not await run_whole(connection, list(map(as_site_takes, commands))):
        raise RedisreplError(f"{name}: a client wrote it at the same moment, so nothing was restored: try again")
    return said + (f", expiring on {_time(expires_at_ms / 1000)}" if whole and expires_at_ms is not None else "")


@contextmanager
def _opened(directory: Path) -> Iterator[list[KeptConflicts]]:
    """Every file of losers in this directory."""
    path = directory
    with ExitStack() as stack:
        try:
            try:
                paths = sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))
                files = [stack.enter_context(KeptConflicts(path := each)) for each in paths]
            except OSError as error:  # the caller's are those of the output
                reason = (error.strerror or str(error)).lower()
                hint = "give the --state-dir of a daemon, as its user or as root"
                raise ConfigError(f"--state-dir {path}: {reason}: {hint}") from None
            path = directory
            yield files
        except UnusableError as error:
            raise RedisreplError(f"{path}: what lost conflicts cannot be read: {error}: move the file away") from None


def _losers(files: Iterable[KeptConflicts], key: bytes | None = None) -> Iterator[_Found]:
    return (_Found(kept, file) for file in files for kept in file.entries(key))


def _find(files: Iterable[KeptConflicts], key: bytes | AnyKey, number: int | None) -> _Found:
    """The loser of this key that was lost last, or has this number."""
    of_key = None if isinstance(key, AnyKey) else key
    losers = _losers(files, of_key)
    found = [loser for loser in losers if number in {None, loser.kept.number}]
    if of_key is None and len(found) > 1:  # each file counts for itself
        several = ", ".join(f"{printable(kept.key)} in {file.path}" for kept, file in found)
        raise RedisreplError(f"number {number} is that of several values: {several}: give the key too")
    if not found:
        nothing = "nothing is kept" if of_key is None else f"{printable(of_key)}: nothing is kept of it"
        which = "" if number is None else f" with number {number}"
        raise RedisreplError(f"{nothing}{which}: `redisrepl conflicts` lists what is")
    return max(found, key=lambda loser: (loser.kept.at, loser.kept.number))


def _json_line(found: _Found) -> str:
    kept = found.kept
    digests = (encode_bytes(digest.encode()) if digest else "null" for digest in (kept.site_digest, kept.hub_digest))
    fields = {
        "number": kept.number,
        "at": encode_number(kept.at),
        "site": encode_bytes(found.file.site.encode()),
        "db": found.file.database,
        "key": encode_bytes(kept.key),
        "winner": encode_bytes(kept.winner.encode()),
        "reason": encode_bytes(kept.reason.encode()),
        **dict(zip(("site_digest", "hub_digest"), digests, strict=True)),
        "type": encode_bytes(kept.kind.encode()),
        "bytes": kept.size,
        "value": _json_value(found.file.state(kept) if kept.has_value else None),
        "expires_at_ms": "null" if kept.expires_at_ms is None else kept.expires_at_ms,
    }
    return _escaped("{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}")


def _json_value(state: State) -> str:
    """As `redisrepl rdb` prints it."""
    match state:
        case StringState(value):
            return encode_bytes(value)
        case HashState(fields, _, type_):
            return f"[{','.join(f'[{name},{value}]' for name, value in _json_elements(type_, fields))}]"
        case SequenceState(items):
            return f"[{','.join(map(encode_bytes, items))}]"
        case _:
            return "null"


def _json_elements(type_: str, elements: Mapping[bytes, bytes]) -> Iterator[tuple[str, str]]:
    """Names and values of elements; an entry of a stream is its fields and values in turn."""
    for name, value in elements.items():
        if type_ == "stream" and is_entry(name):
            yield encode_bytes(plain_id(name)), f"[{','.join(map(encode_bytes, entry_words(value)))}]"
        else:
            yield encode_bytes(name), encode_bytes(value)


def _escaped(text: str) -> str:
    """JSON that means the same, without what a terminal would obey; JSON's own escapes end at 0x20."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    if code < _ASTRAL:
        return f"\\u{code:04x}"
    code -= _ASTRAL
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _shown(found: _Found) -> Iterator[str]:
    """One loser for people."""
    kept, state = found.kept, found.file.state(found.kept)
    yield f"{printable(kept.key)}, number {kept.number}: lost on {_time(kept.at)} to the {kept.winner}'s value"
    yield f"  reason       {printable(kept.reason.encode(), 1000)}"
    yield f"  digests      site {kept.site_digest or 'not known'}, hub {kept.hub_digest or 'not known'}"
    yield f"  lost         {_lost(kept)}"
    if kept.expires_at_ms is not None:
        yield f"  expires      {_time(kept.expires_at_ms / 1000)}"
    match state:
        case StringState(value):
            yield _escaped(encode_bytes(value))
        case HashState(fields, _, type_):
            yield from (_escaped(f"{name}: {value}") for name, value in _json_elements(type_, fields))
        case SequenceState(items):
            yield from (_escaped(encode_bytes(item)) for item in items)


def _table(losers: Iterable[_Found], directory: Path, *, terminal: bool) -> Iterator[str]:
    """The latest losers for people, the last one at the end."""
    from rich import box  # noqa: PLC0415 - the other shapes need no table
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    latest: deque[_Found] = deque(maxlen=_LISTED)
    count = 0
    for loser in losers:
        latest.append(loser)
        count += 1
    if not count:
        yield f"no value that lost a conflict is kept in {directory}"
        return
    sites = {(file.site, file.database): None for _, file in latest}
    columns = ("number", "when (UTC)", "key", "winner", "what was lost", "reason", "site")[: 6 + (len(sites) > 1)]
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, justify="right" if name == "number" else "left", overflow="fold")
    for kept, file in latest:
        cells = (
            *(str(kept.number), _time(kept.at), printable(kept.key), kept.winner, _lost(kept)),
            *(printable(kept.reason.encode()), _place((file.site, file.database))),
        )
        table.add_row(*map(Text, cells[: len(columns)]))
    text = StringIO()
    width = shutil.get_terminal_size((_WIDTH, 0)).columns if terminal else _WIDTH
    Console(file=text, width=width, force_terminal=terminal).print(table)
    yield from (line.rstrip() for line in text.getvalue().splitlines() if line.strip())
    older = f"; {count - len(latest):,} older ones: --json lists them" if count > len(latest) else ""
    yield f"{count:,} kept{older}"


def _lost(kept: Kept) -> str:
    """What was lost, in short."""
    match kept.kind:
        case "string":
            what = f"string of {_bytes(kept.size)}"
        case type_ if type_ in _ELEMENTS:
            what = f"{_elements(kept.fields, type_)}, {_bytes(kept.size)}"
        case "none":
            return "removal"
        case other:
            return f"{other} (digest only)"
    return what if kept.has_value else f"{what} (digest only)"


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count:,} bytes"


_ELEMENTS = {
    "hash": ("field", "a hash"),
    "set": ("member", "a set"),
    "zset": ("member", "a sorted set"),
    "list": ("item", "a list"),
    "stream": ("entry", "a stream"),
    "opaque": ("value", "a type without a portable form"),
}


def _elements(count: int, type_: str) -> str:
    one, whole = _ELEMENTS[type_]
    return f"1 {one} of {whole}" if count == 1 else f"{count:,} {_several(one)} of {whole}"


def _several(one: str) -> str:
    return "entries" if one == "entry" else f"{one}s"


def _place(place: _Place) -> str:
    site, database = place
    return f"{site}, database {database}" if database else site


def _time(seconds: float) -> str:
    """Unix time as people read it; what no calendar holds as it is."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f}"
