"""A real Chromium without a network, spoken to by its DevTools protocol: what a page asks for, what its console says, how it looks."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket

SWITCHES = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--remote-debugging-port=0", "--remote-allow-origins=*",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


class Browser:
    """**Arguments**: the program, and an empty folder for its profile."""

    def __init__(self, program: str, folder: Path):
        self.events: list[dict] = []
        self._number = 0
        self._process = subprocess.Popen(
            [program, *SWITCHES, f"--user-data-dir={folder}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        where, until = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (where.exists() and where.read_text().strip()):
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError("Chromium did not start")
            time.sleep(0.1)
        port = where.read_text().split()[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        page = next(page for page in pages if page["type"] == "page")
        self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60)
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path, width: int, *, dark: bool = False) -> None:
        """Loads a file at a width in pixels of the page, and waits until all of it is there."""
        phone = width < 600
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self._ask("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self._socket.recv()))
        self.evaluate("document.fonts.ready.then(() => 1)")

    def evaluate(self, script: str):
        """The value of an expression in the page, awaited where it is a promise."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def asked_for(self) -> set[str]:
        """The addresses of all that the page asked for, what it carries itself left out."""
        urls = {event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"}
        return {url for url in urls if not url.startswith("data:")}

    def complaints(self) -> list[dict]:
        """Failed requests, script errors, and whatever else was written to the console."""
        bad = {"Network.loadingFailed", "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
        return [event for event in self.events if event["method"] in bad]

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)

    def _ask(self, method: str, **parameters) -> dict:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)
