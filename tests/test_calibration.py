"""benchmarks/calibration.py in small: no rule says what is not so in more than 7 % of tables (nominal 2.5 %)."""
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from benchmarks.calibration import (
    CELL,
    DOCS,
    EFFECTS,
    GROUPS,
    KEPT,
    SKEWED,
    WRONG,
    by_edge,
    by_experiment,
    cell_name,
    default_seeds,
    jobs_left,
    scenarios,
    sequential,
    share,
    too_often,
    upper_bound,
    write,
)
from benchmarks.scenarios import DISTRIBUTIONS, STRESS, Draw, base_table, fill
from judging.decision import SKEW
from judging.looks import plan_sizes
from tests.marks import long_but

REPLICATIONS = 100  # of a rule that errs in 2.5 %, more than 7 % of them do so in 4 of 1000 samples
FOUND = scenarios()
NAMES = [f"{name}-{i}" for name, i in FOUND]
# One edge of each outcome of each experiment: what more groups change is common to all rules (judging/decision.py).
FIRST = list({(key[0], scenario.outcome): key for key, (_, scenario) in reversed(FOUND.items())}.values())


def test_every_experiment_with_a_statistical_rule_has_scenarios():
    import run_local_minima
    import run_norm
    import run_ntk
    import run_rank

    proofs = {"affine_minimum", "expressivity"}  # nothing random decides them
    scripts = (run_local_minima, run_norm, run_ntk, run_rank)
    experiments = {name for script in scripts for name in script.EXPERIMENTS}
    assert {name for name, _ in FOUND} == experiments - proofs
    for name in experiments - proofs:
        said = {scenario.outcome for (found, _), (_, scenario) in FOUND.items() if found == name}
        assert said == {"supported", "refuted"}, name


def test_every_edge_has_been_calibrated_and_none_errs_more_often_than_promised():
    kept = pd.read_csv(KEPT)
    cells_of = kept.groupby(["what", "groups", "noise", "effect"])
    found = {cell: set(map(tuple, rows[CELL[:3]].to_numpy())) for cell, rows in cells_of}
    edges = {(s.experiment, s.truth, s.outcome) for _, s in FOUND.values()}
    asked = [("wrong", 1, kind, 0.0) for kind in DISTRIBUTIONS]
    asked += [("wrong", groups, "normal", 0.0) for groups in GROUPS[1:]]
    asked += [("stress", 1, STRESS, 0.0)]
    asked += [("power", 1, "normal", effect) for effect in (1.0, 2.0, 3.0)]
    assert all(found[cell] == edges for cell in asked)
    assert (kept.loc[kept["what"].isin(WRONG), "replications"] >= 200).all()
    assert not len(too_often(kept)), too_often(kept)


def test_the_pages_have_the_tables_of_the_kept_shares(tmp_path):
    kept = pd.read_csv(KEPT)
    for page, table in (("verdicts.md", by_experiment(kept)), ("calibration.md", by_edge(kept))):
        assert table in (DOCS / page).read_text()
        (tmp_path / page).write_text((DOCS / page).read_text())
    write(kept.assign(share=0.125), tmp_path)
    text = (tmp_path / "verdicts.md").read_text()
    assert "| 12.5 |" in text and by_experiment(kept) not in text and text.endswith(
        (DOCS / "verdicts.md").read_text()[-1000:]
    )


def test_a_share_far_above_the_promise_is_found_and_so_is_a_sum_over_both_outcomes():
    row = {**dict.fromkeys(CELL, ""), "what": "wrong", "share": 0.08, "replications": 2000}
    other = {"truth": "high", "share": 0.05}
    rows = [row, {**row, **other}, {**row, "noise": "ties", "replications": 100}, {**row, "what": "power"}]
    found = too_often(pd.DataFrame(rows))
    assert len(found) == 1 and found["truth"].item() == ""
    both = [{**row, **other, "outcome": outcome, "share": 0.04} for outcome in ("supported", "refuted")]
    assert too_often(pd.DataFrame(both[:1])).empty
    assert too_often(pd.DataFrame(both))["share"].item() == pytest.approx(0.08)


@pytest.mark.parametrize("key", FOUND, ids=NAMES)
def test_one_group_of_a_scenario_is_one_group_of_the_results(key):
    """Two on an edge at once are wrongly supported in the square of the share that is asked for."""
    experiment, scenario = FOUND[key]
    table = base_table(experiment, scenario, 2, 3)
    assert [set(group.rows["group"]) for group in experiment.results(table).groups()] == [{0}, {1}]


@pytest.mark.parametrize(
    ("name", "number"), [("spectrum", 4), ("edge_of_stability", 4), ("randomization", 6), ("elimination", 2),
                         ("drift", 3), ("linearization", 2), ("connectivity", 4), ("collapse", 8)],
)  # fmt: skip
def test_t_tests_of_single_values_have_their_guard(monkeypatch, name, number):
    """The tests of one group that are made at 1 %, all others being of differences and slopes."""
    key = next(key for key in FOUND if key[0] == name)
    experiment, scenario = FOUND[key]
    findings = []
    for module in {experiment.judge.__module__, "experiments.ntk.constancy"}:
        monkeypatch.setattr(f"{module}.decide", lambda results, found, *_, **__: findings.extend(found), raising=False)
    rng = np.random.default_rng(0)
    experiment.judge(experiment.results(fill(scenario, base_table(experiment, scenario, 1, 3), 0.0, "normal", rng)))
    statements = [statement for found in findings for statement in (*found.supports, *found.refutes)]
    assert [test.cost for statement in statements for test in statement.tests].count(SKEW) == number


def test_mirrored_noise_has_the_other_skew():
    skews = [
        scipy.stats.skew(Draw(kind, np.random.default_rng(0), 10_000)()) for kind in ("lognormal", "mirrored", "normal")
    ]
    assert skews[0] == pytest.approx(-skews[1]) and skews[0] > 1.5 and abs(skews[2]) < 0.1


def test_a_run_goes_on_with_the_cells_that_it_lacks():
    jobs = jobs_left({}, 20, experiment=["collapse"], what=["wrong"], groups=["1"])
    assert len(jobs) == 2 * len(DISTRIBUTIONS) and all(row["groups"] == 1 for row, _ in jobs)
    rows = {cell_name(row): {**row, "replications": 20} for row, _ in jobs[:-1]}
    left = jobs_left(rows, 20, experiment=["collapse"], what=["wrong"], groups=["1"])
    assert left == jobs[-1:] and len(jobs_left(rows, 21, experiment=["collapse"])) > len(jobs)


def test_more_tables_where_few_leave_it_open():
    # 4 of 200 is where the one-sided binomial test of 5 % has p = 0.026, 5 of 200 where it has p = 0.062.
    assert upper_bound({"share": 0.02, "replications": 200}) < 0.05 < upper_bound({"share": 0.025, "replications": 200})
    assert upper_bound({"share": 1.0, "replications": 200}) == 1
    wanted = {"experiment": ["collapse"], "groups": ["1"]}
    everything = jobs_left({}, 200, **wanted)  # of which a number of seeds is no share
    assert "seeds for 80 %" in {row["what"] for row, _ in everything}
    jobs = jobs_left({}, 200, unclear_only=True, **wanted)
    # What is not there yet is unclear, of what is never so: two edges, over looks, too, with three kinds of noise.
    assert len(jobs) == 2 * (len(DISTRIBUTIONS) + 3) and {row["what"] for row, _ in jobs} == {*WRONG}
    shares = [0.025, *[0.02] * (len(jobs) - 1)]
    rows = {cell_name(row): {**row, "replications": 200, "share": 5.0} for row, _ in everything}
    rows |= {cell_name(row): {**row, "replications": 200, "share": share} for (row, _), share in zip(jobs, shares)}
    assert [row for row, _ in jobs_left(rows, 2000, unclear_only=True, **wanted)] == [jobs[0][0]]
    assert not jobs_left(rows, 200, unclear_only=True, **wanted)


@pytest.mark.slow
@pytest.mark.parametrize("noise", SKEWED)
@pytest.mark.parametrize("key", long_but(FIRST, list(FOUND)), ids=NAMES)
def test_what_is_not_so_is_seldom_said(key, noise):
    """With skewed noise, which is the hardest; with normal noise it is looked at below."""
    assert share(key, 1, noise, 0.0, default_seeds(FOUND[key][0]), REPLICATIONS) <= 0.07


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("key", FIRST, ids=[f"{name}-{i}" for name, i in FIRST])
def test_more_groups_do_not_err_more_often(key):
    assert share(key, 6, "normal", 0.0, default_seeds(FOUND[key][0]), REPLICATIONS // 3) <= 0.07


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("key", FOUND, ids=NAMES)
def test_what_is_evidently_so_is_said(key):
    seeds = max(6, default_seeds(FOUND[key][0]))
    assert share(key, 1, "normal", 3 * max(EFFECTS), seeds, 20) >= 0.9


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("key", FIRST, ids=[f"{name}-{i}" for name, i in FIRST])
def test_looking_three_times_does_not_err_more_often(key):
    first = default_seeds(FOUND[key][0])
    assert sequential(key, 1, "normal", 0.0, plan_sizes(first, 2 * first), REPLICATIONS)[0] <= 0.07
