"""A real Chromium, driven over its debugging protocol: pages as a person has them, without looking at a clock."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import shutil
import tempfile
from pathlib import Path

import websockets

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)


class Tab:
    """One page of the browser.

    Attributes:
        complaints: what the browser has logged about the page, breaches of its policy among them.
    """

    def __init__(self, connection):
        self._connection = connection
        self._numbers = itertools.count(1)
        self._session = None
        self.complaints = []

    async def call(self, method, **params):
        """A command of the protocol, and its result; events that come meanwhile are noted."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._connection.send(json.dumps(message))
        async for text in self._connection:
            said = json.loads(text)
            if said.get("method") == "Log.entryAdded":
                self.complaints.append(said["params"]["entry"]["text"])
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]
        raise AssertionError("the browser has ended")

    async def open(self):
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self.call("Log.enable")
        await self.call("Page.enable")

    async def go(self, url):
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def value(self, expression):
        """What an expression of JavaScript is in the page."""
        return (await self.call("Runtime.evaluate", expression=expression, returnByValue=True))["result"].get("value")

    async def until(self, expression):
        async with asyncio.timeout(60):
            while not (found := await self.value(expression)):
                await asyncio.sleep(0.05)
        return found

    async def look(self, *, width=1200, height=1000, dark=False):
        """A screen of this size, by day or by night."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path):
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def browser():
    """A tab of a browser of its own."""
    directory = tempfile.mkdtemp(prefix="chromium-")
    process = await asyncio.create_subprocess_exec(
        "chromium", *_FLAGS, f"--user-data-dir={directory}", stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        async with asyncio.timeout(60):
            while not (found := re.search(rb"ws://\S+", await process.stderr.readline())):
                assert not process.stderr.at_eof()
        drain = asyncio.ensure_future(process.stderr.read())
        async with websockets.connect(found[0].decode(), max_size=None, proxy=None) as connection:
            tab = Tab(connection)
            await tab.open()
            yield tab
            await connection.send(json.dumps({"id": 0, "method": "Browser.close"}))
        await drain
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        shutil.rmtree(directory, ignore_errors=True)
