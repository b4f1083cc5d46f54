"""judging/results.py: each field that is not compared makes a group, a seed counts once in it, labels differ."""
import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from judging.results import Results, actual_width, describe_network, paired_by_seed

NETWORK = {
    "model": "mlp",
    "widths": (),
    "depth": 3,
    "width": 64,
    "activation": "relu",
    "batch_norm": True,
    "skip": True,
}
FIELDS = (*NETWORK, "learning_rate", "dataset", "augment", "decay_epochs", "norm_target", "seed")


def results(apart=("width",), **axes):
    """A table over the product of the axes, a row each, with a measure m."""
    base = {**NETWORK, "learning_rate": 0.1, "dataset": "digits", "augment": False}
    base.update(decay_epochs=(), norm_target=None, seed=0)
    rows = [{**base, **dict(zip(axes, values))} for values in itertools.product(*axes.values())]
    rows = [{"config_id": str(i), **row, "m": float(i)} for i, row in enumerate(rows)]
    return Results(pd.DataFrame(rows), {}, {}, FIELDS, apart)


def labels(found):
    return [group.label for group in found]


def test_three_seeds_count_as_three_whatever_else_differs():
    found = results(learning_rate=[0.01, 0.1], width=[16, 32], seed=[0, 1, 2]).groups()
    assert labels(found) == ["mlp, depth 3, learning rate 0.01", "mlp, depth 3, learning rate 0.1"]
    for group in found:
        assert len(group.rows) == 6
        for _, rows in group.split("width").items():
            assert rows["seed"].tolist() == [0, 1, 2]


def test_what_is_compared_and_the_seed_make_no_group():
    everything = results(apart=("width", "learning_rate"), learning_rate=[0.01, 0.1], width=[16, 32], seed=[0, 1])
    assert labels(everything.groups()) == ["mlp, depth 3"]
    assert labels(everything.groups(apart=())) == [
        f"mlp, depth 3, width {width}, learning rate {rate}" for rate in (0.01, 0.1) for width in (16, 32)
    ]


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        ("dataset", ["digits", "gaussian"], ["digits", "gaussian"]),
        ("augment", [False, True], ["no augment", "augment"]),
        ("decay_epochs", [(), (1, 2)], ["decay epochs none", "decay epochs 1-2"]),
        ("learning_rate", [1e-07, 1 / 3], ["learning rate 1e-07", "learning rate 0.3333333333333333"]),
    ],
)
def test_every_kind_of_field_splits(field, values, expected):
    found = results(**{field: values}, seed=[0, 1]).groups()
    assert labels(found) == [f"mlp, depth 3, {text}" for text in expected]
    assert [group.rows["seed"].tolist() for group in found] == [[0, 1], [0, 1]]


def test_networks_are_described_and_missing_values_are_a_group_of_their_own():
    table = results(model=["mlp", "resnet"], batch_norm=[True, False], norm_target=[None, 3.0]).table
    table["depth"] = [None if model == "resnet" else 2 for model in table["model"]]
    found = Results(table, {}, {}, FIELDS, ("width",)).groups()
    assert labels(found) == [
        "mlp, depth 2", "mlp, depth 2, norm target 3", "mlp, depth 2, no batch norm",
        "mlp, depth 2, no batch norm, norm target 3", "resnet", "resnet, norm target 3", "resnet, no batch norm",
        "resnet, no batch norm, norm target 3",
    ]  # fmt: skip


def test_the_width_that_is_the_models_default_is_named_and_no_label_stands_twice():
    table = results(apart=(), width=[None, 64, 128]).table
    default = actual_width(table.iloc[0])
    table.loc[1, "width"] = default
    found = labels(Results(table, {}, {}, FIELDS).groups())
    assert found[2] == "mlp, depth 3, width 128" and len(set(found)) == 3
    assert found[0] == f"mlp, depth 3, width {default} (width=none)"


def test_stored_models_have_no_width_and_long_paths_stay_apart():
    paths = [f"{'a/very/long/folder/' * 3}{name}/net.keras" for name in "ab"]
    found = results(model=paths, width=[None], depth=[None], seed=[0, 1]).groups()
    assert len(set(labels(found))) == 2 and all(len(label) < 60 and "net.keras" in label for label in labels(found))
    assert all(group.widths.isna().all() for group in found)


def of_files(families, widths, apart=("width",), seeds=(0, 1)):
    """Results of stored files a, b, ..: their families and widths."""
    found = results(apart=apart, model=[f"{name}.keras" for name, _ in zip("abcd", families)], width=[None],
                    depth=[None], seed=list(seeds))  # fmt: skip
    place = found.table["model"].map(lambda model: "abcd".index(model[0]))
    table = found.table.assign(family=[families[i] for i in place], width=[widths[i] for i in place])
    return dataclasses.replace(found, table=table)


def test_stored_files_of_one_family_are_the_widths_of_one_group():
    one, other = of_files(["family x", "family x", "family y"], [8, 32, 8]).groups()
    assert one.label == "family x" and list(one.by_width) == [8, 32]
    assert all(rows["seed"].tolist() == [0, 1] for rows in one.by_width.values())
    assert other.label == "c.keras" and list(other.by_width) == [8]


def test_stored_files_of_one_width_are_never_pooled():
    found = of_files(["family x"] * 3, [8, 8, 32]).groups()
    assert labels(found) == ["a.keras", "b.keras", "c.keras"] and all(len(group.rows) == 2 for group in found)


def test_stored_files_stay_apart_where_widths_are_not_compared():
    found = of_files(["family x"] * 2, [8, 32], apart=()).groups()
    assert labels(found) == ["a.keras", "b.keras"]


def test_a_family_has_one_group_for_each_other_setting():
    found = of_files(["family x"] * 2, [8, 32])
    rates = [0.1 if model == "a.keras" else 0.2 for model in found.table["model"]]
    split = dataclasses.replace(found, table=found.table.assign(learning_rate=rates),
                                fields=tuple({*found.fields, "learning_rate"}))  # fmt: skip
    assert [len(group.by_width) for group in split.groups()] == [1, 1]


def test_widths_one_by_one_are_another_network():
    found = results(widths=[(8, 4), (8, 8)], width=[None], depth=[None]).groups()
    assert labels(found) == ["mlp, 8-4", "mlp, 8-8"]


def test_split_keeps_the_tables_order_and_missing_values():
    group = results(apart=("width", "norm_target"), width=[32, 16], norm_target=[None, 5.0], seed=[0, 1]).groups()[0]
    assert list(group.split("width")) == [32, 16]
    assert list(group.split("width", "norm_target")) == [(32, None), (32, 5.0), (16, None), (16, 5.0)]
    assert group.first["width"] == 32


def test_measured_leaves_out_what_diverged_and_columns_that_nobody_has():
    found = results(seed=[0, 1, 2])
    found.table.loc[1, "m"] = np.nan
    assert found.measured("m").table["seed"].tolist() == [0, 2] and len(found) == 3
    assert len(found.measured("m", "nothing")) == 0 and found.measured("nothing").groups() == []


def test_over_fields():
    found = results(widths=[(3, 3), (2,)], seed=[0, 1])
    assert found.over(seed=1)["widths"].tolist() == [(3, 3), (2,)]
    assert len(found.over(widths=(3, 3), seed=0)) == 1 and len(found.over(seed=7)) == 0


def test_pairs_are_of_the_seeds_that_both_have():
    first, second = (results(seed=seeds).table for seeds in ([0, 1, 2], [2, 1, 5]))
    first["m"], second["m"] = [1.0, 2.0, 4.0], [1.0, 3.0, 9.0]  # by seed: 0: 1, 1: 2, 2: 4 and 2: 1, 1: 3, 5: 9
    found = paired_by_seed(first, second, "m")
    assert found.n == 2 and found.mean == pytest.approx(((2 - 3) + (4 - 1)) / 2)
    assert paired_by_seed(first.drop(columns="m"), second, "m").n == 0


def test_a_row_is_described_by_the_fields_that_count():
    row = results(activation=["tanh"], skip=[False]).table.iloc[0]
    assert describe_network(row) == "mlp, depth 3, width 64, tanh, no skip"
    assert describe_network(row, ("model", "skip")) == "mlp, no skip"
