"""Keeps on disk what both sides last agreed on: in a journal, and in the database that it is folded into."""

from redisrepl.paths import default_directory
from redisrepl.store.directory import ForeignStateError, Pair, StateDirectoryError
from redisrepl.store.facts import Facts
from redisrepl.store.fallback import open_store
from redisrepl.store.folding import Agreed
from redisrepl.store.store import Store

__all__ = [
    "Agreed",
    "Facts",
    "ForeignStateError",
    "Pair",
    "StateDirectoryError",
    "Store",
    "default_directory",
    "open_store",
]
