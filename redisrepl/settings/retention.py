"""How much is kept, and for how long: what `--keep-conflicts 64MiB,30d` says.

In: text. Out: a size and an age. Left to others: keeping anything (`store.conflicts`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Retention"]

_TEXT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([kmgt]?)(i?)b?, ?([0-9]{1,5}(?:\.[0-9]{1,3})?)d", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_HINT = "give a size and a number of days, such as 64MiB,30d, or off"
_LEAST, _MOST = 1 << 20, 1 << 40


class Retention(NamedTuple):
    """Two limits; whichever is reached first applies. `str` gives what `parse` takes.

    Attributes:
        max_bytes: 0 to keep nothing.
        max_days: may be a fraction.
    """

    max_bytes: int
    max_days: float

    def __str__(self) -> str:
        if not self.max_bytes:
            return "off"
        mebibytes, rest = divmod(self.max_bytes, 1 << 20)
        return f"{self.max_bytes if rest else f'{mebibytes}MiB'},{self.max_days:g}d"

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Limits from text: a size in bytes, kB, KiB, MB, .., a comma, and days; or `off`.

        Raises:
            ValueError: it is none of these, or out of range.
        """
        if text.strip().lower() == "off":
            return cls(0, 0.0)
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(_HINT)
        number, unit, binary, days = found.groups()
        max_bytes = round(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
        if not _LEAST <= max_bytes <= _MOST or float(days) <= 0:
            raise ValueError(f"{_HINT}: from 1MiB to 1TiB, and more than 0 days")
        return cls(max_bytes, float(days))
