"""Does one exponential neuron per output eliminate all suboptimal local minima?  Kawaguchi, Kaelbling 2020, 1901.00279.

The network f gets a skip g_k(x) = a_k exp(w_k . x + b_k) and the objective a penalty:

    L~(theta, a, W, b) = 1/n sum_i l(f(x_i) + g(x_i), y_i) + penalty ||a||^2.

At every local minimum of L~ the theorem says a = 0 and theta is a global minimum of the original loss. It does not say
that there is one, or that training finds it: with g held, a can go to 0 as b goes to infinity, and the penalty vanishes
with theta still bad. Everything starts at a certified suboptimal minimum of f (analysis/affine_minimum.py) with a = 0.
Only ends at which the gradient is 0 to STATIONARY are judged: elsewhere Newton-CG was not done, or is on its way to
infinity, and the theorem says nothing.
"""
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import minimize

from analysis.affine_minimum import certify, embed
from analysis.evaluation import predict, score
from analysis.exponential_objective import ExponentialObjective, newton_cg
from analysis.hessian import TrainingLoss
from analysis.losses import LOSSES
from analysis.parameters import get_parameters
from analysis.statistics import t_interval
from experiments.local_minima.affine_start import affine_optimum, check_embeddable
from harness.experiment import Experiment, seed_field
from judging.decision import Finding, Statement, above, below, decide, fact
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import format_interval
from models import NetworkConfig
from models.exponential_neurons import ExponentialNeurons, with_neurons
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import build_network

CLAIM = Claim(
    "Adding one neuron per output eliminates all suboptimal local minima.",
    source="Kawaguchi, Kaelbling 2020",
)
TRAINABLE = ("all", "neurons")
REFERENCE_ITERATIONS = 1000  # of L-BFGS from default initialization, without neurons
STATIONARY = 1e-6  # largest norm of the objective's gradient at an end that is judged
PATH_POINTS = 60  # at most so many iterations, at even ratios, are kept of a descent
GRID = {"trainable": list(TRAINABLE), "seed": [0, 1, 2, 3]}
COLUMNS = {
    "start/loss": "loss at the minimum",
    "start/slope": "gradient in a there",
    "start/exponent": "largest exponent before",
    "certificate/radius": "certified radius",
    "certificate/floor": "lowest loss in the certified ball",
    "reference/loss": "loss from default initialization",
    "peak/a": "largest |a|",
    "peak/exponent": "largest exponent where |a| is largest",
    "peak/neurons": "rms of a exp(w.x + b) where |a| is largest",
    "final/objective": "objective after training",
    "final/network_loss": "the network's own loss",
    "final/a": "|a| after",
    "final/exponent": "after",  # in the table it stands behind the largest exponent before
    "final/b": "largest |b| after",
    "final/neurons": "rms of a exp(w.x + b)",
    "final/gradient_norm": "norm of the objective's gradient after",
    "final/test/accuracy": "test accuracy of the network without its neurons",
    "moved": "distance moved by the network",
    "steps": "Newton-CG iterations taken",
}
TABLE = (
    "start/loss", "certificate/radius", "start/slope", "final/objective", "final/network_loss", "reference/loss",
    "final/gradient_norm", "peak/a", "final/a", "start/exponent", "final/exponent", "final/neurons", "moved",
)  # fmt: skip


@dataclass(frozen=True)
class LossConfig:
    """Of training only the loss: Newton-CG has no epochs and no learning rate."""

    loss: str = field(default="squared", metadata={"help": f"training loss, one of {', '.join(LOSSES)}"})

    def validate(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}: allowed are {', '.join(LOSSES)}")


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", width=16, depth=2, dtype="float64")
    data: DataConfig = DataConfig(train_size=200, normalize=False)
    training: LossConfig = LossConfig()
    trainable: str = field(
        default="all",
        metadata={"help": "what is trained: all, or the exponential neurons alone", "formerly": "trained"},
    )
    penalty: float = field(default=1.0, metadata={"help": "coefficient of ||a||^2 in the objective"})
    neuron_scale: float = field(default=0.1, metadata={"help": "standard deviation of the neurons' initial weights"})
    shift: float = field(default=0.1, metadata={"help": "smallest pre-activation of the embedded minimum"})
    iterations: int = field(default=150, metadata={"help": "Newton-CG iterations at most"})
    seed: int = seed_field()

    def validate(self) -> None:
        if self.trainable not in TRAINABLE:
            raise ValueError(f"unknown trainable {self.trainable!r}: allowed are {', '.join(TRAINABLE)}")
        for name in ("penalty", "neuron_scale", "shift"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.data.augment:
            raise ValueError("elimination has a fixed training set: augment must be false")
        if self.network.dtype != "float64" or self.network.dropout:
            raise ValueError("elimination needs dtype=float64 and dropout=0: the minimum is certified")


def label(config: Config) -> str:
    return f"{config.trainable}-penalty={config.penalty:g}"


def applies(config: Config) -> bool:
    return config.network.model == "mlp" and config.network.activation == "relu"


def check(config: Config, data: Data, run: Run) -> None:
    check_embeddable(config, data, run)


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """From the certified minimum with neurons at a = 0 downhill by Newton-CG: where it ends, and the path there."""
    loss, x, y = config.training.loss, data.x_train, data.y_train
    affine = affine_optimum(config, data, run)
    model = build_network(config, data)
    reference = run.once(
        ("loss from default initialization", config.network, config.data, config.training, config.seed),
        lambda: loss_from_default(model, x, y, loss),
    )
    embed(affine, model, x, shift=config.shift)
    certificate = certify(model, affine, x, y, loss=loss)
    augmented, neurons = with_neurons(model, config.neuron_scale, config.seed)
    objective = ExponentialObjective(augmented, neurons, x, y, loss, config.penalty)
    start = get_parameters(augmented)
    path = Path(model, objective, neurons, data, loss, start, config.iterations)
    slope = float(np.linalg.norm(objective(start)[1][objective.a]))
    free = slice(None) if config.trainable == "all" else slice(objective.network.stop, None)
    end, steps = newton_cg(objective, start, free, config.iterations, path)
    path.record(steps, end)
    return {
        "start/slope": slope,
        "certificate/radius": certificate.radius,
        "certificate/floor": certificate.loss_floor,
        "reference/loss": reference,
        **path.numbers(),
        "final/test/accuracy": score(predict(model, data.x_test), data.y_test, loss)[1],
        "steps": steps,
        **{f"path/{name}": values for name, values in path.arrays().items()},
    }


def loss_from_default(model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str) -> float:
    """The training loss that L-BFGS reaches from the model's parameters, which are those of its initialization."""
    surface = TrainingLoss(model, x, y, loss)
    options = {"maxiter": REFERENCE_ITERATIONS, "maxfun": 2 * REFERENCE_ITERATIONS}
    start = get_parameters(model)
    return minimize(surface.value_and_gradient_at, start, jac=True, method="L-BFGS-B", options=options).fun


class Path:
    """What is seen on the way down: a row at the start, after some of the iterations, and at the end.

    Called with the parameters after every iteration; sets those of the model.
    """

    def __init__(
        self, model: keras.Model, objective: ExponentialObjective, neurons: ExponentialNeurons, data: Data, loss: str,
        start: np.ndarray, iterations: int,
    ):  # fmt: skip
        self.model, self.objective, self.neurons, self.data, self.loss = model, objective, neurons, data, loss
        self.inputs = np.asarray(data.x_train, np.float64).reshape(len(data.x_train), -1)  # [n, d]
        self.start, self.rows, self.count = start, [], 0
        self.wanted = set(np.unique(np.geomspace(1, iterations, PATH_POINTS).astype(int)))
        self.record(0, start)

    def __call__(self, theta: np.ndarray) -> None:
        self.count += 1
        if self.count in self.wanted:
            self.record(self.count, theta)

    def record(self, iteration: int, theta: np.ndarray) -> None:
        objective = self.objective
        value, gradient = objective(theta)
        exponents = self.inputs @ self.neurons.w.numpy() + self.neurons.b.numpy()  # [n, k]
        self.rows.append({
            "iteration": iteration,
            "objective": value,
            "network_loss": score(predict(self.model, self.data.x_train), self.data.y_train, self.loss)[0],
            "a": float(np.linalg.norm(theta[objective.a])),
            "exponent": float(exponents.max()),
            "b": float(np.abs(theta[objective.b]).max()),
            "neurons": float(np.sqrt(np.mean((theta[objective.a] * np.exp(exponents)) ** 2))),
            "moved": float(np.linalg.norm((theta - self.start)[objective.network])),
            "gradient_norm": float(np.linalg.norm(gradient)),
        })  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """{name: [rows]}."""
        return {name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}

    def numbers(self) -> dict[str, float]:
        """Where it started, where |a| was largest, and where it ended."""
        first, final = self.rows[0], self.rows[-1]
        peak = self.rows[int(np.argmax([row["a"] for row in self.rows]))]
        ends = ("objective", "network_loss", "a", "exponent", "b", "neurons", "gradient_norm")
        return {
            "start/loss": first["network_loss"],
            "start/exponent": first["exponent"],
            **{f"peak/{name}": peak[name] for name in ("a", "exponent", "neurons")},
            **{f"final/{name}": final[name] for name in ends},
            "moved": final["moved"],
        }


def suboptimal(table: pd.DataFrame, factor: float) -> pd.DataFrame:
    """Runs that started at a certified local minimum which is not nearly global: they have something to eliminate."""
    bad = table["certificate/floor"] > factor * table["reference/loss"]
    return table[(table["certificate/radius"] > 0) & bad]


def escaped(table: pd.DataFrame) -> pd.Series:
    """At a certified minimum, the objective ends below everything that the network alone has around it."""
    return (table["certificate/radius"] > 0) & (table["final/objective"] < table["certificate/floor"])


def is_stationary(table: pd.DataFrame) -> pd.Series:
    """Ends where the objective's gradient is 0, to STATIONARY."""
    return table["final/gradient_norm"] <= STATIONARY


def share_left(table: pd.DataFrame) -> pd.Series:
    """Of the loss that the certified minimum has above default initialization, the share that the network alone keeps.

    0 is as low as from default initialization, 1 as high as the minimum; a difference of losses on that scale.
    """
    return (table["final/network_loss"] - table["reference/loss"]) / (
        table["certificate/floor"] - table["reference/loss"]
    )


def eliminated(table: pd.DataFrame, margin: float) -> pd.Series:
    """The network without its neurons ends nearly as low as the same architecture from default initialization."""
    return share_left(table) <= margin


def vanishing(table: pd.DataFrame, margin: float) -> pd.Series:
    """The failure: |a| fell below half its peak while the exponent rose and g stayed, and the network is still bad."""
    shrinks = (table["final/a"] < 0.5 * table["peak/a"]) & (table["final/exponent"] > table["peak/exponent"])
    return shrinks & (table["final/neurons"] > 0.5 * table["peak/neurons"]) & ~eliminated(table, margin)


def judge(results: Results) -> Verdict:
    """Every group of runs alike but for their seed and what they train: does the minimum go?"""
    factor, margin = results.margins["margin_factor"], results.margins["margin"]
    test = (
        "One-sided t-tests over seeds, per setting (runs alike in all but the seed), of how far the loss of the "
        "network without its neurons ends above that from default initialization, as a share of the certified "
        f"minimum's. Supported below a share of {margin:g}, refuted above it, both only where in every run the "
        f"objective fell below the certified floor and its gradient ends at a norm of at most {STATIONARY:g}. Only "
        f"runs that train all parameters from a certified minimum more than {factor:g} times above the loss from "
        "default initialization count."
    )
    findings = [describe_ends(group, factor, margin, results.confidence)
                for group in results.measured("final/network_loss").groups()]  # fmt: skip
    if not any(finding.refutes for finding in findings):
        return Verdict("undecided", "No run trained all parameters from a certified suboptimal minimum.", test)
    return decide(results, findings, test)


def describe_ends(group: Group, factor: float, margin: float, confidence: float) -> Finding:
    """Where a Group's runs from a certified suboptimal minimum end; those of the neurons alone do not decide."""
    rows = suboptimal(group.rows, factor)
    rows, held = (rows[rows["trainable"] == name] for name in TRAINABLE)
    parts, supports, refutes = [], (), ()
    if len(rows):
        excess = t_interval(rows["final/network_loss"] - rows["reference/loss"], confidence)
        share = t_interval(share_left(rows), confidence)
        reached = is_stationary(rows)
        settled = fact(bool(escaped(rows).all())), fact(bool(reached.all()))
        supports = (Statement("the minimum is eliminated", (below(share, margin, single=True), *settled)),)
        refutes = (Statement("left, but for no nearly global one", (above(share, margin, single=True), *settled)),)
        speaks = (
            "so this speaks of the local minima of the theorem" if reached.all() else
            "so this speaks of Newton-CG, which has not reached a minimum everywhere, and not of the theorem"
        )  # fmt: skip
        parts.append(
            f"objective below the certified floor in {int(escaped(rows).sum())} of {len(rows)}, its gradient 0 to "
            f"{STATIONARY:g} in {int(reached.sum())} (largest norm {rows['final/gradient_norm'].max():.2g}), {speaks}; "
            f"the network itself {format_interval(excess)} above the loss from default initialization, a share of "
            f"{format_interval(share)} of the certified minimum's, minimum eliminated in "
            f"{int(eliminated(rows, margin).sum())}, a vanishing with growing exponents in "
            f"{int(vanishing(rows, margin).sum())}"
        )
    if len(held):
        parts.append(
            f"neurons trained alone: below the floor in {int(escaped(held).sum())} of {len(held)}, a vanishing in "
            f"{int(vanishing(held, margin).sum())}, the network still at its minimum in all"
        )
    text = ", ".join(parts) or "no certified suboptimal minimum to start from"
    return Finding(group.label, text, supports, refutes)


def figures(results: Results) -> dict[str, Figure]:
    """Objective, the network's own loss, |a| and the largest exponent over iterations; a column for each setting."""
    groups = results.measured("final/network_loss").groups()
    columns = [
        (group.label, trainable, rows)
        for group in groups for trainable, rows in group.split("trainable").items()
    ]  # fmt: skip
    if not columns:
        return {}
    figure, axes = plots.new(3, len(columns), width=3.6, height=2.7, sharex="col", sharey="row")
    for column, (label, trainable, rows) in zip(axes.T, columns):
        plot_paths(column, rows, results.arrays)
        column[0].set_title(f"{label}\n{trainable} trained")
    for axis, text in zip(axes[:, 0], ("loss", "size of the neurons", "largest exponent $w \\cdot x + b$")):
        axis.set_ylabel(text)
    for axis in axes[:2, -1]:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return {"path_from_the_minimum": figure}


def plot_paths(column: np.ndarray, rows: pd.DataFrame, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    """The paths of one setting, a line per seed, on three axes: losses, size of the neurons, largest exponent."""
    for i, identity in enumerate(rows["config_id"]):
        path = {name.removeprefix("path/"): values for name, values in arrays[identity].items()}
        steps = np.maximum(path["iteration"], 0.5)  # the start, on a logarithmic axis
        named = (lambda text: text) if i == 0 else (lambda text: None)  # one entry in the legend for all seeds
        column[0].plot(steps, path["objective"], "-", color=plots.COLOURS[0], label=named("objective"))
        column[0].plot(steps, path["network_loss"], "--", color=plots.COLOURS[3], label=named("network alone"))
        column[1].plot(steps[1:], path["a"][1:], "-", color=plots.COLOURS[0], label=named("$\\|a\\|$"))
        column[1].plot(steps[1:], path["neurons"][1:], "--", color=plots.COLOURS[3], label=named("rms of $g(x)$"))
        column[2].plot(steps, path["exponent"], "-", color=plots.COLOURS[0])
    column[0].axhline(rows["certificate/floor"].mean(), linestyle=":", color="black", label="certified floor")
    reference = rows["reference/loss"].mean()
    column[0].axhline(reference, linestyle="-.", color="0.5", label="from default initialization")
    column[0].set(xscale="log", yscale="log")
    column[1].set(xscale="log", yscale="log")
    column[2].set(xscale="log", xlabel="Newton-CG iteration")


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=(),
    apart=("trainable",),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    applies=applies,
    needs="experiment elimination needs --model=mlp with --activation=relu",
    label=label,
    former_columns={"final/test_accuracy": "final/test/accuracy"},
    margins={
        "margin": (0.1, "share that the network keeps of the certified minimum's loss above default initialization"),
        "margin_factor": (1.1, "the certified minimum's loss over that from default initialization"),
    },
    # no max_seeds: the four seeds of the grid take most of the two minutes that a default run may
)
