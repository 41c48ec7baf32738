"""What is known of a dirty key: whether it is suspect, and who has written it since.

In: what is known twice of one key. Out: that in one. Left to others: which keys are dirty (`engine.inbound`), and what
follows for them (`engine.core`).

It is one number for each key, since there may be millions: 0, and so false, for a key that is not suspect. Such a key
is dirty because the hub announced it, so that is noted of suspect keys only.
"""

from __future__ import annotations

__all__ = ["ANNOUNCED", "OVERTAKEN", "SUSPECT", "both"]

#: It may have changed on both sides: it is compared with the ancestor.
SUSPECT = 1
#: The hub announced a write of it: what the hub holds did not stand there at first contact.
ANNOUNCED = 2
#: A client of the site has written it since the comparison began: that is pushed as it is, and agreed on by that.
OVERTAKEN = 4


def both(one: int, other: int) -> int:
    """What is known of a key that is dirty for two reasons."""
    if one and other:
        return one | other
    return one | other | ANNOUNCED if one or other else 0
