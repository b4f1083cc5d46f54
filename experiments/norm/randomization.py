"""Do networks generalize because they cannot fit noise, or because they are regularized?  Zhang et al. 2017.

The same network and the same recipe on true labels, on labels that are random with probability p, and on shuffled,
random and Gaussian pixels; without and with explicit regularizers. A network is fitted at the first epoch after which
it is right on 99 % of the training images, in inference mode; training ends `epochs_after_fit` epochs later.
Several strengths of a regularizer (`--coefficient=1e-4,1e-3,1e-2`) make a dose curve: the claim has generalization rise
with the dose, and random labels no longer fitted. Beside the accuracies stand normalized margins (analysis/margins.py).
"""
import dataclasses
from dataclasses import dataclass, field

import keras
import numpy as np

from analysis.evaluation import evaluate_splits, predict
from analysis.margins import normalized_margins
from experiments.norm.randomization_verdict import FITTED, figures, judge
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.verdict import Claim
from models import NetworkConfig
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import History, TrainingConfig, build_network, fit

CLAIM = Claim(
    "Networks generalize because of limited capacity or explicit regularization.",
    source="the common view that Zhang et al. 2017, Understanding deep learning requires rethinking generalization, "
    "examine",
)
EXPLICIT_REGULARIZERS = ("none", "weight_decay", "augment", "dropout", "all")
GRID = {
    "depth": [1, 3],
    "label_noise": [0.0, 0.5, 1.0],
    "pixel_noise": ["none", "shuffled", "random", "gaussian"],
    "explicit_regularizer": ["none", "weight_decay"],
    "coefficient": [5e-4],
    "dropout": [0.2],
    "seed": [0, 1, 2],
}
COLUMNS = {
    **evaluation_columns(),
    "gap/accuracy": "gap",
    "fitted_epoch": "epochs to fit",
    "trained_epochs": "epochs trained",
    "parameters": "parameters",
    "chance": "accuracy of guessing",
    "test/images": "test images",
    "margin/median": "median normalized margin on the training set",
    "margin/low": "its 5 % quantile",
}
TABLE = (
    "train/accuracy", "test/accuracy", "gap/accuracy", "fitted_epoch", "margin/median", "train/loss", "test/loss",
    "parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """explicit_regularizer switches the regularizers; coefficient and dropout say how strong those are that are on."""

    network: NetworkConfig = NetworkConfig(width=512)
    data: DataConfig = DataConfig(train_size=500)
    training: TrainingConfig = TrainingConfig(epochs=60, batch_size=32, learning_rate=0.02)
    explicit_regularizer: str = field(
        default="none",
        metadata={
            "help": f"explicit regularizers, one of {', '.join(EXPLICIT_REGULARIZERS)}; strengths: coefficient and "
            "dropout",
            "formerly": "explicit",
        },
    )
    epochs_after_fit: int = field(
        default=5,
        metadata={"help": f"epochs that follow the first with {FITTED:.0%} training accuracy", "formerly": "settle"},
    )
    seed: int = seed_field()

    def __post_init__(self):
        chosen = self.explicit_regularizer
        if chosen not in EXPLICIT_REGULARIZERS:
            raise ValueError(f"unknown explicit_regularizer {chosen!r}: allowed are {', '.join(EXPLICIT_REGULARIZERS)}")
        network, data, training = self.network, self.data, self.training
        decay, augment, dropout = (chosen in (name, "all") for name in EXPLICIT_REGULARIZERS[1:4])
        if data.augment and not augment:
            raise ValueError("augment is switched by explicit_regularizer: use --explicit_regularizer=augment, or all")
        if training.regularizer not in ("none", "weight_decay" if decay else "none"):
            raise ValueError(
                f"regularizer {training.regularizer} does not apply here: use --explicit_regularizer=weight_decay, or "
                "all"
            )
        kind, coefficient = ("weight_decay", training.coefficient) if decay else ("none", 0.0)
        for name, value in (
            ("network", dataclasses.replace(network, dropout=network.dropout if dropout else 0.0)),
            ("data", dataclasses.replace(data, augment=augment)),
            ("training", dataclasses.replace(training, regularizer=kind, coefficient=coefficient)),
        ):
            object.__setattr__(self, name, value)

    def validate(self) -> None:
        if self.epochs_after_fit < 0:
            raise ValueError(f"epochs_after_fit must be 0 or positive, got {self.epochs_after_fit}")
        if self.explicit_regularizer in ("weight_decay", "all") and not self.training.coefficient:
            chosen = self.explicit_regularizer
            raise ValueError(f"explicit_regularizer={chosen} needs a coefficient > 0 of weight decay, got 0")


def label(config: Config) -> str:
    return "" if config.explicit_regularizer == "none" else config.explicit_regularizer


def applies(config: Config) -> bool:
    corruptions = (config.data.label_noise > 0) + (config.data.pixel_noise != "none")
    return corruptions <= 1 and (config.explicit_regularizer != "dropout" or config.network.dropout > 0)


def fits(model: keras.Model, x: np.ndarray, labels: np.ndarray, share: float = FITTED, block: int = 500) -> bool:
    """Is the model right on `share` of all images, in inference mode?  Stops at the block that makes it impossible."""
    allowed = len(x) - int(np.ceil(share * len(x)))
    wrong = 0
    for i in range(0, len(x), block):
        wrong += np.count_nonzero(predict(model, x[i : i + block]).argmax(axis=1) != labels[i : i + block])
        if wrong > allowed:
            return False
    return True


def train(model: keras.Model, data: Data, config: Config, run: Run) -> tuple[History, int | None]:
    """(History, first epoch that fits or None), trained for `epochs_after_fit` epochs more than that.

    A checkpoint knows that epoch, as the probe of it, so that an interrupted run ends where an uninterrupted one does.
    """
    training, labels, more = config.training, data.y_train.argmax(axis=1), config.epochs_after_fit
    state = run.load_checkpoint("training") or {"arrays": {}, "rows": []}
    fitted = next((int(name.split("/")[1]) for name in state["arrays"] if name.startswith("probe/")), None)
    if fitted and len(state["rows"]) >= fitted + more:
        training = dataclasses.replace(training, epochs=len(state["rows"]))  # interrupted between training and result

    def probe(model, epoch):
        nonlocal fitted
        new = fitted is None and fits(model, data.x_train, labels)
        fitted = epoch if new else fitted
        if fitted and epoch >= fitted + more:
            model.stop_training = True
        return {"fitted": np.array(epoch)} if new else None

    history = fit(model, data, training, seed=config.seed, run=run, probe=probe)
    return history, fitted


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Train until the network is fitted, and a little longer: when that was, and accuracy and loss at the end."""
    model = build_network(config, data)
    history, fitted = train(model, data, config, run)
    result = {
        "diverged_epoch": history.diverged_epoch,
        "chance": 1 / data.num_classes,
        "parameters": model.count_params(),
        "test/images": len(data.x_test),
    }
    if history.diverged_epoch:
        return result
    result.update(evaluate_splits(model, data, config.training.loss))
    result["gap/accuracy"] = result["train/accuracy"] - result["test/accuracy"]
    logits = predict(model, data.x_train)
    found = normalized_margins(model, data.x_train, logits, data.y_train.argmax(axis=1))
    if found is not None:
        result["margin/median"], result["margin/low"] = (float(v) for v in np.quantile(found, [0.5, 0.05]))
    return {**result, "fitted_epoch": fitted, "trained_epochs": len(history.rows)}


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("training",),
    apart=("label_noise", "pixel_noise", "explicit_regularizer", "coefficient", "dropout", "regularizer", "augment"),
    measure=measure,
    judge=judge,
    figures=figures,
    applies=applies,
    needs=(
        "One corruption at a time (label_noise with pixel_noise=none), and explicit_regularizer=dropout with a model "
        "that has dropout > 0."
    ),
    label=label,
    margins={"margin": (0.05, "test accuracy around chance that is no generalization")},
)
