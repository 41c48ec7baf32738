"""What a server would not run for us, and how its administrator allows it.

In: commands, and the errors with which they were answered. Out: sentences. Left to others: asking (`check_hub`,
`check_site`), what is lost without a command (`losses`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from redisrepl.errors import denies_key

__all__ = ["Refusals", "spelled"]

Command = tuple[bytes, ...]
_Why = Literal["denied", "key", "channel", "unknown", "disabled"]

#: `rename-command`, and services that leave a command out.
_UNKNOWN = re.compile(r"(ERR )?unknown (sub)?command|.*\bcommand is not (allowed|available)\b", re.IGNORECASE)
#: How Redis 7.2 and later name the user that they refuse.
_USER = re.compile(r"[Uu]ser (\S+) has no permissions")
#: We cannot see it, and a guess might open another user's access.
_USER_OF_WEBDIS = " (USER: the one in redis_auth of webdis.json, or default if that names none)"
#: Webdis answers with this where its own configuration disables a command.
_FORBIDDEN = 403


def spelled(command: Sequence[bytes]) -> str:
    """The name of a command, with its subcommand if ACLs know that too."""
    return " ".join(word.decode() for word in command[: 2 if command[0] == b"CONFIG" else 1])


class Refusals:
    """What one server refuses.

    Args:
        server: its name in a sentence.
        where: begins a remedy that is carried out there.
        user: who we are, unless an error says otherwise; None: only Webdis knows.
    """

    def __init__(self, server: str, where: str, user: str | None) -> None:
        self._server = server
        self._where = where
        self._user = user
        self._why: dict[Command, _Why] = {}

    def note(self, command: Command, error: str, status: int = 200) -> None:
        """A command was answered by this error; what is no refusal is not kept."""
        if status == _FORBIDDEN:
            self._why[command] = "disabled"
        elif _UNKNOWN.match(error):
            self._why[command] = "unknown"
        elif error.startswith("NOPERM"):
            if match := _USER.search(error):
                self._user = match[1]
            self._why[command] = "key" if denies_key(error) else "channel" if "channel" in error else "denied"

    def among(self, commands: Iterable[Command]) -> list[Command]:
        """Those that are refused."""
        return [command for command in commands if command in self._why]

    def of_channel(self, command: Command) -> bool:
        """Whether it is the channel that is denied, not the command."""
        return self._why.get(command) == "channel"

    def of_key(self, command: Command) -> bool:
        """Whether it is a key that is denied, not the command."""
        return self._why.get(command) == "key"

    def of_command(self, command: Command) -> bool:
        """Whether it is the command that is refused, not a key or channel."""
        return self._why.get(command) in ("denied", "unknown", "disabled")

    def said(self, commands: Iterable[Command], *, channel: str = "its channel") -> str:
        """What is refused of these, as the beginning of a sentence; some must be."""
        said = []
        if denied := self._named(commands, "denied"):
            said.append(denied)
        said += ["its keys"] * bool(self._those(commands, "key")) + [channel] * bool(self._those(commands, "channel"))
        parts = [f"denies {', '.join(said)}"] if said else []
        if unknown := self._named(commands, "unknown"):
            parts.append(f"does not know {unknown}")
        if not parts:
            return f"Webdis refuses {self._named(commands, 'disabled')}"
        also = f", and Webdis refuses {disabled}" if (disabled := self._named(commands, "disabled")) else ""
        return f"{self._server} {' and '.join(parts)}{also}"

    def remedy(self, commands: Iterable[Command], *, keys: bytes, channel: bytes = b"") -> str:
        """What to do at the server about what is refused of these.

        Args:
            commands: of which some are refused.
            keys: what the keys in them begin with.
            channel: likewise.
        """
        denied = self._those(commands, "denied")
        grants = [f"+{spelled(command).lower().replace(' ', '|')}" for command in denied]
        grants += [f"'~{_text(keys)}*'"] if self._those(commands, "key") else []
        grants += [f"'&{_text(channel)}*'"] if self._those(commands, "channel") else []
        steps = []
        if grants:
            words = " ".join(dict.fromkeys(grants))
            user, whose = (self._user, "") if self._user else ("USER", _USER_OF_WEBDIS)
            steps.append(f"{self._where}: redis-cli ACL SETUSER {user} {words}, then ACL SAVE{whose}")
        if unknown := self._named(commands, "unknown"):
            said = f"take the rename-command of {unknown} out of redis.conf, or use a server that has it"
            steps.append(f"{self._where}: {said}")
        if disabled := self._named(commands, "disabled"):
            steps.append(f"take {disabled} out of 'disabled' in its webdis.json")
        return "; ".join(steps)

    def _those(self, commands: Iterable[Command], why: _Why) -> list[Command]:
        return [command for command in commands if self._why.get(command) == why]

    def _named(self, commands: Iterable[Command], why: _Why) -> str:
        return ", ".join(dict.fromkeys(map(spelled, self._those(commands, why))))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
