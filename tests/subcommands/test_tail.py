"""`redisrepl tail` as a process of its own, at a real server."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from testbed import RedisServer, eventually

CHECKOUT = Path(__file__).parents[2]


class Tail:
    """The process, and its lines as they come."""

    def __init__(self, *args, env=None):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDISREPL_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "redisrepl", "tail", "--log-format", "json", *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=inherited | {"PYTHONPATH": str(CHECKOUT)} | (env or {}),
        )
        self.lines, self.errors = [], []
        self._threads = [
            threading.Thread(target=self._collect, args=(self.process.stdout, self.lines, json.loads)),
            threading.Thread(target=self._collect, args=(self.process.stderr, self.errors, bytes.decode)),
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _collect(stream, found, parse):
        for line in stream:
            assert line.endswith(b"\n")
            found.append(parse(line))

    def wait_for(self, condition):
        eventually(
            lambda: any(map(condition, self.lines)), 20, f"a line; there is {self.lines[-3:]} {self.errors[-3:]}"
        )
        return self.lines

    def wait_attached(self):
        eventually(lambda: any("stream.attached" in line for line in self.errors), 20, "attached")

    def end(self, number=None):
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        for thread in self._threads:
            thread.join(10)
        self.process.stdout.close()
        self.process.stderr.close()
        assert "Traceback" not in "".join(self.errors)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for thread in self._threads:
            thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(server):
    return server.client()


def at(server):
    return ("--raddr", f":{server.port}")


def of(argv):
    return lambda line: line.get("argv") == argv


def argvs(lines):
    return [line["argv"] for line in lines if "argv" in line]


def test_the_snapshot_then_each_write(server, client):
    client.set("a", b"\xff")
    with Tail(*at(server)) as tail:
        tail.wait_for(lambda line: line.get("key") == "a")
        client.set("b", "1")
        server.client(db=4).hset("h", "f", b"\xfe")
        lines = tail.wait_for(of(["HSET", "h", "f", {"base64": "/g=="}]))

        assert lines[0] == {
            "db": 0, "key": "a", "type": "string", "value": {"base64": "/w=="}, "expires_at_ms": None
        }  # fmt: skip
        assert [line["db"] for line in lines[1:]] == [0, 4]
        assert lines[1].keys() == {"db", "argv", "offset", "replid"}
        assert lines[1]["offset"] < lines[2]["offset"] == client.info("replication")["master_repl_offset"]
        assert lines[1]["replid"] == client.info("replication")["master_replid"]
        assert tail.end(signal.SIGINT) == 0


def test_what_is_no_write_is_not_shown_and_transactions_are_marked(server, client):
    with Tail(*at(server), "--no-snapshot") as tail:
        tail.wait_attached()
        with client.pipeline() as pipeline:
            pipeline.set("a", 1).set("b", 2).execute()
        client.wait(1, 1000)
        client.publish("c", "m")
        client.set("end", 1)
        lines = tail.wait_for(of(["SET", "end", "1"]))

        assert argvs(lines) == [["SET", "a", "1"], ["SET", "b", "2"], ["PUBLISH", "c", "m"], ["SET", "end", "1"]]
        assert lines[0]["transaction"] == lines[1]["transaction"] == lines[0]["offset"] < lines[1]["offset"]
        assert "transaction" not in lines[3]
        assert tail.end(signal.SIGTERM) == 0


def test_namespaces_and_keys(server, client):
    client.mset({"site:a": 1, "site:b": 1, "one": 1, "one:not": 1, "other": 1})
    with Tail(*at(server), "--ns", "site:", "--key", "one") as tail:
        tail.wait_for(lambda line: line.get("key") == "one")
        eventually(lambda: len(tail.lines) == 3)
        client.set("one:not", 2)
        client.delete("other")
        client.sadd("site:set", 1)
        client.mset({"x": 1, "one": 2})
        client.set("value", "one")
        client.flushall()
        lines = tail.wait_for(of(["FLUSHALL"]))

    assert {line["key"] for line in lines[:3]} == {"site:a", "site:b", "one"}
    assert argvs(lines) == [["SADD", "site:set", "1"], ["MSET", "x", "1", "one", "2"], ["FLUSHALL"]]


def test_commands(server, client):
    client.set("a", 1)
    with Tail(*at(server), "--no-snapshot", "--command", "del", "--command", "HSET") as tail:
        tail.wait_attached()
        client.set("b", 1)
        client.delete("a")
        client.hset("h", "f", "v")

        assert argvs(tail.wait_for(of(["HSET", "h", "f", "v"]))) == [["DEL", "a"], ["HSET", "h", "f", "v"]]


def test_going_on_after_a_line(server):
    client = server.client(db=2)
    with Tail(*at(server), "--no-snapshot") as first:
        first.wait_attached()
        client.set("a", 1)
        line = first.wait_for(of(["SET", "a", "1"]))[-1]
        first.end(signal.SIGINT)
    client.set("b", 1)
    with Tail(*at(server), "--from", f"{line['replid']}:{line['offset']}:{line['db']}") as second:
        client.set("c", 1)
        lines = second.wait_for(of(["SET", "c", "1"]))

        assert [(line["argv"][1], line["db"]) for line in lines] == [("b", 2), ("c", 2)]


def test_a_restart_of_the_server_is_survived_and_told(server, client):
    client.set("a", 1)
    with Tail(*at(server), "--no-snapshot", "--retry-max", "0.2") as tail:
        tail.wait_attached()
        client.set("before", 1)
        tail.wait_for(of(["SET", "before", "1"]))
        server.kill()
        server.start()
        eventually(lambda: any("stream.restarted" in line for line in tail.errors), 20)
        client.set("after", 1)
        lines = tail.wait_for(of(["SET", "after", "1"]))

        assert argvs(lines) == [["SET", "before", "1"], ["SET", "after", "1"]]
        assert any("stream.failed" in line for line in tail.errors)


def test_a_reader_that_leaves_ends_it_though_nothing_happens(server):
    process = subprocess.Popen(
        [sys.executable, "-m", "redisrepl", "tail", "--log-format", "json", *at(server), "--no-snapshot"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    assert b"stream.attached" in process.stderr.readline()
    process.stdout.close()

    assert process.wait(20) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_reader_that_does_not_read_costs_neither_the_link_nor_memory(server, client):
    client.config_set("repl-timeout", 2)
    process = subprocess.Popen(
        [sys.executable, "-m", "redisrepl", "tail", "--log-format", "json", *at(server), "--no-snapshot"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    assert b"stream.attached" in process.stderr.readline()
    numbers = 3000
    with client.pipeline(transaction=False) as pipeline:
        for number in range(numbers):
            pipeline.set("n", b"%06d" % number + b"x" * 1000)
        pipeline.execute()
    start = client.time()[0]
    eventually(lambda: client.time()[0] - start > 4, 20)  # twice what the server forgives

    assert client.info("replication")["connected_slaves"] == 1
    lines = [json.loads(process.stdout.readline()) for _ in range(numbers)]
    assert [int(line["argv"][2][:6]) for line in lines] == list(range(numbers))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--raddr", ":1"], 69, "cannot be reached"),
        (["--from", "x"], 78, "REPLID:OFFSET"),
        (["--raddr", "ftp://x"], 78, "not known"),
        (["--sentinel", "x:1"], 78, "no Sentinel or no service"),
        (["--raddr", ":2", "--sentinel", "x:1/y"], 78, "give one of them"),
        (["--nonsense"], 2, "there is no flag --nonsense"),
    ],
)
def test_exit_codes(args, code, text):
    with Tail(*args) as tail:
        assert tail.end() == code
        assert len(tail.errors) == 1
        assert text in tail.errors[0]


def test_a_password_from_a_file_and_a_wrong_one(tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("secret\n")
    wrong.write_text("other\n")
    with RedisServer(password="secret") as server:
        with Tail(*at(server), "--password-file", right) as tail:
            server.client().set("a", 1)
            tail.wait_for(lambda line: line.get("key") == "a" or line.get("argv") == ["SET", "a", "1"])
        with Tail(*at(server), env={"REDISREPL_PASSWORD_FILE": str(wrong)}) as tail:
            assert tail.end() == 77
            assert "secret" not in "".join(tail.errors)
