"""harness/trial.py and the runner's looks: seeds are added until a verdict is decided, and every look is paid for."""
import json
import math

import numpy as np
import pytest

from analysis.statistics import t_interval
from harness import runner
from harness.trial import parse_max_seeds, plan_seeds
from judging.decision import Finding, Statement, above, decide
from judging.looks import FIRST_PLAN
from reporting import files
from tests.fake_experiment import Fake


class Decided(Fake):
    """Its verdict is supported when the mean of `final/loss` lies measurably above `bound`."""

    def __init__(self, bound, *, max_seeds=None, measured=None, **grid):
        super().__init__(measured, max_seeds=max_seeds, margins={"margin": (0.5, "loss")}, **grid)
        self.bound, self.looks = bound, []

    def judge(self, results):
        self.looks.append((sorted(results.table["seed"]), results.look.share))
        self.results = results
        tested = above(t_interval(results.table["final/loss"]), self.bound + results.margins["margin"])
        findings = [Finding("all", "measured", supports=(Statement("large", (tested,)),))]
        return decide(results, findings, "a test")


def run(fake, folder, given=None, **options):
    return runner.run("run_fake", fake.experiment, given, name="fake", out_dir=folder, quiet=True, **options)


def seeds(fake):
    return [found for found, _ in fake.looks]


def shares(folder):
    trials = json.loads((folder / "fake" / "fake" / "looks.json").read_text())["trials"]
    return [{tuple(json.loads(key)["seeds"]): look["share"] for key, look in trial["looks"].items()}
            for trial in trials.values()]  # fmt: skip


def test_plans_begin_with_the_grids_seeds_and_end_at_the_last_one():
    assert plan_seeds([0, 1, 2], 12) == [[0, 1, 2], [0, 1, 2, 3, 4, 5], list(range(12))]
    assert plan_seeds([5, 3], 3) == [[5, 3], [5, 3, 6]]
    assert plan_seeds([0, 1], None) == [[0, 1]] == plan_seeds([0, 1], 2)
    with pytest.raises(ValueError, match="max_seeds must be at least the number of seeds, 3, got 2"):
        plan_seeds([0, 1, 2], 2)


def test_the_experiments_own_max_seeds_holds_where_no_seeds_are_given():
    experiment = Decided(0, max_seeds=9).experiment
    assert parse_max_seeds(None, experiment, {}) == 9
    assert parse_max_seeds(None, experiment, {"seed": [0]}) is None
    assert parse_max_seeds("0", experiment, {}) is None is parse_max_seeds(0, experiment, {})
    assert parse_max_seeds("4", experiment, {"seed": [0]}) == 4
    for wrong in ("-1", "many", "2.5"):
        with pytest.raises(ValueError, match="max_seeds must be"):
            parse_max_seeds(wrong, experiment, {})


def test_seeds_are_added_until_the_verdict_is_decided(tmp_path):
    fake = Decided(bound=1.5, seed=[0, 1, 2])  # the loss is 1/3 + seed: its mean passes 2 with more seeds
    report = run(fake, tmp_path, max_seeds=12)
    assert seeds(fake) == [list(range(3)), list(range(6)), list(range(12))]
    assert report.verdict.outcome == "supported"
    assert sorted(fake.asked()) == [(1.0, seed) for seed in range(12)]  # each measured once
    fake = Decided(bound=-1e6, seed=[0, 1, 2, 3, 4, 5])
    assert run(fake, tmp_path / "early", max_seeds=24).verdict.outcome == "supported"
    assert seeds(fake) == [list(range(6))]


def test_the_seeds_of_one_config_follow_each_other_whatever_look_they_came_with(tmp_path):
    fake = Decided(1e6, factor=[1.0, 2.0], seed=[0, 1, 2])
    table = run(fake, tmp_path, max_seeds=5).results.table
    assert list(zip(table["factor"], table["seed"])) == [(f, s) for f in (1.0, 2.0) for s in range(5)]
    whole = run(Decided(1e6, factor=[1.0, 2.0]), tmp_path / "whole", {"seed": list(range(5))}).results.table
    assert list(whole["config_id"]) == list(table["config_id"])


def test_looks_share_the_error_budget_and_the_same_look_twice_costs_nothing(tmp_path):
    fake = Decided(1e6, seed=[0, 1, 2, 3, 4, 5])
    run(fake, tmp_path, max_seeds=12)
    first = list(fake.looks)
    assert sum(share for _, share in first) == pytest.approx(FIRST_PLAN)
    assert [share / FIRST_PLAN for _, share in first] == pytest.approx([1 / 4, 16 / 36 - 1 / 4, 1 - 16 / 36])
    fake.looks.clear()
    run(fake, tmp_path, max_seeds=12)
    assert fake.looks == first
    fake.looks.clear()
    run(fake, tmp_path, {"seed": list(range(12))})  # the last planned look again, by hand
    assert fake.looks == first[-1:]


def test_who_adds_seeds_by_hand_after_a_report_pays_for_it(tmp_path):
    fake = Decided(1e6)
    for last in (3, 4, 5, 6):
        report = run(fake, tmp_path, {"seed": list(range(last))})
    assert [share for _, share in fake.looks] == pytest.approx([0.9, 0.05, 0.025, 0.0125])
    assert "not planned at the start" in report.verdict.family
    (found,) = shares(tmp_path)
    assert sum(found.values()) < 1
    # A subset, other margins, and another grid.
    run(fake, tmp_path, {"seed": [0, 2, 4]})
    run(fake, tmp_path, {"seed": list(range(3))}, margins={"margin": 0.4})
    assert [share for _, share in fake.looks[-2:]] == pytest.approx([0.00625, 0.003125])
    run(fake, tmp_path, {"seed": list(range(3)), "factor": 2.0})
    assert fake.looks[-1][1] == FIRST_PLAN and len(shares(tmp_path)) == 2


@pytest.mark.parametrize("at", [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (4, 8))])
def test_an_interrupted_trial_goes_on_with_the_same_looks_and_the_same_verdict(tmp_path, at):
    def stop(config, data, run):
        if config.seed == at and stop.armed:
            raise KeyboardInterrupt
        return {}

    stop.armed = True
    fake = Decided(1.5, measured=stop, seed=[0, 1, 2])
    with pytest.raises(KeyboardInterrupt):
        run(fake, tmp_path / "killed", max_seeds=12)
    stop.armed = False
    fake.looks.clear()
    resumed = run(fake, tmp_path / "killed", max_seeds=12)
    whole = Decided(1.5, measured=stop, seed=[0, 1, 2])
    report = run(whole, tmp_path / "whole", max_seeds=12)
    assert resumed.verdict == report.verdict and fake.looks == whole.looks
    assert shares(tmp_path / "killed") == shares(tmp_path / "whole")
    np.testing.assert_array_equal(resumed.results.table["random"], report.results.table["random"])


def test_flags_cfg_repeats_the_trial(tmp_path):
    report = run(Decided(1e6, seed=[0, 1, 2]), tmp_path, max_seeds=6, margins={"margin": 0.25})
    lines = (report.folder / "flags.cfg").read_text().splitlines()
    assert {"--seed=0,1,2", "--max_seeds=6", "--margin=0.25"} <= set(lines)
    run(Decided(1e6, seed=[0, 1, 2]), tmp_path)
    lines = (report.folder / "flags.cfg").read_text().splitlines()
    assert "--max_seeds=0" in lines and not any(line.startswith("--margin") for line in lines)


def test_an_undecided_report_says_how_many_seeds_would_decide_and_how_to_add_them(tmp_path, capsys):
    fake = Decided(0.2, seed=[0, 1, 2])
    report = runner.run("run_fake", fake.experiment, name="fake", out_dir=tmp_path)
    needed = report.verdict.seeds_needed
    assert report.verdict.outcome == "undecided" and needed > 3
    assert f"About {needed} seeds would decide" in report.verdict.advice
    command = f"python run_fake.py --flagfile={report.folder}/flags.cfg --max_seeds={needed}"
    assert command in capsys.readouterr().out
    assert command in (report.folder / "report.md").read_text()
    assert command in (report.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seeds": 2}, "max_seeds must be at least the number of seeds, 3, got 2"),
        ({"max_seeds": "few"}, "max_seeds must be a whole number, got 'few'"),
        ({"margins": {"margin_factor": 2.0}}, "this experiment has no margin_factor"),
        ({"margins": {"margin": -1.0}}, "margin must be a difference above 0, got -1.0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, options, message):
    fake = Decided(0, seed=[0, 1, 2])
    with pytest.raises(runner.InvalidInput, match=message):
        run(fake, tmp_path, **options)
    assert not fake.calls and not list(tmp_path.iterdir())


@pytest.mark.parametrize("margin", [0.0, math.nan, math.inf, -0.1])
def test_a_margin_is_a_number_that_an_effect_can_pass(tmp_path, margin):
    with pytest.raises(runner.InvalidInput, match="margin must be a difference above 0, got"):
        run(Decided(0), tmp_path, margins={"margin": margin})


def test_margins_may_be_given_as_text_or_whole_numbers_and_are_the_same_look(tmp_path):
    fake = Decided(1e6, seed=[0, 1, 2])
    for margin in (2.0, 2, "2"):
        run(fake, tmp_path, margins={"margin": margin})
    assert [share for _, share in fake.looks] == [FIRST_PLAN] * 3
    with pytest.raises(runner.InvalidInput, match="margin must be a number, got 'wide'"):
        run(fake, tmp_path, margins={"margin": "wide"})


def edited(text):
    return text.replace("0.9", "0.1")


def truncated(text):
    return text[: len(text) // 2]


def emptied(text):
    return ""


def another(text):
    return "[1, 2]"


def without_checksum(text):
    return json.dumps({"trials": json.loads(text)["trials"]})


@pytest.mark.parametrize("damage", [edited, truncated, emptied, another, without_checksum])
def test_damaged_looks_are_named_and_never_forgotten(tmp_path, damage):
    fake = Decided(0, seed=[0, 1, 2])
    path = run(fake, tmp_path).folder / "looks.json"
    path.write_text(damaged := damage(path.read_text()))
    fake.looks.clear()
    with pytest.raises(runner.InvalidInput, match=r"looks.json is damaged .* looks that were taken"):
        run(fake, tmp_path)
    assert path.read_text() == damaged and not fake.looks  # nothing was judged, and nothing begun anew


def test_looks_that_are_damaged_while_a_trial_runs_end_it_in_one_line(tmp_path):
    def spoil(config, data, run):
        path = tmp_path / "fake" / "fake" / "looks.json"
        if config.seed == 4:
            path.write_text(path.read_text()[:-20])
        return {}

    fake = Decided(1e6, measured=spoil, seed=[0, 1, 2])
    with pytest.raises(runner.InvalidInput, match=r"looks.json is damaged .* looks that were taken"):
        run(fake, tmp_path, max_seeds=12)
    assert seeds(fake) == [[0, 1, 2]]


def test_sixty_looks_by_hand_leave_nothing_and_still_make_a_report(tmp_path):
    fake = Decided(-1e6)  # evident: what has any share left is supported
    path = run(fake, tmp_path, {"seed": [0, 1, 2, 3, 4, 5, 6, 7]}).folder / "looks.json"
    content = files.read_json(path)
    (trial,) = content["trials"].values()
    for i in range(60):
        share = 0.05 * 0.5**i
        trial["looks"][f"look {i}"] = {"seeds": i, "share": share, "planned": False, "judged": i + 2}
    files.write_json(path, content)
    report = run(fake, tmp_path, {"seed": [0, 1, 2, 3, 4, 5, 6]})
    assert fake.looks[-1][1] < 1e-15 and report.verdict.outcome == "undecided"
    assert "look 62 (not planned at the start)" in report.verdict.family
