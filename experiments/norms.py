"""What the experiments on parameter norms share: measures of a trained network, its scale-invariant weights, comparisons."""
import keras
import numpy as np
from keras import layers

from analysis.evaluation import evaluate
from analysis.statistics import paired_difference
from experiments.networks import short
from experiments.options import leaves, text

SETTLED = 0.02  # ||theta||^2 has settled when it stays within this share of its target
ENOUGH = 6  # paired seeds for a verdict: with fewer, no sign-flip test can reach p < 0.05

# Layers through which a positive factor on their input comes out unchanged, if every one of their inputs has it.
HOMOGENEOUS = (
    layers.AveragePooling2D, layers.Concatenate, layers.Flatten, layers.GlobalAveragePooling2D, layers.MaxPooling2D,
    layers.ZeroPadding2D,
)  # fmt: skip


def scale_invariant_kernels(model):
    """The kernels whose scale cannot change the function in training: all that they feed is a BatchNormalization.

    (Up to its epsilon.) Between the two there may be a bias, pooling, or a concatenation, whose channels batch norm
    treats one by one; an activation or a sum ends the search, as does a layer that is used twice.
    """
    consumers = {}
    for layer in model.layers:
        if single(layer) and not isinstance(layer, layers.InputLayer):
            for tensor in keras.tree.flatten(layer.input):
                consumers.setdefault(id(tensor), []).append(layer)
    outputs = {id(tensor) for tensor in model.outputs}

    def normalized(tensor):
        users = consumers.get(id(tensor), [])
        return bool(users) and id(tensor) not in outputs and all(
            isinstance(user, layers.BatchNormalization) or (isinstance(user, HOMOGENEOUS) and normalized(user.output))
            for user in users
        )  # fmt: skip

    weighted = [
        layer for layer in model.layers
        if isinstance(layer, (layers.Dense, layers.Conv2D, layers.DepthwiseConv2D)) and single(layer)
    ]  # fmt: skip
    return [layer.kernel for layer in weighted if layer.activation is keras.activations.linear and normalized(layer.output)]


def single(layer):
    """Is the layer called exactly once?  Only then has it an `input` and an `output`."""
    try:
        return layer.input is not None and layer.output is not None
    except (AttributeError, ValueError):
        return False


def squared_norm(variables):
    return float(sum(np.sum(np.square(v.numpy(), dtype=np.float64)) for v in variables))


def regularized_norm(training):
    """The column of history.csv and of the measures that the regularizer acts on."""
    return "norm/all" if training.regularize_all else "norm/kernels"


def both_sets(model, data, loss):
    """{train/loss, train/accuracy, test/loss, test/accuracy} of a network."""
    result = {}
    for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        result[f"{split}/loss"], result[f"{split}/accuracy"] = evaluate(model, x, y, loss)
    return result


def final_measures(model, data, training, history):
    """Accuracy and loss on both sets, their gap, and the norms, of a network whose training did not diverge."""
    result = both_sets(model, data, training.loss)
    result["gap/accuracy"] = result["train/accuracy"] - result["test/accuracy"]
    result["gap/loss"] = result["test/loss"] - result["train/loss"]
    last = history.rows[-1]
    result.update({name: last[name] for name in ("norm/all", "norm/kernels")})
    invariant = scale_invariant_kernels(model)
    if invariant:
        result["norm/scale_invariant"] = squared_norm(invariant)
    if training.regularizer == "norm_bias" and training.norm_target > 0:
        # The last tenth of the epochs: a norm that only passes its target at the end has not settled there.
        tail = [row[regularized_norm(training)] for row in history.rows[-max(2, len(history.rows) // 10) :]]
        deviations = np.array(tail) / training.norm_target - 1
        result["norm/over_target"] = 1 + float(deviations[-1])
        result["norm/settled"] = bool(np.all(np.abs(deviations) <= SETTLED))
    return result


def warnings(table):
    """What a person must know beside the verdict: norms that did not settle."""
    result = ""
    if "norm/settled" in table and "norm/over_target" in table:
        targeted = table[table["norm/over_target"].notna()]
        away = targeted[~targeted["norm/settled"].astype(bool)]
        if len(away):
            ratio = away["norm/over_target"]
            result += (
                f" Warning: in {len(away)} of {len(targeted)} networks under norm_bias ||theta||^2 did not settle within "
                f"{SETTLED:.0%} of its target (it ended at {ratio.min():.3g} to {ratio.max():.3g} of it): more epochs "
                "or a larger coefficient draw it nearer, a smaller learning rate holds it there."
            )
    return result


def networks(table, config_class, apart):
    """[(label, rows)]: the rows whose config differs in nothing but the fields `apart` and the seed."""
    fields = [f for f in leaves(config_class) if f in table and f not in (*apart, "seed")]
    varying = [f for f in fields if f != "model" and table[f].map(str).nunique() > 1]
    groups = table.groupby(fields, sort=False, dropna=False) if fields else [(None, table)]
    result = []
    for _, rows in groups:
        first = rows.iloc[0]
        parts = [f"{f}={text(first[f])}" for f in varying if first[f] == first[f]]  # not those that its model lacks
        result.append((" ".join([short(str(first.get("model", ""))), *parts]), rows))
    return result


def by_seed(a, b, column, level=0.95):
    """paired_difference of a column of two tables, a - b, over the seeds that both have."""
    a, b = a.set_index("seed"), b.set_index("seed")
    shared = a.index.intersection(b.index)
    values = [t[column].loc[shared] if column in t else [np.nan] * len(shared) for t in (a, b)]
    return paired_difference(*values, level=level)


def points(difference):
    """A difference in accuracy in percentage points, `+0.4 [0.1, 0.7]`."""
    return f"{100 * difference.mean:+.2g} [{100 * difference.low:.2g}, {100 * difference.high:.2g}] points"
