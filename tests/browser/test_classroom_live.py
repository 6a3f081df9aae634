"""The classroom's pages in a real browser: alone, side by side, and with images that mean harm."""

import json
import re
import time
import urllib.error
import urllib.request

import numpy as np
import pandas as pd
import pytest
from harness import PATIENCE, free_port, lasso, served
from PIL import Image
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

HARM = "<img src=x onerror='window.harmed=1'>"
SCRIPT = "<script>window.harmed=1</script>"
FONT_SIZE = "e => parseFloat(getComputedStyle(e).fontSize)"

# Asks a page's process to run code, then, to know that it has had its turn, what it is; the kinds
# of answers.
RUN_CODE = """async (kernel) => {
  const socket = new WebSocket(`ws://${location.host}/api/kernels/${kernel}/channels`);
  await new Promise((resolve) => { socket.onopen = resolve; });
  const ask = (kind, content) => socket.send(JSON.stringify({
    channel: "shell", content, metadata: {}, parent_header: {}, buffers: [],
    header: { msg_id: kind, msg_type: kind, session: "visitor", username: "", version: "5.3" },
  }));
  const answers = [];
  ask("execute_request", { code: "print(6 * 7)", silent: false });
  ask("kernel_info_request", {});
  await new Promise((resolve) => {
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return;
      const { channel, msg_type, parent_header } = JSON.parse(data);
      if (parent_header.session !== "visitor" || msg_type === "status") return;
      answers.push(msg_type);
      if (channel === "shell" && parent_header.msg_id === "kernel_info_request") resolve();
    };
  });
  socket.close();
  return answers;
}"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Slices of 12 patients, half with a bright spot; all named like markup that runs a script."""
    folder, rng, rows = tmp_path_factory.mktemp("hostile"), np.random.default_rng(0), []
    y, x = np.mgrid[:96, :96]
    lung = np.hypot(y - 48, x - 48) < 40
    for i in range(48):
        ill = i // 4 % 2 == 0
        spot = ill & (np.hypot(y - rng.integers(30, 60), x - rng.integers(30, 60)) < 8)
        image = 0.3 + 0.4 * spot + 0.05 * rng.normal(size=spot.shape)
        row = {
            "image": f"{i} {HARM}.png",
            "lung_mask": f"lung/{i}.png",
            "infection_mask": f"infection/{i}.png",
        }
        for name, array in zip(row.values(), (image.clip(0, 1), lung, spot), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * array).astype(np.uint8)).save(folder / name)
        rows.append(row | {"patient_id": f"{i // 4} {SCRIPT}", "label": "COVID" if ill else HARM})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def classroom(browser, hostile, tmp_path_factory):
    port = free_port()
    command = ["covidlab", "classroom", f"--port={port}", "--profile=smoke", f"--dataset={hostile}"]
    address = f"http://127.0.0.1:{port}/"
    with served(command, address, tmp_path_factory.mktemp("room") / "log.txt"):
        yield address


def enter(someone, classroom, title, large=False):
    """From the landing page to one of the others."""
    page = someone.open(classroom + ("?large=1" if large else ""))
    page.get_by_role("link", name=re.compile(title)).click()
    expect(page.locator(".covidlab")).to_be_visible()
    return page


def unharmed(someone):
    page = someone.context.pages[-1]
    assert page.evaluate("window.harmed") is None and someone.dialogs == []
    assert page.locator(".covidlab img, .covidlab script").count() == 0
    assert someone.left == [], "a page asked for something beyond this machine"
    assert someone.broken == []


def test_feature_space_maps_and_names_that_mean_harm(classroom, visitor):
    someone = visitor()
    page = enter(someone, classroom, "Where a network puts its images")
    assert "from covidlab" not in page.content(), "pages come without code"
    expect(page.get_by_text("Research and teaching only, not for clinical use.")).to_be_visible()
    lasso(page, page.locator("[data-test=map]"))
    expect(page.locator("[data-test=count]")).to_have_text("48 selected")
    card = page.locator("[data-test=card]").first
    expect(card).to_contain_text(f" {HARM}.png")
    page.locator("[data-test=map]").press("ArrowRight")
    expect(page.locator("[data-test=tooltip]")).to_contain_text(SCRIPT)
    card.click()
    expect(page.locator("[data-test=near-card]").first).to_contain_text("this image")
    page.locator("[data-test=method-tsne]").check()
    expect(page.locator("[data-test=title]")).to_contain_text("t-SNE")
    expect(page.locator("[data-test=legend]")).to_contain_text(f"{HARM} (24)")
    unharmed(someone)

    kernel = json.loads(page.locator("#jupyter-config-data").text_content())["kernelId"]
    assert page.request.get(f"{classroom}api/kernels/{kernel}").ok
    assert page.evaluate(RUN_CODE, kernel) == ["kernel_info_reply"], "a visitor can run code"
    page.get_by_role("link", name="All pages").click()
    until = time.monotonic() + PATIENCE
    while page.request.get(f"{classroom}api/kernels/{kernel}").status != 404:
        assert time.monotonic() < until, "a page that was left still has its process"
    page.get_by_role("link", name=re.compile("Where a network looks")).click()
    expect(page.locator("[data-test=name]")).to_contain_text(HARM)
    expect(page.locator("[data-test=map]")).to_have_count(4)
    first = page.locator("[data-test=name]").inner_text()
    page.locator("[data-test=next]").click()
    expect(page.locator("[data-test=name]")).not_to_have_text(first)
    unharmed(someone)


def test_a_visitor_and_a_presenter_each_with_masks_of_their_own(classroom, visitor):
    visitors = visitor(), visitor()
    one, other = (
        enter(someone, classroom, "Where to cut a mask", large)
        for someone, large in zip(visitors, (False, True), strict=True)
    )
    expect(one.locator("[data-test=name]")).to_contain_text(HARM)
    one.locator("[data-test=threshold]").fill("0.005")
    expect(one.locator("[data-test=sensitivity-whole]")).to_have_text("1.000")
    one.locator("[data-test=threshold]").fill("0.9")
    expect(one.locator("[data-test=picture]")).to_have_attribute("data-threshold", "0.9")
    assert from_python(one) == "0.9"
    assert from_python(other) == "0.5", "a slider moved another visitor's"
    expect(other.locator("[data-test=threshold]")).to_have_value("0.5")

    for what in (lambda p: p.locator(".covidlab"), lambda p: p.get_by_text("says for every pixel")):
        normal, large = (what(page).evaluate(FONT_SIZE) for page in (one, other))
        assert large >= 1.4 * normal
    expect(one.get_by_role("link", name="All pages")).to_have_attribute("href", "/")
    expect(other.get_by_role("link", name="All pages")).to_have_attribute("href", "/?large=1")
    for someone in visitors:
        unharmed(someone)


def from_python(page):
    """The threshold of the mask that Python makes as soon as a step is switched on."""
    page.locator("[data-test=step-0]").check()
    picture = page.locator("[data-test=picture]")
    expect(picture).not_to_have_attribute("data-steps", "")
    return picture.get_attribute("data-threshold")


@pytest.mark.parametrize(
    "path", ["voila/tree", "voila/api/contents/masks.ipynb", "voila/files/masks.ipynb"]
)
def test_what_lies_behind_the_pages_is_not_served(classroom, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(classroom + path, timeout=PATIENCE)
