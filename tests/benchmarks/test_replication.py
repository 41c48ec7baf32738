"""The benchmark's machinery, with amounts that prove nothing about speed."""

import contextlib

import pytest

from benchmarks.replication import __main__ as command_line
from benchmarks.replication import delays, rates
from benchmarks.replication.bench import Bench
from benchmarks.replication.costs import idle
from benchmarks.replication.everyday import everyday, starts
from benchmarks.replication.outcome import Curve, Goal, Outcome, Rate, Samples, Table, at_least, at_most
from benchmarks.replication.plot import draw
from benchmarks.replication.rates import push_and_pull
from benchmarks.replication.report import BEGIN, END, markdown, write_between_markers
from benchmarks.replication.scene import REPLICAOF, Contender, count
from benchmarks.replication.writers import Commands, write_evenly
from testbed import RedisServer


@pytest.fixture
def bench(certificates):
    bench = Bench(certificates, [Contender.ours()], say=lambda _: None)
    bench.hasten()
    bench.keys, bench.limit, bench.idle_seconds, bench.settle = 1000, 30.0, 0.1, 0.0
    with contextlib.closing(bench.commands):
        yield bench


@pytest.fixture
def commands():
    with contextlib.closing(Commands()) as commands:
        yield commands


def test_rates_are_measured_beside_replicaof_and_every_key_arrives(bench):
    outcome = push_and_pull(bench)
    assert [goal.what.split(",")[0] for goal in outcome.goals] == ["push", "pull"]
    assert all(goal.met is not None and "redisrepl" in goal.measured for goal in outcome.goals)
    assert {(rate.contender, rate.way) for rate in outcome.rates} == {
        (REPLICAOF, "replica"),
        ("redisrepl", "push"),
        ("redisrepl", "pull"),
    }
    rates, cpu = outcome.tables
    assert [row[-1] for row in rates.rows] == ["none"] * 3
    assert {"writer", "daemon", "hub redis", "all"} <= set(cpu.columns)


def test_a_lone_write_is_measured_each_way_and_so_is_the_memory_of_who_does_it(bench):
    bench.everyday, bench.everyday_seconds, bench.settle = (200,), 0.05, 0.0
    outcome = everyday(bench)

    assert [goal.met for goal in outcome.goals[:-1]] == [None] * 4  # beside nobody
    assert outcome.goals[-1].what == "resident memory, idle"
    assert all(10 < float(row[-1].replace(",", "")) < 1e6 for row in outcome.tables[0].rows)


def test_a_command_is_measured_without_the_memory_of_who_starts_it(bench):
    outcome = starts(bench)

    assert len(outcome.goals) == 6
    assert all(5 < float(row[-1]) < 40 for row in outcome.tables[0].rows)


def test_at_a_distance_more_keys_are_pushed_so_that_a_round_trip_weighs_little(bench, monkeypatch):
    asked = []

    def measured(_bench, _contender, way, *, keys, round_trip):
        asked.append((way, keys, round_trip))
        return rates.Run(1.0, keys, 0, 1.0, {"daemon": 1.0})

    monkeypatch.setattr(rates, "measure", measured)
    outcome = rates.distance(bench)
    assert {(way, keys) for way, keys, _ in asked} == {("replica", 4000), ("push", 4000), ("pull", 1000)}
    assert {round_trip for _, _, round_trip in asked} == {0.0, 0.05}
    assert [goal.what for goal in outcome.goals] == ["push at 50 ms round trip", "pull at 50 ms round trip"]


def test_what_another_site_writes_of_a_large_hash_is_not_fetched(bench):
    bench.fields = 5000
    samples = delays.field_writes(bench, bench.contenders[0], delays.OF_ANOTHER_SITE, 3, round_trip=0.0)
    assert all(took > 0 for took, _, _ in samples)
    assert min(to_hub for _, to_hub, _ in samples) == 0
    assert 0 < min(from_hub for _, _, from_hub in samples) < 2000


def test_the_connections_of_an_idle_daemon_are_counted(bench):
    cpu, connections = idle(bench).goals
    assert cpu.wanted.endswith("% of a core")
    assert float(connections.measured["redisrepl"]) >= 1


def test_an_even_writer_writes_as_many_as_asked_for(commands):
    with RedisServer() as server:
        assert write_evenly(server.port, commands.file(500), rate=1000, seconds=0.3) == 300
        assert server.client().dbsize() == 300
        assert server.client().get("bench:000000000299") == b"%064d" % 299


def test_a_key_that_a_program_writes_of_its_own_is_not_counted(commands):
    with RedisServer() as server:
        assert write_evenly(server.port, commands.file(500), rate=1000, seconds=0.3) == 300
        server.client().set("redisrepl:mark:bench:", "1")
        assert count(server.client()) == 300


def test_the_median_decides_and_a_missed_goal_is_said():
    assert at_least("push", 0.7, "of it", {"a": Samples([0.6, 0.8, 0.9])}).verdict == "met"
    assert at_most("lag", 1, "s", {"a": Samples([0.5, 1.5, 2.5]), "b": Samples([0.1])}).verdict == "NOT MET"


def test_a_slow_machine_plays_one_round_and_a_fast_one_all(bench):
    assert list(bench.turns(3)) == [0, 1, 2]
    bench.patience = -1
    assert list(bench.turns(3)) == [0]


def test_tables_stand_between_the_markers_and_the_rest_stays(tmp_path):
    document = tmp_path / "performance.md"
    document.write_text(f"# By hand\n\n{BEGIN}\nold\n{END}\n\nand after\n")
    outcome = Outcome(
        [Goal("push", "at least 1", {"us": "0.5", "them": "2"}, met=False)],
        [Table("Keys", ["who", "n"], [["us", "1"]], "A note.")],
    )
    for _ in range(2):
        write_between_markers(document, markdown(outcome, {"date": "today"}, None))
    text = document.read_text()
    assert text.startswith(f"# By hand\n\n{BEGIN}\n\n| what | goal | us | verdict | them |\n")
    assert "| push | at least 1 | 0.5 | **NOT MET** | 2 |" in text
    assert "### Keys" in text
    assert "A note." in text
    assert text.endswith(f"| date | today |\n\n{END}\n\nand after\n")
    assert "old" not in text


def test_a_document_without_markers_is_left_alone(tmp_path):
    document = tmp_path / "notes.md"
    document.write_text("by hand\n")
    with pytest.raises(RuntimeError, match="put them where the tables belong"):
        write_between_markers(document, "tables")
    assert document.read_text() == "by hand\n"


def test_the_plot_has_every_contender_and_place(tmp_path):
    rates = [
        Rate("us", "push", "loopback", Samples([1e5, 2e5])),
        Rate(REPLICAOF, "replica", "50 ms", Samples([4e5])),
    ]
    draw(Outcome(rates=rates, curves=[Curve("us", [(100, 900.0), (10_000, 30.0)])]), tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for text in ("us push", REPLICAOF, "loopback", "50 ms", "writes a second"):
        assert text in drawn


def test_a_scenario_that_fails_is_told_and_the_others_are_measured(monkeypatch, capsys, tmp_path):
    def fails(_):
        raise RuntimeError("no hub today")

    works = Outcome([Goal("idle", "at most 1 s", {"redisrepl": "0.5"}, met=True)])
    monkeypatch.setattr(command_line, "SCENARIOS", {"hot": fails, "idle": lambda _: works})
    assert command_line.main(["--quick", "--only", "hot,idle", "--out", str(tmp_path / "out.md")]) == 1
    assert "no hub today" in capsys.readouterr().out
    text = (tmp_path / "out.md").read_text()
    assert "| hot | to be measured | no hub today | **NOT MET** |" in text
    assert "| idle | at most 1 s | 0.5 | met |" in text


def test_an_interrupted_run_is_shown_and_not_written(monkeypatch, capsys, tmp_path):
    def interrupted(_):
        raise KeyboardInterrupt

    works = Outcome([Goal("idle", "at most 1 s", {"redisrepl": "0.5"}, met=True)])
    monkeypatch.setattr(command_line, "SCENARIOS", {"idle": lambda _: works, "hot": interrupted})
    assert command_line.main(["--only", "idle,hot", "--out", str(tmp_path / "out.md")]) == 1
    assert "at most 1 s" in capsys.readouterr().out
    assert not (tmp_path / "out.md").exists()


def test_another_programs_failure_is_no_reason_not_to_measure_ours(monkeypatch, capsys):
    def fails_with_others(bench):
        if len(bench.contenders) > 1:
            raise RuntimeError("it lets no write cross")
        return Outcome([Goal("idle", "at most 1 s", {bench.contenders[0].name: "0.5"}, met=True)])

    monkeypatch.setattr(command_line, "SCENARIOS", {"idle": fails_with_others})
    assert command_line.main(["--quick", "--only", "idle", "--against", "old=/bin/true"]) == 0
    assert "it lets no write cross" in capsys.readouterr().out
