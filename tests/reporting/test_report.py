"""reporting/report.py: claim, verdict, table, figures and the command; results.csv is written before the verdict."""
from types import SimpleNamespace

import pandas as pd

from judging.verdict import Claim, Verdict
from reporting import figures, files, report, tables
from tests.reporting.test_run_folder import FIELDS, finished
from tests.reporting.test_tables import results, table


def reported(folder, frame, capsys, quiet=False):
    drawn = {"curve": figures.new()[0]}
    claim = Claim("Everything is fine.", source="Nobody 2020")
    experiment = SimpleNamespace(claim=claim, headings={"loss": "final loss"})
    verdict = Verdict("refuted", "It is 3 times worse.", "A t-test.")
    flags = ["--experiment=first", "--width=8,16"]
    rows = report.write_results(folder, results(frame), flags)
    report.write_report(
        folder, experiment, results(frame), verdict, drawn, rows, script="run_x", name="first", flags=flags,
        versions=report.versions_used(folder, frame["config_id"]), seconds=2.0, quiet=quiet,
    )  # fmt: skip
    return (folder / "report.md").read_text(), capsys.readouterr()


def test_report_has_claim_verdict_test_table_figures_and_the_command(tmp_path, capsys):
    folder = tmp_path / "my results" / "first"
    text, printed = reported(folder, table(), capsys)
    for part in (
        "# run_x: first",
        "**Claim.** Everything is fine. (Nobody 2020)",
        "**Verdict.** REFUTED: It is 3 times worse.",
        "**Test.** A t-test.",
        "| width | seeds | final loss |",
        f"| 8 | 3 | {tables.with_interval([8, 16, 24])} |",
        "![curve](figures/curve.png)",
        f"`python run_x.py --flagfile='{folder}/flags.cfg'`",
        f"tensorboard --logdir='{folder}/tensorboard'",
        "tensorflow 2.",
    ):
        assert part in text, part
    assert "Diverged" not in text
    assert (folder / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "flags.cfg").read_text() == "--experiment=first\n--width=8,16\n"
    for part in (
        "Everything is fine.",
        "REFUTED: It is 3 times worse.",
        "A t-test.",
        str(folder / "report.md"),
        "final loss",
    ):
        assert part in printed.out
    assert printed.err == ""


def test_diverged_configs_are_counted_and_named(tmp_path, capsys):
    frame = table()
    frame.loc[[1, 4], "diverged_epoch"] = [3, 7]
    text, printed = reported(tmp_path, frame, capsys)
    assert "## Diverged" in text and "| 8-1 | 3 |" in text and "| 16-1 | 7 |" in text and "8-0" not in text
    assert "2 configs diverged" in printed.out


def test_quiet_prints_nothing(tmp_path, capsys):
    _, printed = reported(tmp_path, table(), capsys, quiet=True)
    assert printed.out == printed.err == ""


def test_csv_has_every_finished_config_of_the_folder_but_no_damaged_or_copied_one(tmp_path):
    finished(tmp_path, "a", {"loss": 1.0})
    finished(tmp_path, "bb", {"loss": 2.0, "extra": 5.0})
    damaged = finished(tmp_path, "ccc", {"loss": 3.0}).folder / "result.json"
    damaged.write_text(damaged.read_text().replace("3.0", "4.0"))
    (tmp_path / "runs" / "dddd").mkdir()
    (tmp_path / "runs" / "dddd" / "result.json").write_bytes((tmp_path / "runs" / "bb" / "result.json").read_bytes())
    now = pd.DataFrame([{"config_id": "a", **FIELDS, "loss": 1.0, "seconds": 1.5}])
    everything = report.everything(tmp_path, now)
    assert everything["config_id"].tolist() == ["a", "bb"] and everything["loss"].tolist() == [1.0, 2.0]
    assert everything["widths"].tolist() == [(4, 2), (4, 2)]  # one way to write a value


def test_versions_name_every_arithmetic_of_the_rows(tmp_path):
    """A result of the first versions does not say which it has; seeds may be added to it today."""
    for name, arithmetic in (("old", None), ("new", "2")):
        path = finished(tmp_path, name, {"loss": 1.0}).folder / "result.json"
        versions = {"keras": "3.0", **({"arithmetic": arithmetic} if arithmetic else {})}
        files.write_json(path, {**files.read_json(path), "versions": versions})
    assert report.versions_used(tmp_path, ["old", "new"]) == "keras 3.0, arithmetic 1 and 2"
    assert report.versions_used(tmp_path, ["new"]) == "keras 3.0, arithmetic 2"


def test_rows_of_earlier_versions_get_todays_names(tmp_path):
    finished(tmp_path, "a", {"last/loss": 1.0})
    now = pd.DataFrame([{"config_id": "bb", **FIELDS, "loss": 2.0, "seconds": 1.5}])
    names = {"rate": "learning_rate", "last/loss": "loss"}
    rows = report.everything(tmp_path, now, lambda row: {names.get(name, name): value for name, value in row.items()})
    assert rows["loss"].tolist() == [2.0, 1.0] and rows["learning_rate"].tolist()[1] == FIELDS["rate"]


def test_measures_that_did_not_converge_are_named_and_missing_ones_are_not():
    frame = table().assign(**{"a/converged": [True, False, 0, 1, None, float("nan")]})
    found = report.unconverged(frame)
    assert found.to_dict("records") == [
        {"config_id": "8-1", "not converged": "a/converged"}, {"config_id": "8-2", "not converged": "a/converged"}
    ]  # fmt: skip
