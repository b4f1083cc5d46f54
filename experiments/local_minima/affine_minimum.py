"""Are all local minima (nearly) global?  Goldblum et al. 2020, section 2, Lemma 1 and Theorem 1.

The affine optimum of the training loss is embedded in a ReLU network. A certificate proves that no network within a
radius has a lower loss; the same architecture, trained from its default initialization, shows how much lower it gets.

Whether SGD is trapped there is a question of its step size, and the verdict does not rest on it. It is measured beside
the proof: from which step size on does SGD leave the certified ball, with all images at every step and with
minibatches, in units of 2 / largest Hessian eigenvalue, at which gradient descent on a quadratic function gets
unstable; from the same function in flatter networks too, whose layers have traded factors (Dinh et al. 2017); and how
high the loss rises on the straight line to a trained network.
"""
import dataclasses
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.activations import inactive_fractions
from analysis.affine_minimum import AffineMinimum, Certificate, certify, embed, relu_mlp_layers
from analysis.evaluation import evaluate, evaluate_splits
from analysis.hessian import TrainingLoss, extreme_eigenvalues, largest_eigenvalue
from analysis.parameters import get_parameters, set_parameters
from analysis.rescaling import rescale_layers
from analysis.statistics import t_interval
from experiments.local_minima.affine_start import affine_optimum, check_embeddable, stable_rate
from harness.experiment import Experiment, check_distinct, evaluation_columns, former_evaluation_columns, seed_field
from judging.decision import Finding, Statement, decide, fact
from judging.results import Results
from judging.verdict import Claim, Verdict
from judging.wording import field_text, format_factor, list_words
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network, fit
from training.plain_sgd import PlainSGD

CLAIM = Claim(
    "All local minima of neural networks are (nearly) global.",
    source="Goldblum et al. 2020, section 2, on a folklore of deep-learning theory",
)
GRID = {
    "depth": [2, 3],
    "width": [64, 128],
    "escape_rates": [(0.5, 0.9, 1.1, 10.0, 100.0, 1000.0)],
    "rescalings": [(0.3, 0.1, 0.03)],
    "seed": [0, 1, 2],
}
WALKS = {  # of the sweep over step sizes: where they start, and what a step sees
    "full_batch": "with all images a step",
    "minibatch": "with minibatches",
    "flattest": "with minibatches, from the flattest rescaled network",
}
START = 0.1  # of the certified radius: a walk's distance from the minimum when it begins
COLUMNS = {
    "affine/loss": "training loss of the affine optimum",
    "affine/gradient_norm": "its gradient norm",
    "affine/rank": "its rank",
    "minimum/train/loss": "loss at the minimum",
    "minimum/gradient_norm": "gradient norm",
    "minimum/output_error": "largest difference between network and affine map on a training image",
    "minimum/inactive": "share of inactive units at the minimum",
    "minimum/test/accuracy": "test accuracy at the minimum",
    "certificate/radius": "certified radius",
    "certificate/floor": "no network within the radius has a lower loss",
    "certificate/margin": "smallest pre-activation",
    "hessian/largest": "largest",
    "hessian/smallest": "smallest Hessian eigenvalue",
    "hessian/residual": "largest relative residual of the two eigenvalues",
    "hessian/converged": "did both eigenvalues converge?",
    "hessian/products": "Hessian-vector products",
    "ball/points": "random networks in the certified ball",
    "ball/lower": "how many of them have a loss below the minimum's, beyond rounding",
    "ball/smallest_rise": "their smallest loss minus the minimum's",
    "embedding/learning_rate": "learning rate of training from the minimum",
    "embedding/gradient_norm": "gradient norm where training from the minimum ended",
    "embedding/largest": "largest Hessian eigenvalue where training from the minimum ended",
    "embedding/smallest": "smallest Hessian eigenvalue where training from the minimum ended",
    **evaluation_columns("embedding", "trained from the minimum"),
    "embedding/train/loss": "loss after training from it at that rate",
    "embedding/epochs": "epochs trained from the minimum",
    "embedding/moved": "distance that training moved from the minimum",
    **evaluation_columns("default", "trained from default initialization"),
    "default/train/loss": "loss from default initialization",
    "default/test/accuracy": "its test accuracy",
    "default/epochs": "epochs trained from default initialization",
    "rescaled/<factor>/radius": "certified radius with hidden activations times the factor",
    "rescaled/<factor>/largest": "largest Hessian eigenvalue with hidden activations times the factor",
    "flattest/factor": "factor of the hidden activations at which the largest eigenvalue is least",
    "flattest/radius": "certified radius of the flattest rescaled network",
    "flattest/largest": "its largest eigenvalue",
    **{
        f"escape/{name}/{column}": f"{text}: {meaning}"
        for name, text in WALKS.items()
        for column, meaning in (
            ("unit", "2 / largest eigenvalue, the unit of rates"),
            ("stays", "largest rate tried, below all at which it leaves the certified ball, in that unit"),
            ("leaves", "least rate tried at which it leaves, in that unit"),
            ("loss", "training loss after its steps at that rate"),
        )
    },
    "escape/full_batch/leaves": "SGD leaves the certified ball from this rate on (times 2 / largest): full batch",
    "escape/minibatch/leaves": "with minibatches",
    "line/barrier": "rise of the loss on the straight line to the trained network",
    "line/barrier_distance": "how far from the minimum the loss on that line is highest",
}
TABLE = (
    "minimum/train/loss", "minimum/gradient_norm", "certificate/radius", "hessian/smallest", "hessian/largest",
    "embedding/learning_rate", "embedding/train/loss", "escape/full_batch/leaves", "escape/minibatch/leaves",
    "flattest/radius", "flattest/largest", "line/barrier", "default/train/loss", "default/test/accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", dtype="float64")
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(
        loss="squared", epochs=80, batch_size=64, learning_rate=0.05, decay_epochs=(60,)
    )
    embedding_epochs: int = field(default=10, metadata={"help": "epochs of training from the certified minimum"})
    ball_points: int = field(
        default=100, metadata={"help": "random networks in the certified ball whose loss is measured"}
    )
    directions: int = field(default=2, metadata={"help": "random directions along which the loss is drawn"})
    hessian_products: int = field(default=50, metadata={"help": "Hessian-vector products at most for both ends"})
    escape_rates: tuple[float, ...] = field(
        default=(),
        metadata={
            "help": "step sizes at which SGD walks from the minimum, in units of 2 / largest Hessian eigenvalue there; "
            "none: no walks",
            "added": True,
        },
    )
    escape_steps: int = field(default=50, metadata={"help": "steps of each of these walks", "added": True})
    rescalings: tuple[float, ...] = field(
        default=(),
        metadata={
            "help": "factors of the hidden activations, in networks of the same function whose largest eigenvalue and "
            "certified radius are measured; none: none",
            "added": True,
        },
    )
    seed: int = seed_field()

    def validate(self) -> None:
        check_distinct(self, "escape_rates", "rescalings")
        for name in ("ball_points", "directions", "embedding_epochs", "escape_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hessian_products < 50:
            raise ValueError(f"hessian_products must be at least 50, got {self.hessian_products}")


def applies(config: Config) -> bool:
    name = config.network.model
    return (name == "mlp" and config.network.activation == "relu") or name.endswith(".keras")


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """The embedded minimum and its certificate, the loss around it, and how training from it and from default ends."""
    affine = affine_optimum(config, data, run)
    model = build_network(config, data)
    start = get_parameters(model)
    embed(affine, model, data.x_train)
    minimum = get_parameters(model)
    certificate = certify(model, affine, data.x_train, data.y_train, loss=config.training.loss)
    surface = TrainingLoss(model, data.x_train, data.y_train, config.training.loss)
    result = {"affine/loss": affine.loss, "affine/gradient_norm": affine.gradient_norm, "affine/rank": affine.rank}
    result.update(measure_minimum(config, model, data, surface, certificate))
    result.update(sample_neighbourhood(config, surface, minimum, certificate.radius, result["minimum/train/loss"]))
    largest = result["hessian/largest"]
    rescaled = measure_rescalings(config, model, data, surface, affine, minimum, certificate, largest)
    result.update(rescaled)
    result.update(walk_from_minimum(config, model, data, surface, minimum, certificate.radius, largest, rescaled))
    set_parameters(model, minimum)
    result.update(train_from_minimum(config, model, data, run, surface, minimum, largest))
    set_parameters(model, start)
    result.update(train_from_default(config, model, data, run))
    if result["diverged_epoch"] is None:
        result.update(line_between(surface, minimum, get_parameters(model), certificate.radius))
    return result


def measure_minimum(
    config: Config, model: keras.Model, data: Data, surface: TrainingLoss, certificate: Certificate
) -> dict[str, float]:
    """Loss, gradient and both ends of the Hessian's spectrum at the embedded minimum, and what is certified of it."""
    value, gradient = surface.value_and_gradient()
    ends = extreme_eigenvalues(surface.hessian(), max_products=config.hessian_products, seed=config.seed)
    inactive = inactive_fractions(model, data.x_train)
    return {
        "minimum/train/loss": value,
        "minimum/gradient_norm": float(np.linalg.norm(gradient)),
        "minimum/output_error": certificate.max_output_error,
        "minimum/inactive": float(np.mean([pairs for pairs, _ in inactive.values()])),
        "minimum/test/accuracy": evaluate(model, data.x_test, data.y_test, config.training.loss)[1],
        "certificate/radius": certificate.radius,
        "certificate/floor": certificate.loss_floor,
        "certificate/margin": min(certificate.unit_margin),
        "hessian/largest": ends.largest,
        "hessian/smallest": ends.smallest,
        "hessian/residual": max(ends.largest_relative_residual, ends.smallest_relative_residual),
        "hessian/converged": ends.largest_converged and ends.smallest_converged,
        "hessian/products": ends.products,
    }


def sample_neighbourhood(
    config: Config, surface: TrainingLoss, minimum: np.ndarray, radius: float, value: float
) -> dict[str, object]:
    """Random networks in the certified ball, and the loss along random directions through and beyond it."""
    rng = np.random.default_rng([config.seed, 17])

    def unit():
        direction = rng.standard_normal(len(minimum))
        return direction / np.linalg.norm(direction)

    # Uniform in the ball: the radius of a point is distributed like U^(1/p).
    points = (minimum + radius * rng.random() ** (1 / len(minimum)) * unit() for _ in range(config.ball_points))
    inside = surface.values_at(points)
    scale = radius or 1e-2
    distances = scale * np.concatenate([[0], np.geomspace(0.1, 300, 24)])
    along = [
        surface.values_at(minimum + t * direction for t in distances)
        for direction in [unit() for _ in range(config.directions)]
    ]
    rounding = 1e-12 if config.network.dtype == "float64" else 1e-5
    return {
        "ball/points": config.ball_points,
        "ball/lower": int(np.sum(inside < value - rounding * value)),
        "ball/smallest_rise": float(inside.min() - value),
        "directions/distances": distances,
        "directions/losses": np.stack(along),  # [directions, distances]
    }


def measure_rescalings(
    config: Config, model: keras.Model, data: Data, surface: TrainingLoss, affine: AffineMinimum, minimum: np.ndarray,
    certificate: Certificate, largest: float,
) -> dict[str, float]:  # fmt: skip
    """Curvature and certified radius of the same function in other networks: hidden activations times a factor.

    And the flattest of them, the embedding itself (factor 1) among them. The model ends at the last factor.
    largest: eigenvalue of the embedding's Hessian.
    """
    if not config.rescalings:
        return {}
    found = {1.0: (largest, certificate.radius)}
    for factor in config.rescalings:
        set_rescaled(model, minimum, factor)
        radius = certify(model, affine, data.x_train, data.y_train, loss=config.training.loss).radius
        found[factor] = largest_eigenvalue(surface.hessian()).value, radius
    flattest = min(found, key=lambda factor: found[factor][0])
    numbers = {"flattest/factor": flattest}
    numbers["flattest/largest"], numbers["flattest/radius"] = found[flattest]
    for factor in config.rescalings:
        numbers[f"rescaled/{factor:g}/largest"], numbers[f"rescaled/{factor:g}/radius"] = found[factor]
    return numbers


def set_rescaled(model: keras.Model, minimum: np.ndarray, factor: float) -> None:
    """The minimum's function with every hidden activation times the factor; to the bit the minimum itself at 1."""
    set_parameters(model, minimum)
    if factor != 1:
        rescale_layers(model, [factor] * (len(relu_mlp_layers(model)) - 1))


def walk_from_minimum(
    config: Config, model: keras.Model, data: Data, surface: TrainingLoss, minimum: np.ndarray, radius: float,
    largest: float, rescaled: dict[str, float],
) -> dict[str, object]:  # fmt: skip
    """At which step size does plain SGD leave the certified ball?  Full batch, minibatches, and from the flattest.

    Every walk begins START radii away from the minimum, in one random direction: at an exact minimum gradient descent
    would wait for its rounding errors to grow. Full batch takes no rate above the first at which it leaves: each of its
    steps costs as much as a pass of minibatches. Nothing is measured where no ball is certified.
    largest: eigenvalue of the Hessian at the minimum.  rescaled: what measure_rescalings found.
    """
    if not config.escape_rates or not radius > 0:
        return {}
    sgd = PlainSGD(model, data.x_train, data.y_train, config.training.loss)
    direction = np.random.default_rng([config.seed, 41]).standard_normal(len(minimum))
    direction /= np.linalg.norm(direction)
    batch = min(config.training.batch_size, len(data.x_train))
    walks = {"full_batch": (1.0, largest, radius, len(data.x_train)), "minibatch": (1.0, largest, radius, batch)}
    if rescaled and rescaled["flattest/radius"] > 0:
        walks["flattest"] = (*(rescaled[f"flattest/{name}"] for name in ("factor", "largest", "radius")), batch)
    rates = np.sort(config.escape_rates)
    numbers = {"escape/rates": rates}
    for name, (factor, curvature, ball, size) in walks.items():
        set_rescaled(model, minimum, factor)
        centre, farthest, losses = get_parameters(model), [], []
        plan = {"centre": centre, "batch_size": size, "steps": config.escape_steps, "seed": config.seed}
        for rate in rates:
            if name == "full_batch" and farthest and farthest[-1] > 1:
                break
            walk = sgd.walk(centre + START * ball * direction, rate=float(rate * 2 / curvature), **plan)
            farthest.append(walk.farthest / ball)
            losses.append(surface.value() if np.isfinite(walk.farthest) else np.nan)
        numbers[f"escape/{name}/unit"] = 2 / curvature
        numbers.update(first_to_leave(name, rates, np.array(farthest), np.array(losses)))
    return numbers


def first_to_leave(name: str, rates: np.ndarray, farthest: np.ndarray, losses: np.ndarray) -> dict[str, object]:
    """Around which of the ascending rates a walk begins to leave the certified ball, and what it was seen to do.

    farthest, in certified radii, and losses: [rates taken], which may end with the first that leaves.
    """
    left = farthest > 1
    first = int(np.argmax(left)) if left.any() else len(left)
    return {
        f"escape/{name}/stays": float(rates[first - 1]) if first else None,
        f"escape/{name}/leaves": float(rates[first]) if first < len(rates) else None,
        f"escape/{name}/loss": float(losses[first]) if first < len(rates) else None,
        f"escape/{name}/farthest": farthest,
        f"escape/{name}/losses": losses,
    }


def train_from_minimum(
    config: Config, model: keras.Model, data: Data, run: Run, surface: TrainingLoss, minimum: np.ndarray,
    largest_eigenvalue: float,
) -> dict[str, float]:  # fmt: skip
    """Train on from the embedded minimum, at a learning rate that its curvature bears: does the network leave it?

    Gradient and curvature say whether it ends at a stationary point.
    """
    rate = min(config.training.learning_rate, stable_rate(config.training, largest_eigenvalue))
    plan = dataclasses.replace(config.training, learning_rate=rate, epochs=config.embedding_epochs, decay_epochs=())
    history = fit(model, data, plan, seed=config.seed, run=run, stage="embedding")
    ends = extreme_eigenvalues(
        surface.hessian(), tolerance=1e-3, max_products=config.hessian_products, seed=config.seed
    )
    return {
        "embedding/learning_rate": rate,
        "embedding/gradient_norm": float(np.linalg.norm(surface.value_and_gradient()[1])),
        "embedding/largest": ends.largest,
        "embedding/smallest": ends.smallest,
        **evaluate_splits(model, data, config.training.loss, "embedding"),
        "embedding/epochs": len(history.rows),
        "embedding/moved": float(np.linalg.norm(get_parameters(model) - minimum)),
    }


def train_from_default(config: Config, model: keras.Model, data: Data, run: Run) -> dict[str, float | None]:
    """Train from default initialization; nothing but the epoch is measured of a run that diverges."""
    history = fit(model, data, config.training, seed=config.seed, run=run, stage="default")
    result = {"diverged_epoch": history.diverged_epoch}
    if history.diverged_epoch is None:
        result.update(evaluate_splits(model, data, config.training.loss, "default"))
        result["default/epochs"] = len(history.rows)
    return result


def line_between(surface: TrainingLoss, minimum: np.ndarray, trained: np.ndarray, radius: float) -> dict[str, object]:
    """The loss on the line from the minimum to the trained network: finely in the certified ball, evenly beyond it."""
    length = float(np.linalg.norm(trained - minimum))
    near = np.linspace(0, 4 * radius / length, 9)
    fractions = np.unique(np.clip(np.concatenate([near, np.linspace(0, 1, 33)]), 0, 1))
    points = (minimum + t * (trained - minimum) for t in fractions)
    losses = surface.values_at(points)
    highest = int(np.argmax(losses))
    return {
        "line/distances": fractions * length,
        "line/losses": losses,
        "line/barrier": float(losses[highest] - losses[0]),
        "line/barrier_distance": float(fractions[highest] * length),
    }


def judge(results: Results) -> Verdict:
    """Refuted by one certified minimum whose floor lies above what default initialization reaches; a proof, no test.

    The interval is over seeds; each counts once, by the mean over the networks of log10(floor / loss from default).
    """
    factor = results.margins["margin_factor"]
    test = (
        "Proof: inside the certified ball every network is affine on the training set, so none has a loss below the "
        f"floor; the same architecture from default initialization ends more than {factor:g} times lower. One such "
        "network refutes."
    )
    findings, proven = [], []
    for group in results.groups():
        rows = beaten_minima(group.rows, factor)
        proven += [rows] if len(rows) else []
        text = f"{len(rows)} of {len(group.rows)}"
        if len(rows):
            text += f", {describe_ratio([rows], results.confidence)}"
        refutes = (Statement("certified and beaten", (fact(True),)),) if len(rows) else ()
        findings.append(Finding(group.label, text, refutes=refutes))
    if not proven:
        certified = int((results.table.get("certificate/radius", pd.Series(dtype=float)) > 0).sum())
        return Verdict(
            "undecided",
            f"{certified} of {len(results)} networks sit at a certified local minimum, but none of their architectures "
            f"was trained to a loss more than {factor:g} times lower.",
            test,
        )
    opening = (
        f"{sum(map(len, proven))} of {len(results)} networks sit at a certified suboptimal local minimum: no network "
        f"within a distance of {min(rows['certificate/radius'].min() for rows in proven):.3g} (the smallest radius) "
        "has a lower loss, while default initialization trains the same architecture to a loss "
        f"{describe_ratio(proven, results.confidence)}. "
    )
    return decide(results, findings, test, opening=opening, notes=describe_walks(results))


def describe_walks(results: Results) -> str:
    """From which step size on SGD left the certified balls, in words; '' where no walk was taken."""
    parts = []
    for name, text in WALKS.items():
        columns = [f"escape/{name}/{column}" for column in ("unit", "stays", "leaves")]
        walks = results.table.reindex(columns=columns).astype(float).dropna(subset=columns[:1])
        if walks.empty:
            continue
        left = walks[columns[2]].dropna()
        rates = f" (a rate of {span(left * walks.loc[left.index, columns[0]])})" if len(left) else ""
        parts.append(f"{text}, {len(left)} of {len(walks)} leave, from {span(left)} times 2 / eigenvalue on{rates}"
                     if len(left) else f"{text}, none of {len(walks)} leaves")  # fmt: skip
    steps = list_words(sorted({field_text(steps) for steps in results.table.get("escape_steps", ())}))
    return (
        f" Whether {steps} steps of SGD stay in the certified ball depends on the step size: {'; '.join(parts)}."
        if parts else ""
    )  # fmt: skip


def span(values: pd.Series) -> str:
    """`1.1`, or `0.9 to 10`: the least and the largest of some numbers."""
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"


def beaten_minima(rows: pd.DataFrame, factor: float) -> pd.DataFrame:
    """The rows at a certified minimum whose floor exceeds `factor` times the loss from default initialization."""
    columns = ["certificate/radius", "certificate/floor", "default/train/loss"]
    radius, floor, default = rows.reindex(columns=columns).astype(float).to_numpy().T  # nan where a run diverged
    return rows[(radius > 0) & (floor > factor * default)]


def describe_ratio(proven: list[pd.DataFrame], confidence: float) -> str:
    """`17.1 [13.2, 22.2] times lower (95 % interval over 3 seeds, each the mean of 4 networks)`.

    Of floor / loss from default initialization, by its logarithm; over the seeds in which every network is proven.
    proven: the rows of each network.
    """
    logs = [
        np.log10(rows["certificate/floor"] / rows["default/train/loss"].clip(lower=1e-300))
        for rows in (rows.set_index("seed") for rows in proven)
    ]
    ratios = pd.concat(logs, axis=1)  # [seeds, networks]
    complete = ratios.dropna()
    ratio = t_interval(complete.mean(axis=1) if len(complete) else [ratios.mean().mean()], confidence)
    several = f"the mean of {len(logs)} networks" if len(logs) > 1 else ""
    if ratio.n > 1:
        note = f" ({100 * confidence:.4g} % interval over {ratio.n} seeds{several and f', each {several}'})"
    else:
        note = several and f" ({several})"
    return f"{format_factor(ratio)} times lower{note}"


def figures(results: Results) -> dict[str, Figure]:
    """The loss around the minimum, and both training curves; what nothing was measured of is left out."""
    drawn = {
        "loss_around_the_minimum": plot_loss_around_minimum(results),
        "leaving_the_minimum": plot_walks(results),
        "training_from_both_starts": plot_training_curves(results),
    }
    return {name: figure for name, figure in drawn.items() if figure}


def plot_loss_around_minimum(results: Results) -> Figure | None:
    """Loss rise against distance: random directions, and towards the trained network, with the certified radius.

    One panel a network, of its first seed: the table has the spread. None where nothing was measured.
    """
    groups = [
        group for group in results.measured("minimum/train/loss", "certificate/radius").groups()
        if "directions/losses" in results.arrays.get(group.first["config_id"], ())
    ]  # fmt: skip
    if not groups:
        return None
    figure, axes = plots.panel_grid(len(groups), 2, width=5, height=3.6)
    for axis, group in zip(axes, groups):
        row = group.first
        arrays, base = results.arrays[row["config_id"]], row["minimum/train/loss"]
        distances = arrays["directions/distances"]
        for i, losses in enumerate(arrays["directions/losses"]):
            axis.plot(distances[1:], losses[1:] / base, color="0.6", label="random directions" if i == 0 else None)
        if "line/distances" in arrays:
            axis.plot(
                arrays["line/distances"][1:], arrays["line/losses"][1:] / base, "-", color=plots.COLOURS[3],
                linewidth=2, label="towards the trained network",
            )  # fmt: skip
        if row["certificate/radius"] > 0:
            axis.axvline(row["certificate/radius"], linestyle="--", color="black", label="certified radius")
        axis.axhline(1, linestyle=":", linewidth=1, color="black")
        top = max(30, 2 * np.max(arrays.get("line/losses", base)) / base)
        axis.set(xscale="log", yscale="log", ylim=(None, top), title=f"{group.label}, seed {row['seed']}")
        axis.set(xlabel="distance in parameter space", ylabel="loss / loss at the minimum")
    axes[0].legend(loc="upper left", frameon=True, framealpha=1)
    return figure


def plot_walks(results: Results) -> Figure | None:
    """How far SGD got from the minimum, and the loss it came to, against its step size; None without a walk.

    One row a network, every seed; distances of diverged walks are drawn at the top.
    """
    groups = [
        group for group in results.groups()
        if any("escape/rates" in results.arrays.get(name, ()) for name in group.rows["config_id"])
    ]  # fmt: skip
    if not groups:
        return None
    figure, axes = plots.new(len(groups), 2, width=4.8, height=3.2)
    for (left, right), group in zip(axes, groups):
        for (name, text), style in zip(WALKS.items(), plots.styles()):
            label = text
            for _, row in group.rows.iterrows():
                arrays = results.arrays.get(row["config_id"], {})
                if f"escape/{name}/farthest" not in arrays:
                    continue
                farthest = arrays[f"escape/{name}/farthest"]
                rates = arrays["escape/rates"][: len(farthest)]
                look = {"color": style["color"], "marker": style["marker"], "alpha": 0.6, "label": label}
                left.plot(rates, np.minimum(np.nan_to_num(farthest, posinf=1e6), 1e6), **look)
                right.plot(rates, arrays[f"escape/{name}/losses"] / row["minimum/train/loss"], **look)
                label = None
        left.axhline(1, linestyle="--", color="black", label="certified radius")
        left.set(ylabel="largest distance / certified radius")
        right.set(ylabel="loss after it / loss at the minimum")
        for axis in (left, right):
            axis.axvline(1, linestyle=":", color="black")
            axis.set(xscale="log", yscale="log", xlabel="step size / (2 / largest eigenvalue)")
        left.set_title(group.label, loc="left")
    handles = {}  # a network may lack a walk
    for axis in axes[:, 0]:
        handles.update(zip(*reversed(axis.get_legend_handles_labels())))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2)
    return figure


def plot_training_curves(results: Results) -> Figure | None:
    """Training loss from the certified minimum and from default initialization, every seed; None without any epoch."""
    figure, axes = plots.new(width=8, height=4.6)
    axis, named = axes[0, 0], set()
    for group, style in zip(results.groups(), plots.styles()):
        for name in group.rows["config_id"]:
            history = results.histories.get(name, ())
            for stage, origin, dashes in (("embedding", "the certified minimum", "--"), ("default", "default", "-")):
                if not len(history):
                    continue
                curve = history[(history["stage"] == stage) & np.isfinite(history["train/loss"])]
                if curve.empty:
                    continue  # diverged in its first epoch: Matplotlib cannot place markers on no points
                label = f"{group.label}, from {origin}"
                axis.plot(curve["epoch"], curve["train/loss"], dashes, color=style["color"], marker=style["marker"],
                          markevery=0.2, markersize=4, label=None if label in named else label)  # fmt: skip
                named.add(label)
    if not named:
        return None
    axis.set(xlabel="epoch", ylabel="training loss", yscale="log")
    figure.legend(ncols=2, loc="outside lower center")
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("embedding", "default"),
    apart=(),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check_embeddable,
    applies=applies,
    needs="experiment affine_minimum needs --model=mlp with --activation=relu, or a .keras file with such a network",
    former_columns={
        "minimum/loss": "minimum/train/loss",
        "minimum/test_accuracy": "minimum/test/accuracy",
        **former_evaluation_columns("embedding", "embedding"),
        **former_evaluation_columns("default", "default"),
    },
    margins={"margin_factor": (1.1, "floor at a certified minimum over the loss from default initialization")},
)
