"""A real browser, Debian's Chromium, and a server of files for it."""

from __future__ import annotations

import base64
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Answers for a picture without showing it, and how long that took.
CLASSIFY = """async ([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const begun = performance.now();
    const { answer } = await btcEdge.classify(name, bytes);
    return [answer, performance.now() - begun];
}"""
PATIENCE = 120_000  # ms: a busy machine


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nobody's concern."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address at which a folder is served as `python -m http.server` does it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser.

    Raises:
        UsageError: it, or playwright, is not here.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UsageError("needs the package playwright: pip install playwright") from None
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise UsageError("needs Chromium: apt-get install chromium")
    words = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=words)
        try:
            yield browser
        finally:
            browser.close()


def open_page(page: Page, address: str) -> None:
    """Open a page of btc-export --web and wait until its model is loaded, or is refused."""
    page.goto(address)
    page.locator("html[data-ready]").wait_for(timeout=PATIENCE)


def answer_in_page(page: Page, name: str, data: bytes) -> tuple[dict[str, Any], float]:
    """What the page answers for a picture, and the milliseconds that it took."""
    encoded = base64.b64encode(data).decode("ascii")
    answer, span = page.evaluate(CLASSIFY, [name, encoded])
    return answer, float(span)
