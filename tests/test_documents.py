"""README.md, docs/ and the pages beside the files that they describe: what they say of the program is so."""

import contextlib
import io
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from redisrepl.errors import ExitCode
from redisrepl.grammar.arguments import COMMANDS, parser_of, split_command
from redisrepl.grammar.flags import REPEATED
from redisrepl.settings.settings import Settings, load_settings, split_list
from release import reference

CHECKOUT = Path(__file__).parents[1]
DOCS = CHECKOUT / "docs"
MESSAGES = (DOCS / "messages.md").read_text()
PERMISSIONS = (DOCS / "permissions.md").read_text()
DAEMON = [path for path in (CHECKOUT / "redisrepl").rglob("*.py") if "subcommands" not in path.parts]
PAGES = {
    str(path.relative_to(CHECKOUT)): path.read_text()
    for path in [
        *(CHECKOUT / name for name in ("README.md", "CHANGELOG.md", "deploy/hub/README.md", "certs.example/README.md")),
        *sorted(DOCS.glob("*.md")),
    ]
}


def events():
    """Every event that asks for attention."""
    found = set()
    for path in DAEMON:
        text = path.read_text()
        found |= set(re.findall(r'_log\.(?:warning|error)\(\s*"([a-z_.]+)"', text))
        either = re.findall(r'_log\.(?:warning|error)\(\s*f"\{side\}([a-z_.]+)"', text)
        found |= {side + event for event in either for side in ("site", "hub")}
        found |= {f"{stem}.failed" for stem in re.findall(r'FailureLog\("([a-z_]+)"', text)}
    return found


def test_every_warning_and_error_is_among_the_messages():
    assert len(events()) > 10
    assert {event for event in events() if f"`{event}`" not in MESSAGES} == set()


def test_every_line_of_the_other_levels_is_among_them_too():
    text = "".join(path.read_text() for path in DAEMON)
    found = set(re.findall(r'_log\.(?:debug|info)\(\s*"([a-z_.]+)"', text))

    assert len(found) > 10
    assert {event for event in found if f"`{event}`" not in MESSAGES} == set()


def test_no_event_among_the_messages_is_unknown_to_the_program():
    told = set(re.findall(r"`([a-z]+\.[a-z_]+)`", MESSAGES.partition("### The process")[2].partition("## Exit")[0]))
    text = "".join(path.read_text() for path in DAEMON)

    assert len(told) > 50
    assert {
        event for event in told - events() if f'"{event}"' not in text and f'{{side}}{event[3:]}"' not in text
    } == set()


#: What other programs say.
OF_OTHERS = {"can't run this command"}


@pytest.mark.parametrize("page", ["docs/messages.md", "docs/troubleshooting.md", "docs/operations.md"])
def test_what_is_quoted_is_what_the_program_says(page):
    """And every event that is named is one of the program's."""
    text = "".join(path.read_text() for path in (CHECKOUT / "redisrepl").rglob("*.py"))
    text = re.sub(r'"\n\s*f?"', "", text)  # one sentence in pieces
    prose = re.sub(r"(?ms)^ *```.*?^ *```|`[^`]*`", "", PAGES[page])
    quoted = set(re.findall(r'"([^"\n]{5,}?)"', prose)) - OF_OTHERS

    assert {words for words in quoted if re.sub(r"^HTTP \d+$", "HTTP {", words) not in text} == set()
    stems = "|".join(sorted({event.partition(".")[0] for event in events()}))
    named = set(re.findall(rf"`((?:{stems})\.[a-z_]+)`", PAGES[page])) - events()
    assert {event for event in named if f'"{event}"' not in text and f'{{side}}{event[3:]}"' not in text} == set()


def test_every_log_of_failures_has_a_name_that_can_be_found():
    text = "".join(path.read_text() for path in DAEMON)
    assert re.findall(r'FailureLog\((?!"[a-z_]+")', text) == []


def test_the_exit_codes_are_those_of_the_program():
    told = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", MESSAGES.partition("## Exit codes")[2])}

    assert told == {int(code) for code in ExitCode}


def test_the_permissions_at_the_site_are_those_of_the_file():
    users = (CHECKOUT / "deploy" / "site" / "users.acl").read_text()
    rows = PERMISSIONS.partition("## At the site")[2].partition("## At the hub")[0]

    assert set(re.findall(r"\+[a-z|]+", users)) == set(re.findall(r"(?m)(?<=[` ])\+[a-z|]+", rows)) - {"+config"}


def test_the_reference_is_what_the_program_says():
    """`make reference` writes it."""
    assert reference.PAGE.read_text() == reference.page()
    assert all(f"`{reference.flag_of(name)}" in reference.page() or name in {"rc", "ca"} for name in Settings.fields)


def anchors(text):
    """What headings are called in a link."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target, _, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)(#([^)]*))?\)", PAGES[page]):
        path = (CHECKOUT / page).parent / target if target else CHECKOUT / page
        assert path.is_file(), target
        if anchor:
            assert anchor in anchors(path.read_text()), (target, anchor)


# Every command line.


def blocks(text, *languages):
    return re.findall(rf"(?ms)^ *```(?:{'|'.join(languages)})\n(.*?)^ *```", text)


def lines(page):
    """Command lines of a page: those of its blocks, and what the text shows as `redisrepl ...` or `make ...`."""
    text = PAGES[page]
    found = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    found += re.findall(r"(?m)^ *\$ (.*)$", "\n".join(blocks(text, "console")))
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    found += [re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`((?:sudo )?(?:redisrepl|make) [^`]+)`", prose)]
    found = [line.replace("FILE|-", "FILE") for line in found]
    return [line.strip() for line in found if line.strip() and not line.strip().startswith("#")]


def commands(page):
    """Simple commands: words, without what stands before the program."""
    for line in lines(page):
        plain_line = re.sub(r"\$\([^)]*\)", "X", line.replace("\\|", "|"))
        lexer = shlex.shlex(plain_line, posix=True, punctuation_chars="&|;()<>")
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if word in {"&&", "||", "|", ";", "&"}:
                while words and (words[0] == "sudo" or re.match(r"\w+=", words[0])):
                    words.pop(0)
                if words:
                    yield line, words
                words = []
            else:
                words.append(word)


#: Who runs what is neither redisrepl nor make: for each program, the test that does, or why none can.
ELSEWHERE = {
    "demo/east": "tests/testbed/test_tutorial.py",
    "demo/west": "tests/testbed/test_tutorial.py",
    "demo/hub": "tests/testbed/test_tutorial.py",
    "kill": "tests/testbed/test_tutorial.py",
    "curl": "tests/testbed/test_tutorial.py, tests/testbed/test_hub_files.py, tests/listener/test_server.py",
    "grep": "tests/testbed/test_tutorial.py, below",
    "prometheus": "tests/deploy/test_monitoring.py",
    "certs.example/make-certs": "tests/testbed/test_make_certs.py",
    "python3": "tests/deploy/test_container.py, below",
    "/opt/redisrepl/bin/pip": "tests/deploy/test_container.py, below",
    "install": "below",
    "sed": "below",
    "echo": "below",
    "apt-get": "below, without installing anything",
    "systemctl": "below, without systemd",
    "openssl": "tests/listener/test_server.py has such a token",
    "apt": "tests/release/test_debian_package.py, with dpkg",
    "redis-cli": "tests/subcommands/test_rdb_command_line.py has such a pipe",
    "jq": "tests/e2e/test_status.py reads the same lines",
}


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/mistakes.md"])
def test_every_command_line_is_understood(page):
    for line, words in commands(page):
        program = words[0]
        if program in {"redisrepl", ".venv/bin/redisrepl"}:
            understood(line, words[1:])
        elif program == "make":
            makefile = (CHECKOUT / "Makefile").read_text()
            for word in words[1:]:
                name, equals, _ = word.partition("=")
                assert f"$({name}" in makefile if equals else re.search(rf"(?m)^{name}:", makefile), line
        else:
            assert program in ELSEWHERE, line
        for word in words:
            if re.match(r"(deploy|config|certs\.example|release|scripts)/[\w./@-]+$", word):
                assert (CHECKOUT / word).exists(), line


def understood(line, words):
    """The parser takes it, and the values are good ones; files are not looked at."""
    words = [word for word in words if word not in {"...", ".."}]
    for number, word in enumerate(words):
        if word in {">", ">>"}:
            words = words[: number - (words[number - 1] == "2")]
            break
    if words in ([name] for name in [*COMMANDS, "COMMAND"]):  # the text names it
        return
    if "COMMAND" in words:
        words[words.index("COMMAND")] = "check"
    said, code, given = io.StringIO(), 0, {}
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            command, rest = split_command(words)
            given = parser_of(command).parse(rest)
    except SystemExit as end:  # 0 after --help
        command, code = "", end.code
    assert not code, f"{line}: {said.getvalue()}"
    given = {name: value for name, value in given.items() if name in Settings.fields and value is not None}
    for name in REPEATED:
        if name in given:
            given[name] = [item for value in given[name] for item in split_list(value)]
    if command != "rdb":
        load_settings(given, None)


def test_a_wrong_command_line_would_be_found():
    for wrong in ("--nss site1:", "stauts", "--replicate sets,list", "--ns 'a:*'"):
        with pytest.raises((AssertionError, Exception), match=r"no flag|no command|is not one of|wildcard"):
            understood(wrong, shlex.split(wrong))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_one_for_a_shell(page):
    for block in blocks(PAGES[page], "sh"):
        checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


@pytest.fixture
def machine(tmp_path):
    """Runs a block as if it were root's, on a machine below `tmp_path`: nothing is installed, no service is started."""

    class Machine:
        root = tmp_path / "machine"
        tools = tmp_path / "tools"

        def tool(self, name, text):
            (self.tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (self.tools / name).chmod(0o755)

        def run(self, block, cwd=CHECKOUT):
            text = re.sub(r"(?<![\w.])/(etc|root|opt)\b", rf"{self.root}/\1", block)
            text = re.sub(r"-o (webdis|redis|root) ", "", text)
            environment = {"PATH": f"{self.tools}:{os.environ['PATH']}", "HOME": str(self.root)}
            done = subprocess.run(
                ["bash", "-euc", text], cwd=cwd, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

    machine = Machine()
    machine.tools.mkdir()
    for directory in ("etc/redis", "etc/nginx", "etc/systemd/system", "root", "opt"):
        (machine.root / directory).mkdir(parents=True)
    (machine.root / "etc/redis/redis.conf").touch()
    for name in ("apt-get", "systemctl"):
        machine.tool(name, f'echo {name} "$@"')
    machine.tool("sudo", 'exec "$@"')
    return machine


def test_the_ten_commands_set_up_a_hub(machine):
    """The files are where the servers look for them, and every password is the same wherever it stands."""
    block, _ = blocks(PAGES["deploy/hub/README.md"], "sh")
    said = machine.run(block)

    assert said[0] == "apt-get install redis-server webdis nginx-light"
    assert said[-1] == "systemctl restart redis-server nginx"
    etc = machine.root / "etc"
    nginx = (etc / "nginx/nginx.conf").read_text()
    webdis = (etc / "redisrepl-hub/webdis-site1.json").read_text()
    users = (etc / "redis/users.acl").read_text()
    password = re.search(r'"redis_auth": *"(\w{48})"', webdis)[1]
    assert f">{password}" in users
    assert "CHANGE-ME" not in users + webdis
    assert (etc / "redis/redis.conf").read_text() == f"include {etc}/redis/redisrepl-hub.conf\n"
    for named in re.findall(r"/etc(/redisrepl-hub/[\w.-]+)", re.sub(r"(?m)^\s*#.*", "", nginx)):
        assert (etc / named[1:]).is_file(), named
    assert (etc / "systemd/system/redisrepl-webdis@.service").is_file()


def test_the_commands_for_systemd_install_what_the_units_want(machine, tmp_path):
    """What each unit names is there; pip is not run (`tests/deploy/test_container.py` does that)."""
    (block,) = blocks(PAGES["docs/install.md"], "sh")
    opt = machine.root / "opt/redisrepl/bin"
    machine.tool("python3", f'mkdir -p "{opt}"; printf "#!/bin/sh\\necho pip" >"{opt}/pip"; chmod +x "{opt}/pip"')
    here = tmp_path / "checkout"
    here.mkdir()
    for name in ("deploy", "config"):
        (here / name).symlink_to(CHECKOUT / name)
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (here / name).touch()
    said = machine.run(block, cwd=here)

    assert said[-1] == "systemctl enable --now redisrepl redisrepl-certificates.path"
    units = machine.root / "etc/systemd/system"
    for unit in ("redisrepl.service", "redisrepl-certificates.path", "redisrepl-certificates.service"):
        for named in re.findall(r"[=:]/etc(/redisrepl/[\w.-]+)", (units / unit).read_text()):
            assert (machine.root / "etc" / named[1:]).is_file(), named
    assert (machine.root / "etc/redisrepl/key.pem").stat().st_mode & 0o777 == 0o600
