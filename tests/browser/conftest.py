"""A browser for the tests beside, and what is seen in it as pictures under build/browser/.

Module-wide, not session-wide: while Playwright's synchronous interface is open, an event loop counts
as running in this thread, and other tests could not start theirs.
"""

import os
import shutil
from pathlib import Path

import pytest
from harness import Visitor

PICTURES = Path(__file__).resolve().parents[2] / "build" / "browser"
# Names of other machines are not looked up: what a page asks of the world fails at once. The
# sandbox, which root and many containers cannot have, guards against pages that are not ours.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def browser():
    """Chromium, as it is installed: Playwright's own need not be downloaded."""
    found = (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome"))
    path = next((p for p in found if p), None)
    if path is None:
        message = "no Chromium or Chrome is installed: on Debian or Ubuntu, apt install chromium"
        if os.environ.get("COVIDLAB_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser, request):
    """Makes visitors; at the end of the test a picture of every page they have open is kept."""
    visitors = []

    def make():
        visitors.append(Visitor(browser))
        return visitors[-1]

    yield make
    PICTURES.mkdir(parents=True, exist_ok=True)
    pages = [page for v in visitors for page in v.context.pages]
    for i, page in enumerate(pages, 1):
        page.screenshot(path=PICTURES / f"{request.node.name}-{i}.png", full_page=True)
    for v in visitors:
        v.context.close()
