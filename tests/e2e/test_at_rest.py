"""Between servers at rest a daemon has its rest too: its disk may be a card that wears."""

from pathlib import Path

from testbed import eventually

#: Bytes of two PINGs of the site, which come once a second here.
PINGS = 2 * 14


def test_nothing_is_written_to_the_state_directory(daemons, site, hub, at_site, tmp_path):
    at_site.config_set("repl-ping-replica-period", 1)
    daemon = daemons.live(site, hub, "--canary-period", "0.5", "--state-dir", tmp_path)
    daemon.wait_for_log("sweep.finished")

    def offset():
        return at_site.info("replication")["master_repl_offset"]

    def rests():
        began, before = offset(), _written(tmp_path)
        eventually(lambda: offset() >= began + PINGS, timeout=20, description="the site goes on pinging")
        return _written(tmp_path) == before

    eventually(rests, timeout=40, description="two PINGs in a row without a byte to the disk")


def _written(directory: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.iterdir()}
