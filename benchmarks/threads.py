"""How many threads should a config have: all cores for one after the other, or one for each of as many at a time?

    python -m benchmarks.threads

Images of 32x32x3 a second in training, in batches of 128, by this project's `fit`, as benchmarks/training.py has them.
One process has a thread for every core; against it as many processes as there are cores have a thread each and train
at the same time, and their images are added. Both take turns, an epoch each in every round; the ratio is the median
over rounds of the ratio within a round. Above 1 a grid ends sooner with one thread a config, if it has enough configs.
"""
import argparse
import os
import sys

import numpy as np

from benchmarks.tables import head, row
from benchmarks.training import CASES, Process, spread


def measure(case, rounds, cores):
    """[rounds, 2]: images a second of one process with all cores, and of one process a core, together."""
    options = {"method": "fit", "case": case, "steps": CASES[case][2], "seconds": 600}
    processes = []
    try:
        for threads in (cores, *[1] * cores):
            processes.append(Process(python=sys.executable, threads=threads, **options))
            processes[-1].answer()  # compiled and warm
        alone, *many = processes
        rates = []
        for _ in range(rounds):
            one = alone.epoch()["wall"]
            for process in many:
                process.begin()
            rates.append((one, sum(process.answer()["wall"] for process in many)))
        return np.array(rates)
    finally:
        for process in processes:
            process.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each that are timed (default 7)")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    cores = len(os.sched_getaffinity(0))
    print(f"Images in a second, median [least, most] of {arguments.rounds} rounds; ratios are those within a round.\n")
    head("case", f"one process, {cores} threads", f"{cores} processes, one thread each", "ratio")
    for case in arguments.cases:
        one, many = measure(case, arguments.rounds, cores).T
        row(case, spread(one, 0), spread(many, 0), spread(many / one, 2))


if __name__ == "__main__":
    main()
