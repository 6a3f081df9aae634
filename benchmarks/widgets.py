"""How fast the widgets answer, measured in Chromium as a visitor sees it, beside the targets.

Slider to picture is from the slider's event to the canvas redrawn, 512 × 512 pixels, worked out in
the browser and, with post-processing, in Python; first paint is from the widget's start to its
points on the canvas; a pan frame is the time that drawing takes in each frame of a drag. UMAP runs
without a browser, its first run with what it compiles. Needs playwright (`pip install -e .[test]`).

    python benchmarks/widgets.py [--points 10000] [--images 5000] [--repeats 30]
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np

PAGES = {
    "masks": """
import numpy as np
from covidlab.widgets import MaskInspector
y, x = np.mgrid[:512, :512]
probability = np.clip(1.2 - np.hypot(y - 256, x - 200) / 150, 0, 1)
noise = np.random.default_rng(0).normal(0, 0.05, (512, 512))
MaskInspector(np.clip(x / 512 + noise, 0, 1), probability > 0.6, np.clip(probability + noise, 0, 1))
""",
    "points": """
import numpy as np, pandas as pd
from covidlab.widgets import FeatureExplorer
rng = np.random.default_rng(0)
group = rng.integers(0, 6, POINTS)
features = rng.normal(size=(POINTS, 64)) + 4 * rng.normal(size=(6, 64))[group]
frame = pd.DataFrame({"image": np.arange(POINTS).astype(str), "label": group.astype(str)})
FeatureExplorer(features, frame, methods=("pca",))
""",
}
# Milliseconds from each of the slider's events to the attribute that is written after drawing.
SLIDE = """async ([values, cleaned]) => {
  const slider = document.querySelector("[data-test=threshold]");
  const picture = document.querySelector("[data-test=picture]");
  const times = [];
  for (const value of values) {
    const begun = performance.now();
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    while (Math.abs(Number(picture.dataset.threshold) - value) > 1e-9) {
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    times.push(performance.now() - begun);
    await new Promise((resolve) => setTimeout(resolve, cleaned ? 400 : 50));
  }
  return times;
}"""
WATCH = """() => {
  const map = document.querySelector("[data-test=map]");
  window.frames_ = [];
  new MutationObserver(() => window.frames_.push(Number(map.dataset.frame)))
    .observe(map, { attributeFilter: ["data-frame"] });
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=5_000, help="for UMAP, of 512 features")
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    in_browser(args.points, args.repeats)
    umap(args.images)


def in_browser(points: int, repeats: int):
    from playwright.sync_api import sync_playwright

    found = (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome"))
    browser_path = next((p for p in found if p), None)
    if browser_path is None:
        raise SystemExit("no Chromium or Chrome is installed: the widgets were not measured")
    values = np.round(np.resize([0.3, 0.7, 0.45, 0.55, 0.6, 0.4], repeats), 3).tolist()
    with served(points) as address, sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=browser_path, args=options)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(300_000)
        page.goto(f"{address}/masks.ipynb")
        page.locator("[data-test=picture][data-threshold]").wait_for()
        tell("slider to picture, 512 × 512", "ms", page.evaluate(SLIDE, [values, False]), "100 ms")
        for box in page.locator("[data-test^=step-]").all():
            box.check()
        page.wait_for_function("document.querySelector('[data-test=picture]').dataset.steps !== ''")
        times = page.evaluate(SLIDE, [values, True])
        tell("the same with all post-processing", "ms", times)

        firsts = []
        for _ in range(5):
            page.goto(f"{address}/points.ipynb")
            page.locator("[data-test=map][data-first]").wait_for()
            firsts.append(float(page.locator("[data-test=map]").get_attribute("data-first")))
        tell(f"first paint of {points:,} points", "ms", firsts, "2,000 ms")
        page.evaluate(WATCH)
        box = page.locator("[data-test=map]").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        for k in range(4 * repeats):
            page.mouse.move(x + 2 * (k % 40), y + k % 30)
        page.mouse.up()
        tell(f"frame of a pan, {points:,} points", "ms", page.evaluate("window.frames_"))
        browser.close()


def umap(n: int):
    from covidlab.explain.feature_space import embed

    rng = np.random.default_rng(0)
    group = rng.integers(0, 8, n)
    features = (rng.normal(size=(n, 512)) + 2 * rng.normal(size=(8, 512))[group]).astype(np.float32)
    for name in ("the first, which compiles", "another"):
        begun = time.perf_counter()
        embed(features, "umap", seed=0)
        tell(f"UMAP of {n:,} × 512, {name}", "s", [time.perf_counter() - begun], "30 s")


def tell(what: str, unit: str, times, target: str = ""):
    times = np.asarray(times, float)
    spread = f", slowest of {len(times)} {times.max():.1f}" if len(times) > 1 else ""
    beside = f"; target {target}" if target else ""
    print(f"{what}: {np.median(times):.1f} {unit}{spread}{beside}", flush=True)


@contextmanager
def served(points: int):
    """The pages by Voilà; their address."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        for name, source in PAGES.items():
            source = source.strip().replace("POINTS", str(points))
            kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
            cell = nbformat.v4.new_code_cell(source)
            book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
            nbformat.write(book, Path(folder) / f"{name}.ipynb")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "voila", "--no-browser", f"--port={port}", folder]
        voila = subprocess.Popen(
            [*command, "--Voila.ip=127.0.0.1"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and voila.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/voila/tree", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/voila/render"
        finally:
            voila.terminate()
            voila.wait(30)


if __name__ == "__main__":
    main()
