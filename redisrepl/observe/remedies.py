"""What to do about a failure, in one sentence; docs/messages.md says more of each event.

In: the name of a log event, and the text of its error. Out: a sentence. Left to others: who shows it (`observe.state`,
the status page, `status`).
"""

from __future__ import annotations

__all__ = ["REMEDIES", "remedy"]

#: Whoever else refuses a login is asked by Webdis, not by us.
_WEBDIS = "Have redis_auth in the hub's webdis.json hold the password of its Redis, and restart Webdis."
#: By a part of the error's text, for any event; the first match counts.
_BY_TEXT = (
    ("does the hub take more", "Raise the limits that are named, at the hub, or give the daemon fewer namespaces."),
    ("confirm PSUBSCRIBE", "Allow +psubscribe &__keyspace@0__:<ns>* at the hub, or take its rename-command away."),
    ("HTTP 502", "Webdis at the hub is down or restarting. Look at it there: systemctl status 'redisrepl-webdis@*'."),
    ("HTTP 503", "Redis at the hub is down, or Webdis is restarting. Look at them there."),
    ("HTTP 404", "Check the path of --haddr."),
    ("HTTP 429", "It limits requests (lower --max-push-rate), or connections: each namespace takes one (limit_conn)."),
    ("HTTP 413", "Raise client_max_body_size of the hub's nginx to 64m, or lower --max-body."),
    ("proto-max-bulk-len", "Raise proto-max-bulk-len of the hub's Redis, or split the value."),
    ("cannot be reached", "See whether it runs, and whether this machine may reach it. redisrepl retries by itself."),
    ("not signed by the given CA", "Check the file of the authority: --ca for the hub, --site-ca for the site."),
    ("WRONGTYPE", "The key has another type on the other side. Remove one of the two."),
    ("NOPERM", "An ACL denies this. Compare it with deploy/hub/users.acl or deploy/site/users.acl."),
    ("--hub-password-file", "Check the password and the user at the hub: --hub-password-file, --hub-user."),
    ("--sentinel-password-file", "Check the Sentinels' password: --sentinel-password-file, --sentinel-user."),
    ("--password-file", "Check the password and the user at the site: --password-file, --user."),
    ("WRONGPASS", _WEBDIS),
    ("NOAUTH", _WEBDIS),
    ("No space left", "The disk is full. Free disk space; replication continues meanwhile."),
    ("expires on", "Renew the certificate. redisrepl uses new files within 10 seconds."),
    ("expired on", "Renew the certificate. redisrepl uses new files within 10 seconds."),
)

#: By event, where the text of the error matches nothing above.
REMEDIES = {
    "apply.failed": "Look at the site's Redis. redisrepl retries by itself.",
    "apply.no_origin": "Allow +publish &redisrepl:origin to the site's user.",
    "apply.no_watch": "Allow +watch +unwatch to the site's user.",
    "apply.refused": "The log names the key. Remove it on one side, or allow it in the ACL.",
    "certificate.expires": "Renew the certificate. redisrepl uses new files within 10 seconds.",
    "certificate.failed": "Install a certificate and a key that belong together. They are used within 10 seconds.",
    "certificate.not_strict": "Make a new authority, with the extension that the line names.",
    "conflict.resolved": "If the other value was the one to keep: `redisrepl conflicts --restore KEY`.",
    "conflicts.failed": "Free disk space, or let the daemon write --state-dir.",
    "conflicts.digest_only": "Give a larger size to --keep-conflicts.",
    "conflicts.not_kept": "Free disk space, or let the daemon write --state-dir.",
    "conflicts.set_aside": "Nothing. `sqlite3 FILE .recover` may save what is in the old file.",
    "daemon.forced": "Start it again. It goes on from the last acknowledged position.",
    "daemon.namespace_open": "End the namespace with a delimiter, such as a colon.",
    "daemon.no_socket": "Give a --state-dir on a file system that takes sockets.",
    "daemon.reload_failed": "Correct the file that the line names. The old certificates stay in use.",
    "fetch.failed": "Look at the hub. redisrepl retries by itself.",
    "fields_expire.unavailable": "Redis 7.4 or Valkey 9 on both sides, and +hpexpiretime +hpexpireat in the ACL.",
    "history.failed": "Look at both servers. redisrepl retries by itself.",
    "hub.clock_differs": "Set the clock that is wrong: timedatectl set-ntp true.",
    "hub.flushes_unknown": "Allow +info at the hub.",
    "hub.may_evict": "Have the hub's Redis refuse writes instead: maxmemory-policy noeviction.",
    "hub.no_fence": "Allow ~redisrepl:fence:<ns>* with +eval at the hub.",
    "hub.notifications_enabled": "Nothing. If it happens again and again, another client removes the flags.",
    "hub.notifications_missing": "Have notify-keyspace-events at the hub include what `redisrepl check` names.",
    "hub.notifications_unknown": "Have notify-keyspace-events at the hub include what `redisrepl check` names.",
    "hub.went_back": "Look at the persistence of the hub's Redis (appendonly yes). It gets its data back.",
    "log.lost": "Nothing, if its disk was full or its reader away. Look at what takes standard error.",
    "listen.failed": "Free the address, or give another one to --listen. redisrepl retries by itself.",
    "listen.open": "Give --listen-token-file, or --listen-ca with TLS.",
    "notice.failed": "Look at the site's Redis. redisrepl retries by itself.",
    "push.body_too_large": "Have the hub's nginx take such bodies (client_max_body_size, client_body_temp_path).",
    "push.failed": "Look at the hub: nginx, Webdis, Redis. Changes wait, and redisrepl retries by itself.",
    "push.not_every_write": "Raise --max-memory, or find out why the hub is slow.",
    "push.refused": "The log names the key and the reason. Remove it on one side, or allow it in the ACL.",
    "fetch.elements_refused": "Allow +hlen +hscan +scard +sscan +zcard +zscan +time at the hub.",
    "push.scripts_refused": "Allow +eval +evalsha at the hub.",
    "settings.unknown_variable": "Correct the name of the variable.",
    "site.another_redisrepl": "Stop the other one, or give each its own namespaces.",
    "site.clock_differs": "Set the clock that is wrong: timedatectl set-ntp true.",
    "site.may_evict": "Have the site's Redis refuse writes instead: maxmemory-policy noeviction.",
    "site.notifications_enabled": "Nothing. If it happens again and again, another client removes the flags.",
    "site.notifications_missing": "Have notify-keyspace-events at the site include what `redisrepl check` names.",
    "site.no_mark": "Allow ~redisrepl:mark:<ns>* with +eval, +info, +set and +get at the site.",
    "site.notifications_unknown": "Have notify-keyspace-events at the site include what `redisrepl check` names.",
    "site.value_too_large": "Raise --max-value and what the hub's proxy takes, or split the value.",
    "site.went_back": "Look at the persistence of the site's Redis (appendonly yes). It gets its data back.",
    "source.psync_refused": "Allow +psync +replconf to the site's user, if the service lets you.",
    "stream.failed": "Look at the site's Redis. redisrepl retries by itself.",
    "stream.lost": "Do what the line's remedy says.",
    "stream.not_replicated": "Keep such data elsewhere, or name its kind in --replicate (a module's type: --opaque).",
    "stream.restarted": "Nothing: the site sends the snapshot again.",
    "subscribe.failed": "Look at the hub. If it comes often, raise the proxy's idle timeout above 3 x --canary-period.",
    "subscribe.no_canary": "Allow +publish &__keyspace@0__:<ns>* at the hub.",
    "store.open_to_others": "Let only the daemon's user write the directory: chmod 700.",
    "store.temporary": "Set --state-dir to a directory that the daemon may write.",
    "store.unreadable": "Look at the disk. redisrepl compares again what it cannot read.",
    "sweep.failed": "Look at both servers. redisrepl retries by itself.",
    "store.cut": "Nothing: redisrepl compares again what was cut off.",
    "store.failed": "Free disk space, or let the daemon write --state-dir.",
    "store.older": "Do not restore the state directory without the site's Redis.",
    "store.forgot": "Free disk space. redisrepl compares everything again then.",
    "store.set_aside": "Nothing: redisrepl compares everything again.",
    "sweep.removals_held": "Find out why. With the daemon stopped, `verify --repair --removals` removes them.",
    "sweep.scripts_refused": "Allow +eval +scan at the hub.",
    "password.unreadable": "Let the daemon read the file: see `error`.",
    "tls.key_readable": "Let only its owner read the key: chmod 600.",
}


def remedy(event: str, error: str = "") -> str | None:
    """What to do; None if we have no advice."""
    return next((said for text, said in _BY_TEXT if text in error), REMEDIES.get(event))
