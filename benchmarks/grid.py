"""What does a grid cost beside its measures, and what do more workers bring?

    python benchmarks/grid.py                       # the driver's own cost a config, with measures that cost nothing
    python benchmarks/grid.py --throughput          # configs a minute over workers, with small trained networks

The driver's cost is what one config takes of its processor time: checks, handing it to Ray, reading its result back and
its row. Workers only write a result that is known, so that ten thousand configs take minutes. The last column leaves
out what the smallest grid took: Ray's start. Run it on an idle machine; docs/clusters.md has what was measured.
"""
import argparse
import gc
import json
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
    if arguments.throughput:
        for number in arguments.configs or [40]:
            for workers in arguments.workers:
                throughput(workers, number)
        return
    least = None
    for number in sorted(arguments.configs or [10, 1000, 10000]):
        code = f"from benchmarks.grid import driver; driver({number}, {max(2, *arguments.workers)})"
        # A process each, as memory is that of a process.
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        least = least or found
        more = number - least["configs"]
        each = "".join(
            f", {scale * (found[name] - least[name]) / more:.2f} {unit} a config"
            for name, scale, unit in (("busy", 1000, "ms"), ("memory", 1024, "KiB")) if more
        )  # fmt: skip
        print(
            f"{number:6d} configs: {found['elapsed']:6.1f} s, of the driver {found['busy']:5.1f} s and "
            f"{found['memory']:5.0f} MiB{each}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
