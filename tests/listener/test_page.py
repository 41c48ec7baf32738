"""The page: what it says in each phase, that it holds nothing foreign, and how it looks in a real browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from redisrepl.listener.drawing import plot
from redisrepl.listener.page import StatusPage
from redisrepl.observe.history import History
from tests.listener.browser import browser
from tests.listener.subject import DOCUMENT, Subject
from tests.listener.test_server import listening

NOW = 1_000_010.0
TROUBLE = {"what": "push", "error": "the hub answered HTTP 502", "failures": 3, "for_s": 62.0, "remedy": "Look at it."}


def sections(lag=0.0, warnings=(), history=None, **changes):
    return StatusPage().sections(DOCUMENT | changes, lag, history or History(), list(warnings), NOW)


def words(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split()).replace("&#x27;", "'")


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
    assert "1 min ago: 500 keys compared, 8 different; next in 59 min" in said["replication"]
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
    said = StatusPage().sections(document | {"direction": "push"}, 0.0, History(), [], NOW)

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
        subscriptions=[DOCUMENT["subscriptions"][0] | {"namespace": evil, "channel": evil}],
    )

    assert "<script" not in "".join(said.values())


def test_it_is_one_file_without_anything_foreign():
    text = StatusPage().whole(sections()).decode()
    tags = Parts(text.partition(">")[2]).tags

    assert "<!--" not in text
    assert {tag for tag, _ in tags} & {"img", "iframe", "object", "form", "input", "button", "base"} == set()
    links = [value for _, attributes in tags for name, value in attributes.items() if name in {"href", "src"}]
    assert sorted(links) == ["data:,", "metrics", "status.json"]
    assert re.findall(r"url\(|@import|https?://", text) == []
    assert [attributes for _, attributes in tags if "style" in attributes] == []  # the policy would refuse it
    assert [name for _, attributes in tags for name in attributes if name.startswith("on")] == []


def test_a_screen_reader_has_what_it_needs():
    text = StatusPage().whole(sections()).decode()
    tags = Parts(text.partition(">")[2]).tags
    identifiers = [attributes["id"] for _, attributes in tags if "id" in attributes]

    assert len(identifiers) == len(set(identifiers))
    assert [a["lang"] for tag, a in tags if tag == "html"] == ["en"]
    assert next(tag for tag, _ in tags if re.fullmatch(r"h\d", tag)) == "h1"
    assert all("aria-label" in a or a.get("aria-hidden") == "true" for tag, a in tags if tag == "svg")
    for attributes in (a for tag, a in tags if tag == "section"):
        assert "aria-label" in attributes or attributes["aria-labelledby"] in identifiers
    assert [a["aria-live"] for _, a in tags if "aria-live" in a] == ["polite"]  # only what seldom changes is read out
    assert sections()["headline"] == StatusPage().sections(DOCUMENT, 0.0, History(), [], NOW + 500)["headline"]


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


@pytest.fixture(scope="module")
def phases():
    """The document in each phase of a daemon's life."""
    broken = [{**DOCUMENT["subscriptions"][0], "live": False}]
    long = TROUBLE | {
        "error": "the hub https://a-very-long-name.of-a-hub.example.org/redis/ cannot be reached: " + "x" * 90
    }
    return {
        "starting": {"state": "starting", "doing": "reading the site's snapshot", "attached_at": None},
        "well": {},
        "hub away": {
            "state": "not well",
            "problems": [f"push: {long['error']}"],
            "troubles": [long],
            "subscriptions": broken,
        },
        "site away": {
            "state": "not well",
            "problems": ["the site's Redis is not followed"],
            "troubles": [TROUBLE | {"what": "stream"}],
            "attached_at": None,
        },
        "refused": {"push_failures": 1_234_567},
        "conflict": {"conflicts": 37, "conflicts_resolved": 12},
        "certificate ending": {"hub_certificate_expires_at": "1970-01-13T00:00:00+00:00"},
        "long names": {"site": "unix:///" + "a" * 80, "hub": f"https://{'b' * 60}.example.org/redis/"},
    }


#: The contrast of each text with what is behind it, as WCAG computes it; the least of them, and whose it is.
_CONTRAST = """(() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * (top[3] ?? 1) + under[i] * (1 - (top[3] ?? 1)));
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = (node) => node === null ? [255, 255, 255]
    : over(rgba(getComputedStyle(node).backgroundColor), ground(node.parentElement));
  const worst = [...document.body.querySelectorAll("*")]
    .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())
      && node.getClientRects().length && node.tagName !== "SCRIPT")
    .map((node) => {
      const [a, b] = [light(over(rgba(getComputedStyle(node).color), ground(node))), light(ground(node))];
      return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), node.outerHTML.slice(0, 80)];
    }).sort((a, b) => a[0] - b[0])[0];
  return worst;
})()"""


async def test_in_each_phase_it_fits_every_screen_and_can_be_read(phases):
    """Nothing is wider than the screen, and no text is fainter than WCAG's AA asks for."""
    subject = Subject()
    async with listening(subject) as (listener, port), browser() as tab:
        for n in range(40):
            listener.history.sample(n * 10.0, n % 7, subject.document() | {"pushed": n * n})
        for phase, changes in phases.items():
            subject.changes = changes
            listener._known_at = -1e9
            for width in (320, 390, 700, 1200):
                for dark in (False, True):
                    await tab.look(width=width, dark=dark)
                    await tab.go(f"http://127.0.0.1:{port}/")
                    assert await tab.value("document.documentElement.scrollWidth") <= width, (phase, width)
                    contrast, where = await tab.value(_CONTRAST)
                    assert contrast >= 4.5, (phase, width, dark, where)
        # Streams of pages that were left a moment ago still count; a page asks again.
        assert [said for said in tab.complaints if "503" not in said] == []


async def test_what_changes_is_shown_without_a_reload():
    """Its policy lets style, script and events through."""
    subject = Subject()
    async with listening(subject) as (listener, port), browser() as tab:
        await tab.go(f"http://127.0.0.1:{port}/")
        await tab.until("document.title.includes('Well')")
        subject.changes = {"state": "not well", "problems": ["the site's Redis is not followed"], "attached_at": None}
        await tab.until("document.title.includes('Not well')")
        assert "is not followed" in await tab.value("document.getElementById('troubles').textContent")
        assert await tab.value("getComputedStyle(document.querySelector('.node')).borderTopWidth") == "2px"
        # Streams of pages that were left a moment ago still count; a page asks again.
        assert [said for said in tab.complaints if "503" not in said] == []
        listener.close()
        await tab.until("document.getElementById('stale').textContent.includes('has not answered since')")


async def test_the_first_view_needs_no_script():
    async with listening() as (_, port), browser() as tab:
        await tab.call("Emulation.setScriptExecutionDisabled", value=True)
        await tab.go(f"http://127.0.0.1:{port}/")
        said = await tab.value("document.body.innerText")
        assert "The site and the hub are connected" in said
        assert "1,000 changes since the start" in said
