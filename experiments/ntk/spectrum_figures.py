"""The figures of experiments/ntk/spectrum.py: curves against depth, phase diagram, heat maps, predictions."""
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

from analysis.mean_field import Phase, critical_weight_variance, phase
from judging.results import Group
from reporting import figures as plots

SCALES = 8  # depth scales after which a signal is gone: e^-8 (the factor of the authors' own figures)
PHASES = ("ordered", "critical", "chaotic")
Seeds = list[dict[str, np.ndarray]]  # {name: array} of each seed
Setting = tuple[str, float]  # activation, bias variance


def figures(groups: list[Group], arrays: dict[str, dict[str, np.ndarray]]) -> dict[str, Figure]:
    """One figure of each kind, of the first group whose arrays are there; where there are several groups, it is named.

    groups: of Results.groups.  arrays: {config_id: {name: array}}.
    """
    for group in groups:
        seeds = [arrays[name] for name in group.rows["config_id"] if "map/train" in arrays.get(name, {})]
        if seeds:
            found = draw(seeds, (group.first["activation"], float(group.first["bias_variance"])))
            if len(groups) > 1:
                for figure in found.values():
                    figure.suptitle(group.label)
            return found
    return {}


def draw(arrays: Seeds, setting: Setting) -> dict[str, Figure]:
    """{name: figure} of one phase diagram."""
    found = {"spectrum_against_depth": depth_curves(arrays, setting), "phase_diagram": diagram(arrays, setting)}
    found["heat_maps"] = heat_maps(arrays, setting)
    if "finite/train" in arrays[0]:
        found["prediction"] = prediction(arrays, setting)
    return found


def mean(arrays: Seeds, name: str) -> np.ndarray:
    """Mean over seeds; nan where no seed has a value."""
    values = np.stack([a[name] for a in arrays])
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def log_mean(arrays: Seeds, name: str) -> np.ndarray:
    """Geometric mean over seeds; nan where a seed has no finite positive value."""
    values = np.stack([a[name] for a in arrays]).astype(float)
    values[~(np.isfinite(values) & (values > 0))] = np.nan
    return np.exp(np.log(values).mean(axis=0))


def depth_curves(arrays: Seeds, setting: Setting) -> Figure:
    """Measured: markers. Predicted rates, through the measured value half-way to the last resolved one: grey lines."""
    activation, bias = setting
    figure, axes = plots.new(1, 3, width=4.6, height=3.8)
    depths, variances = arrays[0]["curve/depths"], arrays[0]["curve/weight_variances"]
    kinds = [
        ("condition", "condition number of the NTK"),
        ("predictor", "relative size of the mean predictor"),
        ("lambda_max", "eigenvalues of the NTK"),
    ]
    for axis, (kind, label) in zip(axes[0], kinds):
        for i, (name, style) in enumerate(zip(PHASES, plots.styles())):
            values = log_mean(arrays, f"curve/{kind}")[i]
            look = {"color": style["color"], "marker": style["marker"], "markersize": 4}
            what = ": $\\lambda_{max}$" if kind == "lambda_max" else f", $\\sigma_w^2$ = {variances[i]:.3g}"
            axis.plot(depths, values, linestyle="none", label=name + what, **look)
            if kind == "lambda_max":
                bulk = log_mean(arrays, "curve/lambda_bulk")[i]
                axis.plot(
                    depths, bulk, linestyle="none", fillstyle="none", label=f"{name}: $\\lambda_{{bulk}}$", **look
                )
                continue
            line, text = predicted(kind, name, phase(activation, variances[i], bias), depths, arrays)
            resolved = np.flatnonzero(np.isfinite(values) & np.isfinite(line) & (values > 1e-14) & (values < 1e13))
            if len(resolved):
                at = resolved[len(resolved) * 3 // 4]
                if kind == "condition" and name == "chaotic":
                    line = 1 + line * (values[at] - 1) / line[at]
                elif not (kind == "condition" and name == "critical"):
                    line = line * values[at] / line[at]
                axis.plot(
                    depths, line, linestyle=("-", "--", ":")[i], color="0.35", linewidth=1.1, label=text, zorder=0
                )
        values = log_mean(arrays, f"curve/{kind}")
        if kind != "lambda_max" and np.isfinite(values).any():
            axis.set_ylim(max(np.nanmin(values) / 3, 1e-16), min(np.nanmax(values) * 5, 1e16))
        axis.set(xscale="log", yscale="log", xlabel="depth (hidden layers)", ylabel=label)
        axis.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return figure


def predicted(
    kind: str, name: str, theory: Phase, depths: np.ndarray, arrays: Seeds
) -> tuple[np.ndarray, str]:
    """(shape of the predicted curve against depth, its formula): Xiao et al. 2020, Table 1."""
    l = depths.astype(float)
    if kind == "condition":
        return {
            "ordered": (theory.chi_1**-l / l, "$\\chi_1^{-l} / l$"),
            "critical": (np.full_like(l, mean(arrays, "curve/critical_limit")[0]), "limit at criticality"),
            "chaotic": (theory.chi_1**-l, "$1 + c \\chi_1^{-l}$"),
        }[name]
    return {
        "ordered": (np.ones_like(l), "constant"),
        "critical": (1 / l, "$1/l$"),
        "chaotic": (l * (theory.chi_c / theory.chi_1) ** l, "$l (\\chi_{c^*} / \\chi_1)^l$"),
    }[name]


def scale_of(activation: str, variance: float, bias: float) -> float:
    """The depth at which trainability (ordered) or generalization (chaotic) is gone."""
    theory = phase(activation, variance, bias)
    return SCALES * (theory.xi_star if theory.name == "chaotic" else theory.xi_1)


def diagram(arrays: Seeds, setting: Setting) -> Figure:
    """Phases over both variances, with the depth at which information is gone; where this trial lies: dots."""
    activation, bias = setting
    used = arrays[0]["map/weight_variances"]
    sw2 = np.linspace(0.1, 1.05 * max(3.0, used.max()), 60)
    sb2 = np.linspace(0.002, max(0.3, 1.3 * bias), 25)  # at 0 the fixed point q* itself may be 0
    depth = np.array([[scale_of(activation, v, b) for v in sw2] for b in sb2])
    figure, axes = plots.new(width=6, height=4)
    axis = axes[0, 0]
    image = axis.pcolormesh(
        sw2, sb2, np.log10(np.minimum(depth, 1e3)), cmap="viridis", shading="nearest", rasterized=True
    )
    line = [critical_weight_variance(activation, b) for b in sb2]
    axis.plot(line, sb2, color="white", linewidth=2, label="critical, $\\chi_1 = 1$")
    axis.plot(
        used, np.full_like(used, bias), "o", color="white", markeredgecolor="black", markersize=5, label="this trial"
    )
    for text, x in (("ordered", 0.4), ("chaotic", 0.5 * (line[0] + sw2[-1]) + 0.3)):
        axis.text(x, 0.9 * sb2[-1], text, color="white", fontsize=11)
    axis.set(xlabel="weight variance $\\sigma_w^2$", ylabel="bias variance $\\sigma_b^2$", xlim=(sw2[0], sw2[-1]))
    axis.grid(False)
    bar = figure.colorbar(image, ax=axis, ticks=[0, 1, 2, 3], label=f"{SCALES}$\\xi$ (hidden layers)")
    bar.ax.set_yticklabels(["1", "10", "100", "1000+"])
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, labelcolor="black", facecolor="0.6", frameon=True
    )
    return figure


def edges(values: ArrayLike, *, log: bool = False) -> np.ndarray:
    """Borders between cells around the given centres."""
    values = np.log(values) if log else np.asarray(values, float)
    if len(values) == 1:
        result = np.array([values[0] - 0.3, values[0] + 0.3])
    else:
        middle = (values[1:] + values[:-1]) / 2
        result = np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])
    return np.exp(result) if log else result


def heat_maps(arrays: Seeds, setting: Setting) -> Figure:
    """Training and test accuracy over weight variance and depth, with the depth scales; below it finite networks."""
    finite = "finite/train" in arrays[0]
    figure, axes = plots.new(1 + finite, 2, width=4.8, height=3.4, sharex=True, sharey=True)
    variances, depths = arrays[0]["map/weight_variances"], arrays[0]["map/depths"]
    maps = [("infinite width", variances, depths, [mean(arrays, f"map/{name}") for name in ("train", "test")])]
    drawn = finite and any(not np.array_equal(a[f"finite/{x}"], arrays[0][f"finite/{x}"])
                           for a in arrays for x in ("weight_variance", "depth"))  # fmt: skip
    if finite and not drawn and len(arrays[0]["finite/depth"]) == np.prod([len(v) for v in finite_map(arrays)[:2]]):
        maps.append(("finite width", *finite_map(arrays)))
    elif finite:
        names = ("weight_variance", "depth", "train", "test")
        x, y, *tables = (np.concatenate([a[f"finite/{name}"] for a in arrays]) for name in names)
        maps.append(("finite width, drawn cells", x, y, tables))
    best = np.nanmax(np.concatenate([tables[1].ravel() for *_, tables in maps]))
    limits = (1, max(0.1, np.ceil(10 * best) / 10))  # test accuracies of a hard data set look alike on a scale to 1
    for row, (name, x, y, tables) in zip(axes, maps):
        for axis, table, split, limit in zip(row, tables, ("training", "test"), limits):
            look = {"vmin": 0, "vmax": limit, "cmap": "viridis"}
            if table.ndim == 1:
                image = axis.scatter(x, y, c=table, edgecolors="0.4", linewidths=0.5, **look)
            else:
                image = axis.pcolormesh(edges(x), edges(y, log=True), table.T, **look)
            plot_depth_scales(axis, edges(variances)[[0, -1]], setting)
            axis.set(yscale="log", ylim=edges(depths, log=True)[[0, -1]], xlim=edges(variances)[[0, -1]])
            axis.set_title(f"{name}: {split} accuracy")
            axis.grid(False)
            figure.colorbar(image, ax=axis)
            if name == "finite width":
                for i, j in np.ndindex(table.shape):
                    colour = "black" if table[i, j] > 0.6 * limit else "white"
                    axis.text(x[i], y[j], f"{table[i, j]:.2f}", ha="center", va="center", fontsize=7, color=colour)
    for axis in axes[-1]:
        axis.set_xlabel("weight variance $\\sigma_w^2$")
    for axis in axes[:, 0]:
        axis.set_ylabel("depth (hidden layers)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, facecolor="0.6", frameon=True)
    return figure


def finite_map(arrays: Seeds) -> tuple[list[float], list[int], list[np.ndarray]]:
    """(weight variances [V], depths [L], [training, test accuracy [V, L]]) of the finite networks, means over seeds."""
    v, l = arrays[0]["finite/weight_variance"], arrays[0]["finite/depth"]
    variances, depths = sorted(set(v.tolist())), sorted(set(l.tolist()))
    tables = []
    for name in ("train", "test"):
        table = np.full([len(variances), len(depths)], np.nan)
        table[np.searchsorted(variances, v), np.searchsorted(depths, l)] = mean(arrays, f"finite/{name}")
        tables.append(table)
    return variances, depths, tables


def plot_depth_scales(axis: Axes, borders: np.ndarray, setting: Setting) -> None:
    """The depths at which trainability and generalization end, against weight variances between two borders."""
    fine = np.linspace(*borders, 300)
    fine = fine[fine > 0.05]
    scales = np.array([scale_of(setting[0], value, setting[1]) for value in fine])
    chaotic = fine > critical_weight_variance(*setting)
    for part, dashes, text in (
        (~chaotic, "-", f"${SCALES}\\xi_1$, ordered: trainability ends"),
        (chaotic, "--", f"${SCALES}\\xi_*$, chaotic: generalization ends"),
    ):
        axis.plot(fine[part], scales[part], color="black", linewidth=3.5)
        axis.plot(fine[part], scales[part], color="white", linestyle=dashes, linewidth=1.8, label=text)


def prediction(arrays: Seeds, setting: Setting) -> Figure:
    """Every finite network of every seed: what the spectrum says of it, and what came out."""
    figure, axes = plots.new(1, 2, width=4.8, height=3.6)
    joined = {name: np.concatenate([a[f"finite/{name}"] for a in arrays])
              for name in ("weight_variance", "depth", "condition", "signal", "train", "test")}  # fmt: skip
    names = np.array([phase(setting[0], value, setting[1]).name for value in joined["weight_variance"]], dtype=object)
    critical = critical_weight_variance(*setting)
    names[np.abs(joined["weight_variance"] / critical - 1) < 0.02] = "critical"
    condition = np.minimum(joined["condition"], 1e16)
    for name, style in zip(PHASES, plots.styles()):
        at = names == name
        look = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "alpha": 0.7, "markersize": 5}
        if at.any():
            text = "within 2 % of critical" if name == "critical" else name
            axes[0, 0].plot(condition[at], joined["train"][at], label=text, **look)
            axes[0, 1].plot(joined["signal"][at], joined["test"][at], label=text, **look)
    axes[0, 0].set(xscale="log", xlabel="condition number of the infinite-width NTK (at most $10^{16}$)")
    axes[0, 0].set_ylabel("finite network's training accuracy")
    axes[0, 1].set(
        xscale="log", xlabel="size of mean predictor after as many steps", ylabel="finite network's test accuracy"
    )
    # Sizes span a decade or two, where Matplotlib's own numbers would run into each other.
    axes[0, 1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 1].xaxis.set_major_formatter("{x:g}")
    axes[0, 1].xaxis.set_minor_formatter("")
    axes[0, 0].legend()
    return figure
