"""Damaged snapshots end in events or one RdbError, never in anything else."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.rdb.check import check_modes
from tests.wire.rdb.fuzz import SAMPLES, examine, mutated


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_samples_are_good(sample):
    check_modes(sample)


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_byte_may_be_wrong(sample):
    chance = random.Random(7)

    for at in range(9, len(sample), max(1, len(sample) // 60)):
        examine(sample[:at] + bytes([sample[at] ^ 1 << chance.randrange(8)]) + sample[at + 1 :])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SAMPLES), st.integers(0, 2**32))
def test_random_damage(sample, seed):
    examine(mutated(random.Random(seed), sample))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(body):
    examine(b"REDIS0011" + body)
