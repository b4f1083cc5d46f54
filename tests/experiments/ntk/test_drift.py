"""experiments/ntk/drift.py: the kernels that its figure shows; its verdict is tested with constancy.py."""
import dataclasses

import numpy as np

from experiments.ntk import drift
from tests.experiments.ntk.tables import results


def drawn(**axes):
    """Results with a kernel before and after that tell the config that they are of."""
    found = results(drift.EXPERIMENT, lambda fields: {"ntk/correlation": 0.5, "ntk/relative_change": 0.1}, **axes)
    labels = np.array([0, 0, 1])
    arrays = {
        name: {"heat/before": np.full([3, 3], float(name)), "heat/after": np.eye(3), "heat/labels": labels}
        for name in found.table["config_id"]
    }
    return dataclasses.replace(found, arrays=arrays)


def test_the_widest_network_of_every_group_is_shown_under_its_own_name():
    found = drawn(width=[8, 32, 16], depth=1, learning_rate=[0.01, 0.1], seed=[0, 1])
    panels = [drift.widest_kernels(group, found.arrays) for group in found.groups()]
    assert [name for name, *_ in panels] == [f"mlp, depth 1, learning rate {rate}, width 32" for rate in (0.01, 0.1)]
    for (_, before, _, _), rate in zip(panels, (0.01, 0.1)):
        row = found.table.set_index("config_id").loc[str(int(before[0, 0]))]
        assert (row["width"], row["learning_rate"], row["seed"]) == (32, rate, 0)
    figure = drift.figures(found)["ntk_heat_maps"]
    assert sum(bool(axis.get_title()) for axis in figure.axes) == 2 * 3


def test_widths_one_by_one_are_not_called_by_a_width():
    found = drawn(widths=(8, 4), width=None, depth=None)
    assert drift.widest_kernels(found.groups()[0], found.arrays)[0] == "mlp, 8-4"


def test_without_kernels_there_are_no_heat_maps():
    found = dataclasses.replace(drawn(width=[8, 16], depth=1), arrays={})
    assert list(drift.figures(found)) == ["ntk_against_width"]
