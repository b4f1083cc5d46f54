"""What does the default run of every experiment cost?

    python -m benchmarks.default_runs
    python -m benchmarks.default_runs --peer=FOLDER --peer_flags=      # in turn with another checkout

Each run is the script as a person calls it, in one process (`--workers=1`), with its start and its report; medians of
--rounds. Processor seconds are those of the process and of what it started, but for Ray's workers. A run of the other
checkout has the defaults that it had then: where these have changed, the two did not do the same, and only a person's
waiting is compared.
"""
import argparse
import importlib
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.calibration import SUBJECTS
from benchmarks.tables import head, row

ROOT = Path(__file__).parents[1]


def timed(folder, script, experiment, more):
    """(processor seconds, wall seconds) of a default run of a checkout."""
    with tempfile.TemporaryDirectory() as out:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, f"{script}.py", f"--experiment={experiment}", f"--out_dir={out}", *more], cwd=folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    if done.returncode:
        last = "".join(done.stderr.strip().splitlines()[-1:])
        sys.exit(f"error: {script}.py --experiment={experiment} ended with {last!r}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def has(folder, script, experiment):
    """Does a checkout have an experiment?  Its file is called like it."""
    return (Path(folder) / "experiments" / script.removeprefix("run_") / f"{experiment}.py").exists()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="folder of another checkout")
    parser.add_argument("--flags", default="--workers=1", help="of every run")
    parser.add_argument("--peer_flags", default="--workers=1", help="of every run of the other checkout")
    parser.add_argument("--rounds", type=int, default=1, help="of every run")
    parser.add_argument("--experiments", nargs="*", default=[], help="all when empty")
    arguments = parser.parse_args()
    chosen = [
        (f"run_{subject}", name)
        for subject in SUBJECTS
        for name in importlib.import_module(f"run_{subject}").EXPERIMENTS
    ]
    if unknown := set(arguments.experiments) - {name for _, name in chosen}:
        parser.error(f"there is no experiment {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error(f"rounds must be at least 1, got {arguments.rounds}")
    if arguments.peer and not (Path(arguments.peer) / "run_ntk.py").exists():
        parser.error(f"{arguments.peer} is no checkout of the project")
    of_peer = ["the other's processor seconds", "the other's wall seconds"] if arguments.peer else []
    head("experiment", "processor seconds", "wall seconds", *of_peer)
    for script, name in chosen:
        if arguments.experiments and name not in arguments.experiments:
            continue
        sides = [(ROOT, arguments.flags)]
        if arguments.peer and has(arguments.peer, script, name):
            sides.append((arguments.peer, arguments.peer_flags))
        rounds = [
            [seconds for folder, more in sides for seconds in timed(folder, script, name, shlex.split(more))]
            for _ in range(arguments.rounds)
        ]
        medians = [f"{statistics.median(values):.0f}" for values in zip(*rounds)]
        row(name, *medians, *[""] * (2 + len(of_peer) - len(medians)))


if __name__ == "__main__":
    main()
