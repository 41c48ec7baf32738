"""The library as its documents show it: every example runs, against a real server."""

import asyncio
import contextlib
import doctest
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

import redisrepl
from redisrepl import rdbfile
from redisrepl.local import replica
from testbed import RedisServer, eventually

GUIDE = Path(__file__).parents[1] / "docs" / "library.md"


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(server):
    return server.client()


def examples():
    return re.findall(r"(?ms)^```python\n(.*?)^```", GUIDE.read_text())


def run_docstring(text, names, name):
    """Run the examples of a docstring; what they print must be what it says."""
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert test.examples
    said = io.StringIO()
    failures = doctest.DocTestRunner().run(test, out=said.write).failed
    assert failures == 0, said.getvalue()


def test_every_name_is_there_and_typed():
    for name in redisrepl.__all__:
        assert getattr(redisrepl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = redisrepl.nothing
    assert Path(redisrepl.__file__).with_name("py.typed").exists()


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, redisrepl; print(sorted({'redis', 'structlog', 'asyncio', 'rich'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=GUIDE.parents[1]
    )

    assert done.stdout == "[]\n"


def test_the_example_of_replica_stream(server, client):
    client.set("greeting", "hello")
    text = replica.ReplicaStream.__doc__.replace("redis://127.0.0.1:6379", server.url)
    # The write of the example comes from elsewhere, when the snapshot has been read.
    names = vars(redisrepl) | {name: getattr(redisrepl, name) for name in redisrepl.__all__} | {"asyncio": asyncio}

    def show(*words):
        if words[0] == "had":
            client.set("greeting", "good bye")
        print(*words)

    run_docstring(text, names | {"print": show}, "ReplicaStream")


def test_the_example_of_read_rdb(server, client, monkeypatch):
    client.set("greeting", "hello")
    client.save()
    monkeypatch.chdir(server.directory)

    run_docstring(rdbfile.read_rdb.__doc__, {"read_rdb": redisrepl.read_rdb}, "read_rdb")


def test_the_guide_follows_a_server(server, client, capsys):
    client.hset("h", "f", "v")
    source = examples()[1]
    assert 'asyncio.run(follow("redis://localhost:6379"))' in source
    code = source.partition("asyncio.run(")[0]
    names = {}
    exec(compile(code, "library.md", "exec"), names)

    async def run():
        task = asyncio.ensure_future(names["follow"](server.url))
        said = ""
        async with asyncio.timeout(20):
            while "that was all" not in said:
                await asyncio.sleep(0)
                said += capsys.readouterr().out
            client.set("a", 1)
            while "done:" not in said:
                await asyncio.sleep(0)
                said += capsys.readouterr().out
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return said

    assert asyncio.run(run()).splitlines() == [
        "hello",
        "there is 0 b'h' hash [(b'f', b'v')]",
        "that was all; from now on:",
        "done: 0 [b'SET', b'a', b'1']",
    ]


async def test_the_guide_resumes(server, capsys):
    client = server.client(db=2)
    names = {"ReplicaStream": redisrepl.ReplicaStream, "Command": redisrepl.Command}
    exec(compile(examples()[2], "library.md", "exec"), names)
    first = asyncio.ensure_future(names["resume"](server.url, None))
    await asyncio.to_thread(eventually, lambda: client.info("replication")["connected_slaves"])
    await asyncio.to_thread(eventually, lambda: client.info("replication")["slave0"]["state"] == "online")
    client.set("a", 1)
    bookmark = await first
    client.set("b", 1)

    assert (await names["resume"](server.url, bookmark)).endswith(":2")
    assert capsys.readouterr().out.splitlines() == ["[b'SET', b'a', b'1']", "[b'SET', b'b', b'1']"]


def test_the_guide_reads_a_file(server, client, monkeypatch, capsys):
    client.mset({"site1:a": 1, "other": 2})
    client.save()
    monkeypatch.chdir(server.directory)
    exec(compile(examples()[3], "library.md", "exec"), {})

    assert capsys.readouterr().out == "0 b'site1:a' string b'1' None\n"


@pytest.fixture
def dump(server, client):
    client.mset({"a": "1", "b": "2"})
    client.rpush("l", *range(20_000))
    client.save()
    return server.directory / "dump.rdb"


def test_read_rdb_from_path_file_and_standard_input(dump, monkeypatch):
    whole = {entry.key: entry.value for entry in redisrepl.read_rdb(dump)}

    assert len(whole[b"l"]) == 20_000
    with dump.open("rb") as file:
        assert {entry.key: entry.value for entry in redisrepl.read_rdb(file)} == whole
        assert not file.closed
    with dump.open("rb") as file, monkeypatch.context() as patch:
        standard_input = io.TextIOWrapper(file)
        patch.setattr(sys, "stdin", standard_input)
        assert {entry.key for entry in redisrepl.read_rdb("-")} == whole.keys()
        standard_input.detach()
    assert [entry.value for entry in redisrepl.read_rdb(str(dump), want_values=False)] == [None] * 3
    assert [entry.key for entry in redisrepl.read_rdb(dump, prefixes=(b"a",))] == [b"a"]


def test_read_rdb_of_a_file_that_is_damaged_or_missing(dump, tmp_path):
    cut = tmp_path / "cut.rdb"
    cut.write_bytes(dump.read_bytes()[:-20])
    with pytest.raises(redisrepl.RedisreplError, match="truncated"):
        list(redisrepl.read_rdb(cut))
    with pytest.raises(FileNotFoundError):
        list(redisrepl.read_rdb(tmp_path / "none"))
