"""What `--help` says before and after the flags.

In: nothing. Out: texts. Left to others: the flags (`cli`), what they mean (`settings.settings`).
"""

__all__ = [
    "CHECK_EXAMPLE",
    "CONFLICTS_EPILOG",
    "CONFLICTS_EXAMPLE",
    "RDB_EPILOG",
    "RDB_EXAMPLE",
    "RUN_EPILOG",
    "RUN_EXAMPLE",
    "STATUS_EPILOG",
    "STATUS_EXAMPLE",
    "TAIL_EPILOG",
    "TAIL_EXAMPLE",
    "VERIFY_EXAMPLE",
]

RUN_EXAMPLE = """\
example:
  redisrepl --cert c.pem --key k.pem --ca ca.pem -rc --ns site1:

Keeps the keys of the Redis on this machine that start with site1: equal to those of the hub at
https://localhost/redis. Pushes writes to the hub and, with -rc, applies what others write there.
"""

RUN_EPILOG = """\
commands:
  redisrepl [run] ...      run the daemon (the default)
  redisrepl status ...     are the daemons on this machine well?
  redisrepl conflicts ...  values that lost a conflict: list, show and restore them
  redisrepl check ...      tests every precondition and says how to fix it
  redisrepl verify ...     are both sides equal? Which keys are not? --repair makes them equal
  redisrepl rdb FILE|-     print a snapshot file as JSON, one object a line
  redisrepl tail ...       print what a Redis holds, then each write, as JSON
  redisrepl COMMAND --help shows its flags

exit codes:
  0 stopped by a signal     1 unexpected error         2 wrong usage
  69 a server is away       77 refused by a server     78 bad configuration
  130 interrupted (Ctrl-C) before it ran

Each flag is also a variable (--ns: REDISREPL_NS) and a key of the --config file (ns). Flags override
variables, which override the file. Flags may be written with one dash, as redisRepl 1.2 had them.
"""

CHECK_EXAMPLE = """\
example:
  redisrepl check --cert c.pem --key k.pem --ca ca.pem -rc --ns site1:

Tests every precondition of a daemon with these flags, and says how to fix what is wrong: a line each, FAIL for what
stops the daemon, note for what could be better. Changes nothing. Takes the command line of the daemon.
Exit code: 0 if the daemon can work, else the exit code of the daemon.
"""

STATUS_EXAMPLE = """\
example:
  redisrepl status --state-dir /var/lib/redisrepl

Asks every daemon that keeps its state there: its links, pending changes, what was replicated, what is wrong. The
default directory is the daemon's own: $STATE_DIRECTORY, else ~/.local/state/redisrepl.
"""

STATUS_EPILOG = """\
more examples:
  sudo redisrepl status --state-dir /var/lib/redisrepl     of the systemd unit
  docker compose exec redisrepl redisrepl status           of a container
  redisrepl status --watch                                 a live table of all daemons
  redisrepl status --json | jq '.waiting_keys, .lag_bytes'

exit codes:
  0 all is well             1 something is wrong: a line "trouble" says what
  75 one is still starting  69 no daemon answers           2 wrong usage
"""

CONFLICTS_EXAMPLE = """\
example:
  redisrepl conflicts --state-dir /var/lib/redisrepl

Lists the values that lost a conflict: nobody can tell which of two values of a key is newer, and
--on-conflict decided. The daemon keeps the value that lost (--keep-conflicts). The default directory is the daemon's
own: $STATE_DIRECTORY, else ~/.local/state/redisrepl.
"""

CONFLICTS_EPILOG = """\
more examples:
  redisrepl conflicts --show site1:a                       what was lost
  redisrepl conflicts --restore site1:a --raddr :6379      write it at the site; the daemon replicates it
  redisrepl conflicts --show --number 3                    of a key that cannot be typed
  redisrepl conflicts --json | jq 'select(.winner == "hub") | .key'

--restore does not ask for confirmation. A string replaces what the key holds, with its expiry. Of a hash it writes only
the fields that lost. Only --restore needs --raddr and the other flags of the site's Redis.

exit codes:
  0 done; also if nothing is kept
  1 nothing is kept of that key, its value cannot be written, or a file is damaged
  2 wrong usage             69 the site's Redis is away
  77 refused by it          78 bad configuration
"""

VERIFY_EXAMPLE = """\
example:
  redisrepl verify --cert c.pem --key k.pem --ca ca.pem -rc --ns site1:

Compares both sides key by key, by digests if the hub allows scripts. Names the keys that differ and go on differing,
and what would be done about each. Exit code: 0 if no key differs, else 1. --repair does it, with the daemon stopped:
its state directory shows what both sides last agreed on, so a newer value replaces an older one. Without that directory
a key that one side has is copied to the other; if both have a value, the hub's wins with -rc, the site's without
(--on-conflict), and the other is kept: redisrepl conflicts. A daemon that runs makes both sides equal by itself.
"""

RDB_EXAMPLE = """\
example:
  redisrepl rdb dump.rdb --ns site1: | jq .key

Prints what a snapshot of Redis or Valkey holds, one JSON object a line:

  {"db":0,"key":"site1:a","type":"string","value":"1","expires_at_ms":null}
  {"db":0,"key":"site1:h","type":"hash","value":[["field","value"]],"expires_at_ms":1790000000000}

Bytes that are not UTF-8 are {"base64":"..."}. Filters of one kind widen each other, of two kinds narrow each other.
"""

RDB_EPILOG = """\
more examples:
  redis-cli --rdb - | redisrepl rdb - --summary     what takes the space
  redisrepl rdb dump.rdb --type hash --db 3 --keys  names of the hashes in database 3

exit codes:
  0 all of it was read      1 the snapshot is damaged: everything before the damage was printed
  2 wrong usage             78 there is no such file, or it cannot be read
"""

TAIL_EXAMPLE = """\
example:
  redisrepl tail --raddr redis.lab:6379 --ns site1:

Prints what a Redis holds, as `redisrepl rdb` does, and then each write at the moment it happens:

  {"db":0,"argv":["SET","site1:a","1"],"offset":1234,"replid":"8371b4..."}
"""

TAIL_EPILOG = """\
more examples:
  redisrepl tail --no-snapshot --command del --command unlink     who removes keys?
  redisrepl tail --key site1:a --key site1:b                      watch two keys
  redisrepl tail --from 8371b4...:1234                            go on after that line
  redisrepl tail --sentinel s1:26379,s2:26379/mymaster            whichever server is the master

--ns and --key widen each other. PING, REPLCONF, SELECT, MULTI and EXEC are not printed; the writes of a transaction
come together and have the same "transaction". A lost link is made again, and no line is lost or repeated. If the server
cannot do that, a line on stderr says so and the snapshot comes again.

exit codes:
  0 stopped with Ctrl-C or SIGTERM, or nobody reads the output any more
  2 wrong usage             69 the server is away at the start
  77 refused by the server  78 bad configuration      1 unexpected error
"""
