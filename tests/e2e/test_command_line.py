"""The command lines that start it: that of redisRepl 1.2, that of today, and every flag of the old tool by itself."""

import os
import pty
import subprocess
import sys
import threading

import pytest

from testbed import RedisServer, eventually
from tests.e2e.support import all_replicated, assert_equal_soon, pushed, wait_until_live


def test_the_command_line_of_redisrepl_1_2(certificates, daemons, site, hub, at_site, at_hub):
    daemon = daemons.raw(
        *("-CA", certificates.ca, "-cert", certificates.client, "-key", certificates.client_key),
        *("-raddr", f"localhost:{site.port}", "-nam", "SITE:", "-haddr", hub.url, "-rc"),
    )
    wait_until_live(daemon, pull=True)
    at_site.set("SITE:up", "1")
    at_hub.hset("SITE:down", "field", "1")
    assert assert_equal_soon(at_site, at_hub, b"SITE:").keys() == {b"SITE:up", b"SITE:down"}
    assert daemon.stop() == 0


def test_the_command_line_of_today(certificates, daemons, site, hub, at_site, at_hub):
    """Its defaults are standard ports; here the environment leads elsewhere."""
    daemon = daemons.raw(
        *("--cert", certificates.client, "--key", certificates.client_key, "--ca", certificates.ca),
        *("-rc", "--ns", "site1:"),
        env={"REDISREPL_HADDR": hub.url, "REDISREPL_RADDR": f":{site.port}"},
    )
    wait_until_live(daemon, pull=True)
    at_site.set("site1:up", "1")
    at_hub.hset("site1:down", "field", "1")
    assert assert_equal_soon(at_site, at_hub).keys() == {b"site1:up", b"site1:down"}
    assert daemon.stop() == 0


def test_run_may_be_said(certificates, daemons, site, hub, at_site, at_hub):
    flags = ["--cert", certificates.client, "--key", certificates.client_key, "--ca", certificates.ca]
    daemon = daemons.raw("run", *flags, "--raddr", f":{site.port}", "--haddr", hub.url, "-rc", "--ns", "site1:")
    wait_until_live(daemon, pull=True)
    all_replicated(at_site, at_hub)


def settings(certificates, site, hub):
    """Everything that a daemon needs, by the name of its variable."""
    return {
        "CA": str(certificates.ca),
        "CERT": str(certificates.client),
        "KEY": str(certificates.client_key),
        "RADDR": f"127.0.0.1:{site.port}",
        "HADDR": hub.url,
        "NS": "site1:",
        "RC": "true",
    }


def environment(values):
    return {f"REDISREPL_{name}": value for name, value in values.items()}


SPELLINGS = [
    ("-CA {}", "CA"),
    ("--CA={}", "CA"),
    ("-ca={}", "CA"),
    ("-cert {}", "CERT"),
    ("--cert={}", "CERT"),
    ("-key {}", "KEY"),
    ("--key {}", "KEY"),
    ("-raddr {}", "RADDR"),
    ("--raddr={}", "RADDR"),
    ("-haddr {}", "HADDR"),
    ("--haddr {}", "HADDR"),
    ("-nam {}", "NS"),
    ("-nam={}", "NS"),
    ("--nam={}", "NS"),
    ("-ns {}", "NS"),
    ("-rc", "RC"),
    ("--rc", "RC"),
    ("-rc=true", "RC"),
    ("--rc=1", "RC"),
    ("-rc=T", "RC"),
]


@pytest.mark.parametrize("first", range(0, len(SPELLINGS), 4))
def test_each_flag_by_itself(certificates, daemons, site, hub, at_site, at_hub, first):
    """Everything else comes from the environment. Some run side by side, each with a namespace of its own."""
    started = []
    for number, (spelling, name) in enumerate(SPELLINGS[first : first + 4]):
        prefix = f"{number}:"
        values = settings(certificates, site, hub) | {"NS": prefix}
        value = values.pop(name)
        daemon = daemons.raw(*(word.format(value) for word in spelling.split()), env=environment(values))
        started.append((daemon, prefix.encode()))
    for daemon, prefix in started:
        wait_until_live(daemon, pull=True)
        at_site.set(prefix + b"up", "1")
        at_hub.set(prefix + b"down", "1")
        assert assert_equal_soon(at_site, at_hub, prefix).keys() == {prefix + b"up", prefix + b"down"}


@pytest.mark.parametrize("flag", ["-rc=false", "--no-rc"])
def test_rc_may_be_taken_back(certificates, daemons, site, hub, flag):
    values = settings(certificates, site, hub)
    daemon = daemons.raw(flag, env=environment(values))
    assert daemon.wait_for_log("daemon.started")["pull"] is False


def test_namespaces_may_be_repeated(certificates, daemons, site, hub):
    values = settings(certificates, site, hub)
    daemon = daemons.raw("-nam", "a:", "--ns", "b:", "-ns=c:", env=environment(values))
    assert daemon.wait_for_log("daemon.started")["namespaces"] == ["a:", "b:", "c:"]


@pytest.mark.parametrize("flag", ["-version", "--version"])
def test_version(daemons, flag):
    daemon = daemons.raw(flag)
    assert daemon.wait() == 0
    assert daemon.stdout.startswith("redisrepl 2.")
    assert daemon.stdout.count("\n") == 1
    assert daemon.stderr == ""


@pytest.mark.parametrize("flag", ["-help", "--help", "-h"])
def test_help_leads_with_an_example_and_tells_defaults(daemons, flag):
    daemon = daemons.raw(flag, env={"REDISREPL_RADDR": "redis://:geheim@localhost", "COLUMNS": "200"})
    assert daemon.wait() == 0
    text = daemon.stdout
    assert text.index("redisrepl --cert c.pem --key k.pem --ca ca.pem -rc --ns site1:") < text.index("--haddr")
    assert "(default: https://localhost/redis)" in text
    assert "(default: :6379)" in text
    assert "-on-conflict hub|site\n" in text  # from Python 3.13 on, not after each spelling
    assert "typing" not in text
    assert "geheim" not in text + daemon.stderr


# The password.


class Terminal:
    """A process with a controlling terminal of its own; what it says there, and an end for it."""

    def __init__(self, args, env):
        self._master, slave = pty.openpty()
        self._lock = threading.Lock()
        self._said = b""
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", "--wait", sys.executable, "-m", "redisrepl", *map(str, args)],
                env={**os.environ, **env},
                stdin=slave,
                stdout=slave,
                stderr=slave,
            )
        finally:
            os.close(slave)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            try:
                data = os.read(self._master, 4096)
            except OSError:  # EIO: nobody has the other end any more
                return
            if not data:
                return
            with self._lock:
                self._said += data

    @property
    def said(self):
        with self._lock:
            return self._said.decode()

    def answer(self, text):
        os.write(self._master, text.encode() + b"\n")

    def interrupt(self):
        """Ctrl-C."""
        os.write(self._master, b"\x03")
        return self.process.wait(20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.write(self._master, b"\x1c")  # Ctrl-\ reaches what runs under setsid too
            self.process.wait(20)
        self._thread.join(20)
        os.close(self._master)


@pytest.mark.parametrize("flag", ["-pass", "--pass"])
def test_pass_asks_on_the_terminal(certificates, hub, flag, tmp_path):
    secret = "not-for-every-eye"
    with RedisServer(password=secret) as site:
        env = environment(settings(certificates, site, hub)) | {"STATE_DIRECTORY": str(tmp_path)}
        with Terminal([flag], env) as terminal:
            eventually(lambda: "Enter Redis password: " in terminal.said, description="the prompt")
            terminal.answer(secret)
            eventually(lambda: "subscribe.started" in terminal.said, description="it runs")
            all_replicated(site.client(), hub.redis)
            assert terminal.interrupt() == 0
            assert secret not in terminal.said


def test_ctrl_c_at_the_prompt(certificates, hub, site, tmp_path):
    env = environment(settings(certificates, site, hub)) | {"STATE_DIRECTORY": str(tmp_path)}
    with Terminal(["-pass"], env) as terminal:
        eventually(lambda: "Enter Redis password: " in terminal.said, description="the prompt")
        assert terminal.interrupt() == 130
        assert "Traceback" not in terminal.said


@pytest.mark.parametrize("way", ["password file", "variable of the file", "address", "variable of the address"])
def test_a_password_without_a_terminal(certificates, daemons, hub, tmp_path, way):
    secret = "pä/ss:w@rd?#%"
    file = tmp_path / "password"
    file.write_text(secret + "\n")
    with RedisServer(password=secret) as site:
        values = settings(certificates, site, hub)
        address = f"redis://:p%C3%A4%2Fss%3Aw%40rd%3F%23%25@127.0.0.1:{site.port}"
        args = []
        match way:
            case "password file":
                args = ["--password-file", file]
            case "variable of the file":
                values["PASSWORD_FILE"] = str(file)
            case "address":
                args = ["--raddr", address]
            case "variable of the address":
                values["RADDR"] = address
        daemon = daemons.raw(*args, "--log-level", "debug", env=environment(values))
        wait_until_live(daemon, pull=True)
        all_replicated(site.client(), hub.redis)
        assert daemon.stop() == 0
        said = daemon.stderr + daemon.stdout
        assert "rd?#" not in said
        assert "%40rd" not in said


# Where a setting comes from.


def write_file(path, **values):
    lines = [f"{name} = {value!r}".replace("'", '"') for name, value in values.items()]
    path.write_text("\n".join(lines).replace("True", "true").replace("False", "false") + "\n")
    return path


def test_flag_before_variable_before_file_before_default(certificates, daemons, site, hub, tmp_path):
    values = settings(certificates, site, hub)
    file = write_file(
        tmp_path / "redisrepl.toml",
        haddr="https://file.invalid/redis",
        raddr="file.invalid:1",
        ns=["file:"],
        rc=False,
        log_level="error",
    )
    values.pop("RC")
    daemon = daemons.raw(
        *("--config", file, "--ns", "flag:", "--log-level", "info"), env=environment({**values, "NS": "variable:"})
    )
    started = daemon.wait_for_log("daemon.started")
    assert started["namespaces"] == ["flag:"]  # flag, variable, file
    assert started["hub"] == hub.url + "/"  # variable, file
    assert started["site"] == f"redis://127.0.0.1:{site.port}"
    assert started["pull"] is False  # file
    assert daemon.stop() == 0


@pytest.mark.parametrize("where", ["flag", "variable"])
def test_everything_may_stand_in_the_file(certificates, daemons, site, hub, at_site, at_hub, tmp_path, where):
    values = {name.lower(): value for name, value in settings(certificates, site, hub).items()}
    file = write_file(tmp_path / "site.toml", **{**values, "ns": ["site1:", "other:"], "rc": True})
    args, env = (["-config", file], {}) if where == "flag" else ([], {"REDISREPL_CONFIG": str(file)})
    daemon = daemons.raw(*args, env=env)
    wait_until_live(daemon, pull=True, namespaces=2)
    all_replicated(at_site, at_hub)
    all_replicated(at_site, at_hub, b"other:")


def test_several_namespaces_in_a_variable(certificates, daemons, site, hub):
    values = settings(certificates, site, hub)
    daemon = daemons.raw(env=environment({**values, "NS": "a:,b/,c"}))
    assert daemon.wait_for_log("daemon.started")["namespaces"] == ["a:", "b/", "c"]
    assert daemon.wait_for_log("daemon.namespace_open")["namespace"] == "c"


def test_log_lines_for_people(certificates, daemons, site, hub, at_site):
    daemon = daemons.raw("--log-format", "text", env=environment(settings(certificates, site, hub)))
    eventually(lambda: "stream.attached" in daemon.stderr, description="attached")
    at_site.set("site1:a", "1")
    pushed(at_site)
    assert daemon.stop() == 0
    assert "\x1b" not in daemon.stderr
    assert all("T" in line.split()[0] and line.split()[0].endswith("Z") for line in daemon.stderr.splitlines())


def test_the_level_silences_what_is_below(certificates, daemons, site, hub, at_site, at_hub):
    daemon = daemons.raw("--log-level", "warning", env=environment(settings(certificates, site, hub)))
    at_site.set("site1:up", "1")
    at_hub.set("site1:down", "1")
    assert_equal_soon(at_site, at_hub)
    at_site.lpush("site1:list", "x")
    daemon.wait_for_log("stream.not_replicated")
    assert daemon.stop() == 0
    assert {record["level"] for record in daemon.records} == {"warning"}


def test_a_mistyped_variable_is_a_warning(daemons):
    daemon = daemons.raw("--ns", "site1:", env={"REDISREPL_HADR": "https://s3cret/"})
    assert daemon.wait() == 78  # no certificate is given
    (told,) = daemon.logged("settings.unknown_variable")
    assert (told["level"], told["variable"]) == ("warning", "REDISREPL_HADR")
    assert told["hint"] == "is REDISREPL_HADDR meant?"
    assert "s3cret" not in daemon.stderr
