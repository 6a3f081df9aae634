"""How fast phantom patients are drawn: CT slices and X-rays a second on one core, memory, linearity.

Patients are drawn from their seed and written with their masks, as `datasets.load` does, in one
process. The last table has the time for a slice of twice the side over that of the single, where 4
is linear in the number of voxels, both in turns in this run.
"""

import argparse
import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter


def generate(queue, preset, n, options):
    """Write `n` patients alone in a fresh process; its seconds, images and memory."""
    from covidlab.datasets import phantom

    folder = Path(tempfile.mkdtemp())
    try:
        phantom.patient(0, 0).render(0.0, 64)  # imports and warm-up are not counted
        begun = perf_counter()
        frame = phantom.generate(
            folder / "set", n, 1, preset=preset, workers=1, progress=False, **options
        )
        seconds = perf_counter() - begun
    finally:
        shutil.rmtree(folder)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    queue.put((seconds, len(frame), memory))


def in_process(*arguments):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=generate, args=(queue, *arguments))
    process.start()
    found = queue.get()
    process.join()
    return found


def linearity(sizes, patients, rounds):
    """Median seconds of a slice at each side, in turns."""
    seconds = {size: [] for size in sizes}
    for _ in range(rounds):
        for who in patients:
            z = float(who.heights(1)[0])
            for size in sizes:
                begun = perf_counter()
                who.render(z, size)
                seconds[size].append(perf_counter() - begun)
    return {size: statistics.median(s) for size, s in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    n, rounds = (args := parser.parse_args()).patients, args.rounds

    print("| what | a second and core | aim | memory of the process |\n|---|---|---|---|")
    for what, preset, options, aim in (
        ("CT slices, 192 px, 6 a patient, all masks", "phantom-ct", {}, 25),
        ("X-rays, 256 px, all masks", "phantom-covid-qu", {"truth": True}, 2),
    ):
        found = [in_process(preset, n, options) for _ in range(rounds)]
        rates = sorted(images / seconds for seconds, images, _ in found)
        memory = max(m for _, _, m in found) / 2**20
        middle = statistics.median(rates)
        print(
            f"| {what} | {middle:.1f} ({rates[0]:.1f}–{rates[-1]:.1f}, {rounds} runs of {n} "
            f"patients) | {aim} | {memory:.0f} MiB |"
        )

    from covidlab.datasets import phantom

    patients = [phantom.patient(k, 2) for k in range(4)]
    times = linearity((128, 256, 512), patients, rounds)
    print("\n| side | ms a slice | over half the side |\n|---|---|---|")
    for size, seconds in times.items():
        over = f"{seconds / times[size // 2]:.2f}" if size // 2 in times else ""
        print(f"| {size} | {1000 * seconds:.1f} | {over} |")


if __name__ == "__main__":
    main()
