"""What the soak makes of its samples."""

import random

import pytest

from tests.chaos import soak
from tests.chaos.scene import Scene

HOURS = [n * 10 / 3600 for n in range(180)]
TIMES = [hours * 3600 for hours in HOURS]


def noisy(value, *, per_hour=0.0, noise=0.5):
    rng = random.Random(1)
    return [value + per_hour * hours + rng.uniform(-noise, noise) for hours in HOURS]


@pytest.mark.parametrize(
    ("values", "growing"),
    [
        (noisy(80), False),
        (noisy(80, per_hour=3), False),  # 1.5 MB in the half hour: noise
        (noisy(80, per_hour=20), True),
        (noisy(10_000, per_hour=20), False),  # a day would add a twentieth
        (noisy(20, per_hour=-40), False),
        ([19.0] * 180, False),
        ([19.0 + n // 10 for n in range(180)], True),  # a descriptor every 100 s
    ],
)
def test_growth_is_told_from_noise(values, growing):
    assert soak.trend(values, TIMES).growing is growing


def test_the_first_quarter_is_not_judged():
    values = [min(80.0, 20.0 + 2 * n) for n in range(180)]

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
