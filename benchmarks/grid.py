"""What does a grid cost beside its measures, and what do more workers bring?

    python benchmarks/grid.py                       # the driver's own cost a config, with measures that cost nothing
    python benchmarks/grid.py --throughput          # configs a minute over workers, with small trained networks

The driver's cost is that of one config: checks, handing out, reading its result back and its row; the measure itself
is a constant. `handed out` is timed without what workers do: a task of Ray that returns at once. Run it on an idle
machine; what was measured is in docs/benchmarks.md.
"""
import argparse
import gc
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def driver(number, workers):
    """Print the driver's processor time and memory for a grid of `number` configs with trivial measures."""
    from benchmarks.trivial import EXPERIMENT
    from harness import runner
    from harness.cluster import Workers

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
    print(
        f"{number:6d} configs, {workers} workers: {elapsed:7.1f} s in all, driver {busy:6.1f} s = "
        f"{1000 * busy / number:6.2f} ms a config, memory {memory:6.1f} MiB more",
        flush=True,
    )


def throughput(workers, configs):
    """Print configs a minute of small trained networks, starts included, by the script as a person calls it."""
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
    print(f"{workers} workers: {configs} configs in {elapsed:.0f} s, {60 * configs / elapsed:.1f} a minute", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--configs", type=int, nargs="*", default=None)
    arguments = parser.parse_args()
    for number in arguments.configs or ([40] if arguments.throughput else [10, 1000, 10000]):
        for workers in arguments.workers:
            if arguments.throughput:
                throughput(workers, number)
            else:  # a process each, as memory is that of a process
                code = f"from benchmarks.grid import driver; driver({number}, {workers})"
                subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
