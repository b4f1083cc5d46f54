"""Does the spectrum of the infinite-width NTK tell which networks train and which generalise?  Xiao et al. 2020.

One config is one phase diagram on one data subset: the infinite-width network in closed form on a grid of weight variances
and depths, and finite networks in NTK parameterisation trained by full-batch gradient descent on a part of it. Both take the
same number of steps of the same size, a share of the largest stable one. The infinite-width network is a draw of its
Gaussian process, initial output f0 included (Lee et al. 2019):

    f_t(x) = f0(x) + Theta(x, X) Theta(X, X)^-1 (I - (I - eta Theta(X, X) / m)^t) (Y - f0(X))

Without f0 (its mean) the argmax stays right deep in the chaotic phase, where only the size of the prediction vanishes.
"""
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from analysis.kernel_limit import ARCHITECTURES, critical_condition, limit_kernels_at, spectrum_of
from analysis.phases import critical_weight_variance, phase
from analysis.statistics import rank_correlation, t_interval
from experiments import spectrum_figures
from experiments.infinite_width import check_network, check_variances
from experiments.networks import actual_width
from models import NetworkConfig
from models.ntk_parameterized import ntk_parameterized
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit

CLAIM = Claim(
    "The NTK's spectrum tells which networks can be trained and which generalise.",
    source="Xiao, Pennington & Schoenholz 2020, Disentangling Trainability and Generalization",
)
GRID = {"seed": [0, 1, 2]}
MEASURES = {
    "trainability/correlation": "rank correlation: NTK well-conditioned, finite network's training accuracy",
    "generalisation/correlation": "size of mean predictor after training, finite test accuracy",
    "generalisation/trained": "size of mean predictor, finite test accuracy where trained",
    "infinite/train_agreement": "infinite-width and finite training accuracy",
    "infinite/test_agreement": "infinite-width and finite test accuracy",
    "rate/ordered_condition": "measured / predicted rate: condition number, ordered",
    "rate/chaotic_condition": "condition number - 1, chaotic",
    "rate/critical_condition": "condition number / its limit, critical",
    "rate/chaotic_predictor": "mean predictor, chaotic",
    "finite/diverged": "finite networks diverged",
}
BAR = 0.5  # a rank correlation that "tells"
TRAINED = 0.9  # training accuracy from which a finite network counts as trained
RATIOS = (0.7, 1.0, 1.5)  # weight variances of the curves over the critical one: ordered, critical, chaotic
RESOLVED = 1e11  # condition numbers beyond lose too many digits for a rate


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
    steps: int = field(default=200, metadata={"help": "full-batch gradient descent steps"})
    step_size: float = field(default=0.5, metadata={"help": "in units of the largest stable step, 2 m / lambda_max"})
    curve_depth: int = field(default=200, metadata={"help": "largest depth of the curves in the three phases"})
    seed: int = field(default=0, metadata={"help": "seed of weights and data subset; 0,1,2 for several"})

    @property
    def label(self):
        return f"{self.architecture}-sb2={self.bias_variance:g}"

    def validate(self):
        check_network(self)
        if self.network.depth is not None:
            raise ValueError(f"depths of finite networks are given by --finite_depths, got depth={self.network.depth}")
        check_variances(weight_variance=self.variances_of_map, bias_variance=[self.bias_variance])
        for name in ("weight_variances", "depths"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one value")
        if bool(self.finite_depths) != bool(self.finite_weight_variances):
            raise ValueError("finite_depths and finite_weight_variances must both hold values, or both be empty")
        if min(self.depths_of_map) < 1 or self.curve_depth < 1 or self.steps < 1:
            raise ValueError(
                f"depths, curve_depth and steps must be at least 1, got {self.depths_of_map}, {self.curve_depth}, {self.steps}"
            )
        if not 0 < self.step_size < 1:
            raise ValueError(f"step_size must lie strictly between 0 and 1, the largest stable step, got {self.step_size}")

    @property
    def variances_of_map(self):
        return sorted({*self.weight_variances, *self.finite_weight_variances})

    @property
    def depths_of_map(self):
        return sorted({*self.depths, *self.finite_depths})


def check(config, data):
    m, size = len(data.x_train), len(data.x_train) + len(data.x_test)
    if size > 4000 or m < 2:
        raise ValueError(f"allowed are 2 training images or more and 4000 images together, got {m} and {size}: set "
                         "--train_size and --test_size")  # fmt: skip
    if config.architecture != "fcn" and data.x_train.ndim != 4:
        raise ValueError(f"{config.architecture} needs images, got inputs of shape {data.input_shape}")


def measure(config, data, run):
    data = replace(data, x_train=of_one_length(data.x_train), x_test=of_one_length(data.x_test))
    variances, depths = config.variances_of_map, config.depths_of_map
    with threadpool_limits(1, "blas"):  # many small matrices: BLAS threads would mostly wait for each other
        cells = [map_row(config, data, variance, depths) for variance in variances]
        result = curves(config, data)
    result |= {f"map/{name}": np.array([[cell[name] for cell in row] for row in cells]) for name in cells[0][0]}  # [V, L]
    result |= {"map/weight_variances": np.array(variances), "map/depths": np.array(depths)}
    chosen = [(variances.index(v), depths.index(l)) for v in config.finite_weight_variances for l in config.finite_depths]
    if not chosen:
        return result
    trained = np.array([train(config, data, run, variances[i], depths[j], result["map/lambda_max"][i, j]) for i, j in chosen])
    finite = {name: values for name, values in zip(("train", "test"), trained.T)}  # [cells]
    rows, columns = np.array(chosen).T
    at = {name: result[f"map/{name}"][rows, columns] for name in cells[0][0]}
    fitted = finite["train"] >= TRAINED
    # A singular kernel is the worst conditioned one; a diverged network (nan) is left out and counted.
    well = -np.log(np.minimum(at["condition"], 1 / np.finfo(float).eps))
    return {
        **result,
        "trainability/correlation": rank_correlation(well, finite["train"]).correlation,
        "generalisation/correlation": rank_correlation(at["signal"], finite["test"]).correlation,
        "generalisation/trained": rank_correlation(at["predictor"][fitted], finite["test"][fitted]).correlation,
        "infinite/train_agreement": rank_correlation(at["train"], finite["train"]).correlation,
        "infinite/test_agreement": rank_correlation(at["test"], finite["test"]).correlation,
        "finite/diverged": int(np.isnan(finite["train"]).sum()),
        "finite/weight_variance": np.array(variances)[rows],
        "finite/depth": np.array(depths)[columns],
        **{f"finite/{name}": values for name, values in finite.items()},
        **{f"finite/{name}": at[name] for name in ("condition", "signal")},
    }


def of_one_length(x):
    """Inputs scaled to norm sqrt(dimension): the theory, and the paper, let all inputs have the same variance."""
    norm = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=tuple(range(1, x.ndim)), keepdims=True))
    return x / np.where(norm > 0, norm, 1)  # float64: the condition number minus 1 falls to rounding


def kernels(config, data, variance, depths):
    """{depth: (nngp, ntk)} of training and test images together."""
    x = np.concatenate([data.x_train, data.x_test])
    return limit_kernels_at(
        x, architecture=config.architecture, activation=config.network.activation, weight_variance=variance,
        bias_variance=config.bias_variance, depths=depths,
    )  # fmt: skip


def map_row(config, data, variance, depths):
    """[measures of the infinite-width network] at one weight variance, depth by depth."""
    y, m = data.y_train.astype(np.float64), len(data.x_train)
    # One draw for all cells: they differ by their kernels only.
    noise = np.random.default_rng([config.seed, 29]).standard_normal([m + len(data.x_test), y.shape[1]])
    row = []
    for nngp, ntk in kernels(config, data, variance, depths).values():
        eigen = positive_eigh(ntk[:m, :m])
        fit_share = share_fitted(eigen[0], config.step_size, config.steps)
        q, basis = scipy.linalg.eigh(nngp)
        start = basis @ (np.sqrt(np.maximum(q, 0))[:, None] * noise)  # f0 ~ N(0, NNGP)
        on_train, on_test = trained_outputs(ntk, eigen, fit_share, start, y)
        spectrum = spectrum_of(eigen[0])
        row.append(
            {
                "condition": spectrum.condition_number,
                "lambda_max": spectrum.lambda_max,
                "predictor": size_of_predictor(ntk, eigen, np.ones(m), y),
                "signal": size_of_predictor(ntk, eigen, fit_share, y),
                "train": float(np.mean(on_train.argmax(1) == y.argmax(1))),
                "test": float(np.mean(on_test.argmax(1) == data.y_test.argmax(1))),
            }
        )
    return row


def positive_eigh(kernel):
    """(eigenvalues [m], eigenvectors [m, m]); eigenvalues that are rounding of 0 stay positive."""
    values, vectors = scipy.linalg.eigh(kernel)
    return np.maximum(values, np.finfo(float).tiny), vectors


def share_fitted(values, step_size, steps):
    """1 - (1 - eta lambda / m)^t of every eigenvalue, to full relative precision where it is small."""
    share = 2 * step_size * values / values[-1]  # eta lambda / m
    small = share < 0.5
    return np.where(small, -np.expm1(steps * np.log1p(-np.where(small, share, 0))), 1 - (1 - share) ** steps)


def trained_outputs(ntk, eigen, fit_share, start, y):
    """f_t on training and test images, from f0 = start [m + test, k] and the NTK of both [m + test, m + test]."""
    (values, vectors), m = eigen, len(y)
    residual = vectors.T @ (y - start[:m])
    on_train = start[:m] + vectors @ (fit_share[:, None] * residual)
    return on_train, start[m:] + ntk[m:, :m] @ (vectors @ ((fit_share / values)[:, None] * residual))


def size_of_predictor(ntk, eigen, fit_share, y):
    """Root mean square of Theta(x, X) Theta(X, X)^-1 (fit share) Y over that of Y, for centred labels Y; nan where
    Theta(X, X) is singular to rounding and every direction is asked for."""
    if fit_share.min() == 1 and not np.isfinite(spectrum_of(eigen[0]).condition_number):
        return np.nan
    centred = y - y.mean(axis=0)
    start = np.zeros([len(ntk), y.shape[1]])
    return float(np.sqrt(np.mean(trained_outputs(ntk, eigen, fit_share, start, centred)[1] ** 2) / np.mean(centred**2)))


def curves(config, data):
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
            found["predictor"][i, j] = size_of_predictor(ntk, eigen, np.ones(m), data.y_train.astype(float))
    ordered, chaotic = (phase(activation, variances[i], config.bias_variance) for i in (0, 2))
    # Deep in the chaotic phase what tells inputs apart is smaller than the rounding of the NTK's off-diagonal.
    visible = found["predictor"][2] * found["lambda_bulk"][2] > chaotic.theta_off / RESOLVED / 100
    found["predictor"][2] = np.where(visible | np.isinf(chaotic.theta_off), found["predictor"][2], np.nan)
    l, condition = np.array(depths), found["condition"]
    fade = np.log(chaotic.chi_c / chaotic.chi_1)
    limit = critical_condition(activation, m, pixels=pixels(config, data))
    return {
        **{f"curve/{name}": values for name, values in found.items()},
        "curve/depths": l,
        "curve/weight_variances": np.array(variances),
        "curve/critical_limit": np.array([limit]),
        "rate/ordered_condition": rate(l, condition[0] * l, (l > ordered.xi_1) & (condition[0] < RESOLVED), ordered.xi_1),
        "rate/chaotic_condition": rate(
            l, condition[2] - 1, (l > 2 * chaotic.xi_1) & (condition[2] - 1 > 1 / RESOLVED), -chaotic.xi_1
        ),
        "rate/critical_condition": float(condition[1, -1] / limit),
        "rate/chaotic_predictor": rate(l, found["predictor"][2] / l, l > 2 * chaotic.xi_1, 1 / fade if fade else np.nan),
    }


def pixels(config, data):
    return int(np.prod(data.input_shape[:2])) if config.architecture == "cnn-pool" else 1


def rate(depths, values, use, scale):
    """Slope of log(values) per layer where `use`, times the predicted scale: 1 where the rate is as predicted."""
    use = use & np.isfinite(values) & (values > 0)
    return float(np.polyfit(depths[use], np.log(values[use]), 1)[0] * scale) if use.sum() > 2 else np.nan


def train(config, data, run, variance, depth, lambda_max):
    """(training, test accuracy) of one finite network; nan if it diverged."""
    network, m = config.network, len(data.x_train)
    model = ntk_parameterized(
        data.input_shape, data.num_classes, architecture=config.architecture, activation=network.activation,
        width=actual_width({"width": network.width, "model": "mlp"}), depth=depth, weight_variance=variance,
        bias_variance=config.bias_variance, seed=config.seed, dtype=network.dtype,
    )  # fmt: skip
    training = TrainingConfig(
        loss="squared", epochs=config.steps, batch_size=m, momentum=0.0, learning_rate=2 * config.step_size * m / lambda_max
    )
    history = fit(model, data, training, seed=config.seed, run=run, stage=f"sw2={variance:g}-depth={depth}")
    if history.diverged_epoch:
        return np.nan, np.nan
    return history.rows[-1]["train/accuracy"], history.rows[-1]["test/accuracy"]


def judge(results):
    test = (
        "t-intervals (95 %) over seeds of two rank correlations over the finite networks of a phase diagram: of the NTK's "
        "condition number (falling) with training accuracy, and of the size of the mean predictor after as many steps with "
        f"test accuracy. Supported where both lie above {BAR}, refuted where one lies below it, undecided otherwise."
    )
    table = results.table
    if "trainability/correlation" not in table:
        return Verdict("undecided", "No finite network was trained.", test)
    outcomes, parts = set(), []
    fields = [name for name in ("architecture", "activation", "width", "bias_variance") if table[name].nunique() > 1]
    for values, rows in table.groupby(fields, sort=False) if fields else [((), table)]:
        name = ", ".join(f"{field} {value}" for field, value in zip(fields, np.atleast_1d(np.array(values, object))))
        intervals = [t_interval(rows[f"{what}/correlation"]) for what in ("trainability", "generalisation")]
        above = [interval.low > BAR for interval in intervals]
        outcomes.add("supported" if all(above) else "refuted" if any(i.high < BAR for i in intervals) else "undecided")
        train_text, test_text = (f"{i.mean:.2f} [{i.low:.2f}, {i.high:.2f}]" for i in intervals)
        agree = t_interval(rows["infinite/test_agreement"])
        parts.append(
            f"{name + ': ' if name else ''}rank correlation with training accuracy {train_text}, with test accuracy "
            f"{test_text}, over {intervals[0].n} seeds; infinite-width and finite test accuracy {agree.mean:.2f}; "
            f"{int(rows['finite/diverged'].sum())} finite networks diverged"
        )
    outcome = "refuted" if "refuted" in outcomes else "supported" if outcomes == {"supported"} else "undecided"
    return Verdict(outcome, "; ".join(parts).capitalize() + ".", test)


def figures(results):
    return spectrum_figures.figures(results)
