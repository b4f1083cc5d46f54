"""What does a grid cost beside its measures, and what do more workers bring?

    python benchmarks/grid.py                       # the driver's own cost a config, with measures that cost nothing
    python benchmarks/grid.py --throughput          # configs a minute over workers, with small trained networks
    python benchmarks/grid.py --tiny                # memory and seconds of 500 tiny configs in one process
    python benchmarks/grid.py --tiny --configs 40 --peer FOLDER --rounds 5   # in turn with another checkout

The driver's cost is what one config takes of its processor time: checks, handing it to Ray, reading its result back and
its row. Workers only write a result that is known, so that ten thousand configs take minutes. The last two columns
leave out what the smallest grid took: Ray's start. Run it on an idle machine; docs/clusters.md has what was measured.
"""
import argparse
import gc
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import head, row

ROOT = Path(__file__).resolve().parents[1]


def driver(number, workers):
    """Print {configs, seconds, processor seconds of the driver, MiB that it grew by} for a grid of trivial measures."""
    from benchmarks.trivial import EXPERIMENT, instant
    from harness import cluster, runner
    from harness.cluster import Workers

    cluster.measure = instant
    cluster.RENEW = 0  # never: it would time TensorFlow's imports
    gc.freeze()  # as the command line does
    folder = tempfile.mkdtemp()
    before = resource.getrusage(resource.RUSAGE_SELF)
    started, busy = time.perf_counter(), time.process_time()
    runner.run(
        "run_trivial", EXPERIMENT, {"seed": list(range(number))}, name="trivial", out_dir=folder, quiet=True,
        workers=Workers(workers),
    )  # fmt: skip
    elapsed, busy = time.perf_counter() - started, time.process_time() - busy
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss) / 1024
    shutil.rmtree(folder)
    print(json.dumps({"configs": number, "elapsed": elapsed, "busy": busy, "memory": memory}))


def throughput(workers, configs):
    """Print a row: configs a minute of small trained networks, starts included, by the script as a person calls it."""
    folder = tempfile.mkdtemp()
    seeds = ",".join(map(str, range(configs)))
    options = f"--experiment=drift --width=64 --depth=1 --epochs=60 --ntk_sample=30 --seed={seeds} --max_seeds=0"
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "run_ntk.py", f"--out_dir={folder}", f"--workers={workers}", *options.split()],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    elapsed = time.perf_counter() - started
    shutil.rmtree(folder)
    row(workers, configs, f"{elapsed:.0f}", f"{60 * configs / elapsed:.0f}")


def tiny(number):
    """Print {median seconds and processor seconds of a config, MiB after each} for one architecture and many seeds.

    Of the checkout in the current folder. The first config, which traces, and the report are left out. A config is an
    mlp of one layer of 16 units, trained for 2 epochs on 200 images, with the NTK of 10 images before and after.
    """
    sys.path.insert(0, os.getcwd())
    from experiments.ntk.drift import EXPERIMENT
    from harness import cluster, runner

    memory, elapsed, busy, compute = [], [], [], runner.compute

    def counted(*arguments):
        started, worked = time.perf_counter(), time.process_time()
        compute(*arguments)
        elapsed.append(time.perf_counter() - started)
        busy.append(time.process_time() - worked)
        with open("/proc/self/statm") as stream:
            memory.append(int(stream.read().split()[1]) * resource.getpagesize() / 2**20)

    runner.compute = counted
    cluster.set_threads(1)  # as the command line chooses for networks of this size
    gc.freeze()  # as the command line does
    grid = {"width": 16, "depth": 1, "train_size": 200, "epochs": 2, "ntk_sample": 10, "seed": list(range(number))}
    folder = tempfile.mkdtemp()
    runner.run("run_ntk", EXPERIMENT, grid, name="drift", out_dir=folder, quiet=True, max_seeds=0)
    shutil.rmtree(folder)
    print(json.dumps({
        "elapsed": statistics.median(elapsed[1:]), "busy": statistics.median(busy[1:]), "memory": memory,
    }))  # fmt: skip


def run_tiny(number, folder):
    """What `tiny` found in a process of its own, for the checkout in a folder."""
    here = str(Path(__file__).resolve())  # with the modules of the other folder
    code = f"import runpy; runpy.run_path({here!r})['tiny']({number})"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def tiny_grids(number, peer, rounds):
    """Print memory and time of tiny configs; with the folder of another checkout both in turn, and their ratio."""
    found = {"this": [], **({"the other": []} if peer else {})}
    counts = sorted({1, max(1, number // 5), number})
    head("checkout", "configs a minute", "processor seconds a config", *(f"MiB after {n}" for n in counts))
    for _ in range(rounds):
        for name, results in found.items():
            results.append(run_tiny(number, ROOT if name == "this" else peer))
            last = results[-1]
            memory = [f"{last['memory'][n - 1]:.0f}" for n in counts]
            row(name, f"{60 / last['elapsed']:.0f}", f"{last['busy']:.3f}", *memory)
    if peer:
        print(f"\nThe other checkout takes so many times as long (medians of {rounds} pairs):\n")
        ratios = {
            name: statistics.median(theirs[name] / mine[name] for mine, theirs in zip(*found.values()))
            for name in ("elapsed", "busy")
        }
        head("wall time", "processor time")
        row(f"{ratios['elapsed']:.2f}", f"{ratios['busy']:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--peer", help="folder of another checkout, for --tiny")
    parser.add_argument("--rounds", type=int, default=1, help="of --tiny")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--configs", type=int, nargs="*", default=None)
    arguments = parser.parse_args()
    if arguments.tiny:
        for number in arguments.configs or [500]:
            tiny_grids(number, arguments.peer, arguments.rounds)
        return
    if arguments.throughput:
        head("workers", "configs", "seconds", "configs a minute")
        for number in arguments.configs or [40]:
            for workers in arguments.workers:
                throughput(workers, number)
        return
    least = None
    head("configs", "seconds", "processor seconds of the driver", "MiB", "ms more a config", "KiB more a config")
    for number in sorted(arguments.configs or [10, 1000, 10000]):
        code = f"from benchmarks.grid import driver; driver({number}, {max(2, *arguments.workers)})"
        # A process each, as memory is that of a process.
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        least = least or found
        more = number - least["configs"]
        each = [
            f"{scale * (found[name] - least[name]) / more:.1f}" if more else ""
            for name, scale in (("busy", 1000), ("memory", 1024))
        ]
        row(number, f"{found['elapsed']:.1f}", f"{found['busy']:.1f}", f"{found['memory']:.0f}", *each)
    if more:
        seconds = (found["busy"] - least["busy"]) / more
        print("\nSo of one driver:\n")
        head("configs a second at most", "workers fed with configs of 0.1 s", "of 1 s", "of a minute")
        row(*(f"{number / seconds:.0f}" for number in (1, 0.1, 1, 60)))


if __name__ == "__main__":
    main()
