"""docs/tutorial.md: `make demo KEEP=1`, and each command of the page in its order."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import eventually
from testbed.processes import end_group, spawn

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "tutorial.md").read_text()
PROMETHEUS = (
    "prometheus --config.file=deploy/monitoring/prometheus.yml --storage.tsdb.path=demo/prometheus"
    " --web.listen-address=127.0.0.1:9099"
)
#: What each command answers, as an expression. The page's commands are these, in this order.
TRANSCRIPT = [
    ("demo/east set demo:lamp on", "OK"),
    ("demo/west get demo:lamp", "on"),
    ("demo/west hset demo:room temperature 21", "1"),
    ("demo/east hgetall demo:room", "temperature\n21"),
    ("demo/hub get demo:lamp", "on"),
    ("demo/west del demo:room", "1"),
    ("demo/east exists demo:room", "0"),
    ("demo/east set other:lamp on", "OK"),
    ("demo/west exists other:lamp", "0"),
    (".venv/bin/redisrepl status --state-dir demo/east-state", "(?s).*well.*"),
    (".venv/bin/redisrepl check --config demo/east.toml", "(?s).*0 failed.*"),
    (".venv/bin/redisrepl verify --config demo/east.toml", ".*no difference"),
    ("curl -s http://127.0.0.1:9646/metrics | grep redisrepl_well", "(?s).*redisrepl_well 1.0"),
    # As tests/deploy/test_monitoring.py does.
    (PROMETHEUS, None),
    ('kill "$(cat demo/west.pid)"', ""),
    ("demo/west set demo:from-west 1", "OK"),
    ("demo/east set demo:from-east 1", "OK"),
    ("demo/west set demo:lamp green", "OK"),
    ("demo/east set demo:lamp blue", "OK"),
    (".venv/bin/redisrepl --config demo/west.toml 2>>demo/west.log &", r"\d+"),
    ("demo/east get demo:from-west", "1"),
    ("demo/west get demo:from-east", "1"),
    ("demo/west get demo:lamp", "blue"),
    (".venv/bin/redisrepl conflicts --config demo/west.toml", "(?s).*demo:lamp.*1 kept"),
    (".venv/bin/redisrepl conflicts --config demo/west.toml --restore demo:lamp", ".*wrote a string of 5 bytes.*"),
    ("demo/east get demo:lamp", "green"),
]


@pytest.fixture
def kept(tmp_path):
    """A directory with a demonstration that runs, and what it says."""
    (tmp_path / "deploy").symlink_to(CHECKOUT / "deploy")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "redisrepl"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m redisrepl "$@"\n')
    program.chmod(0o755)
    out = tmp_path / "said"
    with out.open("wb") as said:
        process = spawn(
            ["env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-u", "-m", "testbed.keeping"],
            cwd=tmp_path,
            stdout=said,
            stderr=said,
            death_signal="TERM",
        )
    try:
        eventually(lambda: "Ctrl-C" in out.read_text() or process.poll() is not None, 60, "all is up")
        yield tmp_path, out, process
    finally:
        end_group(process, gracefully_within=20)


def has_ended(pid):
    """It may stay as a zombie: its parent, the shell of its command, is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def lines():
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", PAGE)
    return [line for block in blocks for line in block.splitlines()]


def test_its_commands_are_those_of_the_transcript():
    assert lines() == [line for line, _ in TRANSCRIPT]


@pytest.mark.timeout(180)
def test_each_command_does_what_the_page_says(kept):
    directory, out, process = kept
    port = re.search(r"page of east: http://127.0.0.1:(\d+)/", out.read_text())[1]
    started = None

    def answer(line):
        text = line.replace("9646", port)
        if line.endswith("&"):
            text = f"{text.removesuffix('&')} >/dev/null & echo $!"
        done = subprocess.run(["bash", "-c", text], cwd=directory, capture_output=True, text=True, check=False)
        return done.stdout.strip() or done.stderr.strip()

    for line, expected in TRANSCRIPT:
        if expected is None:
            continue
        if line.split()[1] in {"set", "hset", "del"} or "--restore" in line or line.endswith("&"):  # not twice
            said = answer(line)
            assert re.fullmatch(expected, said), (line, said)
            started = int(said) if line.endswith("&") else started
        else:
            eventually(lambda line=line, expected=expected: re.fullmatch(expected, answer(line)), 30, line)
        if line.startswith("kill"):  # whoever types is slower than this
            eventually(lambda: "the daemon of west has ended with 0" in out.read_text(), 20)
        if line.endswith("blue"):
            eventually(lambda: answer("demo/hub get demo:lamp") == "blue", 20)

    subprocess.run(["kill", str(started)], check=True)
    eventually(lambda: has_ended(started), 20, "the daemon that was started here has ended")
    process.terminate()
    process.wait(20)
    assert not (directory / "demo").exists()


def test_a_directory_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "demo").mkdir()
    run = subprocess.run(
        [sys.executable, "-m", "testbed.keeping", tmp_path / "demo"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 1
    assert "was not made by `make demo`" in run.stdout.replace("\n", " ")
