"""reporting/tables.py: a row for each config with intervals over its seeds."""
import numpy as np
import pandas as pd

from analysis.statistics import t_interval
from judging.results import Results
from reporting import tables

FIELDS = ("model", "width", "depth", "widths", "seed")


def results(frame):
    return Results(frame, {}, {}, FIELDS)


def table():
    rows = [
        {"config_id": f"{width}-{seed}", "model": "mlp", "width": width, "depth": None, "widths": (), "seed": seed,
         "loss": width * (1 + seed), "odd": np.nan if seed == 1 else 2.0, "diverged_epoch": np.nan, "seconds": 1.0}
        for width in (8, 16)
        for seed in (0, 1, 2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_summary_has_a_row_for_each_config_with_t_intervals_over_its_seeds():
    summary = tables.summary(results(table()), {"loss": "Loss", "odd": "Odd", "no": "No"})
    assert list(summary.columns) == ["width", "seeds", "Loss", "Odd"] and summary["seeds"].tolist() == [3, 3]
    interval = t_interval([8, 16, 24])
    assert summary["Loss"][0] == f"16 [{interval.low:.4g}, {interval.high:.4g}]"
    assert summary["Odd"][0] == "2 [2, 2] (1 missing)"


def test_summary_of_configs_that_differ_in_nothing_names_the_model():
    one = table().iloc[:1]
    assert tables.summary(results(one), {"loss": "Loss"}).to_dict("records") == [
        {"model": "mlp", "seeds": 1, "Loss": "8"}
    ]


def test_tuples_and_missing_values_make_rows_of_their_own():
    frame = table().assign(width=8)
    frame["widths"] = [(8,), (8,), (4, 4), (4, 4), (), ()]
    summary = tables.summary(results(frame), {"loss": "Loss"})
    assert summary["widths"].tolist() == ["8", "4-4", "none"] and summary["seeds"].tolist() == [2, 2, 2]
    each = tables.seeds(results(frame), {"loss": "Loss"})
    assert each["widths"].tolist() == ["8", "8", "4-4", "4-4", "none", "none"] and each["seed"].tolist()[:2] == [
        "0",
        "1",
    ]
    frame["widths"], frame["depth"] = [()] * 6, [None, None, None, 2, 2, 2]
    summary = tables.summary(results(frame), {"loss": "Loss"})
    assert summary["depth"].tolist() == ["none", "2"] and summary["seeds"].tolist() == [3, 3]


def test_numbers_that_are_all_missing_are_a_dash():
    assert tables.with_interval([np.nan, None]) == "-"
    assert tables.with_interval([np.nan, 1 / 3]) == "0.3333 (1 missing)"
    assert tables.number(123456.0) == "1.235e+05"


def test_markdown_keeps_its_columns():
    text = tables.markdown(pd.DataFrame({"a|b": ["x|y"], "c": [1]}))
    assert text.splitlines() == ["| a\\|b | c |", "| --- | --- |", "| x\\|y | 1 |"]
