"""What runs on true and on random labels say of capacity and explicit regularizers: verdict and figures of randomization."""

import numpy as np

from analysis.statistics import monotone_trend, t_interval
from experiments.norms import by_seed, points
from reporting import figures as plots
from reporting.verdict import Verdict

ENOUGH = 3  # seeds of each of the conditions that decide
MARGIN = 0.05  # test accuracy this little above chance is no generalisation, however precisely it was measured
PIXELS = {"shuffled": "shuffled pixels", "random": "random pixels", "gaussian": "Gaussian pixels"}


def condition(row):
    """`true labels`, `random labels (p = 0.5)`, `random labels`, `shuffled pixels`, ..."""
    if row["pixel_noise"] != "none":
        return PIXELS[row["pixel_noise"]]
    p = row["label_noise"]
    return "true labels" if p == 0 else "random labels" if p == 1 else f"random labels (p = {p:g})"


def setting(row):
    """`none`, `weight_decay 0.0005`, `augment`, `dropout 0.2`, `all (0.0005, 0.2)`: explicit regularizers with strengths."""
    decay, dropout = f"{row['coefficient']:g}", f"{row['dropout']:g}"
    strengths = {"weight_decay": f" {decay}", "dropout": f" {dropout}", "all": f" ({decay}, {dropout})"}
    return row["explicit"] + strengths.get(row["explicit"], "")


def split(rows, name):
    """{name of the group: its rows}, for `condition` or `setting`, in the table's order; without diverged runs' groups."""
    return dict(list(rows.groupby(rows.apply(name, axis=1), sort=False)))


def interval(rows, column="test/accuracy"):
    return t_interval(rows[column] if rows is not None and column in rows else [])


def shown(found, digits=3):
    bounds = f" [{found.low:.{digits}g}, {found.high:.{digits}g}]" if found.n > 1 else ""
    return f"{found.mean:.{digits}g}{bounds}" if found.n else "not measured"


def fitted(rows):
    """How many runs were fitted."""
    return int(rows["fitted_epoch"].notna().sum()) if rows is not None and "fitted_epoch" in rows else 0


def slowdown(rows, reference):
    """Interval of the epochs to fit over those of `reference`, seed by seed, where both were fitted."""
    if not (fitted(rows) and fitted(reference)):
        return t_interval([])
    a, b = (r.set_index("seed")["fitted_epoch"].astype(float) for r in (rows, reference))
    return t_interval((a / b).dropna())


def trend_over_p(rows, values):
    """Trend of values with the probability p of a random label: levels 2^p make its slope one per unit of p."""
    return monotone_trend(2.0 ** rows["label_noise"], values.astype(float), rows["seed"])


def outcome(true, random, regularized, chance):
    """What one network says: `true`, `random` are its unregularized rows, `regularized` its groups on true labels.

    Refuted: the network fits random labels, is there not above chance, or by less than MARGIN, and yet generalises on true
    labels by the same recipe.
    Supported: on true labels it is above chance with explicit regularizers only. That a network did not fit random labels
    within its epochs proves no limit of its capacity, so it decides nothing.
    """
    plain, noise = interval(true), interval(random)
    if min(plain.n, noise.n) >= ENOUGH:
        all_fitted = fitted(random) == len(random)
        useless = noise.low <= chance or noise.high <= chance + MARGIN
        if all_fitted and useless and plain.low > max(chance, noise.high):
            return "refuted"
    helped = [i for i in map(interval, regularized) if i.n >= ENOUGH and i.low > max(chance, plain.high)]
    if plain.n >= ENOUGH and helped and plain.low <= chance:
        return "supported"
    return "undecided"


def describe(network, rows):
    """(outcome, text) of one network."""
    if "test/accuracy" not in rows or rows["test/accuracy"].isna().all():
        return "undecided", f"{network}: every run diverged"
    chance = rows["chance"].iloc[0]
    settings = split(rows, setting)
    plain = settings.get("none")
    conditions = {} if plain is None else split(plain, condition)
    true, random = conditions.get("true labels"), conditions.get("random labels")
    regularized = {
        name: group[(group["label_noise"] == 0) & (group["pixel_noise"] == "none")]
        for name, group in settings.items() if name != "none"
    }  # fmt: skip
    decided = outcome(true, random, regularized.values(), chance)
    parts = []
    for name, group in conditions.items():
        text = f"{name} fitted in {fitted(group)} of {len(group)} runs, test accuracy {shown(interval(group))}"
        if name != "true labels" and (ratio := slowdown(group, true)).n:
            text += f", {shown(ratio, 2)} times the epochs of true labels"
        if name in ("true labels", "random labels", *PIXELS.values()):
            parts.append(text)
    if true is not None:
        gains = [(name, by_seed(group, true, "test/accuracy")) for name, group in regularized.items() if len(group)]
        parts += [f"on true labels {name} changes test accuracy by {points(gain)}" for name, gain in gains if gain.n]
    if plain is not None:
        sweep = plain[plain["pixel_noise"] == "none"]
        if sweep["label_noise"].nunique() > 1:
            epochs, error = trend_over_p(sweep, sweep["fitted_epoch"]), trend_over_p(sweep, 1 - sweep["test/accuracy"])
            parts += [
                f"{what} is {trend.direction} in p (slope {shown(trend.slope)} per unit, Kendall {trend.kendall:.2g})"
                for what, trend in (("time to fit", epochs), ("test error", error)) if trend.slope.n
            ]  # fmt: skip
    return decided, f"{network} ({decided}): " + "; ".join(parts or ["no run without explicit regularizers"])


def judge(groups):
    """groups: [(network, rows)], the rows of a network that share recipe and data."""
    test = (
        f"Without explicit regularizers, over at least {ENOUGH} seeds, by one recipe. Refuted where a network is right on 99 % "
        "of its randomly labelled training images in every run, the t-interval (95 %) of its test accuracy there reaches down "
        f"to chance or ends below chance + {MARGIN:g}, and that with true labels lies above it. Supported where every network "
        "generalises on true labels (interval above chance) with explicit regularizers only."
    )
    found = [describe(network, rows) for network, rows in groups]
    outcomes = {decided for decided, _ in found}
    verdict = "refuted" if "refuted" in outcomes else "supported" if outcomes == {"supported"} else "undecided"
    return Verdict(verdict, ". ".join(text for _, text in found) + ".", test)


def figures(groups, histories):
    result = {"training_curves": training_curves(groups, histories)}
    measured = [(network, rows) for network, rows in groups if "test/accuracy" in rows and rows["test/accuracy"].notna().any()]
    if measured:
        if any(((rows["label_noise"] > 0) & (rows["label_noise"] < 1)).any() for _, rows in measured):
            result["label_corruption"] = label_corruption(measured)
        result["regularizers"] = regularizers(measured)
    return result


def training_curves(groups, histories):
    """Training accuracy over each epoch against epochs; without explicit regularizers where there are such runs."""
    columns = min(3, len(groups))
    figure, axes = plots.new(-(-len(groups) // columns), columns, width=4.6)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    handles = {}
    for axis, (network, rows) in zip(axes.flat, groups):
        plain = rows[rows["explicit"] == "none"]
        name = "none" if len(plain) else rows["explicit"].iloc[0]
        chosen = rows[rows["explicit"] == name]
        styles = plots.styles()
        for label, group in split(chosen, condition).items():
            p = group["label_noise"].iloc[0]
            between = 0 < p < 1  # the sweep in greys, its ends and the pixels in colour
            style = {"color": str(0.8 - 0.6 * p), "linestyle": ":"} if between else next(styles)
            for identity in group["config_id"]:
                history = histories[identity]
                look = {**style, "linewidth": 1.2, "alpha": 0.8, "markersize": 4, "markevery": (0.1, 0.2)}
                (line,) = axis.plot(history["epoch"], history["train/accuracy"], **look)
                handles.setdefault(label, line)
        axis.set(xlabel="epoch", ylabel="training accuracy", xscale="log", ylim=(0, 1.03))
        axis.set_title(network if name == "none" else f"{network}, {name}")
    figure.legend(handles.values(), handles, loc="outside right center", title="a line: a seed")
    return figure


def label_corruption(groups):
    """Epochs to fit, and test error at the end, against the probability of a random label."""
    figure, axes = plots.new(1, 2, width=4.6, height=3.8)
    styles, levels = plots.styles(), set()
    for network, rows in groups:
        for name, group in split(rows[rows["pixel_noise"] == "none"], setting).items():
            by_p = {p: g for p, g in group.groupby("label_noise")}
            if len(by_p) < 2:
                continue
            levels.update(by_p)
            style, label = next(styles), f"{network}, explicit: {name}"
            # A mean over those seeds alone that were fitted in time would be too small.
            complete = [p for p, g in by_p.items() if fitted(g) == len(g)]
            epochs = [interval(by_p[p], "fitted_epoch") for p in complete]
            plots.interval_line(axes[0, 0], complete, epochs, label=label, **style)
            errors = [t_interval(1 - g["test/accuracy"]) for g in by_p.values()]
            plots.interval_line(axes[0, 1], list(by_p), errors, label=label, **style)
    p, chance = np.array(sorted(levels)), groups[0][1]["chance"].iloc[0]
    if len(p):
        axes[0, 1].plot(p, (1 - chance) * p, ":", color="0.4", label="share of wrong training labels")
    axes[0, 0].set(xlabel="probability of a random label", ylabel="epochs to fit (where all seeds were)", ylim=(0, None))
    axes[0, 1].set(xlabel="probability of a random label", ylabel="test error", ylim=(0, 1))
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def regularizers(groups):
    """Accuracy on both sets by explicit regularizer, for true labels and for each kind of noise (no sweep over p)."""
    figure, axes = plots.new(len(groups), 2, width=4.8, height=3.3)
    ends = ("true labels", "random labels", *PIXELS.values())
    handles = {}
    for row_of_axes, (network, rows) in zip(axes, groups):
        settings = split(rows, setting)
        found = {name: split(group, condition) for name, group in settings.items()}
        for axis, column, label in zip(row_of_axes, ("train/accuracy", "test/accuracy"), ("training", "test")):
            for i, (name, style) in enumerate(zip(ends, plots.styles())):
                values = [interval(found[s].get(name), column) for s in settings]
                if any(v.n for v in values):
                    places = np.arange(len(values)) + 0.06 * (i - len(ends) / 2)  # side by side: bars that hide none
                    plots.interval_line(axis, places, values, label=name, **{**style, "linestyle": "none"})
            handles.update({h.get_label(): h for h in axis.containers})
            axis.axhline(rows["chance"].iloc[0], linestyle=":", color="0.4", linewidth=1)
            axis.set_xticks(range(len(settings)), [s.replace(" ", "\n", 1) for s in settings])
            axis.set(xlim=(-0.5, len(settings) - 0.5), ylim=(0, 1.05), ylabel=f"{label} accuracy", title=network)
    figure.legend(handles.values(), handles, loc="outside right center", title="dotted: chance")
    return figure
