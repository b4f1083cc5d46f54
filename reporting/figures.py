"""One look for every figure: colour-blind safe colours with markers and dashes that also tell lines apart in grey."""
import itertools

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, ordered so that neighbours differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")

plt.rcParams.update(
    {
        "figure.dpi": 130,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
)


def styles():
    """Endless line styles: 28 different ones, the first seven each with its own colour and marker."""
    for i in itertools.count():
        yield {"color": COLOURS[i % 7], "marker": MARKERS[i % 7], "linestyle": DASHES[(i % 7 // 2 + i // 7) % 4]}


def new(rows=1, columns=1, *, width=4.8, height=3.4, **options):
    """(figure, axes [rows, columns]) of panels with the given size in inches; the figure belongs to no GUI."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)  # it can be drawn to pixels, for TensorBoard
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def interval_line(axis, x, intervals, *, label, **style):
    """A line through the means of intervals over x, with bars from low to high where there are several seeds."""
    means = [i.mean for i in intervals]
    low = [max(i.mean - i.low, 0) if i.low == i.low else 0 for i in intervals]
    high = [max(i.high - i.mean, 0) if i.high == i.high else 0 for i in intervals]
    axis.errorbar(x, means, [low, high], label=label, capsize=3, markersize=5, **style)
