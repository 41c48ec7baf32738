"""What the soak makes of its samples."""

import math
import random

import pytest

from tests.chaos import soak
from tests.chaos.scene import Scene

HOURS = [n * 10 / 3600 for n in range(180)]
TIMES = [hours * 3600 for hours in HOURS]


def noisy(value, *, per_hour=0.0, noise=0.5):
    rng = random.Random(1)
    return [value + per_hour * hours + rng.uniform(-noise, noise) for hours in HOURS]


def sawtooth(value, *, height, phase, per_hour=0.0):
    """Connections after cuts that come every four minutes."""
    return [
        value + per_hour * hours + height * ((seconds + phase) % 240 / 240)
        for hours, seconds in zip(HOURS, TIMES, strict=True)
    ]


def heap(*, per_minute=0.0):
    """Resident memory as it was seen: fast at first, then ever slower; and a leak."""
    return [91 - 18 * math.exp(-seconds / 480) + per_minute * seconds / 60 for seconds in TIMES]


def is_growing(values):
    return soak.judged({"seconds": TIMES, "row": values})["row"].growing


@pytest.mark.parametrize(
    ("values", "growing"),
    [
        (noisy(80), False),
        (noisy(80, per_hour=6), False),  # 1.5 MB in a quarter of an hour
        (noisy(80, per_hour=60), True),
        (noisy(20, per_hour=-60), False),
        (noisy(1000, per_hour=60, noise=100), False),  # 15 more, of which nobody can tell in such a scatter
        (heap(), False),
        (heap(per_minute=1), True),
        ([19.0] * 180, False),
        ([19.0 + n // 6 for n in range(180)], True),  # a descriptor a minute
    ],
)
def test_growth_is_told_from_noise(values, growing):
    assert is_growing(values) is growing


@pytest.mark.parametrize("phase", range(0, 240, 40))
def test_growth_is_told_from_what_comes_and_goes_with_the_cuts(phase):
    assert not is_growing(sawtooth(15, height=12, phase=phase))
    assert is_growing(sawtooth(15, height=12, phase=phase, per_hour=60))


def test_the_first_half_is_not_judged():
    values = [min(80.0, n) for n in range(180)]

    assert soak.judged({"seconds": TIMES, "memory": values}) == {"memory": soak.Trend(80, 80, 80, 0, growing=False)}
    assert soak.trend(values, TIMES).growing


def test_the_report_replaces_what_is_between_its_marks(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- soak -->\nold\n<!-- /soak -->\nafter\n")

    soak.write_report(document, "new")

    assert document.read_text() == "before\n<!-- soak -->\nnew\n<!-- /soak -->\nafter\n"


def test_a_document_without_marks_is_left_alone(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("all\n")

    with pytest.raises(SystemExit, match="has no <!-- soak -->"):
        soak.write_report(document, "new")
    assert document.read_text() == "all\n"


def test_it_samples_the_real_thing():
    with Scene(1) as scene:
        observer = soak.Observer(scene)
        sampled = [observer.sample() for _ in range(4)]
        scene.check()

    samples = {name: [sample[name] for sample in sampled] for name in sampled[0]}
    trends = soak.judged({"seconds": [0, 10, 20, 30], **samples})
    assert trends["daemon 1: resident memory, MB"].least > 20
    assert trends["hub's Redis: pub/sub clients"].most >= 2
    assert trends["site 1's Redis: replicas"].median == 2
    assert trends["hub's nginx: connections"].least >= 2
    about = soak.setting(1, 100, with_faults=False)
    assert len(soak.section(about, trends).splitlines()) == len(about) + 3 + len(trends)
