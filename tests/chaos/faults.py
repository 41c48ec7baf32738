"""What happens to links, processes and servers, by name. Each fault ends what it began, and asserts that it was one.

In: a scene and its random choices. Out: nothing that lasts. Left to others: what must hold afterwards (`scene`).
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

from testbed import Daemon, RedisServer, eventually
from tests.chaos.scene import Scene
from tests.chaos.sites import Site
from tests.chaos.writers import NAMESPACE

__all__ = ["FAULTS", "GROUPS"]

Fault = Callable[[Scene], None]


def cut_the_link(scene: Scene) -> None:
    proxy = scene.rng.choice(scene.proxies)
    for _ in range(3):
        proxy.cut()
        scene.written(200)


def stall_the_link(scene: Scene) -> None:
    proxy = scene.rng.choice(scene.proxies)
    proxy.stall(scene.rng.choice(["both", "to_target", "to_client"]))
    scene.written(3000)
    proxy.heal()


def truncate_an_answer(scene: Scene) -> None:
    proxy = scene.rng.choice(scene.proxies)
    proxy.truncate(scene.rng.randrange(1, 20_000), scene.rng.choice(["to_target", "to_client"]))
    scene.written(1000)
    proxy.heal()


def trickle(scene: Scene) -> None:
    proxy = scene.rng.choice(scene.proxies)
    proxy.trickle(2000, 0.01, "both")
    scene.written(1000)
    proxy.heal()


def slow_reader(scene: Scene) -> None:
    """Events come faster than a link carries them: buffers fill up to Webdis, whose own link Redis then cuts."""
    hub = scene.hub.server
    _wait_until_over(scene, "subscribe")
    marks = [daemon.mark() for daemon in scene.daemons]
    for proxy in scene.proxies:
        proxy.trickle(2000, 0.01, "to_client")
    for _ in range(10):
        _flood(hub, 400)
    with _set(hub, "client-output-buffer-limit", "pubsub 4kb 4kb 1", "pubsub 32mb 8mb 60"):
        dropped = _dropped_for_slowness(hub)

        def cut() -> bool:
            _flood(hub, 40)
            return _dropped_for_slowness(hub) > dropped

        eventually(cut)
    for proxy in scene.proxies:
        proxy.heal()
    for daemon, mark in zip(scene.daemons, marks, strict=True):
        daemon.wait_for_log("subscribe.failed", after=mark)
        daemon.wait_for_log("subscribe.started", 30, after=mark)


def kill_a_daemon(scene: Scene) -> None:
    daemon = scene.rng.choice(scene.daemons)
    with _dead(scene, daemon):
        scene.written(500)


def pause_a_daemon(scene: Scene) -> None:
    daemon = scene.rng.choice(scene.daemons)
    daemon.signal(signal.SIGSTOP)
    scene.written(2000)
    daemon.signal(signal.SIGCONT)


def fill_the_disk(scene: Scene) -> None:
    """No room for the position, and one daemon is killed meanwhile: it goes on from the last that was saved."""
    _wait_until_over(scene, "store")
    marks = [daemon.mark() for daemon in scene.daemons]
    scene.disk.fill(daemon.pid for daemon in scene.daemons)
    for daemon, mark in zip(scene.daemons, marks, strict=True):
        daemon.wait_for_log("store.failed", after=mark)
    victim = scene.rng.choice(scene.daemons)
    with _dead(scene, victim):
        scene.written(300)
    scene.disk.free()
    for daemon, mark in zip(scene.daemons, marks, strict=True):
        if daemon is not victim:
            daemon.wait_for_log("store.recovered", after=mark)


def swap_certificates(scene: Scene) -> None:
    """All certificates are replaced, by another authority: first a file that does not fit, then the hub's alone."""
    _wait_until_over(scene, "push")
    marks = [daemon.mark() for daemon in scene.daemons]  # they may look at the files before anybody tells them to
    pair = scene.hub.certificates
    old_key = pair.client_key.read_bytes()
    pair.replace_authority()
    new_key = pair.client_key.read_bytes()
    pair.client_key.write_bytes(old_key)
    _hang_up(scene, "daemon.reload_failed")

    scene.hub.nginx.reload()
    for proxy in scene.proxies:
        proxy.cut()
    for daemon, mark in zip(scene.daemons, marks, strict=True):
        _wait_for_reason(daemon, "the server's certificate is not signed by the given CA", mark)
    scene.written(300)

    pair.client_key.write_bytes(new_key)
    _hang_up(scene, "daemon.reloaded")
    for room in ("push", "fetch", "subscribe"):  # whichever noticed first told the reason; the others may have waited
        _wait_until_over(scene, room)


def restart_hub_redis(scene: Scene) -> None:
    scene.hub.server.restart()


def kill_hub_redis(scene: Scene) -> None:
    scene.hub.server.kill()
    scene.written(30)
    scene.hub.server.start()


def restart_webdis(scene: Scene) -> None:
    scene.hub.webdis.restart()


def restart_nginx(scene: Scene) -> None:
    scene.hub.nginx.restart()


def reload_nginx(scene: Scene) -> None:
    scene.hub.nginx.reload()


def kill_the_subscription(scene: Scene) -> None:
    scene.hub.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def kill_the_replica_link(scene: Scene) -> None:
    site = scene.rng.choice(scene.sites)
    with site.master.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", site.follower)


def outrun_the_backlog_of_a_killed_daemon(scene: Scene) -> None:
    site = scene.rng.choice(scene.streamed_sites)
    daemon = scene.daemon_of(site)
    with _small_backlog(site), _full_sync(daemon), _dead(scene, daemon):
        scene.written(500)
        _write_outside(scene, site, 8)


def outrun_the_backlog_of_a_cut_link(scene: Scene) -> None:
    site = scene.sites[0]
    with _small_backlog(site), _full_sync(scene.daemon_of(site)):
        site.link.down()
        scene.written(500)
        _write_outside(scene, site, 8)
        site.link.listen()


def overrun_the_output_buffer(scene: Scene) -> None:
    """The daemon reads too slowly, so the master drops it; the backlog does not reach back."""
    site = scene.rng.choice(scene.streamed_sites)
    daemon = scene.daemon_of(site)
    limits = "client-output-buffer-limit", "replica 1mb 1mb 1", "replica 256mb 64mb 60"
    _wait_until_attached(daemon)  # else there is nobody to drop
    with _small_backlog(site), _set(site.master, *limits), _full_sync(daemon):
        dropped = _dropped_for_slowness(site.master)
        daemon.signal(signal.SIGSTOP)
        if site is scene.sites[0]:
            site.link.stall()  # it would take everything in the daemon's place

        def overrun() -> bool:
            _write_outside(scene, site, 20)
            return _dropped_for_slowness(site.master) > dropped and not site.is_followed()

        eventually(overrun, timeout=30)
        if site is scene.sites[0]:
            site.link.heal()
        daemon.signal(signal.SIGCONT)


def restart_a_site(scene: Scene) -> None:
    scene.rng.choice(scene.sites).master.restart()


def fail_over(scene: Scene) -> None:
    site = scene.sites[1]
    daemon = scene.daemon_of(site)
    mark = daemon.mark()
    with scene.silence(scene.writers[2]):
        site.fail_over()
    daemon.wait_for_log("stream.attached", 60, after=mark)


GROUPS: dict[str, dict[str, Fault]] = {
    "the link": {
        "the link is cut": cut_the_link,
        "the link stalls": stall_the_link,
        "an answer is truncated": truncate_an_answer,
        "the link trickles": trickle,
        "a reader is slow": slow_reader,
    },
    "the daemons": {
        "a daemon is killed": kill_a_daemon,
        "a daemon is paused": pause_a_daemon,
        "the disk is full": fill_the_disk,
        "certificates are swapped": swap_certificates,
    },
    "the hub": {
        "the hub's Redis restarts behind a living Webdis": restart_hub_redis,
        "the hub's Redis is killed": kill_hub_redis,
        "Webdis restarts": restart_webdis,
        "nginx restarts": restart_nginx,
        "nginx reloads": reload_nginx,
        "the subscription is killed": kill_the_subscription,
    },
    "the sites": {
        "the replica link is killed": kill_the_replica_link,
        "the backlog is too small for a killed daemon": outrun_the_backlog_of_a_killed_daemon,
        "the backlog is too small for a cut link": outrun_the_backlog_of_a_cut_link,
        "the output buffer is overrun": overrun_the_output_buffer,
        "a site's Redis restarts": restart_a_site,
        "a site's Redis fails over": fail_over,
    },
}
FAULTS: dict[str, Fault] = {name: fault for group in GROUPS.values() for name, fault in group.items()}


@contextlib.contextmanager
def _dead(scene: Scene, daemon: Daemon) -> Iterator[None]:
    """The daemon is killed, and starts again afterwards."""
    scene.note_memory(daemon)
    daemon.kill()
    yield
    mark = daemon.mark()
    daemon.start()
    daemon.wait_for_log("daemon.started", 30, after=mark)  # before, a signal would end it


@contextlib.contextmanager
def _full_sync(daemon: Daemon) -> Iterator[None]:
    """What happens here costs a snapshot; return when it has been asked for."""
    mark = daemon.mark()
    yield
    daemon.wait_for_log("stream.full_sync", 30, after=mark)


@contextlib.contextmanager
def _set(server: RedisServer, name: str, value: str, usual: str) -> Iterator[None]:
    with server.client() as client:
        client.config_set(name, value)
        yield
        client.config_set(name, usual)


def _small_backlog(site: Site) -> contextlib.AbstractContextManager[None]:
    return _set(site.master, "repl-backlog-size", "16kb", "1mb")


def _write_outside(scene: Scene, site: Site, count: int) -> None:
    """Write 100 KB this often, outside the namespace."""
    writer = scene.writers[1 + scene.sites.index(site)]
    with site.master.client() as client:
        pipeline = client.pipeline(transaction=False)
        for _ in range(count):
            pipeline.set(writer.key_outside, bytes(100_000))
        pipeline.execute()


def _flood(hub: RedisServer, count: int) -> None:
    """Publish events of 8 KB on a channel that belongs to the namespace."""
    with hub.client() as client:
        pipeline = client.pipeline(transaction=False)
        for _ in range(count):
            pipeline.publish(b"__keyspace@0__:" + NAMESPACE + b"flood", bytes(8 << 10))
        pipeline.execute()


def _dropped_for_slowness(server: RedisServer) -> int:
    """How many clients or replicas this server has dropped because they did not read."""
    return server.log.read_text(errors="replace").count("overcoming of output buffer limits")


def _wait_until_attached(daemon: Daemon) -> None:
    """An earlier fault may just have cost it the link."""
    eventually(lambda: daemon.state()["attached_at"] is not None, 30)


def _wait_until_over(scene: Scene, room: str) -> None:
    """What an earlier fault has broken there works again: a failure is told once, so the next would not be."""

    def over(daemon: Daemon) -> bool:
        return not any(problem.startswith(f"{room}:") for problem in daemon.state()["problems"])

    eventually(lambda: all(map(over, scene.daemons)), 30, f"nothing fails to {room}")


def _wait_for_reason(daemon: Daemon, reason: str, mark: int) -> None:
    """The daemon says that pushing fails because of this."""
    eventually(lambda: any(reason in record.get("error", "") for record in daemon.records[mark:]), 20, reason)


def _hang_up(scene: Scene, answer: str) -> None:
    """SIGHUP to all daemons, and this is what they say."""
    marks = [daemon.mark() for daemon in scene.daemons]
    for daemon in scene.daemons:
        daemon.signal(signal.SIGHUP)
    for daemon, mark in zip(scene.daemons, marks, strict=True):
        daemon.wait_for_log(answer, after=mark)
