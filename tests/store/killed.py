"""A process that records one step after another, as fast as it can, until it is killed.

    python -m tests.store.killed DIRECTORY

Goes on behind the last step that is in the directory, and says each step that was recorded.
"""

import asyncio
import random
import sys
from pathlib import Path

from redisrepl.store import folding
from redisrepl.store import store as module
from tests.store.stores import facts, name, new_store

KEYS = [b"key%d" % number for number in range(30)]


def told_in(step):
    """What a step is about: the same in every process."""
    chance = random.Random(step)
    keys = chance.sample(KEYS, 4)
    return [
        ("strings", keys[:2], [step, step + 1]),
        ("fields", keys[2], {name(chance.randrange(5)): chance.getrandbits(96)}, [name(6 + chance.randrange(5))]),
        ("hash", keys[3], {name(n): step for n in range(chance.randrange(4))}, step),
        *([("gone", chance.choice(KEYS))] if step % 3 == 0 else []),
        ("expiry", chance.choice(KEYS), step),
    ]


def sent_in(step):
    """Whether its facts are those of a batch, which is acknowledged with the next step."""
    return step % 4 == 0


async def run(directory):
    folding._ENOUGH_KEYS, module._RENEW, module._BEHIND, module._AHEAD = 25, 20_000, 1000, 0
    store = new_store(directory)
    step = store.saved.get("step", 0)
    for batch in store.open_batches:  # a later one is sent again
        store.acknowledged(batch) if batch <= step else store.dropped(batch)
    while True:
        step += 1
        store.number = 10 * step
        if sent_in(step):
            store.sending(step, facts(*told_in(step)))
        else:
            store.acknowledged(step - 1)
            store.agreed(facts(*told_in(step)))
        store.save({"step": step})
        store.flush()
        print(step, flush=True)
        if step % 7 == 0:
            await store.lookup(KEYS)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
