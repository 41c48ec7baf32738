"""Who may know whom, and what every module owes its reader."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import redisrepl
from redisrepl.grammar.arguments import COMMANDS

PACKAGE = Path(redisrepl.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.rglob("*.py"))
#: Words in the heads of modules that are no modules and no words of their code: of formats, addresses, and neighbours.
OF_OTHERS = {"_total", "backlen", "me", "redisrepl", "run", "testbed", "typing"}
#: Comments of a line that stand alone, as headings of the definitions that follow.
HEADINGS = re.compile(r"(?m)^ *# (.+)\n\n").findall
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]
#: A clock, chance, I/O and logs: what bytes-to-values code must not know.
IMPURE = {
    "asyncio",
    "socket",
    "ssl",
    "httpx",
    "time",
    "datetime",
    "random",
    "secrets",
    "os",
    "logging",
    "structlog",
    "stamina",
}


#: What the engine may know of the package beside itself.
ENGINE_KNOWS = ("engine", "wire", "changes", "errors", "namespaces")
#: Who decides, or moves what was decided: nobody whom the two ends of a link may know.
DECIDING = {f"redisrepl.{name}" for name in ("daemon", "engine", "flow", "parts", "settings", "sources", "store")}

#: What is made for one protocol to the hub; `remote.hub` is what all others know.
OF_A_PROTOCOL = {
    *("remote/session.py", "remote/channel.py", "remote/websocket.py", "remote/transport.py", "remote/connection.py"),
    *("remote/address.py", "remote/statuses.py", "remote/direct.py", "wire/webdis.py"),
}


@functools.cache
def tree(path):
    return ast.parse(path.read_text(), str(path))


@functools.cache
def imports(path):
    """Every module that is imported, at the top or inside a function."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def below(name, packages):
    return {package for package in packages if name == package or name.startswith(f"{package}.")}


def modules_of(*parts):
    return [path for path in MODULES if path.is_relative_to(PACKAGE.joinpath(*parts))]


def of(paths):
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(PACKAGE.parent)) for path in paths])


def test_there_is_something_to_look_at():
    assert len(modules_of("wire")) > 10
    assert modules_of("local")
    assert modules_of("remote")
    assert len(modules_of("engine")) > 5


@of([*modules_of("wire"), PACKAGE / "changes.py"])
def test_wire_knows_only_bytes(path):
    assert not {name for name in imports(path) if below(name, IMPURE)}


@of(modules_of("wire"))
def test_wire_knows_nobody_above_it(path):
    allowed = ("redisrepl.wire", "redisrepl.changes", "redisrepl.errors")
    ours = {name for name in imports(path) if name.startswith("redisrepl.")}

    assert not {name for name in ours if not below(name, allowed)}


@of(modules_of("local"))
def test_local_does_not_know_remote(path):
    assert not {name for name in imports(path) if below(name, {"redisrepl.remote", "httpx"})}


@of(modules_of("remote"))
def test_remote_does_not_know_local(path):
    assert not {name for name in imports(path) if below(name, {"redisrepl.local", "redis"})}


@of([path for path in MODULES if str(path.relative_to(PACKAGE)) not in {"opening.py", *OF_A_PROTOCOL}])
def test_nobody_knows_by_which_protocol_the_hub_is_reached(path):
    """So that another protocol is another module, and nothing else changes."""
    protocols = {f"redisrepl.{name.removesuffix('.py').replace('/', '.')}" for name in OF_A_PROTOCOL}

    assert not {name for name in imports(path) if below(name, {*protocols, "httpx", "websockets"})}


@of([*modules_of("local"), *modules_of("remote")])
def test_who_does_the_input_and_output_decides_nothing(path):
    assert not {name for name in imports(path) if below(name, DECIDING)}


@of(modules_of("engine"))
def test_what_decides_does_no_input_or_output_and_asks_no_clock(path):
    """So that a model can drive it. What it refuses, or decides against somebody, it names in the log."""
    assert not {name for name in imports(path) if below(name, IMPURE - {"structlog"})}


@of(modules_of("engine"))
def test_what_decides_knows_nobody_who_does_anything(path):
    allowed = {f"redisrepl.{name}" for name in ENGINE_KNOWS}
    ours = {name for name in imports(path) if name.startswith("redisrepl.")}

    assert not {name for name in ours if not below(name, allowed)}


@of([PACKAGE / "flow/pacing.py", PACKAGE / "flow/differences.py", PACKAGE / "namespaces.py"])
def test_the_time_is_told_not_asked(path):
    assert not {name for name in imports(path) if below(name, IMPURE)}


@of(MODULES)
def test_tasks_are_born_in_the_daemon(path):
    """In one group, so that none is forgotten and none dies unseen. A command is a program of its own."""
    born = {
        node.attr
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future", "TaskGroup"}
    }

    assert not born or path.name == "daemon.py" or path.parent.name == "subcommands"


@of(MODULES)
def test_a_module_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 500


@of(MODULES)
def test_a_module_says_what_it_is_for(path):
    assert ast.get_docstring(tree(path))


@of([path for path in MODULES if path.name not in {"__init__.py", "__main__.py"}])
def test_a_module_says_what_it_offers(path):
    names = [
        node.value
        for node in tree(path).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    ]

    assert len(names) == 1
    offered = ast.literal_eval(names[0])
    assert sorted(offered) == sorted(set(offered))
    defined = {node.name for node in tree(path).body if hasattr(node, "name")}
    assigned = {
        target.id
        for node in tree(path).body
        for target in (getattr(node, "targets", None) or [getattr(node, "target", None)])
        if isinstance(target, ast.Name)
    }
    passed_on = {name.rpartition(".")[2] for name in imports(path)}
    assert set(offered) <= defined | assigned | passed_on


def test_there_is_no_room_for_odds_and_ends():
    assert not {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"} & {path.name for path in MODULES}


def named(path, pattern):
    """What of this form the head of a module names, or a heading in it."""
    return re.findall(rf"`({pattern})`", "\n".join([ast.get_docstring(tree(path)) or "", *HEADINGS(path.read_text())]))


def is_module(*names):
    return PACKAGE.joinpath(*names).is_dir() or PACKAGE.joinpath(*names).with_suffix(".py").is_file()


@functools.cache
def words_of(path):
    """Every name that the code of a module uses, and every word of its texts, but for its head."""
    found = set()
    for statement in tree(path).body[1:]:
        for node in ast.walk(statement):
            found |= {getattr(node, part, None) for part in ("id", "name", "attr", "arg")}
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"\w+", node.value))
    return found


@of([*MODULES, *TESTS])
def test_who_is_named_in_the_head_of_a_module_exists(path):
    """Modules are named by their path below the package; a name behind that is one that the module has."""
    for name in named(path, r"[a-z_]+(?:\.\w+)+"):
        names = name.split(".")
        if not PACKAGE.joinpath(names[0]).is_dir():
            continue
        while not is_module(*names):
            names.pop()
        module = PACKAGE.joinpath(*names)
        module = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        assert set(name.split(".")[len(names) :]) <= words_of(module), name


@of([*MODULES, *TESTS])
def test_a_single_word_that_is_named_in_the_head_of_a_module_is_known(path):
    """It is a module, beside this one or right below the package, or a word of its own code, or of its users."""
    known = words_of(path) | {beside.stem for beside in path.parent.iterdir()} | COMMANDS.keys() | OF_OTHERS
    if path in TESTS:
        known |= {module.stem for module in [*MODULES, *TESTS]} | {module.parent.name for module in [*MODULES, *TESTS]}

    assert not {name for name in named(path, "[a-z_]+") if name not in known and not is_module(name)}
