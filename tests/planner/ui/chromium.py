"""A headless Chromium, driven through its own protocol (Chrome DevTools Protocol)."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.waiting import DEADLINE

_PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_START: Final = DEADLINE
_ANSWER: Final = DEADLINE


def find() -> str | None:
    """The program, if the machine has one."""
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


class Tab:
    """A page of the browser. `console` is what it complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.console: list[str] = []
        self.requested: list[str] = []
        self._loaded = asyncio.Event()

    async def listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if "error" in said:
                    answer.set_exception(AssertionError(said["error"]))
                else:
                    answer.set_result(said["result"])
            elif said["method"] == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])
            elif said["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif said["method"] == "Log.entryAdded":
                self.console.append(said["params"]["entry"]["text"])
            elif said["method"] == "Runtime.exceptionThrown":
                self.console.append(json.dumps(said["params"]["exceptionDetails"]))

    async def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_ANSWER):
            return await answer

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        done = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise AssertionError(json.dumps(done["exceptionDetails"])[:2000])
        return done["result"].get("value")

    async def until(self, script: str, seconds: float = DEADLINE) -> Any:
        """The first truthy value of the expression, looked for at every frame."""
        limit = int(seconds * 1000)
        return await self.run(
            f"""new Promise((done, fail) => {{
              const end = performance.now() + {limit};
              const look = () => {{
                const value = {script};
                if (value) done(value);
                else if (performance.now() > end) fail(new Error({json.dumps(script[:300])}));
                else setTimeout(look, 5);
              }};
              look();
            }})"""
        )

    async def look_like(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def visit(self, url: str) -> None:
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(_ANSWER):
            await self._loaded.wait()  # a script of the page before would end with it
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def press(self, key: str, code: int = 0) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )

    async def screenshot(self) -> bytes:
        """As a PNG file."""
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])

    async def heap(self) -> float:
        """MB of JavaScript objects that are in use."""
        await self.call("HeapProfiler.collectGarbage")
        used = await self.call("Runtime.getHeapUsage")
        return float(used["usedSize"]) / 1e6


@contextmanager
def running(program: str) -> Iterator[int]:
    """A browser that knows nothing of an earlier one; yields the port of its protocol."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={home}", "about:blank"],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"HOME": home, "PATH": "/usr/bin:/bin"},
        )
        try:
            yield _port(Path(home) / "DevToolsActivePort", process)
        finally:
            process.terminate()
            process.wait(timeout=DEADLINE)


@asynccontextmanager
async def browsing(port: int) -> AsyncIterator[Tab]:
    """A tab of its own in the browser."""
    base = f"http://127.0.0.1:{port}/json"
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{base}/new?about:blank") as answer:
            tab = json.loads(await answer.text())
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Tab(socket)
            listening = asyncio.create_task(page.listen())
            for domain in ("Page", "Runtime", "Log", "Network", "HeapProfiler"):
                await page.call(f"{domain}.enable")
            try:
                yield page
            finally:
                listening.cancel()
                await asyncio.wait({listening})
        async with session.get(f"{base}/close/{tab['id']}") as answer:
            await answer.read()


def _port(file: Path, process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + _START
    while True:
        text = file.read_text() if file.exists() else ""
        if "\n" in text:
            return int(text.splitlines()[0])
        if process.poll() is not None:
            raise AssertionError(f"Chromium ended at its start with {process.returncode}")
        if time.monotonic() > deadline:
            raise AssertionError(f"Chromium was not ready within {_START:g} s")
        time.sleep(0.05)
