"""Do networks generalise because they cannot fit noise, or because they are regularised?  Zhang et al. 2017.

The same network and the same recipe on true labels, on labels that are random with probability p, and on shuffled, random and
Gaussian pixels; without and with explicit regularizers. A network is fitted at the first epoch after which it is right on 99 %
of the training images, in inference mode; training ends `settle` epochs later.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np

import models
from analysis.evaluation import predict
from experiments import norms, randomization_verdict
from models import NetworkConfig
from reporting.verdict import Claim
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "Networks generalise because of limited capacity or explicit regularization.",
    source="the common view that Zhang et al. 2017, Understanding deep learning requires rethinking generalization, examine",
)
EXPLICIT = ("none", "weight_decay", "augment", "dropout", "all")
GRID = {
    "depth": [1, 3],
    "label_noise": [0.0, 0.5, 1.0],
    "pixel_noise": ["none", "shuffled", "random", "gaussian"],
    "explicit": ["none", "weight_decay"],
    "coefficient": [5e-4],
    "dropout": [0.2],
    "seed": [0, 1, 2],
}
MEASURES = {
    "train/accuracy": "training accuracy",
    "test/accuracy": "test accuracy",
    "gap/accuracy": "gap",
    "fitted_epoch": "epochs to fit",
    "train/loss": "training loss",
    "test/loss": "test loss",
    "parameters": "parameters",
}
FITTED = 0.99  # share of the training images
APART = ("label_noise", "pixel_noise", "explicit", "coefficient", "dropout", "regularizer", "augment")


@dataclass(frozen=True)
class Config:
    """`explicit` switches the regularizers; coefficient and dropout say how strong they are where they are on."""

    network: NetworkConfig = NetworkConfig(width=512)
    data: DataConfig = DataConfig(train_size=500)
    training: TrainingConfig = TrainingConfig(epochs=60, batch_size=32, learning_rate=0.02)
    explicit: str = field(
        default="none",
        metadata={"help": f"explicit regularizers, one of {', '.join(EXPLICIT)}; strengths: coefficient and dropout"},
    )
    settle: int = field(default=5, metadata={"help": f"epochs that follow the first with {FITTED:.0%} training accuracy"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def __post_init__(self):
        if self.explicit not in EXPLICIT:
            raise ValueError(f"unknown explicit {self.explicit!r}: allowed are {', '.join(EXPLICIT)}")
        network, data, training = self.network, self.data, self.training
        decay, augment, dropout = (self.explicit in (name, "all") for name in EXPLICIT[1:4])
        if data.augment and not augment:
            raise ValueError("augment is switched by explicit: use --explicit=augment, or all")
        if training.regularizer not in ("none", "weight_decay" if decay else "none"):
            raise ValueError(f"regularizer {training.regularizer} does not apply here: use --explicit=weight_decay, or all")
        kind, coefficient = ("weight_decay", training.coefficient) if decay else ("none", 0.0)
        for name, value in (
            ("network", dataclasses.replace(network, dropout=network.dropout if dropout else 0.0)),
            ("data", dataclasses.replace(data, augment=augment)),
            ("training", dataclasses.replace(training, regularizer=kind, coefficient=coefficient)),
        ):
            object.__setattr__(self, name, value)

    def validate(self):
        if self.settle < 0:
            raise ValueError(f"settle must be 0 or positive, got {self.settle}")
        if self.explicit in ("weight_decay", "all") and not self.training.coefficient:
            raise ValueError(f"explicit={self.explicit} needs a coefficient > 0 of weight decay, got 0")

    @property
    def label(self):
        return "" if self.explicit == "none" else self.explicit


def applies(config):
    """One corruption at a time (label_noise with pixel_noise=none), and explicit=dropout with a model that has dropout > 0."""
    corruptions = (config.data.label_noise > 0) + (config.data.pixel_noise != "none")
    return corruptions <= 1 and (config.explicit != "dropout" or config.network.dropout > 0)


def fits(model, x, labels, share=FITTED, block=500):
    """Is the model right on `share` of all images, in inference mode?  Stops at the block that makes it impossible."""
    allowed = len(x) - int(np.ceil(share * len(x)))
    wrong = 0
    for i in range(0, len(x), block):
        wrong += np.count_nonzero(predict(model, x[i : i + block]).argmax(axis=1) != labels[i : i + block])
        if wrong > allowed:
            return False
    return True


def train(model, data, config, run):
    """(History, first epoch that fits or None), trained for `settle` epochs more than that.

    A checkpoint knows that epoch, as the probe of it, so that an interrupted run ends where an uninterrupted one does.
    """
    training, labels = config.training, data.y_train.argmax(axis=1)
    state = run.load_checkpoint("training") or {"arrays": {}, "rows": []}
    fitted = next((int(name.split("/")[1]) for name in state["arrays"] if name.startswith("probe/")), None)
    if fitted and len(state["rows"]) >= fitted + config.settle:
        training = dataclasses.replace(training, epochs=len(state["rows"]))  # interrupted between training and result

    def probe(model, epoch):
        nonlocal fitted
        new = fitted is None and fits(model, data.x_train, labels)
        fitted = epoch if new else fitted
        if fitted and epoch >= fitted + config.settle:
            model.stop_training = True
        return {"fitted": np.array(epoch)} if new else None

    history = fit(model, data, training, seed=config.seed, run=run, probe=probe)
    return history, fitted


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    history, fitted = train(model, data, config, run)
    result = {"diverged_epoch": history.diverged_epoch, "chance": 1 / data.num_classes, "parameters": model.count_params()}
    if history.diverged_epoch:
        return result
    result.update(norms.both_sets(model, data, config.training.loss))
    result["gap/accuracy"] = result["train/accuracy"] - result["test/accuracy"]
    return {**result, "fitted_epoch": fitted, "trained_epochs": len(history.rows)}


def judge(results):
    return randomization_verdict.judge(norms.networks(results.table, Config, APART))


def figures(results):
    return randomization_verdict.figures(norms.networks(results.table, Config, APART), results.histories)
