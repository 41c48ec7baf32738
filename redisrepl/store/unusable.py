"""A file of the state directory that cannot be used, and why.

In: what the system or SQLite raised. Out: the reason, as part of a sentence. Left to others: naming the file and what
becomes of it.
"""

from __future__ import annotations

import errno

__all__ = ["UnusableError", "reason_of"]


class UnusableError(Exception):
    """A file that cannot be used; the text says why."""


def reason_of(error: Exception) -> str:
    """Why a file cannot be used, as part of a sentence.

    Args:
        error: of the system, of SQLite, or `UnicodeDecodeError`, which SQLite's quotations of damaged bytes may raise.
    """
    if isinstance(error, OSError):
        # It is opened with O_NOFOLLOW: a link in its place is none of ours.
        return "it is a symbolic link" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
    return "it is damaged" if isinstance(error, UnicodeDecodeError) else str(error)
