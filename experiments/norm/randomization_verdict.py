"""What runs on true and random labels say of capacity and explicit regularizers: verdict and figures of it."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.statistics import Interval, Trend, monotone_trend, t_interval
from judging.decision import Finding, Statement, above, decide, fact, within
from judging.results import Group, Results, paired_by_seed
from judging.verdict import Verdict
from judging.wording import field_text, format_factor, format_interval, format_points
from reporting import figures as plots

PIXELS = {"shuffled": "shuffled pixels", "random": "random pixels", "gaussian": "Gaussian pixels"}
STRENGTHS = {"weight_decay": "coefficient", "dropout": "dropout"}  # the field that says how strong a regularizer is
NOISE = ("random labels", *PIXELS.values())  # nothing that was learned from it holds on the test set
FITTED = 0.99  # share of the training images that a fitted network is right on; it acts while measuring
Conditions = dict[str, pd.DataFrame]  # {condition: rows}


def name_condition(row: pd.Series) -> str:
    """`true labels`, `random labels (p = 0.5)`, `random labels`, `shuffled pixels`, ..."""
    if row["pixel_noise"] != "none":
        return PIXELS[row["pixel_noise"]]
    p = row["label_noise"]
    return "true labels" if p == 0 else "random labels" if p == 1 else f"random labels (p = {field_text(p)})"


def name_setting(row: pd.Series) -> str:
    """`none`, `weight_decay 0.0005`, `augment`, `dropout 0.2`, `all (0.0005, 0.2)`: regularizers with strengths."""
    decay, dropout = field_text(row["coefficient"]), field_text(row["dropout"])
    strengths = {"weight_decay": f" {decay}", "dropout": f" {dropout}", "all": f" ({decay}, {dropout})"}
    return row["explicit_regularizer"] + strengths.get(row["explicit_regularizer"], "")


def conditions_by_setting(group: Group) -> dict[str, Conditions]:
    """{explicit regularizers: {condition: rows}} of a group in the table's order; diverged runs are among the rows."""
    result = {}
    for rows in group.split("explicit_regularizer", "coefficient", "dropout", "pixel_noise", "label_noise").values():
        first = rows.iloc[0]
        result.setdefault(name_setting(first), {})[name_condition(first)] = rows
    return result


def interval(rows: pd.DataFrame | None, column: str = "test/accuracy", confidence: float = 0.95) -> Interval:
    """The mean of a column over the rows' seeds; of nothing where there are no rows, or they lack it."""
    return t_interval(rows[column] if rows is not None and column in rows else [], confidence)


def count_fitted(rows: pd.DataFrame | None) -> int:
    """How many runs were fitted."""
    return int(rows["fitted_epoch"].notna().sum()) if rows is not None and "fitted_epoch" in rows else 0


def slowdown(rows: pd.DataFrame, reference: pd.DataFrame | None, confidence: float = 0.95) -> Interval:
    """Interval of the epochs to fit over those of `reference`, seed by seed, where both were fitted."""
    if not (count_fitted(rows) and count_fitted(reference)):
        return t_interval([])
    a, b = (dict(zip(r["seed"], r["fitted_epoch"].astype(float))) for r in (rows, reference))
    ratios = [a[seed] / b[seed] for seed in a if seed in b]
    return t_interval([ratio for ratio in ratios if ratio == ratio], confidence)


def trend_over_p(rows: pd.DataFrame, values: pd.Series, confidence: float) -> Trend:
    """Trend of values with the probability p of a random label: levels 2^p make its slope one per unit of p."""
    return monotone_trend(2.0 ** rows["label_noise"], values.astype(float), rows["seed"], confidence)


def sampling_error(rows: pd.DataFrame, accuracy: float) -> float:
    """Standard deviation of an accuracy on as many test images as the rows had; 0 where that was not kept."""
    images = rows["test/images"].mean() if "test/images" in rows else np.nan
    return float(np.sqrt(accuracy * (1 - accuracy) / images)) if images > 0 and 0 < accuracy < 1 else 0.0


def statements(
    true: pd.DataFrame | None, random: pd.DataFrame | None, regularized: dict[str, pd.DataFrame], chance: float,
    margin: float,
) -> tuple[tuple[Statement, ...], tuple[Statement, ...]]:  # fmt: skip
    """(supports, refutes) of one network: `true`, `random` are its unregularized rows, `regularized` {name: rows} those
    on true labels.

    That a network did not fit random labels within its epochs proves no limit of its capacity, so it decides nothing.
    """

    def at_chance(rows):
        return within(interval(rows), chance - margin, chance + margin, sampling_error(rows, chance), single=True)

    def generalizes(rows):
        return above(interval(rows), chance + margin, sampling_error(rows, chance + margin), single=True)

    if true is None:
        return (), ()
    supports = tuple(
        Statement(f"generalizes with {name} only", (*at_chance(true), generalizes(rows)))
        for name, rows in regularized.items()
    )
    if random is None:
        return supports, ()
    fitted = fact(count_fitted(random) == len(random))
    text = "fits random labels and generalizes on true ones"
    return supports, (Statement(text, (fitted, *at_chance(random), generalizes(true))),)


def is_measured(group: Group) -> bool:
    """Did any of the group's runs not diverge?"""
    return "test/accuracy" in group.rows and bool(group.rows["test/accuracy"].notna().any())


def judge_group(group: Group, margin: float, confidence: float) -> Finding:
    """What the runs of a Group say of capacity and explicit regularizers."""
    rows = group.rows
    if not is_measured(group):
        return Finding(group.label, "every run diverged")
    settings = conditions_by_setting(group)
    plain = settings.get("none", {})
    true = plain.get("true labels")
    regularized = {
        name: found["true labels"] for name, found in settings.items() if name != "none" and "true labels" in found
    }
    said = statements(true, plain.get("random labels"), regularized, rows["chance"].max(), margin)
    parts = [
        describe_condition(name, part, true, confidence)
        for name, part in plain.items() if name in ("true labels", *NOISE)
    ]  # fmt: skip
    if true is not None:
        gains = {name: paired_by_seed(part, true, "test/accuracy", confidence) for name, part in regularized.items()}
        parts += [
            f"on true labels {name} changes test accuracy by {format_points(gain)}"
            for name, gain in gains.items() if gain.n
        ]  # fmt: skip
    parts += describe_sweep(plain, confidence)
    parts += describe_doses(settings, true, confidence)
    parts += describe_margins(true, plain.get("random labels"), confidence)
    return Finding(group.label, ", ".join(parts) or "no run without explicit regularizers", *said)


def describe_condition(name: str, rows: pd.DataFrame, true: pd.DataFrame | None, confidence: float) -> str:
    """How many runs were fitted, how well they generalize, and how much slower they were than on true labels."""
    accuracy = format_interval(interval(rows, confidence=confidence))
    text = f"{name} fitted in {count_fitted(rows)} of {len(rows)} runs, test accuracy {accuracy}"
    if name != "true labels" and (ratio := slowdown(rows, true, confidence)).n:
        text += f", {format_interval(ratio, 2)} times the epochs of true labels"
    return text


def describe_sweep(plain: Conditions, confidence: float) -> list[str]:
    """[text] of the trends over the probability of a random label, where there are several of them."""
    sweep = [rows for rows in plain.values() if rows["pixel_noise"].iloc[0] == "none"]
    if len(sweep) < 2:
        return []
    sweep = pd.concat(sweep)
    trends = {
        "time to fit": trend_over_p(sweep, sweep["fitted_epoch"], confidence),
        "test error": trend_over_p(sweep, 1 - sweep["test/accuracy"], confidence),
    }
    return [
        f"{what} is {trend.direction} in p (slope {format_interval(trend.slope)} per unit)"
        for what, trend in trends.items() if trend.slope.n
    ]  # fmt: skip


def doses(settings: dict[str, Conditions]) -> dict[str, list[tuple[float, Conditions]]]:
    """{regularizer: [(strength, {condition: rows})] by strength} of those that were tried at several strengths.

    The strength is the coefficient of weight decay or the rate of dropout; `all` and `augment` have no scale.
    """
    found = {}
    for conditions in settings.values():
        first = next(iter(conditions.values())).iloc[0]
        name = first["explicit_regularizer"]
        if name in STRENGTHS:
            found.setdefault(name, []).append((float(first[STRENGTHS[name]]), conditions))
    return {name: sorted(curve, key=lambda dose: dose[0]) for name, curve in found.items() if len(curve) > 1}


def describe_doses(settings: dict[str, Conditions], true: pd.DataFrame | None, confidence: float) -> list[str]:
    """[text]: what each dose of a regularizer gains on true labels, and whether random labels are still fitted."""
    parts = []
    for name, curve in doses(settings).items():
        told = []
        for strength, conditions in curve:
            text = field_text(strength)
            if true is not None and "true labels" in conditions:
                gain = paired_by_seed(conditions["true labels"], true, "test/accuracy", confidence)
                text += f": {format_points(gain)} on true labels"
            if "random labels" in conditions:
                rows = conditions["random labels"]
                text += f", random labels fitted in {count_fitted(rows)} of {len(rows)} runs"
            told.append(text)
        parts.append(f"doses of {name.replace('_', ' ')}: {'; '.join(told)}")
    return parts


def describe_margins(true: pd.DataFrame | None, random: pd.DataFrame | None, confidence: float) -> list[str]:
    """[text] of the median normalized margin on random labels over that on true ones, where runs of a seed fitted both.
    """
    if true is None or random is None or not {"margin/median", "fitted_epoch"} <= set(true):
        return []
    both = []
    for rows in (true, random):
        fitted = rows[rows["fitted_epoch"].notna() & (rows["margin/median"].astype(float) > 0)]
        both.append(fitted.assign(margin=np.log10(fitted["margin/median"].astype(float))))
    ratio = paired_by_seed(both[1], both[0], "margin", confidence)
    if not ratio.n:
        return []
    return [f"median normalized margin on random labels {format_factor(ratio)} times that on true ones"]


def judge(results: Results) -> Verdict:
    """Test accuracy of each network on true labels, on noise that it fits, and with explicit regularizers.

    One recipe a group; the rule is that of `statements`.
    """
    margin = results.margins["margin"]
    test = (
        f"One-sided t-tests over seeds of test accuracy, whose spread counts as no smaller than the sampling error of "
        f"its test images; at chance is within {margin:g} of it. Refuted where a network without explicit regularizers "
        f"is right on {100 * FITTED:g} % of its randomly labelled training images in every run and at chance on the "
        "test set, and with true labels, by the same recipe, above chance by more than that. Supported where every "
        "network on true labels is at chance without explicit regularizers, and above it with one of them."
    )
    groups = results.groups()
    if not any(is_measured(group) for group in groups):
        return Verdict("undecided", "Every run diverged.", test)
    return decide(results, [judge_group(group, margin, results.confidence) for group in groups], test)


def figures(results: Results) -> dict[str, Figure]:
    """Training curves; where any run was measured, accuracies by explicit regularizer, and over p where it varies."""
    groups = results.groups()
    result = {"training_curves": plot_training(groups, results.histories)}
    measured = [group for group in groups if is_measured(group)]
    if measured:
        if any(group.rows["label_noise"].between(0, 1, inclusive="neither").any() for group in measured):
            result["label_corruption"] = plot_corruption(measured)
        result["regularizers"] = plot_regularizers(measured)
        if any(doses(conditions_by_setting(group)) for group in measured):
            result["doses"] = plot_doses(measured)
    return result


def plot_training(groups: list[Group], histories: dict[str, pd.DataFrame]) -> Figure:
    """Training accuracy over each epoch against epochs; without explicit regularizers where there are such runs."""
    figure, axes = plots.panel_grid(len(groups), width=4.6)
    handles = {}
    for axis, group in zip(axes, groups):
        settings = conditions_by_setting(group)
        name = "none" if "none" in settings else next(iter(settings))
        styles = plots.styles()
        for condition, rows in settings[name].items():
            p = rows["label_noise"].iloc[0]
            between = 0 < p < 1  # the sweep in greys, its ends and the pixels in colour
            style = {"color": str(0.8 - 0.6 * p), "linestyle": ":"} if between else next(styles)
            for identity in rows["config_id"]:
                history = histories.get(identity, ())
                if len(history):
                    look = {**style, "linewidth": 1.2, "alpha": 0.8, "markersize": 4, "markevery": (0.1, 0.2)}
                    (line,) = axis.plot(history["epoch"], history["train/accuracy"], **look)
                    handles.setdefault(condition, line)
        axis.set(xlabel="epoch", ylabel="training accuracy", xscale="log", ylim=(0, 1.03))
        axis.set_title(group.label if name == "none" else f"{group.label}, {name}")
    figure.legend(handles.values(), handles, loc="outside right center", title="a line: a seed")
    return figure


def plot_corruption(groups: list[Group]) -> Figure:
    """Epochs to fit, and test error at the end, against the probability of a random label."""
    figure, axes = plots.new(1, 2, width=4.6, height=3.8)
    styles, levels = plots.styles(), set()
    for group in groups:
        for setting, conditions in conditions_by_setting(group).items():
            sweep = [rows for rows in conditions.values() if rows["pixel_noise"].iloc[0] == "none"]
            by_p = dict(sorted({rows["label_noise"].iloc[0]: rows for rows in sweep}.items()))
            if len(by_p) < 2:
                continue
            levels.update(by_p)
            style, name = next(styles), f"{group.label}, explicit: {setting}"
            # A mean over those seeds alone that were fitted in time would be too small.
            complete = [p for p, rows in by_p.items() if count_fitted(rows) == len(rows)]
            epochs = [interval(by_p[p], "fitted_epoch") for p in complete]
            plots.interval_line(axes[0, 0], complete, epochs, label=name, **style)
            errors = [t_interval(1 - rows["test/accuracy"]) for rows in by_p.values()]
            plots.interval_line(axes[0, 1], list(by_p), errors, label=name, **style)
    p, chance = np.array(sorted(levels)), groups[0].rows["chance"].max()
    if len(p):
        axes[0, 1].plot(p, (1 - chance) * p, ":", color="0.4", label="share of wrong training labels")
    axes[0, 0].set(ylabel="epochs to fit (where all seeds were)", ylim=(0, None))
    axes[0, 1].set(ylabel="test error", ylim=(0, 1))
    for axis in axes.flat:
        axis.set_xlabel("probability of a random label")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_doses(groups: list[Group]) -> Figure:
    """Accuracy on both sets against the strength of a regularizer, for true and for random labels."""
    curves = [
        (group, name, curve)
        for group in groups for name, curve in doses(conditions_by_setting(group)).items()
    ]  # fmt: skip
    figure, axes = plots.new(len(curves), 2, width=4.8, height=3.3)
    for row_of_axes, (group, name, curve) in zip(axes, curves):
        for axis, column, label in zip(row_of_axes, ("train/accuracy", "test/accuracy"), ("training", "test")):
            for condition, style in zip(("true labels", "random labels"), plots.styles()):
                found = [(strength, rows[condition]) for strength, rows in curve if condition in rows]
                values = [interval(rows, column) for _, rows in found]
                if any(value.n for value in values):
                    plots.interval_line(axis, [strength for strength, _ in found], values, label=condition, **style)
            axis.axhline(group.rows["chance"].max(), linestyle=":", color="0.4", linewidth=1)
            axis.set(ylim=(0, 1.05), xlabel=name.replace("_", " "), ylabel=f"{label} accuracy")
            if name != "dropout":
                axis.set_xscale("log")
            axis.set_title(group.label)
        row_of_axes[0].legend()
    return figure


def plot_regularizers(groups: list[Group]) -> Figure:
    """Accuracy on both sets by explicit regularizer, for true labels and for each kind of noise (no sweep over p)."""
    figure, axes = plots.new(len(groups), 2, width=4.8, height=3.3)
    shown = ("true labels", *NOISE)
    handles = {}
    for row_of_axes, group in zip(axes, groups):
        settings = conditions_by_setting(group)
        for axis, column, label in zip(row_of_axes, ("train/accuracy", "test/accuracy"), ("training", "test")):
            for i, (name, style) in enumerate(zip(shown, plots.styles())):
                values = [interval(found.get(name), column) for found in settings.values()]
                if any(v.n for v in values):
                    places = np.arange(len(values)) + 0.06 * (i - len(shown) / 2)  # side by side: bars that hide none
                    plots.interval_line(axis, places, values, label=name, **{**style, "linestyle": "none"})
            handles.update({h.get_label(): h for h in axis.containers})
            axis.axhline(group.rows["chance"].max(), linestyle=":", color="0.4", linewidth=1)
            if len(settings) > 4:  # doses, say: labels side by side would overlap
                axis.set_xticks(range(len(settings)), settings, rotation=45, ha="right", rotation_mode="anchor")
            else:
                axis.set_xticks(range(len(settings)), [name.replace(" ", "\n", 1) for name in settings])
            axis.set(xlim=(-0.5, len(settings) - 0.5), ylim=(0, 1.05), ylabel=f"{label} accuracy", title=group.label)
    figure.legend(handles.values(), handles, loc="outside right center", title="dotted: chance")
    return figure
