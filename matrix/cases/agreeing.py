"""What both sides hold in the end, of the keys of one case.

In: a pair, names and values. Out: an AssertionError that says what differs. Left to others: what is written.
"""

from testbed import eventually
from tests.e2e.pairs import held
from tests.e2e.support import PREFIX

__all__ = ["ALL_BYTES", "agree", "named"]

ALL_BYTES = bytes(range(256))


def named(case, count, value):
    """Names and values of strings of one case."""
    return {b"%s%s:%d" % (PREFIX, case.encode(), number): value.encode() for number in range(count)}


def agree(pair, expected, *, gone=()):
    """Both sides come to hold these values, none of the keys that are `gone`, and the same altogether."""
    pair.level()

    def agreed():
        site, hub = held(pair.at_site), held(pair.at_hub)
        for name, found in (("site", site), ("hub", hub)):
            wrong = [key for key, value in expected.items() if found.get(key) != value]
            assert not wrong, f"{name}: {len(wrong)} keys are not as written, such as {wrong[0][:60]!r}"
            back = [key for key in gone if key in found]
            assert not back, f"{name}: {len(back)} removed keys are there, such as {back[0][:60]!r}"
        differing = [key for key in site.keys() | hub.keys() if site.get(key) != hub.get(key)]
        assert not differing, f"{len(differing)} keys differ, such as {differing[0][:60]!r}"
        return True

    eventually(agreed, 30, "both sides hold what was written")
