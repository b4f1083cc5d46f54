"""What the claims on rank share: natural or adversarial training, RankMin and RankMax in fine-tuning, results by edit.

Goldblum et al. 2020, section 5. A network is trained once and then fine-tuned; at the start of chosen epochs its
operators are edited. The first layer, the logits and strided 1x1 convolutions (a ResNet's shortcuts) are left alone, as
in the paper's code.

`random` is their control, which the paper lacks: it moves every operator as far as RankMin moves it, layer by layer and
edit by edit, in a random direction. The size is the Frobenius norm of the kernel's change, which is that of the
operator's up to a factor of the layer's input size (analysis/conv_operators.py).
"""
import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pandas as pd

from analysis.conv_operators import (
    Edit,
    Operator,
    model_operators,
    rank_max,
    rank_min,
    relative_rank,
    singular_values,
)
from experiments.rank.layer_spectra import thin_out
from judging.results import Group, describe_network
from judging.wording import field_label, field_text
from reporting.run_folder import Run
from training.attacks import NORMS, AdversarialModel, AttackConfig
from training.data import Data
from training.fit import History, TrainingConfig, build_network, check_decay_epochs, fit, scope

EDITS = ("none", "rank_min", "rank_max", "random")
LEVELS = {"rank_min": "rank_cut", "rank_max": "rank_cap", "random": "rank_cut"}  # the field that each edit uses
SETTING = ("edit", "rank_cut", "rank_cap", "edit_epochs")  # the fields of EditConfig that tell edits apart
# An axis of their own in every grid: an unedited network has none of them, so its config cannot hold their defaults.
EDIT_GRID = {"rank_cut": [1.0], "rank_cap": [2.0], "edit_epochs": [(1, 2, 4)]}
EDIT_COLUMNS = {
    "edit/rank_before": "before the first edit",
    "edit/rank_asked": "asked",
    "edit/rank_after": "after",
    "edit/size": "size of the first edit / size of the weights (Frobenius)",
}


@dataclass(frozen=True)
class AdversaryConfig:
    """How a network is attacked while it trains; lengths in units of a pixel step, 1/255 of the range."""

    train_epsilon: float = field(
        default=0.0,
        metadata={"help": "radius of the training attack in 1/255 of a pixel; 0: none", "formerly": "epsilon"},
    )
    step_size: float = field(
        default=0.25, metadata={"help": "length of a PGD step, in training and test, in units of epsilon"}
    )
    attack_steps: int = field(default=7, metadata={"help": "steps of PGD in training", "formerly": "steps"})
    attack_norm: str = field(default="linf", metadata={"help": f"norm of all attacks, one of {', '.join(NORMS)}"})

    def attack(self, epsilon: float | None = None, steps: int | None = None, **options: Any) -> AttackConfig:
        """The AttackConfig in pixels of [0, 1]; epsilon in 1/255, and training's own epsilon and steps where None."""
        radius = (self.train_epsilon if epsilon is None else epsilon) / 255
        step_size = self.step_size * radius or 1.0
        return AttackConfig(self.attack_norm, radius, step_size, steps or self.attack_steps, **options)

    def relevant(self) -> "AdversaryConfig":
        """With the default attack_steps where training is natural: nothing depends on them there."""
        if self.train_epsilon == 0 and self.attack_steps > 0:
            return dataclasses.replace(self, attack_steps=AdversaryConfig.attack_steps)
        return self

    def validate(self) -> None:
        if not (self.train_epsilon >= 0 and math.isfinite(self.train_epsilon)):
            raise ValueError(
                f"train_epsilon must be a finite number >= 0 (in 1/255 of the pixel range), got {self.train_epsilon:g}"
            )
        if not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise ValueError(f"step_size must be a finite number > 0 (in units of epsilon), got {self.step_size:g}")
        if self.attack_steps < 1:
            raise ValueError(f"attack_steps must be at least 1, got {self.attack_steps}")
        self.attack().validate()


@dataclass(frozen=True)
class EditConfig:
    """How the operators of a trained network are edited while it is fine-tuned."""

    edit: str = field(default="none", metadata={"help": f"edit while fine-tuning, one of {', '.join(EDITS)}"})
    rank_cut: float | None = field(
        default=1.0, metadata={"help": "rank_min: singular values below it become 0; random: moves as far"}
    )
    rank_cap: float | None = field(default=2.0, metadata={"help": "rank_max: singular values above it become it"})
    edit_epochs: tuple[int, ...] = field(
        default=(1, 2, 4), metadata={"help": "fine-tuning epochs at whose start the operators are edited: 1-5-10"}
    )
    finetune_epochs: int = field(default=6, metadata={"help": "epochs of fine-tuning, of the unedited network too"})
    finetune_learning_rate: float = field(default=0.002, metadata={"help": "SGD step size of fine-tuning"})
    finetune_decay_epochs: tuple[int, ...] = field(default=(), metadata={"help": "decay_epochs of fine-tuning"})

    def validate(self) -> None:
        if self.edit not in EDITS:
            raise ValueError(f"unknown edit {self.edit!r}: allowed are {', '.join(EDITS)}")
        for name, value in (("rank_cut", self.rank_cut), ("rank_cap", self.rank_cap)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number > 0, got {value:g}")
        used = LEVELS.get(self.edit)
        if used and getattr(self, used) is None:
            raise ValueError(f"{self.edit} needs a {used}: a number > 0")
        if self.finetune_epochs < 1:
            raise ValueError(f"finetune_epochs must be at least 1, got {self.finetune_epochs}")
        if not 0 <= self.finetune_learning_rate < math.inf:
            raise ValueError(
                f"finetune_learning_rate must be a finite number >= 0, got {self.finetune_learning_rate:g}"
            )
        check_decay_epochs("finetune_decay_epochs", self.finetune_decay_epochs)
        outside = [e for e in self.edit_epochs if not 1 <= e <= self.finetune_epochs]
        if self.edit != "none" and (outside or not self.edit_epochs):
            raise ValueError(
                f"edit_epochs must be epochs of fine-tuning, 1 to {self.finetune_epochs}, got {list(self.edit_epochs)}"
            )

    def relevant(self) -> "EditConfig":
        """Without the fields that its edit does not use: nothing depends on them."""
        kept = LEVELS.get(self.edit)
        changes = {name: None for name in ("rank_cut", "rank_cap") if name != kept}
        return dataclasses.replace(self, **changes, **({} if kept else {"edit_epochs": ()}))

    @property
    def name(self) -> str:
        """`none`, `rank_min=0.5`, `rank_max=1.5`, `random=0.5`."""
        level = getattr(self, LEVELS[self.edit]) if self.edit in LEVELS else None
        return f"{self.edit}={level:g}" if level else self.edit


def treatment(epsilon: float, edit: EditConfig, train: bool = True) -> str:
    """`before=training`, `natural-plain`, `adversarial=24-rank_min=0.5`: training and edit in a config's id."""
    if not train:
        return "before=training"
    training = f"adversarial={epsilon:g}" if epsilon else "natural"
    return f"{training}-{'plain' if edit.edit == 'none' else edit.name}"


# -- training and fine-tuning


def train(
    model: keras.Model, data: Data, training: TrainingConfig, config: Any, run: Run, stage: str, **options: Any
) -> History:
    """fit, on adversarial examples where config.adversary has a train_epsilon; model is trained in place."""
    trained = model
    if config.adversary.train_epsilon:
        with scope(training):
            trained = AdversarialModel(model, config.adversary.attack(), mean=data.mean, std=data.std, seed=config.seed)
    return fit(trained, data, training, seed=config.seed, run=run, stage=stage, **options)


def trained_base(
    config: Any, data: Data, run: Run, *, probe: Callable | None = None, probe_key: tuple = ()
) -> tuple[keras.Model, History]:
    """A network as it is before any fine-tuning, and how it was trained: once for all edits of a run.

    probe: as `fit` takes it.  probe_key: what decides its values beside the training.
    """
    model = build_network(config, data)

    def train_once():
        history = train(model, data, config.training, config, run, "base", probe=probe)
        return [v.numpy() for v in model.variables], history

    key = ("trained network", config.network, config.data, config.training, config.adversary, config.seed, probe_key)
    weights, history = run.once(key, train_once)
    for variable, value in zip(model.variables, weights):
        variable.assign(value)
    return model, history


def finetune(model: keras.Model, data: Data, config: Any, run: Run) -> History:
    """Fine-tune a trained network with config.edit; the History's probes are what the edits did.

    RankMin is fine-tuned once for itself and for the random edit that is as large.
    """
    if config.edit.edit not in ("rank_min", "random"):
        return edit_and_train(model, data, config, run)
    pair = dataclasses.replace(config.edit, edit="rank_min")
    start = [v.numpy() for v in model.variables]

    def lower_rank():
        history = edit_and_train(model, data, dataclasses.replace(config, edit=pair), run)
        return [v.numpy() for v in model.variables], history

    fields = (config.network, config.data, config.training, config.adversary, config.seed, config.pad)
    weights, history = run.once(("RankMin", *fields, pair), lower_rank)
    if config.edit.edit == "random":
        weights = start
    for variable, value in zip(model.variables, weights):
        variable.assign(value)
    if config.edit.edit == "rank_min" or history.diverged_epoch:
        return history
    return edit_and_train(model, data, config, run, history.probes)


def edit_and_train(model: keras.Model, data: Data, config: Any, run: Run, like: dict | None = None) -> History:
    """Fine-tune the model in place with config.edit; like: probes of the edits whose size a random one has."""
    edit = config.edit
    training = dataclasses.replace(
        config.training,
        epochs=edit.finetune_epochs,
        learning_rate=edit.finetune_learning_rate,
        decay_epochs=edit.finetune_decay_epochs,
    )
    editor = Editor(model, edit, config.pad, config.seed, like)
    stage = "finetune" if edit.edit == "none" else edit.edit
    return train(model, data, training, config, run, stage, callbacks=[editor], probe=editor.probe)


# -- the edits


def editable(model: keras.Model, pad: bool = False) -> dict[str, Operator]:
    """{name: Operator} that the edits change: all but the first, the logits and strided 1x1 convolutions.

    Raises ValueError where none is left.
    """
    operators = list(model_operators(model, pad=pad).items())
    if operators[-1][1].kind == "dense":
        operators = operators[:-1]
    result = {
        name: op for name, op in operators[1:]
        if not (op.kind == "conv" and op.kernel.shape[:2] == (1, 1) and max(op.strides) > 1)
    }  # fmt: skip
    if not result:
        raise ValueError(
            f"model {model.name!r} has no layer between its first and its logits whose rank could be edited: "
            "use more depth"
        )
    return result


class Editor(keras.callbacks.Callback):
    """Edits the operators at the start of the chosen epochs; `probe` hands on what the edit did, for fit to keep.

    seed: of random edits.  like: probes of the edits whose size those have.
    """

    def __init__(self, network: keras.Model, edit: EditConfig, pad: bool, seed: int = 0, like: dict | None = None):
        super().__init__()
        self.edit, self.seed, self.like = edit, seed, like
        self.operators, self.done = editable(network, pad) if edit.edit != "none" else {}, {}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch + 1 not in self.edit.edit_epochs:
            return
        for i, (name, op) in enumerate(self.operators.items()):
            old = keras.ops.convert_to_numpy(op.layer.kernel).astype(np.float64)
            if self.edit.edit == "rank_min":
                result = rank_min(op.kernel, cut=self.edit.rank_cut, **op.arguments)
                op.assign(result.kernel)
            elif self.edit.edit == "rank_max":
                result = rank_max(op.kernel, cap=self.edit.rank_cap, **op.arguments)
                op.assign(result.kernel)
            else:
                noise = np.random.default_rng([self.seed, epoch, i, 61]).standard_normal(old.shape)
                before = singular_values(op.kernel, **op.arguments)
                size = float(self.like[epoch + 1][f"size/{name}"][0])
                op.layer.kernel.assign(old + size * noise / np.linalg.norm(noise))
                after = singular_values(op.kernel, **op.arguments)
                result = Edit(op.kernel, before, after, after)
            for when in ("before", "asked", "after"):
                self.done[f"{when}/{name}"] = thin_out(getattr(result, when))
                self.done[f"rank_{when}/{name}"] = np.array([relative_rank(getattr(result, when))])
            change = keras.ops.convert_to_numpy(op.layer.kernel) - old
            self.done[f"size/{name}"] = np.array([np.linalg.norm(change)])
            self.done[f"norm/{name}"] = np.array([np.linalg.norm(old)])

    def probe(self, model: keras.Model, epoch: int) -> dict[str, np.ndarray]:
        done, self.done = self.done, {}
        return done


def edit_measures(probes: dict) -> dict:
    """What the first edit did: spectra and relative effective rank (mean over layers) before, asked for, after it."""
    first = next(iter(probes.values()), {})
    result = {}
    for when in ("before", "asked", "after"):
        ranks = [value[0] for name, value in first.items() if name.startswith(f"rank_{when}/")]
        if ranks:
            result[f"edit/rank_{when}"] = float(np.mean(ranks))
    size, norm = (
        math.sqrt(sum(value[0] ** 2 for name, value in first.items() if name.startswith(what)))
        for what in ("size/", "norm/")
    )
    if norm:
        result["edit/size"] = size / norm
    spectra = ("before/", "asked/", "after/")
    return {**result, **{f"edit/{name}": value for name, value in first.items() if name.startswith(spectra)}}


# -- results by edit


def split_by_edit(group: Group, fields: Iterable[str] = SETTING) -> list[tuple[str, EditConfig, pd.DataFrame]]:
    """[(`plain` or `rank_min 0.5`, EditConfig, rows)] of a group whose compared fields are those of the edit.

    Edits of one name say which of the fields tells them apart: `rank_min 0.5, edit epochs 1-5`.
    """
    fields = tuple(fields)
    edits = [(EditConfig(**dict(zip(fields, key))), rows) for key, rows in group.split(*fields).items()]
    names = ["plain" if edit.edit == "none" else edit.name.replace("=", " ") for edit, _ in edits]
    result = []
    for name, (edit, rows) in zip(names, edits):
        rivals = [other for other_name, (other, _) in zip(names, edits) if other_name == name]
        apart = [f for f in fields if len({field_text(getattr(rival, f)) for rival in rivals}) > 1]
        result.append((", ".join([name, *(field_label(f, getattr(edit, f)) for f in apart)]), edit, rows))
    return result


def join_words(*parts: str) -> str:
    """The parts of a name that are not empty, with commas between them."""
    return ", ".join(filter(None, parts))


def short_labels(groups: list[Group]) -> list[str]:
    """The groups' labels without their network where all have the same one; a legend has little room."""
    networks = {describe_network(group.first) for group in groups}
    if len(networks) != 1:
        return [group.label for group in groups]
    return [group.label.removeprefix(*networks).removeprefix(", ") for group in groups]
