"""`eventually` and its coroutine twin."""

import asyncio
import os
import subprocess
import sys

import pytest

from testbed import eventually, eventually_async


def test_returns_the_first_true_value():
    values = iter([None, 0, "", "here"])
    assert eventually(lambda: next(values)) == "here"


def test_a_failed_assertion_means_not_yet():
    attempts = []

    def third_time_lucky():
        attempts.append(1)
        assert len(attempts) == 3
        return True

    assert eventually(third_time_lucky)


def test_another_exception_passes_at_once():
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)


def test_says_what_it_waited_for_and_what_it_saw():
    with pytest.raises(AssertionError, match=r"not true within 0\.01 s: four keys \(last seen: \[\]\)"):
        eventually(list, timeout=0.01, description="four keys")


def test_says_where_an_unnamed_condition_stands():
    with pytest.raises(AssertionError, match=r"<lambda> at test_waiting\.py:\d+"):
        eventually(lambda: False, timeout=0)


async def test_the_event_loop_turns_while_a_coroutine_waits():
    arrived = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, arrived.set)
    assert await eventually_async(arrived.is_set)


async def test_a_predicate_may_be_a_coroutine_function():
    async def answer():
        await asyncio.sleep(0)
        return 42

    assert await eventually_async(answer) == 42


async def test_a_coroutine_says_what_it_waited_for():
    with pytest.raises(AssertionError, match="peace"):
        await eventually_async(lambda: False, timeout=0.01, description="peace")


def test_a_comparison_of_large_collections_is_explained_in_a_few_lines_whatever_the_environment_says(tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text("def test_it():\n    assert {n: n for n in range(300)} == {n: n + 1 for n in range(300)}\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, str(test)]
    run = subprocess.run(command, env=os.environ | {"CI": "1"}, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout[:2000]
    assert len(run.stdout.splitlines()) < 50
