"""How often is a verdict wrong, and how often does it find what is there?  Every experiment's judge on made-up tables.

    python benchmarks/calibration.py

For each edge of each rule (benchmarks/scenarios): the share of wrong decided verdicts with noise of several kinds and
over 1, 2, 6 and 12 groups, and the power at effects of 1, 2 and 3 standard deviations. Rows that
benchmarks/calibration.csv has already are not computed again. docs/verdicts.md has the table.
"""
import bisect
import importlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from absl import app, flags
from tqdm import tqdm

from benchmarks.scenarios import DISTRIBUTIONS, base_table, judge, judge_sequentially
from judging.decision import MIN_SEEDS
from judging.looks import plan_sizes
from judging.power import POWER

SUBJECTS = ("local_minima", "norm", "ntk", "rank")  # a script each: run_<subject>.py, benchmarks/scenarios/<subject>.py
GROUPS = (1, 2, 6, 12)
EFFECTS = (1, 2, 3)  # standard deviations
SEEDS = (3, 4, 5, 6, 8, 10, 12, 16, 24)  # at which 80 % power is looked for


def scenarios():
    """{(experiment, index): (Experiment, Scenario)} of all four scripts, in their order."""
    found = {}
    for subject in SUBJECTS:
        experiments = importlib.import_module(f"run_{subject}").EXPERIMENTS
        for i, scenario in enumerate(importlib.import_module(f"benchmarks.scenarios.{subject}").SCENARIOS):
            found[scenario.experiment, i] = experiments[scenario.experiment], scenario
    return found


def prepare(key, groups, kind, effect, seeds):
    """(Experiment, Scenario, table without measures, random generator) of one cell."""
    experiment, scenario = scenarios()[key]
    rng = np.random.default_rng([groups, DISTRIBUTIONS.index(kind), round(10 * effect), seeds, key[1]])
    return experiment, scenario, base_table(experiment, scenario, groups, seeds), rng


def share(key, groups, kind, effect, seeds, replications):
    """The share of replications in which the scenario's outcome is said."""
    experiment, scenario, table, rng = prepare(key, groups, kind, effect, seeds)
    said = [judge(experiment, scenario, table, effect, kind, rng) for _ in range(replications)]
    return float(np.mean([outcome == scenario.outcome for outcome in said]))


def sequential(key, groups, kind, effect, sizes, replications):
    """(share, mean seeds used) of trials that are looked at after `sizes` numbers of seeds."""
    experiment, scenario, table, rng = prepare(key, groups, kind, effect, sizes[-1])
    found = [judge_sequentially(experiment, scenario, table, effect, kind, rng, sizes) for _ in range(replications)]
    return float(np.mean([o == scenario.outcome for o, _ in found])), float(np.mean([n for _, n in found]))


def default_seeds(experiment):
    """The number of seeds of an experiment's default grid."""
    return len(experiment.grid.get("seed", [0]))


def cells(experiment):
    """[(what, groups, kind, effect, seeds)] that are simulated for one scenario of an experiment."""
    seeds = default_seeds(experiment)
    rows = [("wrong", 1, kind, 0.0, seeds) for kind in DISTRIBUTIONS]
    rows += [("wrong", groups, "normal", 0.0, seeds) for groups in GROUPS[1:]]
    rows += [("power", 1, "normal", float(effect), seeds) for effect in EFFECTS]
    rows += [("seeds for 80 %", 1, "normal", 2.0, SEEDS[-1])]
    if experiment.max_seeds and experiment.max_seeds > seeds:
        rows += [("wrong over looks", 1, "normal", 0.0, experiment.max_seeds)]
        rows += [("power over looks", 1, "normal", 2.0, experiment.max_seeds)]
    return rows


def priority(what, groups, kind, effect, seeds):
    """What an interrupted run should have of every rule first: one group, with no effect, of any noise."""
    return groups, effect not in (0, 2), kind != "normal", effect


def measure(job):
    """{what: value} of one cell; that of the power over looks has the mean number of seeds used, too."""
    key, (what, groups, kind, effect, seeds), replications = job
    if what == "seeds for 80 %":
        enough = [n for n in SEEDS if n >= MIN_SEEDS]
        found = bisect.bisect_left(
            enough, True, key=lambda n: share(key, groups, kind, effect, n, replications // 8) >= POWER
        )
        return {what: float(enough[found]) if found < len(enough) else np.nan}
    replications //= 4 if effect else 1  # a power need not be known as well as an error
    if what in ("wrong", "power"):
        return {what: share(key, groups, kind, effect, seeds, replications)}
    sizes = plan_sizes(default_seeds(scenarios()[key][0]), seeds)
    said, used = sequential(key, groups, kind, effect, sizes, replications)
    return {what: said, "seeds used": used} if effect else {what: said}


def main(_):
    path = Path(flags.FLAGS.out)
    done = pd.read_csv(path) if path.exists() else pd.DataFrame()
    columns = ["experiment", "truth", "outcome", "what", "groups", "noise", "effect", "seeds"]
    if len(done):  # what was simulated with fewer tables is simulated again
        done = done[done["replications"] >= flags.FLAGS.replications] if not flags.FLAGS.markdown else done
    known = {tuple(row) for row in done[columns].astype(str).to_numpy()} if len(done) else set()
    jobs = []
    for key, (experiment, scenario) in scenarios().items():
        if flags.FLAGS.experiment and key[0] not in flags.FLAGS.experiment:
            continue
        for cell in cells(experiment):
            row = (scenario.experiment, scenario.truth, scenario.outcome, *cell)
            if tuple(map(str, row)) not in known:
                jobs.append((row, (key, cell, flags.FLAGS.replications)))
    if flags.FLAGS.markdown:
        print(markdown(done))
        return
    jobs.sort(key=lambda job: priority(*job[1][1]))
    rows = done.to_dict("records")
    with ProcessPoolExecutor(flags.FLAGS.workers) as pool:
        found = pool.map(measure, [job for _, job in jobs])
        for (row, _), values in tqdm(zip(jobs, found), total=len(jobs)):
            for what, value in values.items():
                cell = {**dict(zip(columns, row)), "what": what}
                rows.append({**cell, "share": value, "replications": flags.FLAGS.replications})
            pd.DataFrame(rows).to_csv(path, index=False)


def markdown(done):
    """The table of docs/verdicts.md: a row for each edge."""
    lines = [
        "| experiment | what is so | wrong to say | normal | worst noise | 2, 6, 12 groups | over looks "
        "| power at 1, 2, 3 sd | seeds for 80 % | seeds used |",
        "|" + " --- |" * 10,
    ]
    for (name, truth, outcome), rows in done.groupby(["experiment", "truth", "outcome"], sort=False):

        def get(what, groups=1, noise="normal", effect=None, rows=rows):
            found = rows[(rows["what"] == what) & (rows["groups"] == groups) & (rows["noise"] == noise)]
            found = found if effect is None else found[found["effect"] == effect]
            return found["share"].iloc[0] if len(found) else np.nan

        wrong = rows[(rows["what"] == "wrong") & (rows["groups"] == 1)].set_index("noise")["share"]
        more = " / ".join(f"{100 * get('wrong', groups):.1f}" for groups in GROUPS[1:])
        found = [f"{100 * get('power', effect=effect):.0f}" for effect in EFFECTS]
        looks, seeds, used = get("wrong over looks"), get("seeds for 80 %"), get("seeds used")
        lines.append(
            f"| {name} | {truth} | {outcome} | {100 * wrong['normal']:.1f} | {100 * wrong.max():.1f} "
            f"({wrong.idxmax()}) | {more} | {'' if np.isnan(looks) else f'{100 * looks:.1f}'} | {' / '.join(found)} | "
            f"{'more than 24' if np.isnan(seeds) else f'{seeds:.0f}'} | {'' if np.isnan(used) else f'{used:.1f}'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    flags.DEFINE_integer("replications", 2000, "tables for each share of wrong verdicts; a power has a quarter of them")
    flags.DEFINE_integer("workers", os.cpu_count(), "processes")
    flags.DEFINE_bool("markdown", False, "print the file's table for docs/verdicts.md, and simulate nothing")
    flags.DEFINE_list("experiment", [], "experiments to calibrate; all when empty")
    flags.DEFINE_string("out", "benchmarks/calibration.csv", "where the shares are kept")
    app.run(main)
