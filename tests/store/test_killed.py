"""kill -9 at any moment leaves what was recorded until then, each step of it once."""

import random
import subprocess
import sys
from pathlib import Path

from tests.store.killed import KEYS, sent_in, told_in
from tests.store.stores import Model, assert_like, new_store

TIMES = 12


def after(steps):
    """What is agreed after so many steps, and what is open."""
    model = Model()
    for step in range(1, steps + 1):
        if not sent_in(step):
            if sent_in(step - 1):
                model.agree(model.open.pop(step - 1, []), step - 1)
            model.agree(told_in(step), 10 * step + 1)
        else:
            model.open[step] = told_in(step)
    return model


async def assert_whole(directory, said):
    """Everything that was said to be recorded is there; at most one step more."""
    store = new_store(directory)
    step = store.saved.get("step", 0)
    assert step >= said
    batches = [batch for batch in store.open_batches if batch <= step]
    model = after(step)
    assert batches == list(model.open)
    await assert_like(store, model, KEYS)
    await store.close()
    return step


async def test_killed_at_any_moment(tmp_path):
    chance = random.Random()
    step = renewed = 0
    for _ in range(TIMES):
        words = [sys.executable, "-m", "tests.store.killed", str(tmp_path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            said = [process.stdout.readline() for _ in range(chance.randrange(1, 200))]
            process.kill()
            said += process.stdout.read().splitlines(keepends=True)
        whole = [int(line) for line in said if line.endswith(b"\n")]
        assert whole[0] == step + 1
        step = await assert_whole(tmp_path, whole[-1])
        store = new_store(tmp_path)
        renewed = store._journal.base
        await store.close()
    assert renewed  # the journal was begun anew on the way
