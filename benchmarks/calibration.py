"""How often is a verdict wrong, and how often does it find what is there?  Every experiment's judge on made-up tables.

    python benchmarks/calibration.py

For each edge of each rule (benchmarks/scenarios): the share of wrong decided verdicts with noise of several kinds and
over 1, 2, 6 and 12 groups, and the power at effects of 1, 2 and 3 standard deviations. A cell that
benchmarks/calibration.csv has already, with as many tables, is not computed again, so that a run goes on where it was
stopped. `--write` puts the tables of shares into docs/verdicts.md and docs/calibration.md.

Where a rule is changed, stages show in a tenth of the time whether it holds. 200 tables show that it errs in less than
5 % where at most 4 of them are wrong; where they don't, 600 may, or 2 000:

    python benchmarks/calibration.py --what=wrong,"wrong over looks" --replications=200
    python benchmarks/calibration.py --what=wrong,"wrong over looks" --replications=600 --unclear
    python benchmarks/calibration.py --what=wrong,"wrong over looks" --unclear
"""
import importlib
import os
import sys
import textwrap
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import scipy.stats
from absl import app, flags
from tqdm import tqdm

from benchmarks.scenarios import DISTRIBUTIONS, STRESS, base_table, judge, judge_sequentially
from judging.looks import ERROR, plan_sizes
from judging.power import POWER

SUBJECTS = ("local_minima", "norm", "ntk", "rank")  # a script each: run_<subject>.py, benchmarks/scenarios/<subject>.py
GROUPS = (1, 2, 6, 12)
EFFECTS = (1, 2, 3)  # standard deviations
SEEDS = (3, 4, 5, 6, 8, 10, 12, 16, 24)  # at which 80 % power is looked for, from the least of any t-test on
WRONG = ("wrong", "wrong over looks")
SKEWED = ("lognormal", "mirrored")  # on which t-tests err most
CELL = ["experiment", "truth", "outcome", "what", "groups", "noise", "effect", "seeds"]
CHOICES = {  # flags that choose among the cells, by a column
    "experiment": "experiments to calibrate",
    "what": "kinds of cells to simulate, such as wrong or power",
    "groups": f"numbers of groups, of {GROUPS}",
    "noise": f"kinds of noise, of {', '.join((*DISTRIBUTIONS, STRESS))}",
}
KEPT = Path(__file__).with_suffix(".csv")
BEGIN, END = "<!-- from benchmarks/calibration.csv -->", "<!-- end -->"
DOCS = Path(__file__).parents[1] / "docs"


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
    noise = [*DISTRIBUTIONS, STRESS].index(kind)
    rng = np.random.default_rng([groups, noise, round(10 * effect), seeds, key[1]])
    return experiment, scenario, base_table(experiment, scenario, groups, seeds), rng


def share(key, groups, kind, effect, seeds, replications):
    """The share of replications in which the scenario's outcome is said."""
    experiment, scenario, table, rng = prepare(key, groups, kind, effect, seeds)
    said = [judge(experiment, scenario, table, effect, kind, rng) for _ in range(replications)]
    return float(np.mean([outcome == scenario.outcome for outcome in said]))


def reaches(level, key, groups, kind, effect, seeds, replications):
    """Is a share at least `level`?  As `share` finds it, without the replications that can't change the answer."""
    experiment, scenario, table, rng = prepare(key, groups, kind, effect, seeds)
    said = 0
    for left in range(replications, 0, -1):
        if said / replications >= level or (said + left) / replications < level:
            break
        said += judge(experiment, scenario, table, effect, kind, rng) == scenario.outcome
    return said / replications >= level


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
    rows += [("stress", 1, STRESS, 0.0, seeds)]
    rows += [("power", 1, "normal", float(effect), seeds) for effect in EFFECTS]
    rows += [("seeds for 80 %", 1, "normal", 2.0, SEEDS[-1])]
    if experiment.max_seeds and experiment.max_seeds > seeds:
        rows += [("wrong over looks", 1, kind, 0.0, experiment.max_seeds) for kind in ("normal", *SKEWED)]
        rows += [("power over looks", 1, "normal", 2.0, experiment.max_seeds)]
    return rows


def priority(what, groups, kind, effect, seeds):
    """What an interrupted run should have of every rule first: one group, with no effect, noise by noise.

    Heavy tails come last, as they make a t-test say less.
    """
    return groups, effect > 0, kind != "normal", kind == "t3", kind, effect


def measure(job):
    """{what: value} of one cell; that of the power over looks has the mean number of seeds used, too."""
    key, (what, groups, kind, effect, seeds), replications = job
    if what == "seeds for 80 %":
        enough = (n for n in SEEDS if reaches(POWER, key, groups, kind, effect, n, replications))
        return {what: float(next(enough, np.nan))}  # upwards, as few seeds take less time and soon fail
    if what in ("wrong", "stress", "power"):
        return {what: share(key, groups, kind, effect, seeds, replications)}
    sizes = plan_sizes(default_seeds(scenarios()[key][0]), seeds)
    said, used = sequential(key, groups, kind, effect, sizes, replications)
    return {what: said, "seeds used": used} if effect else {what: said}


def cell_name(row):
    """What tells a row of the file from all others: its columns of CELL, as text."""
    return tuple(str(row[column]) for column in CELL)


def jobs_left(rows, replications, unclear_only=False, **wanted):
    """[(columns of the row, job of `measure`)] of the cells that the file has not, or with fewer tables.

    rows: {cell_name: row} of the file.  unclear_only: shares of wrong verdicts alone, and those that may exceed 5 %.
    wanted: {column: its values that are wanted, as text}; all when empty.
    """
    jobs = []
    for key, (of, scenario) in scenarios().items():
        for cell in cells(of):
            row = dict(zip(CELL, (scenario.experiment, scenario.truth, scenario.outcome, *cell)))
            chosen = all(not values or str(row[column]) in values for column, values in wanted.items())
            if not chosen or (unclear_only and row["what"] not in WRONG):  # 5 % bounds no power and no number of seeds
                continue
            kept = rows.get(cell_name(row))
            enough = kept and (kept["replications"] >= replications or (unclear_only and upper_bound(kept) <= ERROR))
            if not enough:
                jobs.append((row, (key, cell, replications)))
    return sorted(jobs, key=lambda job: priority(*job[1][1]))


def main(_):
    asked = flags.FLAGS
    path = Path(asked.out)
    if asked.write:
        write(pd.read_csv(path))
        return
    kept = pd.read_csv(path).to_dict("records") if path.exists() else []
    rows = {cell_name(row): row for row in kept}
    wanted = {column: asked[column].value for column in CHOICES}
    jobs = jobs_left(rows, asked.replications, asked.unclear, **wanted)
    with ProcessPoolExecutor(asked.workers) as pool:
        found = pool.map(measure, [job for _, job in jobs])
        for (cell, _), values in tqdm(zip(jobs, found), total=len(jobs)):
            for what, value in values.items():
                row = {**cell, "what": what, "share": value, "replications": asked.replications}
                rows[cell_name(row)] = row
            pd.DataFrame(rows.values()).to_csv(path, index=False)


# -- the tables of docs/


def monte_carlo_error(share, replications):
    """Standard error of a share of so many tables."""
    return np.sqrt(share * (1 - share) / replications)


def upper_bound(row):
    """The exact upper bound of a share at 95 % confidence (Clopper & Pearson 1934), of its number of tables."""
    tables = int(row["replications"])
    wrong = round(row["share"] * tables)
    return scipy.stats.binomtest(wrong, tables, alternative="less").proportion_ci(0.95).high


def too_often(kept):
    """The cells of `kept` in which what is not so is said in more than 5 %, by more than two Monte Carlo errors.

    Where one truth makes both outcomes wrong (elimination's share at just the margin), it is their sum that counts.
    """
    wrong = kept[kept["what"].isin(WRONG)]
    cells = wrong.groupby([name for name in CELL if name != "outcome"], as_index=False)
    summed = cells.agg(share=("share", "sum"), replications=("replications", "min"))
    return summed[summed["share"] - 2 * monte_carlo_error(summed["share"], summed["replications"]) > ERROR]


def summary(kept):
    """How many cells there are, the largest share of what is not so, and how many may lie above what is promised."""
    left = len(jobs_left({cell_name(row): row for row in kept.to_dict("records")}, 1))
    wrong = kept[kept["what"].isin(WRONG)]
    worst = wrong.loc[wrong["share"].idxmax()]
    waiting = f" ({left} cells, those of power included, wait for their run)" if left else ""
    where = f"{worst['experiment']} with {worst['noise']} noise ({worst['what']}, groups: {worst['groups']})"
    above, unclear = len(too_often(kept)), int((wrong.apply(upper_bound, axis=1) > ERROR).sum())
    text = f"""
        Simulated are {len(wrong)} shares of wrong verdicts, {percent(wrong['share'].mean())} % in the mean{waiting}.
        The largest is {percent(worst['share'])} % of {worst['replications']} tables, of {where}.
        More than two Monte Carlo errors above 5 % {f'are {above} of them' if above else 'is none'}.
        {len(wrong) - unclear} lie below 5 % with a confidence of 95 % each (exact binomial bound, for one look at its
        tables); {unclear} have too few tables for it."""
    return textwrap.fill(" ".join(f"{text} {of_stress(kept)}".split()), 120)


def of_stress(kept):
    """A sentence on the noise that is more than the rules are made for; "" where it was not simulated."""
    found = kept[kept["what"] == "stress"]
    above = found[found["share"] > ERROR]
    if not len(found):
        return ""
    names = ", ".join(dict.fromkeys(above["experiment"])) or "none"
    return (
        f"With skewed and uneven noise, beyond what is promised, {len(above)} of {len(found)} edges err in more than "
        f"5 % ({names}), the worst in {percent(found['share'].max())} %."
    )


def null_columns(kept):
    """{heading: rows of `kept` with what is said and not so}: every noise with one group, more groups, over looks."""
    wrong = kept[kept["what"] == "wrong"]
    found = {kind: wrong[(wrong["groups"] == 1) & (wrong["noise"] == kind)] for kind in DISTRIBUTIONS}
    found |= {f"{groups} groups": wrong[wrong["groups"] == groups] for groups in GROUPS[1:]}
    return found | {"over looks": kept[kept["what"] == "wrong over looks"]}


def by_experiment(kept):
    """Summary and table of docs/verdicts.md: of every experiment the edge with the largest share, in each column."""
    columns = null_columns(kept)
    lines = [f"| experiment | edges | {' | '.join(columns)} |", "| --- |" + " --- |" * (1 + len(columns))]
    for name, edges in Counter(scenario.experiment for _, scenario in scenarios().values()).items():
        shares = [found[found["experiment"] == name]["share"].max() for found in columns.values()]
        lines.append(f"| {name} | {edges} | {' | '.join(map(percent, shares))} |")
    means = [percent(found["share"].mean()) for found in columns.values()]
    lines.append(f"| mean | | {' | '.join(means)} |")
    tables = [sorted(set(found["replications"])) for found in columns.values()]
    lines.append(f"| tables an edge | | {' | '.join(map(span, tables))} |")
    errors = [[100 * monte_carlo_error(ERROR / 2, n) for n in reversed(ends(several))] for several in tables]
    lines.append(f"| Monte Carlo error at 2.5 % | | {' | '.join(' to '.join(f'{e:.1f}' for e in n) for n in errors)} |")
    return "\n".join([summary(kept), "", *lines])


def by_edge(kept):
    """What docs/calibration.md has of the file: numbers of tables, and a row for each edge of each rule."""
    lines = [
        tables_of(kept),
        "",
        "| experiment | what is so | wrong to say | normal | worst noise | 2, 6, 12 groups | over looks "
        "| skewed and uneven | power at 1, 2, 3 sd | seeds for 80 % | power over looks | seeds used |",
        "|" + " --- |" * 12,
    ]
    columns = null_columns(kept)
    for _, scenario in scenarios().values():
        edge = [scenario.experiment, scenario.truth, scenario.outcome]
        rows = kept[(kept[CELL[:3]] == edge).all(axis=1)]
        wrong = {heading: rows.loc[rows.index.intersection(found.index)] for heading, found in columns.items()}
        noise = worst_noise(pd.concat([wrong[kind] for kind in DISTRIBUTIONS]))
        groups = slashes(percent(wrong[f"{groups} groups"]["share"].max()) for groups in GROUPS[1:])

        def value(what, effect=2.0, rows=rows):
            return rows[(rows["what"] == what) & (rows["effect"] == effect)]["share"].max()

        power = slashes(percent(value("power", effect), 0) for effect in EFFECTS)
        needed = rows[rows["what"] == "seeds for 80 %"]["share"]
        seeds = "" if not len(needed) else f"more than {SEEDS[-1]}" if needed.isna().all() else f"{needed.iloc[0]:.0f}"
        over_looks, used = percent(value("power over looks"), 0), value("seeds used")
        lines.append(
            f"| {' | '.join(edge)} | {with_error(wrong['normal'])} | {noise} | {groups} "
            f"| {worst_noise(wrong['over looks'])} | {with_error(rows[rows['what'] == 'stress'])} | {power} | {seeds} "
            f"| {over_looks} | {'' if np.isnan(used) else f'{used:.1f}'} |"
        )
    return "\n".join(lines)


def tables_of(kept):
    """`Tables a cell: 2000 for wrong, 200 to 2000 for power ..`, with the largest Monte Carlo error of a power."""
    found = {what: sorted(set(rows["replications"])) for what, rows in kept.groupby("what", sort=False)}
    counts = ", ".join(f'{span(several)} for "{what}"' for what, several in found.items())
    counts = counts.replace('"stress"', '"skewed and uneven"')
    power = kept[kept["what"].str.startswith("power")]
    error = monte_carlo_error(power["share"], power["replications"]).max()
    text = f"Tables a cell: {counts}. The largest Monte Carlo error of a power is {percent(error)} points."
    return textwrap.fill(text, 120)


def ends(values):
    """The first and the last of some values, or the only one."""
    return values if len(values) < 2 else [values[0], values[-1]]


def span(counts):
    """`200 to 2000` of ascending counts; `2000` of one."""
    return " to ".join(map(str, ends(counts)))


def slashes(texts):
    """`1 / 2 / `; "" where all are."""
    texts = list(texts)
    return " / ".join(texts) if any(texts) else ""


def percent(share, digits=1):
    """`2.5`; "" of what was not simulated."""
    return "" if np.isnan(share) else f"{100 * share:.{digits}f}"


def worst_noise(rows):
    """`2.5 ± 0.3 (t3)`: the largest share of some rows; "" of none."""
    worst = rows.nlargest(1, "share")
    return "".join(f"{with_error(worst)} ({noise})" for noise in worst["noise"])


def with_error(rows):
    """`2.5 ± 0.3` of a row with a share; "" of none."""
    cells = zip(rows["share"], rows["replications"])
    return "".join(f"{percent(share)} ± {percent(monte_carlo_error(share, n))}" for share, n in cells)


def write(kept, docs=DOCS):
    """Put the tables between the marks of the pages that have them."""
    for page, table in (("verdicts.md", by_experiment(kept)), ("calibration.md", by_edge(kept))):
        path = docs / page
        before, _, after = path.read_text().partition(BEGIN)
        path.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after.partition(END)[2]}")


if __name__ == "__main__":
    flags.DEFINE_integer("replications", 2000, "tables for each share", lower_bound=1)
    flags.DEFINE_integer("workers", os.cpu_count(), "processes")
    flags.DEFINE_bool("unclear", False, "only cells whose tables so far leave open whether the share exceeds 5 %")
    flags.DEFINE_bool("write", False, "put the file's tables into docs/, and simulate nothing")
    for column, meaning in CHOICES.items():
        flags.DEFINE_list(column, [], f"{meaning}; all when empty")
    flags.DEFINE_string("out", str(KEPT), "where the shares are kept")
    app.run(main)
