"""`--every-write`: each value that a key had is seen at the hub; without it, the latest of those that waited."""

import pytest

from tests.e2e.support import Monitor, pushed

WRITES = 500
KEY = b"site1:busy"


def values_of(commands, key):
    """What the key was set to, in order."""
    for argv in commands:
        if argv and argv[0].upper() in {b"SET", b"MSET"}:
            yield from (value for name, value in zip(argv[1::2], argv[2::2], strict=False) if name == key)


@pytest.fixture
def written(daemons, site, hub, at_site):
    """Write all values at once; return those that the hub's key had, and how many requests it took."""

    def run(*flags):
        daemon = daemons.live(site, hub, *flags, rc=False)
        daemon.wait_for_log("sweep.finished")  # it pushes what it finds at the hub that is not agreed on yet
        with Monitor(hub.server) as monitor:
            with at_site.pipeline(transaction=False) as pipeline:
                for number in range(WRITES):
                    pipeline.set(KEY, number)
                pipeline.execute()
            pushed(at_site)
            commands = monitor.commands()
        return list(values_of(commands, KEY)), sum(argv[0].startswith(b"EVAL") for argv in commands if argv)

    return run


def test_each_of_many_values_of_a_key_arrives_in_order(written):
    values, requests = written("--every-write")

    assert values == [b"%d" % number for number in range(WRITES)]
    assert requests < WRITES / 10


def test_without_it_fewer_arrive_and_the_last_of_them_is_the_last(written):
    values, _ = written()

    assert values == sorted(values, key=int)
    assert values[-1] == b"%d" % (WRITES - 1)
    assert len(values) < WRITES / 2
