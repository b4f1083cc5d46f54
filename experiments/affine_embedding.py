"""Are all local minima (nearly) global?  Goldblum et al. 2020, section 2, Lemma 1 and Theorem 1.

The affine optimum of the training loss is embedded in a ReLU network. A certificate proves that no network within a
radius has a lower loss; the same architecture, trained from its default initialization, shows how much lower it gets.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np

import models
from analysis.activations import inactive_fractions
from analysis.affine_minimum import certify, embed
from analysis.evaluation import evaluate
from analysis.hessian import TrainingLoss, extreme_eigenvalues
from analysis.parameters import get_parameters, set_parameters
from analysis.statistics import t_interval
from experiments.networks import by_network
from experiments.teacher import affine_optimum
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "All local minima of neural networks are (nearly) global.",
    source="Goldblum et al. 2020, section 2, on a folklore of deep-learning theory",
)
GRID = {"depth": [2, 3], "width": [64, 128], "seed": [0, 1, 2]}
MEASURES = {
    "minimum/loss": "loss at the minimum",
    "minimum/gradient_norm": "gradient norm",
    "certificate/radius": "certified radius",
    "hessian/smallest": "smallest Hessian eigenvalue",
    "hessian/largest": "largest",
    "embedding/loss": "loss after training from it",
    "default/loss": "loss from default initialization",
    "default/test_accuracy": "its test accuracy",
}
# A local minimum counts as nearly global when a network of the same architecture gets at most this factor lower.
NEARLY = 1.1


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", dtype="float64")
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(
        loss="squared", epochs=80, batch_size=64, learning_rate=0.05, decay_epochs=(60,)
    )
    embedding_epochs: int = field(default=10, metadata={"help": "epochs of training from the certified minimum"})
    ball_points: int = field(default=100, metadata={"help": "random networks in the certified ball whose loss is measured"})
    directions: int = field(default=2, metadata={"help": "random directions along which the loss is drawn"})
    hessian_products: int = field(default=50, metadata={"help": "Hessian-vector products at most for both ends"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def validate(self):
        for name in ("ball_points", "directions", "embedding_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hessian_products < 50:
            raise ValueError(f"hessian_products must be at least 50, got {self.hessian_products}")


def applies(config):
    """experiment embedding needs --model=mlp with --activation=relu, or a .keras file with such a network"""
    name = config.network.model
    return (name == "mlp" and config.network.activation == "relu") or name.endswith(".keras")


def check(config, data):
    affine = affine_optimum(data, config.training.loss)
    model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    # A trial embedding: it refuses what is no ReLU mlp, and a width below the rank, with the reason.
    embed(affine, model, data.x_train[:1], shift=1.0)


def measure(config, data, run):
    loss, x, y = config.training.loss, data.x_train, data.y_train
    affine = affine_optimum(data, loss)
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    start = get_parameters(model)
    embed(affine, model, x)
    minimum = get_parameters(model)
    certificate = certify(model, affine, x, y, loss=loss)
    surface = TrainingLoss(model, x, y, loss)
    value, gradient = surface.value_and_gradient()
    ends = extreme_eigenvalues(surface.hessian(), max_products=config.hessian_products, seed=config.seed)
    inactive = inactive_fractions(model, x)
    result = {
        "affine/loss": affine.loss,
        "affine/gradient_norm": affine.gradient_norm,
        "affine/rank": affine.rank,
        "minimum/loss": value,
        "minimum/gradient_norm": float(np.linalg.norm(gradient)),
        "minimum/output_error": certificate.max_output_error,
        "minimum/inactive": float(np.mean([pairs for pairs, _ in inactive.values()])),
        "minimum/test_accuracy": evaluate(model, data.x_test, data.y_test, loss)[1],
        "certificate/radius": certificate.radius,
        "certificate/floor": certificate.loss_floor,
        "certificate/margin": min(certificate.unit_margin),
        "hessian/largest": ends.largest,
        "hessian/smallest": ends.smallest,
        "hessian/residual": max(ends.largest_relative_residual, ends.smallest_relative_residual),
        "hessian/converged": ends.largest_converged and ends.smallest_converged,
        "hessian/products": ends.products,
    }
    result.update(ball(config, surface, minimum, certificate, value))

    rate = min(config.training.learning_rate, stable_rate(config.training, ends.largest))
    plan = dataclasses.replace(config.training, learning_rate=rate, epochs=config.embedding_epochs, decay_epochs=())
    result["embedding/learning_rate"] = rate
    history = fit(model, data, plan, seed=config.seed, run=run, stage="embedding")
    result.update(ended("embedding", config, model, data, history))
    result["embedding/moved"] = float(np.linalg.norm(get_parameters(model) - minimum))

    set_parameters(model, start)
    history = fit(model, data, config.training, seed=config.seed, run=run, stage="default")
    result["diverged_epoch"] = history.diverged_epoch
    if history.diverged_epoch is None:
        result.update(ended("default", config, model, data, history))
        trained = get_parameters(model)
        # The line to the trained network, finely within the certified ball and evenly beyond it.
        length = float(np.linalg.norm(trained - minimum))
        near = np.linspace(0, 4 * certificate.radius / length, 9)
        fractions = np.unique(np.clip(np.concatenate([near, np.linspace(0, 1, 33)]), 0, 1))
        points = (minimum + t * (trained - minimum) for t in fractions)
        result["line/distances"] = fractions * length
        result["line/losses"] = surface.values_at(points)
    return result


def stable_rate(training, largest_eigenvalue):
    """A learning rate that noise does not drive out of a minimum of this curvature: 0.1 (1 - momentum) / largest.

    SGD with momentum is unstable above 2 (1 + momentum) / largest, and the excess loss by gradient noise grows with
    rate / (1 - momentum). The curvature at the embedded minimum is far above that at default initialization.
    """
    return 0.1 * (1 - training.momentum) / largest_eigenvalue


def ended(stage, config, model, data, history):
    """Losses and accuracies where a training run ended, and how many epochs it took."""
    return {**split(config, model, data, stage), f"{stage}/epochs": len(history.rows)}


def split(config, model, data, prefix):
    """Losses and accuracies of a network on the whole training and test set, in inference mode."""
    loss, accuracy = evaluate(model, data.x_train, data.y_train, config.training.loss)
    test_loss, test_accuracy = evaluate(model, data.x_test, data.y_test, config.training.loss)
    return {
        f"{prefix}/loss": loss,
        f"{prefix}/accuracy": accuracy,
        f"{prefix}/test_loss": test_loss,
        f"{prefix}/test_accuracy": test_accuracy,
    }


def ball(config, surface, minimum, certificate, value):
    """Random networks in the certified ball, and the loss along random directions through and beyond it."""
    rng = np.random.default_rng([config.seed, 17])
    radius = certificate.radius

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


def judge(results):
    table = results.table
    test = (
        "Proof: inside the certified ball every network is affine on the training set, so none has a loss below the floor; "
        f"the same architecture from default initialization ends more than {NEARLY:g} times lower."
    )
    trained = table.get("default/loss", np.nan)  # nan: every network diverged
    proven = table[(table["certificate/radius"] > 0) & (table["certificate/floor"] > NEARLY * trained)]
    if not len(proven):
        certified = int((table["certificate/radius"] > 0).sum())
        return Verdict(
            "undecided",
            f"{certified} of {len(table)} networks sit at a certified local minimum, but none of their architectures was "
            f"trained to a loss more than {NEARLY:g} times lower.",
            test,
        )
    ratio = t_interval(np.log10(proven["certificate/floor"] / proven["default/loss"].clip(lower=1e-300)))
    spread = f" (95 % interval {10**ratio.low:.3g} to {10**ratio.high:.3g})" if ratio.n > 1 else ""
    return Verdict(
        "refuted",
        f"{len(proven)} of {len(table)} networks sit at a certified suboptimal local minimum: no network within a distance "
        f"of {proven['certificate/radius'].min():.3g} (the smallest radius) has a lower loss, while default initialization "
        f"trains the same architecture to a loss {10**ratio.mean:.3g} times lower{spread}.",
        test,
    )


def figures(results):
    return {"loss_around_the_minimum": around(results), "training_from_both_starts": training_curves(results)}


def around(results):
    """Loss rise against distance: random directions, and towards the trained network, with the certified radius."""
    # One run for each network, its first seed: the table has the spread.
    networks = [(name, rows.iloc[0]) for name, rows in by_network(results.table, width=True)]
    columns = min(2, len(networks))
    figure, axes = plots.new(-(-len(networks) // columns), columns, width=5, height=3.6)
    for axis in axes.flat[len(networks) :]:
        axis.set_visible(False)
    for axis, (name, row) in zip(axes.flat, networks):
        arrays, base = results.arrays[row["config_id"]], row["minimum/loss"]
        distances = arrays["directions/distances"]
        for i, losses in enumerate(arrays["directions/losses"]):
            axis.plot(distances[1:], losses[1:] / base, color="0.6", label="random directions" if i == 0 else None)
        if "line/distances" in arrays:
            axis.plot(
                arrays["line/distances"][1:], arrays["line/losses"][1:] / base, "-", color=plots.COLOURS[3], linewidth=2,
                label="towards the trained network",
            )  # fmt: skip
        if row["certificate/radius"] > 0:
            axis.axvline(row["certificate/radius"], linestyle="--", color="black", label="certified radius")
        axis.axhline(1, linestyle=":", linewidth=1, color="black")
        top = max(30, 2 * np.max(arrays.get("line/losses", base)) / base)
        axis.set(xscale="log", yscale="log", ylim=(None, top), title=f"{name}, seed {row['seed']}")
        axis.set(xlabel="distance in parameter space", ylabel="loss / loss at the minimum")
    axes.flat[0].legend(loc="upper left", frameon=True, framealpha=1)
    return figure


def training_curves(results):
    """Training loss from the certified minimum and from default initialization, every seed."""
    figure, axes = plots.new(width=8, height=4.6)
    axis = axes[0, 0]
    for (network, group), style in zip(by_network(results.table, width=True), plots.styles()):
        for i, (_, row) in enumerate(group.iterrows()):
            history = results.histories[row["config_id"]]
            for stage, dashes in (("embedding", "--"), ("default", "-")):
                curve = history[(history["stage"] == stage) & np.isfinite(history["train/loss"])]
                if curve.empty:
                    continue  # diverged in its first epoch: Matplotlib cannot place markers on no points
                name = f"{network}, from {'the certified minimum' if stage == 'embedding' else 'default'}"
                axis.plot(curve["epoch"], curve["train/loss"], dashes, color=style["color"], marker=style["marker"],
                          markevery=0.2, markersize=4, label=name if i == 0 else None)  # fmt: skip
    axis.set(xlabel="epoch", ylabel="training loss", yscale="log")
    figure.legend(ncols=2, loc="outside lower center")
    return figure
