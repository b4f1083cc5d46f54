"""The singular values of a network's layers: ranks averaged over layers, layer by layer, and the figures of both.

A layer's operator and its singular values are those of analysis/conv_operators.py.
"""
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.conv_operators import model_spectra, relative_rank
from analysis.statistics import t_interval
from reporting import figures as plots

MAX_CURVE_POINTS = 200  # of a kept spectrum: ResNet-18 has 65 536 singular values in one layer
LETTER = 0.068  # inches of a letter in a legend
RANK_COLUMNS = {
    "rank/relative": "relative effective rank",
    "rank/effective": "effective rank, l1/l2 of the singular values, mean over layers",
    "rank/stable": "stable rank, (l2/max)^2",
    "rank/nuclear": "nuclear rank, l1/max",
    "rank/entropy": "entropy rank, exp of their entropy",
    "rank/largest_singular_value": "largest singular value of all layers",
}

# Lines of a figure, each a name and the arrays of spectrum_measures, one for each seed.
Lines = Sequence[tuple[str, Sequence[Mapping[str, np.ndarray]]]]


def spectrum_measures(model: keras.Model, pad: bool) -> tuple[dict, dict, dict]:
    """(numbers, arrays, {layer: all singular values}) of a network: ranks averaged over its layers, and layer by layer.

    numbers: RANK_COLUMNS.  arrays: layers [l] (names), effective_rank [l], relative_rank [l],
    spectrum/<layer> [at most MAX_CURVE_POINTS].
    """
    spectra = model_spectra(model, pad=pad)
    effective = np.array([s.effective_rank for s in spectra.values()])
    relative = np.array([relative_rank(s.values) for s in spectra.values()])
    numbers = {
        "rank/relative": float(relative.mean()),
        "rank/effective": float(effective.mean()),
        "rank/stable": float(np.mean([s.stable_rank for s in spectra.values()])),
        "rank/nuclear": float(np.mean([s.nuclear_rank for s in spectra.values()])),
        "rank/entropy": float(np.mean([s.entropy_rank for s in spectra.values()])),
        "rank/largest_singular_value": float(max(s.values[0] for s in spectra.values())),
    }
    arrays = {"layers": np.array(list(spectra)), "effective_rank": effective, "relative_rank": relative}
    arrays.update({f"spectrum/{name}": thin_out(s.values) for name, s in spectra.items()})
    return numbers, arrays, {name: s.values for name, s in spectra.items()}


def thin_out(s: np.ndarray) -> np.ndarray:
    """At most MAX_CURVE_POINTS of the singular values s [n], evenly spaced in their order, with both ends."""
    return s[np.linspace(0, len(s) - 1, min(MAX_CURVE_POINTS, len(s))).round().astype(int)]


def layers_of(lines: Lines) -> list[str]:
    """The layers of all networks of the lines, those of the first network first."""
    return list(dict.fromkeys(str(layer) for _, seeds in lines for arrays in seeds for layer in arrays["layers"]))


def new_with_legend(names: Sequence[str], width: float) -> tuple[Figure, Axes]:
    """(figure, axis) with some `width` inches for the axis, and room beside it for a legend of these names."""
    longest = max(map(len, names), default=0)
    figure, axes = plots.new(width=width + LETTER * max(0, longest - 25), height=4)
    return figure, axes[0, 0]


def plot_rank_by_layer(lines: Lines) -> Figure:
    """Relative effective rank of each layer, mean and 95 % t-interval over seeds, one line per network."""
    figure, axis = new_with_legend([name for name, _ in lines], width=7.5)
    places = {layer: place for place, layer in enumerate(layers_of(lines))}
    for (name, seeds), style in zip(lines, plots.styles()):
        layers = [str(layer) for layer in seeds[0]["layers"]]
        values = np.array([arrays["relative_rank"] for arrays in seeds])  # [seeds, layers]
        intervals = [t_interval(v) for v in values.T]
        plots.interval_line(axis, [places[layer] for layer in layers], intervals, label=name, **style)
    axis.set_xticks(range(len(places)), list(places), rotation=40, ha="right", fontsize=8)
    axis.set(ylabel="relative effective rank $\\|s\\|_1 / (\\|s\\|_2 \\sqrt{n})$")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_spectra(lines: Lines) -> Figure:
    """Singular values of each layer, one panel per layer, for the first seed of each line."""
    layers = layers_of(lines)
    columns = min(4, len(layers))
    room = 3.1 * columns // (LETTER * max(len(name) for name, _ in lines) + 0.7)  # names of a legend beside each other
    beside = int(min(3, max(1, room), len(lines)))
    more = max(0, -(-len(lines) // beside) - 2)  # lines of the legend for which the panels have no room to spare
    panel_height = 2.5 + 0.2 * more / -(-len(layers) // columns)
    figure, axes = plots.panel_grid(len(layers), columns, width=3.1, height=panel_height)
    handles = []
    for (name, seeds), style in zip(lines, plots.styles()):
        look = {"color": style["color"], "linestyle": style["linestyle"], "label": name}
        for axis, layer in zip(axes, layers):
            s = seeds[0].get(f"spectrum/{layer}", [])
            handle = axis.plot(np.linspace(0, 1, len(s)), s, **look)
        handles += handle
    for axis, layer in zip(axes, layers):
        axis.set_title(layer, fontsize=9)
    for axis in axes[::columns]:
        axis.set_ylabel("singular value")
    for axis in axes[-columns:]:
        axis.set_xlabel("rank / number of them")
    figure.legend(handles=handles, loc="outside lower center", ncols=beside)
    return figure
