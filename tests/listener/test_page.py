"""The page: what it says in each phase, that it holds nothing foreign, and how it looks in a real browser."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser

import pytest

from redisrepl.listener.drawing import plot
from redisrepl.listener.page import Page
from redisrepl.observe.history import History
from tests.listener.subject import DOCUMENT, Subject
from tests.listener.test_server import listening

NOW = 1_000_010.0
TROUBLE = {"what": "push", "error": "the hub answered HTTP 502", "failures": 3, "for_s": 62.0, "remedy": "Look at it."}


def sections(lag=0.0, warnings=(), history=None, **changes):
    return Page().sections(DOCUMENT | changes, lag, history or History(), list(warnings), NOW)


def words(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


class Parts(HTMLParser):
    """Every tag with its attributes; complains of what is not closed."""

    VOID = frozenset({"meta", "link", "path", "circle", "wbr"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_all_is_well():
    said = {name: words(html) for name, html in sections().items()}

    assert said["headline"] == "redisrepl site1: ✓ Well The site and the hub are connected, and nothing is wrong."
    assert said["troubles"] == ""
    assert "127.0.0.1:6379" in said["drawing"].replace(" ", "")
    assert said["drawing"].count("connected") == 2
    assert "under 1 s" in said["numbers"]
    assert "Conflicts 4 keys written on both sides at once" in said["replication"]
    assert "2 min ago: 500 keys compared, 8 different; next in 59 min" in said["replication"]
    assert said["certificates"] == "Certificates ours, for the hub 30 days left, until 1970-02-12"
    assert said["recent"] == "Last warnings None since the start."
    assert "Version 2.0.0, process 42, 70 MB, running for 2 h" in said["about"]


def test_it_is_starting():
    said = sections(None, state="starting", doing="reading the site's snapshot", attached_at=None)

    assert words(said["headline"]).endswith("… Starting Nothing is wrong. It is reading the site's snapshot.")
    assert "Link to the site: connecting, reading the site&#x27;s snapshot" in said["drawing"]
    assert "not attached yet" in said["numbers"]


def test_the_hub_is_away():
    problem = f"push: {TROUBLE['error']}"
    said = sections(75.0, state="not well", problems=[problem], troubles=[TROUBLE])

    assert words(said["headline"]).endswith("✗ Not well One thing is wrong at this moment.")
    assert words(said["troubles"]) == f"What is wrong {problem} Look at it. for 1 min, 3 failures"
    assert "Link to the hub: broken" in said["drawing"]
    assert "Link to the site: connected" in said["drawing"]
    assert "1 min how long the oldest change waits" in words(said["numbers"])


def test_the_site_is_away():
    trouble = TROUBLE | {"what": "stream", "error": "refused", "failures": 1}
    problems = ["the site's Redis is not followed", "stream: refused"]
    said = sections(None, state="not well", problems=problems, troubles=[trouble], attached_at=None)

    assert "2 things are wrong" in said["headline"]
    assert "Link to the site: broken, its writes are not seen" in said["drawing"]
    assert "unknown the site is away" in words(said["numbers"])


@pytest.mark.parametrize(
    ("end", "kind", "text"),
    [
        ("1970-02-12", None, "30 days left"),
        ("1970-02-10", "starting", "28 days left"),
        ("1970-01-18", "bad", "5 days left"),
        ("1970-01-01", "bad", "expired on 1970-01-01"),
    ],
)
def test_a_certificate_that_ends_is_marked(end, kind, text):
    html = sections(certificate_expires_at=None, hub_certificate_expires_at=f"{end}T00:00:00+00:00")["certificates"]

    (dd,) = [attributes for tag, attributes in Parts(html).tags if tag == "dd"]
    assert (dd.get("class"), text in html) == (kind, True)


def test_a_daemon_that_only_pushes():
    document = {
        name: value for name, value in DOCUMENT.items() if name not in {"applied", "conflicts", "subscriptions"}
    }
    said = Page().sections(document | {"direction": "push"}, 0.0, History(), [], NOW)

    assert "without -rc nothing comes from the hub" in said["numbers"]
    assert "from the site to the hub" in said["replication"]


def test_the_last_warnings():
    line = {"at": NOW - 60, "level": "warning", "event": "push.failed", "text": "<b>", "remedy": "Do it.", "times": 3}
    html = sections(warnings=[line, line | {"over_at": NOW, "text": "", "remedy": None, "times": 1}])["recent"]

    assert words(html) == "Last warnings push.failed : &lt;b&gt; Do it. 1 min ago, 3 times push.failed 1 min ago, over"


def test_what_others_have_said_is_text():
    evil = "<script>alert(1)</script>"
    said = sections(
        state="not well",
        namespaces=[evil],
        site=evil,
        hub=evil,
        problems=[evil, f"push: {evil}"],
        troubles=[TROUBLE | {"error": evil, "remedy": evil}],
        version=evil,
        subscriptions=[DOCUMENT["subscriptions"][0] | {"namespace": evil, "way": evil}],
    )

    assert "<script" not in "".join(said.values())


def test_it_is_one_file_without_anything_foreign():
    text = Page().whole(sections()).decode()
    tags = Parts(text.partition(">")[2]).tags

    assert "<!--" not in text
    assert {tag for tag, _ in tags} & {"img", "iframe", "object", "form", "input", "button", "base"} == set()
    links = [value for _, attributes in tags for name, value in attributes.items() if name in {"href", "src"}]
    assert sorted(links) == ["data:,", "metrics", "status.json"]
    assert re.findall(r"url\(|@import|https?://", text) == []
    assert [attributes for _, attributes in tags if "style" in attributes] == []  # the policy would refuse it
    assert [name for _, attributes in tags for name in attributes if name.startswith("on")] == []


def test_a_screen_reader_has_what_it_needs():
    text = Page().whole(sections()).decode()
    tags = Parts(text.partition(">")[2]).tags
    identifiers = [attributes["id"] for _, attributes in tags if "id" in attributes]

    assert len(identifiers) == len(set(identifiers))
    assert [a["lang"] for tag, a in tags if tag == "html"] == ["en"]
    assert [tag for tag, _ in tags if re.fullmatch(r"h\d", tag)][0] == "h1"
    assert all("aria-label" in a or a.get("aria-hidden") == "true" for tag, a in tags if tag == "svg")
    for attributes in (a for tag, a in tags if tag == "section"):
        assert "aria-label" in attributes or attributes["aria-labelledby"] in identifiers
    assert [a["aria-live"] for _, a in tags if "aria-live" in a] == ["polite"]  # only what seldom changes is read out
    assert sections()["headline"] == Page().sections(DOCUMENT, 0.0, History(), [], NOW + 500)["headline"]


@pytest.mark.parametrize(("points", "since"), [(5, "10 min"), (60, "10 min"), (61, "1 h"), (360, "1 h")])
def test_a_plot_is_as_wide_as_what_is_known(points, since):
    html = plot("Lag", [float(n) for n in range(points)], "s")

    assert f"Lag in the last {since}: at most {points - 1} s, now {points - 1} s" in html
    width = int(re.search(r"viewBox='0 0 (\d+)", html)[1])
    xs = [float(x) for x in re.findall(r"[ML]([\d.]+) ", re.search(r"curve' d='([^']*)", html)[1])]
    assert xs[-1] == width
    assert len(xs) == points


def test_a_plot_has_a_hole_where_nobody_knew():
    html = plot("Lag", [1.0, None, 2.0, 3.0, None], "s")

    assert html.count("class='curve'") == 2
    assert "now unknown s" in html
    assert "no numbers yet" in plot("Lag", [None], "s")


def browser(tmp_path, url, *flags):
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path}/chromium", "--virtual-time-budget=3000", *flags, "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    return done.stdout, done.stderr


async def test_a_browser_shows_it_and_its_script_may_run(tmp_path):
    """What the script has changed is in what the browser then holds: the policy lets style, script and events through."""
    import asyncio  # noqa: PLC0415 - the listener lives in this loop, so the browser needs a thread

    subject = Subject()
    async with listening(subject) as (_, port):
        first = asyncio.to_thread(browser, tmp_path, f"http://127.0.0.1:{port}/", "--enable-logging=stderr")
        task = asyncio.ensure_future(first)
        dom, said = await task
    assert "Refused to" not in said
    assert "Content Security Policy" not in said
    assert "<title>Well – redisrepl</title>" in dom.replace("✓ ", "").replace("…", "")
