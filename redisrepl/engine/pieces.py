"""A list of the last entries of something, saved in pieces of which most stay as they are while entries are added.

In: entries. Out: the pieces, as JSON can hold them; the entries again. Left to others: what they are, and saving them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter

__all__ = ["Pieces"]

#: Pieces of each list: only those that have changed since need to be written again.
_PIECES = 64


class Pieces:
    """The last entries of a list, in pieces of which most stay as they are while entries are added.

    Args:
        name: what they are saved as.
        entries: how many are remembered at least.

    Attributes:
        count: entries that were ever added.
        saved: the pieces by name, as JSON can hold them.
    """

    def __init__(self, name: str, entries: int) -> None:
        self._size = entries // _PIECES
        self._names = [f"{name} {piece}" for piece in range(_PIECES + 1)]  # one more, for it is begun empty
        self.count = 0
        self.saved: dict[str, list[object]] = {}

    def add(self, entry: Sequence[object]) -> None:
        """Another entry, newer than all."""
        name = self._names[self.count // self._size % len(self._names)]
        begun = self.saved[name] if self.count % self._size else [self.count]
        self.saved[name] = [*begun, entry]  # another one, for the one before is being compared with it
        self.count += 1

    def load(self, document: Mapping[str, object]) -> list[object]:
        """The entries of what was saved, in their order."""
        return [entry for _, entries in self._saved_in(document) for entry in entries]

    def has_all(self, document: Mapping[str, object]) -> bool:
        """Whether what was saved are all entries that ever were."""
        pieces = self._saved_in(document)
        return not pieces or pieces[0][0] == 0

    def _saved_in(self, document: Mapping[str, object]) -> list[tuple[int, list[object]]]:
        pieces = []
        for name in self._names:
            match document.get(name):
                case [int(first), *entries]:
                    pieces.append((first, entries))
                case _:
                    pass
        return sorted(pieces, key=itemgetter(0))
