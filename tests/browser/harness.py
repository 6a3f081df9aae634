"""Visitors with a browser of their own, and servers for them to visit."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect

PATIENCE = 120  # seconds a slow machine may take for a step
expect.set_options(timeout=1000 * PATIENCE)


class Visitor:
    """Someone with a browser of their own; what their pages asked of the world is written down."""

    def __init__(self, browser):
        self.context = browser.new_context(viewport={"width": 1500, "height": 1200})
        self.context.set_default_timeout(1000 * PATIENCE)
        self.dialogs, self.left, self.broken = [], [], []
        self.context.on("request", self._asked)
        self.context.on("requestfailed", self._refused)
        self.context.on("dialog", self._interrupted)
        self.context.on("weberror", lambda e: self.broken.append(str(e.error)))

    def open(self, url):
        page = self.context.new_page()
        page.goto(url)
        return page

    def _asked(self, request):
        if not re.match(r"(https?://127\.0\.0\.1:|data:|blob:)", request.url):
            self.left.append(request.url)

    def _refused(self, request):
        """What the page's own policy forbids never was sent."""
        if request.failure == "csp" and request.url in self.left:
            self.left.remove(request.url)

    def _interrupted(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(command, url, log, **options):
    """A server until the block ends; RuntimeError with its last words where it does not come up."""
    with open(log, "w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=out,
            stderr=out,
            start_new_session=True,
            **options,
        )
    try:
        _wait_for(process, url, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(process, url, log):
    until = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not come up:\n{Path(log).read_text()[-3000:]}")


def lasso(page, canvas, left=0.01, right=0.99, top=0.01, bottom=0.99):
    """Shift and drag around a part of a map, given in parts of its width and height."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    at = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in corners]
    page.keyboard.down("Shift")
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()
    page.keyboard.up("Shift")
