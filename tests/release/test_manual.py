"""The man page and the completions: made from the parsers, and taken by man and by each shell."""

import re
import subprocess

import pytest

from redisrepl.grammar.arguments import COMMANDS
from redisrepl.settings.settings import Settings, flag_of
from release.manual import shared_files


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    directory = tmp_path_factory.mktemp("share")
    for place, text in shared_files().items():
        (directory / place).parent.mkdir(parents=True, exist_ok=True)
        (directory / place).write_text(text)
    return directory


def said(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def page(share):
    return re.sub(r".\x08", "", said("mandoc", "-Tutf8", "-Owidth=400", share / "man" / "man1" / "redisrepl.1"))


def test_the_page_has_every_command_and_flag(share):
    text = page(share)
    for command in COMMANDS:
        assert f"redisrepl {command}\n" in text
    for name, setting in Settings.fields.items():
        assert re.search(rf"(?m)^ +{flag_of(name)}\b", text) or name == "rc", name
        assert setting.description[:40] in text
    for flag in (
        "-rc",
        "--no-feed",
        "--repair",
        "--removals",
        "--restore KEY",
        "--from",
        "--key K",
        "--summary",
        "--json",
        "--config FILE",
    ):
        assert re.search(rf"(?m)^ +{flag}\b", text), flag


def test_the_page_has_no_fault_that_its_checker_knows(share):
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning", share / "man" / "man1" / "redisrepl.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    faults = [line for line in done.stdout.splitlines() if "missing date" not in line]  # the same at each build
    assert not faults


def test_what_is_shown_as_it_stands_is_whole(share):
    """Backslashes, leading dots and quotes mean something to troff."""
    assert "redis-cli --rdb - | redisrepl rdb - --summary     what takes the space" in page(share)
    assert '{"db":0,"key":"site1:a","type":"string","value":"1","expires_at_ms":null}' in page(share)
    assert "~/.local/state/redisrepl" in page(share)


BASH = """
source "$1"
function=$(complete -p redisrepl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
"$function" redisrepl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(share, *words):
    file = share / "bash-completion" / "completions" / "redisrepl"
    return said("bash", "-c", BASH, "bash", file, "redisrepl", *words).split()


def in_fish(share, *words):
    file = share / "fish" / "vendor_completions.d" / "redisrepl.fish"
    lines = said("fish", "-c", 'source $argv[1]; complete -C "$argv[2]"', file, " ".join(("redisrepl", *words)))
    return [line.split("\t")[0] for line in lines.splitlines()]


@pytest.mark.parametrize("complete", [in_bash, in_fish])
def test_commands_flags_and_words_are_completed(share, complete):
    assert complete(share, "st") == ["status"]
    assert complete(share, "--sentinel-p") == ["--sentinel-password-file"]
    assert complete(share, "--log-level", "") == ["debug", "info", "warning", "error"]
    assert "--repair" in complete(share, "verify", "--re")
    assert set(complete(share, "rdb", "--type", "s")) == {"string", "set", "stream"}


def test_zsh_takes_its_completion(share):
    file = share / "zsh" / "site-functions" / "_redisrepl"
    assert file.read_text().startswith("#compdef redisrepl")
    said("zsh", "-n", file)
    loaded = said(
        "zsh",
        "-fc",
        'fpath=("$1" $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[redisrepl]',
        "zsh",
        file.parent,
    )
    assert loaded == "_redisrepl\n"
