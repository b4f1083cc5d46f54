"""What the claims on parameter norms share: what is measured of a trained network, and whether its norm settled."""
import keras
import numpy as np
import pandas as pd

from analysis.evaluation import evaluate_splits
from analysis.rescaling import least_equivalent_norm
from analysis.scale_invariance import scale_invariant_kernels
from harness.experiment import evaluation_columns
from training.data import Data
from training.fit import History, TrainingConfig

SETTLED = 0.02  # ||theta||^2 has settled when it stays within this share of its target

# The columns of final_measures.
FINAL_COLUMNS = {
    **evaluation_columns(),
    "gap/accuracy": "gap",
    "gap/loss": "test loss minus training loss",
    "norm/all": "squared norm",
    "norm/kernels": "squared norm of the kernels",
    "norm/scale_invariant": "of scale-invariant weights",
    "norm/least_equivalent": "least, of the same function",
    "norm/effective_rate": "learning rate / squared norm of scale-invariant weights",
    "norm/over_target": "squared norm / target",
    "norm/settled": f"did the regularized squared norm end within {SETTLED:.0%} of its target and stay there",
}


def squared_norm(variables: list[keras.Variable]) -> float:
    """||theta||^2 over a list of variables, summed in float64."""
    return float(sum(np.sum(np.square(v.numpy(), dtype=np.float64)) for v in variables))


def regularized_norm(training: TrainingConfig) -> str:
    """The column of history.csv and of the measures that the regularizer acts on."""
    return "norm/all" if training.regularize_all else "norm/kernels"


def final_measures(model: keras.Model, data: Data, training: TrainingConfig, history: History) -> dict:
    """Accuracy and loss on both sets, their gap, and the norms, of a network whose training did not diverge."""
    result = evaluate_splits(model, data, training.loss)
    result["gap/accuracy"] = result["train/accuracy"] - result["test/accuracy"]
    result["gap/loss"] = result["test/loss"] - result["train/loss"]
    last = history.rows[-1]
    result.update({name: last[name] for name in ("norm/all", "norm/kernels")})
    invariant = scale_invariant_kernels(model)
    if invariant:
        result["norm/scale_invariant"] = squared_norm(invariant)
        # Their direction moves as fast as that of weights of norm 1 at this rate (van Laarhoven 2017): to regularize
        # their norm is to choose a learning rate.
        result["norm/effective_rate"] = training.learning_rate / max(result["norm/scale_invariant"], 1e-300)
    result["norm/least_equivalent"] = least_equivalent_norm(model)
    if training.regularizer == "norm_bias" and training.norm_target > 0:
        # The last tenth of the epochs: a norm that only passes its target at the end has not settled there.
        tail = [row[regularized_norm(training)] for row in history.rows[-max(2, len(history.rows) // 10) :]]
        deviations = np.array(tail) / training.norm_target - 1
        result["norm/over_target"] = 1 + float(deviations[-1])
        result["norm/settled"] = bool(np.all(np.abs(deviations) <= SETTLED))
    return result


def warn_unsettled(table: pd.DataFrame) -> str:
    """What a person must know beside the verdict, ` Warning: ..`: how many norms did not settle; '' where all did."""
    if "norm/settled" not in table or "norm/over_target" not in table:
        return ""
    targeted = table[table["norm/over_target"].notna() & table["norm/settled"].notna()]
    away = targeted[~targeted["norm/settled"].astype(bool)]
    if not len(away):
        return ""
    ratio = away["norm/over_target"]
    return (
        f" Warning: in {len(away)} of {len(targeted)} networks under norm_bias ||theta||^2 did not settle within "
        f"{SETTLED:.0%} of its target (it ended at {ratio.min():.3g} to {ratio.max():.3g} of it): more epochs "
        "or a larger coefficient draw it nearer, a smaller learning rate holds it there."
    )


def describe_scale_invariance(rows: pd.DataFrame) -> str:
    """`; the kernels' norm cannot matter here: ..`: what part of the networks' norm says nothing of their function.

    rows: of one network, with the columns of final_measures.
    """
    if "norm/scale_invariant" in rows and rows["norm/scale_invariant"].notna().any():
        share = (rows["norm/scale_invariant"] / rows["norm/kernels"]).mean() if "norm/kernels" in rows else np.nan
        of_kernels = f"{share:.0%} of the kernels' squared norm" if share == share else "the norm of some kernels"
        text = (
            f"; {of_kernels} cannot matter, as normalization follows: there a regularizer of the norm only sets the "
            "effective learning rate"
        )
        if "norm/effective_rate" in rows:
            rates = rows["norm/effective_rate"].dropna()
            text += f" ({rates.min():.2g} to {rates.max():.2g})"
        return text
    if "norm/least_equivalent" in rows and "norm/all" in rows and rows["norm/least_equivalent"].notna().any():
        share = (rows["norm/least_equivalent"] / rows["norm/all"]).mean()
        return f"; rescaling layers, which changes no function, lowers the squared norm to {share:.0%} on average"
    return ""
