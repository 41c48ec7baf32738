"""Damaged input of every parser ends in values or an error of ours, in little memory."""

import random

import pytest

from tests.hostile.fuzz import PARSERS, run


@pytest.mark.parametrize("name", PARSERS)
def test_the_samples_are_good(name):
    parse, samples = PARSERS[name]
    for sample in samples:
        if not sample.startswith((b"-", b'{"PTTL":[')):  # an error of the server's is one
            parse(sample)


@pytest.mark.parametrize("_part", range(4))
def test_random_damage(_part):
    """A minute in all, side by side with other tests."""
    assert run(15, random.randrange(1 << 32)) > 150
