"""Bodies of requests as Webdis gets them, and of replies as it sends them, for tests that see or send them."""

from __future__ import annotations

from redisrepl.wire.batches import NO_FENCE, PUSH_SCRIPT, batch_words, command_words
from redisrepl.wire.states import STATES_SCRIPT
from redisrepl.wire.webdis import as_flat, escape_words, reply_in_steps, script_body


def batch_body(commands=(), *, by_hash=False, feed=(b"", b""), fencing=NO_FENCE):
    """A batch of commands, with no token."""
    spelled = [escape_words(command_words(command)) for command in commands]
    return script_body(PUSH_SCRIPT, batch_words(b"", feed, fencing), spelled, by_hash=by_hash)


def fetch_body(keys, budget, token=b"", *, by_hash=False):
    """What reads keys until so many bytes are full."""
    return script_body(STATES_SCRIPT, (b"%d %d" % (budget, 64 << 20), token, *keys), by_hash=by_hash)


def parse_reply(reply, limit=1 << 30):
    """What a `.raw` reply says, at once, which for a large one takes seconds."""
    steps = reply_in_steps(reply, limit)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def flat_reply(reply):
    """The strings of a `.raw` reply that must be a list of them."""
    return as_flat(parse_reply(reply))
