"""Does the spectrum of the infinite-width NTK tell which networks train and which generalize?  Xiao et al. 2020.

One config is one phase diagram on one data subset: the infinite-width network in closed form on a grid of weight
variances and depths, and finite networks in NTK parameterization trained by full-batch gradient descent at weight
variances and depths that each seed draws anew (or on a grid of them, which decides nothing: a verdict speaks of the
plane, and cells that all seeds share are no sample of it). Both take the same number of steps of the same size, a share
of the largest stable one (see linearized_training.py in analysis/). The infinite-width network is a draw of its
Gaussian process, initial output f0 included (Lee et al. 2019): without f0 (its mean) the argmax stays right deep in the
chaotic phase, where only the size of the prediction vanishes.

What the spectrum tells is compared with what depth and weight variance tell by themselves: an accuracy is
predicted from each by the same nearest neighbours, leaving its own cell out.
"""
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import scipy.linalg
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from analysis.infinite_width_kernels import ARCHITECTURES, critical_condition, limit_kernels_at, spectrum_of
from analysis.linearized_training import (
    fitted_share,
    outputs_after,
    positive_eigh,
    predictor_size,
    relative_decay_rate,
    scale_to_unit_variance,
)
from analysis.mean_field import Phase, critical_weight_variance, phase
from analysis.statistics import leave_one_out_error, mean_correlation, paired_difference, rank_correlation, t_interval
from experiments.ntk import spectrum_figures
from experiments.ntk.limit_networks import build_finite, check_network, check_variances, groups_by_architecture
from harness.experiment import Experiment, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import format_interval
from models import NetworkConfig
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, fit

CLAIM = Claim(
    "The NTK's spectrum tells which networks can be trained and which generalize.",
    source="Xiao, Pennington & Schoenholz 2020, Disentangling Trainability and Generalization",
)
GRID = {"cells": [8], "centre_labels": [False], "seed": [0, 1, 2, 3, 4]}
BASELINES = {"depth": "depth", "variance": "weight variance", "both": "depth and weight variance"}
COLUMNS = {
    "trainability/correlation": "rank correlation: NTK well-conditioned, finite network's training accuracy",
    "generalization/correlation": "size of mean predictor after training, finite test accuracy",
    "generalization/uncentred": "size of mean predictor of uncentred labels, finite test accuracy",
    "trainability/error": "error of training accuracy predicted by condition number",
    **{f"trainability/error_{name}": f"by {words}" for name, words in BASELINES.items()},
    "generalization/error": "error of test accuracy predicted by size of mean predictor",
    **{f"generalization/error_{name}": f"by {words}, test" for name, words in BASELINES.items()},
    "generalization/trained": "size of mean predictor, finite test accuracy where trained",
    "infinite/train_agreement": "infinite-width and finite training accuracy",
    "infinite/test_agreement": "infinite-width and finite test accuracy",
    "rate/ordered_condition": "measured / predicted rate: condition number, ordered",
    "rate/chaotic_condition": "condition number - 1, chaotic",
    "rate/critical_condition": "condition number / its limit, critical",
    "rate/chaotic_predictor": "mean predictor, chaotic",
    "finite/diverged": "finite networks diverged",
}
TABLE = tuple(COLUMNS)
ARRAY_NAMES = {"predictor_converged": "predictor", "predictor_after_steps": "signal"}  # what arrays.npz calls them
MIN_CORRELATION = 0.5  # a rank correlation that "tells"
NEIGHBOURS = 3  # of a cell, from whose accuracies its own is predicted
TRAINED = 0.9  # training accuracy from which a finite network counts as trained; it acts while measuring
RATIOS = (0.7, 1.0, 1.5)  # weight variances of the curves over the critical one: ordered, critical, chaotic
RESOLVED = 1e11  # condition numbers beyond lose too many digits for a rate
MAX_IMAGES = 4000  # of training and test together: kernels are dense


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(activation="erf", width=64)
    data: DataConfig = DataConfig(train_size=100, test_size=200)
    architecture: str = field(default="fcn", metadata={"help": f"one of {', '.join(ARCHITECTURES)} (3x3, circular)"})
    bias_variance: float = field(default=0.18, metadata={"help": "variance of biases"})
    weight_variances: tuple[float, ...] = field(
        default=(0.5, 0.8, 1.1, 1.4, 1.75, 2.0, 2.3, 2.6, 3.0),
        metadata={"help": "of the infinite-width network's map: 0.5-1.1-3.0"},
    )
    depths: tuple[int, ...] = field(
        default=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 90), metadata={"help": "hidden layers of that map: 1-4-16"}
    )
    finite_weight_variances: tuple[float, ...] = field(
        default=(0.5, 1.1, 1.75, 3.0), metadata={"help": "of the finite networks trained"}
    )
    finite_depths: tuple[int, ...] = field(
        default=(1, 4, 12, 24), metadata={"help": "hidden layers of the finite networks; empty: train none"}
    )
    cells: int = field(
        default=0,
        metadata={"help": "finite networks at weight variances and depths drawn by the seed, between the least and the "
                          "largest of finite_weight_variances and finite_depths; 0: at all of these", "added": True},
    )  # fmt: skip
    centre_labels: bool = field(
        default=False, metadata={"help": "labels minus 1/k instead of one-hot ones", "added": True}
    )
    steps: int = field(default=150, metadata={"help": "full-batch gradient descent steps"})
    step_size: float = field(default=0.5, metadata={"help": "in units of the largest stable step, 2 m / lambda_max"})
    curve_depth: int = field(default=200, metadata={"help": "largest depth of the curves in the three phases"})
    seed: int = seed_field("weights and data subset")

    def validate(self) -> None:
        check_network(self)
        if self.network.depth is not None:
            raise ValueError(f"depths of finite networks are given by --finite_depths, got depth={self.network.depth}")
        variances = [*self.variances_of_map, *self.finite_weight_variances]
        check_variances(weight_variance=variances, bias_variance=[self.bias_variance])
        for name in ("weight_variances", "depths"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one value")
        if bool(self.finite_depths) != bool(self.finite_weight_variances):
            raise ValueError("finite_depths and finite_weight_variances must both hold values, or both be empty")
        for name in ("finite_weight_variances", "finite_depths"):
            if len({f"{value:g}" for value in getattr(self, name)}) < len(getattr(self, name)):
                raise ValueError(f"{name} must differ from each other in six digits, got {getattr(self, name)}")
        if self.cells and self.finite_depths:
            if self.cells <= NEIGHBOURS + 1:
                raise ValueError(f"cells must be 0 or at least {NEIGHBOURS + 2}, got {self.cells}")
            if max(self.finite_weight_variances) - min(self.finite_weight_variances) < 0.01:
                raise ValueError(
                    f"cells={self.cells} are drawn between two weight variances, got {self.finite_weight_variances}"
                )
        depths = [*self.depths_of_map, *self.finite_depths]
        if min(depths) < 1 or self.curve_depth < 1 or self.steps < 1:
            raise ValueError(
                f"depths, curve_depth and steps must be at least 1, got {depths}, {self.curve_depth}, {self.steps}"
            )
        if not 0 < self.step_size < 1:
            raise ValueError(
                f"step_size must lie strictly between 0 and 1, the largest stable step, got {self.step_size}"
            )

    @property
    def variances_of_map(self) -> list[float]:
        """Weight variances of the infinite-width network: its own, and those of the finite networks."""
        return sorted({*self.weight_variances, *(() if self.cells else self.finite_weight_variances)})

    @property
    def depths_of_map(self) -> list[int]:
        """Depths of the infinite-width network: its own, and those of the finite networks."""
        return sorted({*self.depths, *(() if self.cells else self.finite_depths)})

    @property
    def finite_cells(self) -> list[tuple[float, int]]:
        """(weight variance, depth) of the finite networks: variances uniform, depths log-uniform where drawn."""
        if not self.cells or not self.finite_depths:
            return list(product(self.finite_weight_variances, self.finite_depths))
        rng = np.random.default_rng([self.seed, 31])
        variances, depths = self.finite_weight_variances, self.finite_depths
        borders = np.log(min(depths)), np.log(max(depths))
        found = {}  # no cell twice
        while len(found) < self.cells:
            variance, depth = rng.uniform(min(variances), max(variances)), np.exp(rng.uniform(*borders))
            found[round(float(variance), 3), round(float(depth))] = None
        return list(found)


def label(config: Config) -> str:
    return f"{config.architecture}-sb2={config.bias_variance:g}"


def check(config: Config, data: Data, run: Run) -> None:
    """Refuses kernels that are too large, and convolutions of what are no images."""
    m, size = len(data.x_train), len(data.x_train) + len(data.x_test)
    if size > MAX_IMAGES or m < 2:
        raise ValueError(
            f"allowed are 2 training images or more and {MAX_IMAGES} images together, got {m} and {size}: set "
            "--train_size and --test_size"
        )
    if config.architecture != "fcn" and data.x_train.ndim != 4:
        raise ValueError(f"{config.architecture} needs images, got inputs of shape {data.input_shape}")


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Spectrum and predictor of the infinite-width network against depth, its map, and how finite networks agree."""
    data = replace(data, x_train=scale_to_unit_variance(data.x_train), x_test=scale_to_unit_variance(data.x_test))
    if config.centre_labels:
        data = replace(data, y_train=data.y_train - 1 / data.num_classes, y_test=data.y_test - 1 / data.num_classes)
    variances, depths = config.variances_of_map, config.depths_of_map
    with threadpool_limits(1, "blas"):  # many small matrices: BLAS threads would mostly wait for each other
        cells = [map_row(config, data, variance, depths) for variance in variances]
        result = curves(config, data)
    infinite = {name: np.array([[cell[name] for cell in row] for row in cells]) for name in cells[0][0]}  # [V, L]
    result |= {f"map/{ARRAY_NAMES.get(name, name)}": values for name, values in infinite.items()}
    result |= {"map/weight_variances": np.array(variances), "map/depths": np.array(depths)}
    return result | (finite_networks(config, data, run, infinite) if config.finite_depths else {})


def kernels(
    config: Config, data: Data, variance: float, depths: list[int]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{depth: (nngp, ntk)} of training and test images together."""
    x = np.concatenate([data.x_train, data.x_test])
    return limit_kernels_at(
        x, architecture=config.architecture, activation=config.network.activation, weight_variance=variance,
        bias_variance=config.bias_variance, depths=depths,
    )  # fmt: skip


def map_row(config: Config, data: Data, variance: float, depths: list[int]) -> list[dict[str, float]]:
    """[measures of the infinite-width network] at one weight variance, depth by depth."""
    y, m = data.y_train.astype(np.float64), len(data.x_train)
    # One draw for all cells: they differ by their kernels only.
    noise = np.random.default_rng([config.seed, 29]).standard_normal([m + len(data.x_test), y.shape[1]])
    row = []
    for nngp, ntk in kernels(config, data, variance, depths).values():
        eigen = positive_eigh(ntk[:m, :m])
        share = fitted_share(eigen[0], config.step_size, config.steps)
        q, basis = scipy.linalg.eigh(nngp)
        start = basis @ (np.sqrt(np.maximum(q, 0))[:, None] * noise)  # f0 ~ N(0, NNGP)
        on_train, on_test = outputs_after(ntk, eigen, share, start, y)
        spectrum = spectrum_of(eigen[0])
        row.append(
            {
                "condition": spectrum.condition_number,
                "lambda_max": spectrum.lambda_max,
                "predictor_converged": predictor_size(ntk, eigen, np.ones(m), y),
                "predictor_after_steps": predictor_size(ntk, eigen, share, y),
                "predictor_uncentred": predictor_size(ntk, eigen, share, y, centred=False),
                "train": float(np.mean(on_train.argmax(1) == y.argmax(1))),
                "test": float(np.mean(on_test.argmax(1) == data.y_test.argmax(1))),
            }
        )
    return row


def curves(config: Config, data: Data) -> dict[str, np.ndarray | float]:
    """Spectrum and mean predictor against depth in the three phases, and the measured rates over the predicted ones."""
    activation, m = config.network.activation, len(data.x_train)
    depths = sorted({round(depth) for depth in np.geomspace(1, config.curve_depth, 30)})
    variances = [ratio * critical_weight_variance(activation, config.bias_variance) for ratio in RATIOS]
    names = ("condition", "lambda_max", "lambda_bulk", "predictor")
    found = {name: np.empty([len(variances), len(depths)]) for name in names}
    for i, variance in enumerate(variances):
        for j, (_, ntk) in enumerate(kernels(config, data, variance, depths).values()):
            eigen = positive_eigh(ntk[:m, :m])
            spectrum = spectrum_of(eigen[0])
            found["condition"][i, j] = spectrum.condition_number
            found["lambda_max"][i, j], found["lambda_bulk"][i, j] = spectrum.lambda_max, spectrum.lambda_bulk
            found["predictor"][i, j] = predictor_size(ntk, eigen, np.ones(m), data.y_train.astype(float))
    chaotic = phase(activation, variances[2], config.bias_variance)
    # Deep in the chaotic phase what tells inputs apart is smaller than the rounding of the NTK's off-diagonal.
    visible = found["predictor"][2] * found["lambda_bulk"][2] > chaotic.theta_off / RESOLVED / 100
    found["predictor"][2] = np.where(visible | np.isinf(chaotic.theta_off), found["predictor"][2], np.nan)
    pixels = int(np.prod(data.input_shape[:2])) if config.architecture == "cnn-pool" else 1
    limit = critical_condition(activation, m, pixels=pixels)
    ordered = phase(activation, variances[0], config.bias_variance)
    return {
        **{f"curve/{name}": values for name, values in found.items()},
        "curve/depths": np.array(depths),
        "curve/weight_variances": np.array(variances),
        "curve/critical_limit": np.array([limit]),
        **rates(np.array(depths), found["condition"], found["predictor"][2], limit, ordered, chaotic),
    }


def rates(
    l: np.ndarray, condition: np.ndarray, predictor: np.ndarray, limit: float, ordered: Phase, chaotic: Phase
) -> dict[str, float]:
    """Measured over predicted rates at which the curves rise and fall with depth l [L] (Xiao et al. 2020, Table 1).

    condition [3, L]: in the three phases.  predictor [L]: in the chaotic one.  limit: of the condition number at
    criticality.  ordered, chaotic: theory of these phases.
    """
    fade = np.log(chaotic.chi_c / chaotic.chi_1)
    resolved = condition[0] < RESOLVED, condition[2] - 1 > 1 / RESOLVED
    deep = l > 2 * chaotic.xi_1
    return {
        "rate/ordered_condition": relative_decay_rate(
            l, condition[0] * l, (l > ordered.xi_1) & resolved[0], ordered.xi_1
        ),
        "rate/chaotic_condition": relative_decay_rate(l, condition[2] - 1, deep & resolved[1], -chaotic.xi_1),
        "rate/critical_condition": float(condition[1, -1] / limit),
        "rate/chaotic_predictor": relative_decay_rate(l, predictor / l, deep, 1 / fade if fade else np.nan),
    }


def finite_networks(
    config: Config, data: Data, run: Run, infinite: dict[str, np.ndarray]
) -> dict[str, np.ndarray | float]:
    """Train the finite networks, and correlate how they end with what the infinite-width network's map says of them.

    infinite: {name: [V, L]} over the weight variances and depths of the map.
    """
    cells = config.finite_cells
    if config.cells:
        with threadpool_limits(1, "blas"):
            found = [map_row(config, data, variance, [depth])[0] for variance, depth in cells]
        at = {name: np.array([cell[name] for cell in found]) for name in infinite}
    else:
        rows = [config.variances_of_map.index(variance) for variance, _ in cells]
        columns = [config.depths_of_map.index(depth) for _, depth in cells]
        at = {name: values[rows, columns] for name, values in infinite.items()}
    accuracies = [train_finite(config, data, run, *cell, value) for cell, value in zip(cells, at["lambda_max"])]
    train, test = np.array(accuracies).T  # [cells]
    fitted = train >= TRAINED
    # A singular kernel is the worst conditioned one; a diverged network (nan) is left out and counted.
    well = -np.log(np.minimum(at["condition"], 1 / np.finfo(float).eps))
    variances, depths = np.array(cells, dtype=float).T
    features = {"depth": depths, "variance": variances, "both": np.array(cells, dtype=float)}
    errors = {}
    pairs = {"trainability": (well, train), "generalization": (at["predictor_after_steps"], test)}
    for what, (spectrum, accuracy) in pairs.items():
        errors[f"{what}/error"] = leave_one_out_error(spectrum, accuracy, NEIGHBOURS)
        for name, feature in features.items():
            errors[f"{what}/error_{name}"] = leave_one_out_error(feature, accuracy, NEIGHBOURS)
    return {
        **errors,
        "trainability/correlation": rank_correlation(well, train).correlation,
        "generalization/correlation": rank_correlation(at["predictor_after_steps"], test).correlation,
        "generalization/uncentred": rank_correlation(at["predictor_uncentred"], test).correlation,
        "generalization/trained": rank_correlation(at["predictor_converged"][fitted], test[fitted]).correlation,
        "infinite/train_agreement": rank_correlation(at["train"], train).correlation,
        "infinite/test_agreement": rank_correlation(at["test"], test).correlation,
        "finite/diverged": int(np.isnan(train).sum()),
        "finite/weight_variance": np.array([variance for variance, _ in cells]),
        "finite/depth": np.array([depth for _, depth in cells]),
        "finite/train": train,
        "finite/test": test,
        **{f"finite/{ARRAY_NAMES.get(name, name)}": at[name] for name in ("condition", "predictor_after_steps")},
    }


def train_finite(
    config: Config, data: Data, run: Run, variance: float, depth: int, lambda_max: float
) -> tuple[float, float]:
    """(training, test accuracy) of one finite network; nan if it diverged."""
    m = len(data.x_train)
    model = build_finite(config, data, weight_variance=variance, depth=depth)
    training = TrainingConfig(
        loss="squared", epochs=config.steps, batch_size=m, momentum=0.0,
        learning_rate=2 * config.step_size * m / lambda_max,
    )  # fmt: skip
    history = fit(model, data, training, seed=config.seed, run=run, stage=f"sw2={variance:g}-depth={depth}")
    if history.diverged_epoch:
        return np.nan, np.nan
    return history.rows[-1]["train/accuracy"], history.rows[-1]["test/accuracy"]


def judge(results: Results) -> Verdict:
    """Does the spectrum tell of finite networks, and more than depth and weight variance do?  Over seeds, whose cells
    are drawn anew.
    """
    margin = results.margins["margin"]
    test = (
        "One-sided t-tests over seeds, each with cells of its own, of two rank correlations over the finite networks: "
        "of the NTK's condition number (falling) with training accuracy, and of the size of the mean predictor after "
        "as many steps with test accuracy; and of the mean error of accuracies that are predicted from the nearest "
        f"{NEIGHBOURS} other cells, by the spectrum minus by depth, by weight variance, and by both. Supported where "
        f"both correlations lie above {MIN_CORRELATION} and the spectrum predicts both accuracies better than each "
        f"of the three; refuted where a correlation lies below {MIN_CORRELATION}, or the spectrum saves less than "
        f"{margin:g} of an error. Cells that were chosen decide nothing. A network whose training accuracy is at least "
        f"{TRAINED:g} counts as trained, which is told and not judged."
    )
    groups = groups_by_architecture(results.measured("finite/diverged"))
    if not groups:
        return Verdict("undecided", "No finite network was trained.", test)
    return decide(results, [judge_diagram(group, margin, results.confidence) for group in groups], test)


def judge_diagram(group: Group, margin: float, confidence: float) -> Finding:
    """Both correlations and what the spectrum saves, of one phase diagram over its seeds."""
    rows, tests, refutes, texts = group.rows, [], [], []

    def column(name):
        return rows[name] if name in rows else np.full(len(rows), np.nan)

    for what, accuracy in (("trainability", "training"), ("generalization", "test")):
        found = mean_correlation(column(f"{what}/correlation"), confidence)
        error = t_interval(column(f"{what}/error"), confidence)
        text = f"rank correlation with {accuracy} accuracy {format_interval(found, 2)} over {found.n} seeds"
        if what == "generalization":
            uncentred = mean_correlation(column(f"{what}/uncentred"), confidence)
            text += f" (uncentred labels {format_interval(uncentred, 2)})"
        saved = {
            name: paired_difference(column(f"{what}/error_{name}"), column(f"{what}/error"), confidence)
            for name in BASELINES
        }
        parts = [f"{format_interval(gain, 2, sign=True)} by {BASELINES[name]}" for name, gain in saved.items()]
        texts.append(f"{text}, predicted with an error of {format_interval(error, 2)}, and more {', '.join(parts)}")
        tests += [above(found, MIN_CORRELATION, single=True), *map(above, saved.values())]
        untold = below(found, MIN_CORRELATION, single=True)
        refutes.append(Statement(f"the spectrum does not tell {what}", (untold,)))
        refutes += [
            Statement(f"it tells no more of {what} than {BASELINES[name]}", (below(gain, margin),))
            for name, gain in saved.items()
        ]
    agreement = format_interval(mean_correlation(column("infinite/test_agreement"), confidence), 2)
    texts.append(f"infinite-width and finite test accuracy {agreement}")
    texts.append(f"{int(rows['finite/diverged'].sum())} finite networks diverged")
    if not group.first["cells"]:
        texts.append("all seeds share cells that were chosen (--cells=12 draws them), so this is not judged")
        return Finding(group.label, "; ".join(texts))
    return Finding(
        group.label,
        "; ".join(texts),
        supports=(Statement("the spectrum tells both, and more than depth and weight variance", tuple(tests)),),
        refutes=tuple(refutes),
    )


def figures(results: Results) -> dict[str, Figure]:
    """Curves against depth, phase diagram, heat maps of accuracy, and what the spectrum says of each finite network."""
    return spectrum_figures.figures(groups_by_architecture(results), results.arrays)


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("sw2=<variance>-depth=<depth>",),
    apart=(),
    margins={"margin": (0.01, "error of predicted accuracies that the spectrum saves")},
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=label,
    former_columns={f"generalisation/{what}": f"generalization/{what}" for what in ("correlation", "trained")},
)
