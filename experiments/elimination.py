"""Does one exponential neuron per output eliminate all suboptimal local minima?  Kawaguchi, Kaelbling 2020 (1901.00279).

The network f gets a skip g_k(x) = a_k exp(w_k . x + b_k) and the objective a penalty:

    L~(theta, a, W, b) = 1/n sum_i l(f(x_i) + g(x_i), y_i) + penalty ||a||^2.

At every local minimum of L~ the theorem says a = 0 and theta is a global minimum of the original loss. It does not say that
there is one, or that training finds it: with g held, a can go to 0 as b goes to infinity, and the penalty vanishes with theta
still bad. Everything starts at a certified suboptimal minimum of f (affine_embedding.py) with a = 0.
"""
from dataclasses import dataclass, field

import keras
import numpy as np
from scipy.optimize import minimize

import models
from analysis.affine_minimum import certify, embed
from analysis.evaluation import dtype_of, predict, score
from analysis.hessian import TrainingLoss
from analysis.losses import LOSSES
from analysis.parameters import get_parameters, set_parameters
from analysis.statistics import t_interval
from experiments.affine_embedding import NEARLY
from experiments.teacher import affine_optimum
from models import NetworkConfig
from models.layers import layer_seed
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig

CLAIM = Claim(
    "Adding one neuron per output eliminates all suboptimal local minima.",
    source="Kawaguchi, Kaelbling 2020",
)
TRAINED = ("all", "neurons")
REFERENCE_ITERATIONS = 1000  # of L-BFGS from default initialization, without neurons
GRID = {"trained": list(TRAINED), "seed": [0, 1, 2, 3]}
MEASURES = {
    "start/loss": "loss at the minimum",
    "certificate/radius": "certified radius",
    "start/slope": "gradient in a there",
    "final/objective": "objective after training",
    "final/network_loss": "the network's own loss",
    "reference/loss": "loss from default initialization",
    "peak/a": "largest |a|",
    "final/a": "|a| after",
    "start/exponent": "largest exponent before",
    "final/exponent": "after",
    "final/neurons": "rms of a exp(w.x + b)",
    "moved": "distance moved by the network",
}


@dataclass(frozen=True)
class LossConfig:
    """Of training only the loss: Newton-CG has no epochs and no learning rate."""

    loss: str = field(default="squared", metadata={"help": f"training loss, one of {', '.join(LOSSES)}"})

    def validate(self):
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}: allowed are {', '.join(LOSSES)}")


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", width=16, depth=2, dtype="float64")
    data: DataConfig = DataConfig(train_size=200, normalize=False)
    training: LossConfig = LossConfig()
    trained: str = field(default="all", metadata={"help": "what is trained: all, or the exponential neurons alone"})
    penalty: float = field(default=1.0, metadata={"help": "coefficient of ||a||^2 in the objective"})
    neuron_scale: float = field(default=0.1, metadata={"help": "standard deviation of the neurons' initial weights"})
    shift: float = field(default=0.1, metadata={"help": "smallest pre-activation of the embedded minimum"})
    iterations: int = field(default=150, metadata={"help": "Newton-CG iterations at most"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    @property
    def label(self):
        return f"{self.trained}-penalty={self.penalty:g}"

    def validate(self):
        if self.trained not in TRAINED:
            raise ValueError(f"unknown trained {self.trained!r}: allowed are {', '.join(TRAINED)}")
        for name in ("penalty", "neuron_scale", "shift"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.data.augment:
            raise ValueError("elimination has a fixed training set: augment must be false")
        if self.network.dtype != "float64" or self.network.dropout:
            raise ValueError("elimination needs dtype=float64 and dropout=0: the minimum is certified")


def applies(config):
    """experiment elimination needs --model=mlp with --activation=relu"""
    return config.network.model == "mlp" and config.network.activation == "relu"


def check(config, data):
    affine = affine_optimum(data, config.training.loss)
    model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    embed(affine, model, data.x_train[:1], shift=1.0)


class ExponentialNeurons(keras.layers.Layer):
    """g_k(x) = a_k exp(w_k . x + b_k), [n, ...] -> [n, k]; a = 0 and b = 0 at the start."""

    def __init__(self, outputs, scale, seed, **options):
        super().__init__(**options)
        self.outputs, self.scale, self.random_seed = outputs, scale, seed

    def build(self, shape):
        draw = keras.initializers.RandomNormal(0.0, self.scale, seed=layer_seed(self.random_seed, "exponential"))
        self.w = self.add_weight(shape=(int(np.prod(shape[1:])), self.outputs), initializer=draw, name="w")
        self.b = self.add_weight(shape=(self.outputs,), initializer="zeros", name="b")
        self.a = self.add_weight(shape=(self.outputs,), initializer="zeros", name="a")

    def exponents(self, x):
        return keras.ops.reshape(x, (-1, self.w.shape[0])) @ self.w + self.b

    def call(self, x):
        return self.a * keras.ops.exp(self.exponents(x))


def with_neurons(model, scale, seed):
    """(f + g, the layer g) for a Keras model f; f's weights are shared, and come first among the parameters."""
    inputs, dtype = model.inputs[0], dtype_of(model)
    neurons = ExponentialNeurons(model.output_shape[-1], scale, seed, dtype=dtype, name="exponential")
    total = keras.layers.Add(dtype=dtype, name="total")
    return keras.Model(inputs, total([model(inputs), neurons(inputs)]), name="with_neurons"), neurons


class Objective:
    """L~ of theta, w, b, a as one vector [p], with its gradient; `free` are the entries that training may change."""

    def __init__(self, model, neurons, x, y, loss, penalty):
        self.surface, self.model, self.penalty = TrainingLoss(model, x, y, loss), model, penalty
        names = [v.path for v in model.trainable_variables]
        if names[-3:] != [v.path for v in (neurons.w, neurons.b, neurons.a)]:
            raise ValueError(f"the neurons' w, b and a must be the last variables, got {', '.join(names[-3:])}")
        sizes = [int(np.prod(v.shape)) for v in (neurons.w, neurons.b, neurons.a)]
        p = self.surface.parameter_count
        self.a = slice(p - sizes[2], p)
        self.b = slice(p - sizes[1] - sizes[2], p - sizes[2])
        self.network = slice(0, p - sum(sizes))

    def __call__(self, theta):
        set_parameters(self.model, theta)
        value, gradient = self.surface.value_and_gradient()
        a = theta[self.a]
        gradient[self.a] += 2 * self.penalty * a
        return value + self.penalty * float(a @ a), gradient


    def product(self, theta, vector):
        """The Hessian of L~ at theta times a vector, [p]."""
        set_parameters(self.model, theta)
        result = self.surface.product(vector)
        result[self.a] += 2 * self.penalty * vector[self.a]
        return result


def descend(objective, theta, free, iterations, callback):
    """Newton-CG in a trust region (SciPy) on the entries `free` of theta; returns (theta, iterations).

    callback(theta) is called after every iteration. The embedded minimum is badly conditioned, and L-BFGS hardly moves
    from it.
    """
    theta = theta.copy()

    def at(part):
        theta[free] = part
        with np.errstate(over="ignore", invalid="ignore"):
            value, gradient = objective(theta)
        # A trial step may overflow the exponential: the trust region then shrinks.
        return (value, gradient[free]) if np.isfinite(value) else (np.inf, np.zeros_like(part))

    def product(part, direction):
        theta[free] = part
        vector = np.zeros(len(theta))
        vector[free] = direction
        return objective.product(theta, vector)[free]

    def after(part):
        theta[free] = part
        callback(theta)

    options = {"maxiter": iterations, "gtol": 1e-10, "initial_trust_radius": 0.1, "max_trust_radius": 10.0}
    start = theta[free].copy()
    found = minimize(at, start, jac=True, hessp=product, method="trust-ncg", callback=after, options=options)
    theta[free] = found.x
    return theta, found.nit


def measure(config, data, run):
    loss, x, y = config.training.loss, data.x_train, data.y_train
    affine = affine_optimum(data, loss)
    model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    default = get_parameters(model)
    surface = TrainingLoss(model, x, y, loss)

    def plain(theta):
        set_parameters(model, theta)
        return surface.value_and_gradient()

    options = {"maxiter": REFERENCE_ITERATIONS, "maxfun": 2 * REFERENCE_ITERATIONS}
    reference = minimize(plain, default, jac=True, method="L-BFGS-B", options=options).fun
    embed(affine, model, x, shift=config.shift)
    start = get_parameters(model)
    certificate = certify(model, affine, x, y, loss=loss)

    augmented, neurons = with_neurons(model, config.neuron_scale, config.seed)
    objective = Objective(augmented, neurons, x, y, loss, config.penalty)
    theta = get_parameters(augmented)
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    rows, wanted = [], set(np.unique(np.geomspace(1, config.iterations, 60).astype(int)))

    def row(count, theta):
        set_parameters(augmented, theta)
        value, gradient = objective(theta)
        logits = predict(model, x)
        exponents = flat @ neurons.w.numpy() + neurons.b.numpy()
        size = np.sqrt(np.mean((theta[objective.a] * np.exp(exponents)) ** 2))
        return {
            "iteration": count,
            "objective": value,
            "network_loss": score(logits, y, loss)[0],
            "a": float(np.linalg.norm(theta[objective.a])),
            "exponent": float(exponents.max()),
            "b": float(np.abs(theta[objective.b]).max()),
            "neurons": float(size),
            "moved": float(np.linalg.norm(theta[objective.network] - start)),
            "gradient_norm": float(np.linalg.norm(gradient)),
        }

    def keep(theta):
        keep.count += 1
        if keep.count in wanted:
            rows.append(row(keep.count, theta))

    keep.count = 0
    rows.append(row(0, theta))
    slope = float(np.linalg.norm(objective(theta)[1][objective.a]))
    free = slice(None) if config.trained == "all" else slice(objective.network.stop, None)
    theta, steps = descend(objective, theta, free, config.iterations, keep)
    rows.append(row(steps, theta))
    path = {name: np.array([r[name] for r in rows]) for name in rows[0]}
    final, peak = rows[-1], int(np.argmax(path["a"]))
    return {
        "start/loss": rows[0]["network_loss"],
        "start/slope": slope,
        "start/exponent": rows[0]["exponent"],
        "certificate/radius": certificate.radius,
        "certificate/floor": certificate.loss_floor,
        "reference/loss": reference,
        "peak/a": path["a"][peak],
        "peak/exponent": path["exponent"][peak],
        "peak/neurons": path["neurons"][peak],
        **{f"final/{name}": final[name] for name in ("objective", "network_loss", "a", "exponent", "b", "neurons")},
        "final/gradient_norm": final["gradient_norm"],
        "final/test_accuracy": score(predict(model, data.x_test), data.y_test, loss)[1],
        "moved": final["moved"],
        "steps": steps,
        **{f"path/{name}": values for name, values in path.items()},
    }


def escaped(table):
    """At a certified minimum, the objective ends below everything that the network alone has around it."""
    return (table["certificate/radius"] > 0) & (table["final/objective"] < table["certificate/floor"])


def eliminated(table):
    """The network without its neurons ends nearly as low as the same architecture from default initialization."""
    return table["final/network_loss"] <= NEARLY * table["reference/loss"]


def vanishing(table):
    """The failure mode: |a| has fallen below half its peak while the exponent rose and g stayed; the network is still bad."""
    shrinks = (table["final/a"] < 0.5 * table["peak/a"]) & (table["final/exponent"] > table["peak/exponent"])
    return shrinks & (table["final/neurons"] > 0.5 * table["peak/neurons"]) & ~eliminated(table)


def judge(results):
    table = results.table
    test = (
        f"A run eliminates the minimum where the network without its neurons ends within {NEARLY:g} times the loss from "
        "default initialization. Refuted where, at a penalty, the 95 % t-interval over seeds of log10(loss / default's) lies "
        "above that although the objective fell below the certified floor; supported where every run eliminates; undecided "
        "otherwise. Only runs that train all parameters count."
    )
    table = table[(table["certificate/radius"] > 0) & (table["certificate/floor"] > NEARLY * table["reference/loss"])]
    trained, held = (table[table["trained"] == name] for name in TRAINED)
    if not len(trained):
        return Verdict("undecided", "No run trained all parameters from a certified suboptimal minimum.", test)
    stuck, parts = [], []
    for penalty, rows in trained.groupby("penalty"):
        logs = np.log10(rows["final/network_loss"] / rows["reference/loss"].clip(lower=1e-300))
        ratio = t_interval(logs)
        interval = f" [{10**ratio.low:.3g}, {10**ratio.high:.3g}]" if ratio.n > 1 else ""
        stuck.append(ratio.low > np.log10(NEARLY) and bool(escaped(rows).all()))
        parts.append(
            f"penalty {penalty:g}: objective below the certified floor in {int(escaped(rows).sum())} of {len(rows)}, the "
            f"network itself at {10**ratio.mean:.3g}{interval} times the loss from default initialization, minimum eliminated "
            f"in {int(eliminated(rows).sum())}, a vanishing with growing exponents in {int(vanishing(rows).sum())}"
        )
    if len(held):
        parts.append(
            f"neurons trained alone: below the floor in {int(escaped(held).sum())} of {len(held)}, a vanishing in "
            f"{int(vanishing(held).sum())}, the network still at its minimum in all"
        )
    reason = "; ".join(parts) + "."
    if any(stuck):
        start = "The certified minimum is none of the new objective, yet the network itself does not end well"
        return Verdict("refuted", f"{start}: {reason}", test)
    if len(trained) > 1 and eliminated(trained).all() and escaped(trained).all():
        return Verdict("supported", f"Every run left the certified minimum for a nearly global one: {reason}", test)
    return Verdict("undecided", f"The runs do not tell: {reason}", test)


def figures(results):
    """Objective, the network's own loss, |a| and the largest exponent over iterations; a column for each setting."""
    groups = list(results.table.groupby(["trained", "penalty"], sort=False))
    figure, axes = plots.new(3, len(groups), width=3.6, height=2.7, sharex="col", sharey="row")
    for column, ((trained, penalty), rows) in zip(axes.T, groups):
        for i, (_, row) in enumerate(rows.iterrows()):
            arrays = results.arrays[row["config_id"]]
            path = {name.removeprefix("path/"): values for name, values in arrays.items()}
            steps = np.maximum(path["iteration"], 0.5)  # the start, on a logarithmic axis
            label = lambda text: text if i == 0 else None  # noqa: B023, E731
            column[0].plot(steps, path["objective"], "-", color=plots.COLOURS[0], label=label("objective"))
            column[0].plot(steps, path["network_loss"], "--", color=plots.COLOURS[3], label=label("network alone"))
            column[1].plot(steps[1:], path["a"][1:], "-", color=plots.COLOURS[0], label=label("$\\|a\\|$"))
            column[1].plot(steps[1:], path["neurons"][1:], "--", color=plots.COLOURS[3], label=label("rms of $g(x)$"))
            column[2].plot(steps, path["exponent"], "-", color=plots.COLOURS[0])
        column[0].axhline(rows["certificate/floor"].mean(), linestyle=":", color="black", label="certified floor")
        reference = rows["reference/loss"].mean()
        column[0].axhline(reference, linestyle="-.", color="0.5", label="from default initialization")
        column[0].set(xscale="log", yscale="log", title=f"{trained} trained, penalty {penalty:g}")
        column[1].set(xscale="log", yscale="log")
        column[2].set(xscale="log", xlabel="Newton-CG iteration")
    for axis, text in zip(axes[:, 0], ("loss", "size of the neurons", "largest exponent $w \\cdot x + b$")):
        axis.set_ylabel(text)
    for axis in axes[:2, -1]:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return {"path_from_the_minimum": figure}
