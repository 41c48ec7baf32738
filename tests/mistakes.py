"""Wrong command lines, and what is said of each: `python -m tests.mistakes` writes docs/mistakes.md.

In: nothing. Out: the table, from the program itself. Left to others: comparing it (`test_mistakes`).
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from pathlib import Path
from typing import NamedTuple

from redisrepl.cli import main
from testbed import Certificates

TABLE = Path(__file__).parents[1] / "docs" / "mistakes.md"
GOOD = "--cert c.pem --key k.pem --ca ca.pem"
HEAD = """\
# What redisrepl says of a mistake

Made by `python -m tests.mistakes` from the program itself; a test compares every line. `c.pem`, `k.pem` and `ca.pem`
are good files, `...` stands for `--cert c.pem --key k.pem --ca ca.pem`. Exit codes: 2 wrong usage, 69 a server is away,
77 refused, 78 bad configuration.
"""


class Mistake(NamedTuple):
    """What somebody types; `env` and `file` (site.toml) belong to it."""

    words: str
    env: str = ""
    file: str = ""

    @property
    def shown(self) -> str:
        line = " ".join(filter(None, [self.env, "redisrepl", self.words.replace(GOOD, "...")])).strip()
        return f"{line} # site.toml: {self.file}" if self.file else line

    def made(self) -> tuple[int, str]:
        """Exit code and message, of the program run in this process."""
        if self.file:
            Path("site.toml").write_text(self.file.replace(" // ", "\n") + "\n")
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        with variables(self.env), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(shlex.split(self.words))
            except SystemExit as stop:
                code = int(stop.code)
        lines = [line for line in err.getvalue().splitlines() if line]
        assert not out.buffer.getvalue()
        assert len(lines) == 1, lines
        return int(code), lines[0]


MISTAKES = {
    "Commands": [
        Mistake("stauts"),
        Mistake("chekc"),
        Mistake("conflict"),
        Mistake("losers"),
        Mistake("verfy"),
        Mistake("start"),
        Mistake("compare"),
        Mistake("monitor"),
        Mistake("site1:"),
        Mistake("'site1:*'"),
        Mistake("check verify"),
        Mistake("rdb"),
        Mistake("status extra"),
        Mistake("https://hub.example.org/redis"),
        Mistake("localhost:6379"),
        Mistake("redis://redis.lab:6379"),
        Mistake("site.toml"),
        Mistake("\u2014ns site1:"),
        Mistake("run run"),
        Mistake("rdb a.rdb b.rdb"),
    ],
    "Flags": [
        Mistake("--nss site1:"),
        Mistake("--max-key 5000"),
        Mistake("--max_keys 5000"),
        Mistake("--replicat del"),
        Mistake("--cret c.pem"),
        Mistake("-n site1:"),
        Mistake("-v"),
        Mistake("-V"),
        Mistake("--verbose"),
        Mistake("--host redis.lab"),
        Mistake("--password geheim"),
        Mistake("--password=geheim"),
        Mistake("--prefix site1:"),
        Mistake("--hub https://hub.example.org/redis"),
        Mistake("--tls"),
        Mistake("--db 3"),
        Mistake("--delete"),
        Mistake("--json"),
        Mistake("--repair"),
        Mistake("--summary"),
        Mistake("status --batch 5"),
        Mistake("verify --from 1"),
        Mistake("--cert"),
        Mistake("--ns"),
        Mistake("-rc true"),
        Mistake("-rc=maybe"),
        Mistake("-pass geheim"),
        Mistake("--every-write yes"),
        Mistake("rdb --type sting dump.rdb"),
        Mistake("rdb --db all dump.rdb"),
        Mistake("rdb --keys --summary dump.rdb"),
        Mistake("--removals"),
        Mistake("--max-removal 10"),
        Mistake("--keep-conflict 1GiB,30d"),
        Mistake("conflicts --show"),
        Mistake("conflicts --show a --restore a"),
        Mistake("conflicts --number first --show a"),
        Mistake("conflicts --number 3"),
        Mistake("conflicts --number -1 --show a"),
        Mistake("--config"),
        Mistake("-h=yes"),
        Mistake("--no-rc=true"),
        Mistake("verify --repair=yes"),
        Mistake("--strict-certificates=yes"),
        Mistake("-- --ns a:"),
        Mistake("status --watch soon"),
        Mistake("status --json --watch"),
        Mistake("status --ns a:"),
        Mistake("tail --command"),
        Mistake("rdb --db -1 dump.rdb"),
    ],
    "Namespaces": [
        Mistake(""),
        Mistake(f"{GOOD} --ns ''"),
        Mistake(f"{GOOD} --ns 'site1:*'"),
        Mistake(f"{GOOD} --ns '*'"),
        Mistake(f"{GOOD} --ns a:,b:*"),
        Mistake(f"{GOOD} --ns a: --ns a:b:"),
        Mistake(f"{GOOD}", env="REDISREPL_NS='site1:*'"),
        Mistake("--config site.toml", file="ns = 5"),
        Mistake("--config site.toml", file='ns = ["site1:*"]'),
        Mistake("--config site.toml", file='ns = ["a:", 5]'),
        Mistake(f"{GOOD} --ns ' '"),
        Mistake(f"{GOOD}", env="REDISREPL_NS='\"site1:\"'"),
        Mistake("verify"),
    ],
    "Values": [
        Mistake("--batch 0"),
        Mistake("--batch many"),
        Mistake("--flights 5000"),
        Mistake("--timeout soon"),
        Mistake("--timeout -1"),
        Mistake("--max-memory lots"),
        Mistake("--max-memory 1kB"),
        Mistake("--log-level verbose"),
        Mistake("--log-format yaml"),
        Mistake("--replicate set,list"),
        Mistake("--replicate ''"),
        Mistake("--replicate streams-groups"),
        Mistake("--initial-sync up"),
        Mistake("--on-conflict newest"),
        Mistake("--hub-database -1"),
        Mistake(f"{GOOD} --ns a: --haddr redis://hub.example.org:6379"),
        Mistake(f"{GOOD} --ns a: --haddr rediss://hub.example.org/x"),
        Mistake(f"{GOOD} --ns a: --haddr rediss://hub.example.org/2 --hub-database 3"),
        Mistake(f"{GOOD} --ns a: --hub-password-file nowhere"),
        Mistake("--max-removals 101"),
        Mistake("--keep-conflicts 64MiB"),
        Mistake("--keep-conflicts 1kB,30d"),
        Mistake("", env="REDISREPL_BATCH=many"),
        Mistake("", env="REDISREPL_RC=perhaps"),
        Mistake("", env="redisrepl_timeout=0"),
        Mistake("", env="REDISREPL_TIMEOUT="),
        Mistake("", env="REDISREPL_MAX_MEMORY=viel"),
        Mistake("--max-memory 96 MiB"),
        Mistake("--replicate set hset"),
        Mistake("--timeout 30s"),
        Mistake("--timeout inf"),
        Mistake("--sweep-period 1h"),
        Mistake("--retry-max 1,5"),
        Mistake("--log-level warn"),
        Mistake("--subscribe ws"),
        Mistake("--max-removals 50%"),
        Mistake("--max-keys 5"),
        Mistake("--max-value 1kB"),
        Mistake(f"{GOOD} --ns a: --state-dir ''"),
        Mistake(f"{GOOD} --ns a: --state-dir ca.pem"),
    ],
    "The file": [
        Mistake("--config missing.toml"),
        Mistake("--config ."),
        Mistake("--config site.toml", file="haddr = https://hub.example.org"),
        Mistake("--config site.toml", file='hadr = "https://hub.example.org/redis"'),
        Mistake("--config site.toml", file="max-keys = 5000"),
        Mistake("--config site.toml", file='[hub] // haddr = "https://hub.example.org/redis"'),
        Mistake("--config site.toml", file='batch = "many"'),
        Mistake("--config site.toml", file='replicate = ["set", "list"]'),
        Mistake("--config site.toml", file='rc = "perhaps"'),
        Mistake("", env="REDISREPL_CONFIG=missing.toml"),
        Mistake("--config ca.pem"),
        Mistake("--config site.toml", file="rc = True"),
        Mistake("--config site.toml", file="haddr: https://hub.example.org"),
        Mistake("--config site.toml", file='ns = ["a:"'),
        Mistake("--config site.toml", file="rc = true // rc = false"),
        Mistake("--config site.toml", file='REDISREPL_NS = "a:"'),
        Mistake("--config site.toml", file='password = "geheim"'),
        Mistake("--config site.toml", file="batch = 1.5"),
    ],
    "Addresses": [
        Mistake(f"{GOOD} --ns a: --haddr http://hub.example.org/redis"),
        Mistake(f"{GOOD} --ns a: --haddr hub.example.org"),
        Mistake(f"{GOOD} --ns a: --haddr https://hub.example.org:99999/redis"),
        Mistake(f"{GOOD} --ns a: --raddr http://redis.lab:6379"),
        Mistake(f"{GOOD} --ns a: --raddr redis.lab:sixty"),
        Mistake(f"{GOOD} --ns a: --raddr redis://redis.lab/zero"),
        Mistake(f"{GOOD} --ns a: --raddr unix://"),
        Mistake(f"{GOOD} --ns a: --sentinel s1:26379"),
        Mistake(f"{GOOD} --ns a: --raddr redis.lab --sentinel s1:26379/mymaster"),
        Mistake(f"{GOOD} --ns a: --raddr ftp://user:geheim@redis.lab"),
        Mistake("tail --from yesterday"),
        Mistake("tail --raddr http://redis.lab"),
        Mistake(f"{GOOD} --ns a: --haddr ''"),
        Mistake(f"{GOOD} --ns a: --haddr https://"),
        Mistake(f"{GOOD} --ns a: --haddr 'https://hub .example.org/redis'"),
        Mistake(f"{GOOD} --ns a: --haddr 'https://hub.example.org/redis?x=1'"),
        Mistake(f"{GOOD} --ns a: --haddr rediss://user:12/geheim@hub.example.org"),
        Mistake(f"{GOOD} --ns a: --raddr /run/redis.sock"),
        Mistake(f"{GOOD} --ns a: --raddr unix:/run/redis.sock"),
        Mistake(f"{GOOD} --ns a: --raddr 'redis.lab 6379'"),
        Mistake(f"{GOOD} --ns a: --raddr redis.lab:0"),
        Mistake(f"{GOOD} --ns a: --raddr redis.lab:70000"),
        Mistake(f"{GOOD} --ns a: --raddr 'redis://redis.lab?db=x'"),
        Mistake(f"{GOOD} --ns a: --raddr 'redis://redis.lab?database=1'"),
        Mistake(f"{GOOD} --ns a: --raddr 'redis://user:12#geheim@redis.lab'"),
        Mistake(f"{GOOD} --ns a: --sentinel user:12/geheim@s1:26379/mymaster"),
        Mistake(f"{GOOD} --ns a: --raddr user:geheim://x@redis.lab"),
        Mistake(f"{GOOD} --ns a: --listen 9646 --state-dir state1"),
        Mistake(f"{GOOD} --ns a: --listen 0.0.0.0:9646 --state-dir state2"),
        Mistake(f"{GOOD} --ns a: --listen http://127.0.0.1:9646 --state-dir state3"),
        Mistake(f"{GOOD} --ns a: --listen 127.0.0.1:99999 --state-dir state4"),
    ],
    "Files": [
        Mistake("--ns a:"),
        Mistake("--ns a: --cert c.pem"),
        Mistake("--ns a: --cert c.pem --key missing.pem"),
        Mistake("--ns a: --cert . --key k.pem"),
        Mistake("--ns a: --cert k.pem --key k.pem"),
        Mistake("--ns a: --cert ca.pem --key k.pem"),
        Mistake(f"{GOOD} --ns a: --ca missing.pem"),
        Mistake(f"{GOOD} --ns a: --password-file missing"),
        Mistake(f"{GOOD} --ns a: --password-file empty"),
        Mistake(f"{GOOD} --ns a: -pass"),
        Mistake("--ns a: --cert c.pem --key c.pem"),
        Mistake("--ns a: --cert empty --key k.pem"),
        Mistake(f"{GOOD} --ns a: --ca empty"),
        Mistake(f"{GOOD} --ns a: --key-password-file missing"),
        Mistake(f"{GOOD} --ns a: --raddr rediss://redis.lab --site-ca missing.pem"),
        Mistake("rdb missing.rdb"),
        Mistake("rdb ."),
        Mistake("status --state-dir nowhere"),
        Mistake("conflicts --state-dir nowhere"),
    ],
}


@contextlib.contextmanager
def variables(setting):
    """The environment without settings, but for this one."""
    before = dict(os.environ)
    for name in before:
        if name.upper().startswith("REDISREPL_"):
            del os.environ[name]
    if setting:
        name, _, value = shlex.split(setting)[0].partition("=")
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def good_files(directory, certificates):
    """The directory in which the mistakes are made."""
    before = Path.cwd()
    for name, file in (("c.pem", certificates.client), ("k.pem", certificates.client_key), ("ca.pem", certificates.ca)):
        (directory / name).touch(mode=0o600)
        (directory / name).write_bytes(Path(file).read_bytes())
    (directory / "empty").touch()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def row(mistake):
    code, message = mistake.made()
    cells = (f"`{mistake.shown}`", str(code), message)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table():
    parts = [HEAD]
    for title, mistakes in MISTAKES.items():
        parts.append(f"\n## {title}\n\n| typed | exit | said |\n|---|---|---|\n")
        parts += [row(mistake) + "\n" for mistake in mistakes]
    return "".join(parts)


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place, Certificates() as made, good_files(Path(place), made):
        text = table()
    TABLE.write_text(text)
    print(f"{TABLE}: {sum(map(len, MISTAKES.values()))} mistakes")
