"""What the trials of rank share: training naturally or under attack, RankMin and RankMax in fine-tuning, spectra of a network.

Goldblum et al. 2020, section 5. A network is trained once and then fine-tuned; at the start of chosen epochs its operators are
edited. The first layer, the logits and strided 1x1 convolutions (a ResNet's shortcuts) are left alone, as in the paper's code.
"""
import dataclasses
import math
import re
from dataclasses import dataclass, field

import keras
import numpy as np

import models
from analysis.conv_operators import model_operators, model_spectra, rank_max, rank_min
from analysis.statistics import t_interval
from reporting import figures as plots
from training.attacks import NORMS, AdversarialModel, AttackConfig
from training.fit import fit, scope

EDITS = ("none", "rank_min", "rank_max")
SETTING = ("edit", "rank_cut", "rank_cap", "edit_epochs")  # the fields that tell edits apart, in EditConfig's order
# An axis of their own in every grid: an unedited network has none of them, so its config cannot hold their defaults.
EDIT_GRID = {"rank_cut": [1.0], "rank_cap": [2.0], "edit_epochs": [(1, 2, 4)]}
CURVE = 200  # points of a kept spectrum: ResNet-18 has 65 536 singular values in one layer
_base = {}  # trained networks of this process, {key: (weights, history)}: all edits of a seed start from the same one


@dataclass(frozen=True)
class AdversaryConfig:
    """How a network is attacked while it trains; lengths in units of a pixel step, 1/255 of the range."""

    epsilon: float = field(default=0.0, metadata={"help": "radius of the training attack in 1/255 of a pixel; 0: none"})
    step_size: float = field(default=0.25, metadata={"help": "length of a PGD step, in training and test, in units of epsilon"})
    steps: int = field(default=7, metadata={"help": "steps of PGD in training"})
    attack_norm: str = field(default="linf", metadata={"help": f"norm of all attacks, one of {', '.join(NORMS)}"})

    def attack(self, epsilon=None, steps=None, **options):
        """The AttackConfig in pixels of [0, 1]; epsilon in 1/255, training's own when None."""
        radius = (self.epsilon if epsilon is None else epsilon) / 255
        return AttackConfig(self.attack_norm, radius, self.step_size * radius or 1.0, steps or self.steps, **options)

    def relevant(self):
        """Without the steps of an attack that there is not: what changes no network makes no other config."""
        return dataclasses.replace(self, steps=AdversaryConfig.steps) if self.epsilon == 0 and self.steps > 0 else self

    def validate(self):
        if not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            raise ValueError(f"epsilon must be a finite number >= 0 (in 1/255 of the pixel range), got {self.epsilon:g}")
        if not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise ValueError(f"step_size must be a finite number > 0 (in units of epsilon), got {self.step_size:g}")
        if self.steps < 1:
            raise ValueError(f"steps of the training attack must be at least 1, got {self.steps}")
        self.attack().validate()


@dataclass(frozen=True)
class EditConfig:
    """How the operators of a trained network are edited while it is fine-tuned."""

    edit: str = field(default="none", metadata={"help": f"edit while fine-tuning, one of {', '.join(EDITS)}"})
    rank_cut: float | None = field(default=1.0, metadata={"help": "rank_min: singular values below it become 0"})
    rank_cap: float | None = field(default=2.0, metadata={"help": "rank_max: singular values above it become it"})
    edit_epochs: tuple[int, ...] = field(
        default=(1, 2, 4), metadata={"help": "fine-tuning epochs at whose start the operators are edited: 1-5-10"}
    )
    finetune_epochs: int = field(default=6, metadata={"help": "epochs of fine-tuning, of the unedited network too"})
    finetune_learning_rate: float = field(default=0.002, metadata={"help": "SGD step size of fine-tuning"})
    finetune_decay_epochs: tuple[int, ...] = field(default=(), metadata={"help": "decay_epochs of fine-tuning"})

    def validate(self):
        if self.edit not in EDITS:
            raise ValueError(f"unknown edit {self.edit!r}: allowed are {', '.join(EDITS)}")
        for name, value in (("rank_cut", self.rank_cut), ("rank_cap", self.rank_cap)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number > 0, got {value:g}")
        if self.finetune_epochs < 1:
            raise ValueError(f"finetune_epochs must be at least 1, got {self.finetune_epochs}")
        outside = [e for e in self.edit_epochs if not 1 <= e <= self.finetune_epochs]
        if self.edit != "none" and (outside or not self.edit_epochs):
            raise ValueError(
                f"edit_epochs must be epochs of fine-tuning, 1 to {self.finetune_epochs}, got {list(self.edit_epochs)}"
            )

    def relevant(self):
        """Without the fields that its edit does not have: what changes no network makes no other config."""
        kept = {"rank_min": "rank_cut", "rank_max": "rank_cap"}.get(self.edit)
        changes = {name: None for name in ("rank_cut", "rank_cap") if name != kept}
        return dataclasses.replace(self, **changes, **({} if kept else {"edit_epochs": ()}))

    @property
    def name(self):
        """`none`, `rank_min 0.5`, `rank_max 1.5`, with '=' as a config id needs it."""
        values = {"rank_min": self.rank_cut, "rank_max": self.rank_cap}
        return f"{self.edit}={values[self.edit]:g}" if values.get(self.edit) else self.edit


def treatment(epsilon, edit, train=True):
    """`before training`, `natural, plain`, `adversarial 24, rank_min 0.5`: a readable name of training and edit."""
    if not train:
        return "before training"
    training = f"adversarial {epsilon:g}" if epsilon else "natural"
    return f"{training}, {'plain' if edit == 'none' else edit.replace('=', ' ')}"


def readable(network):
    """A network's label with its training in words."""
    return re.sub(r"epsilon=([\d.]+)", lambda m: f"adversarial {float(m[1]):g}" if float(m[1]) else "natural", network)


def build(config, data):
    with scope(config.training):
        return models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)


def train(model, data, training, config, run, stage, **options):
    """fit, on adversarial examples where config.adversary has an epsilon; model is trained in place -> History."""
    trained = model
    if config.adversary.epsilon:
        with scope(training):
            trained = AdversarialModel(model, config.adversary.attack(), mean=data.mean, std=data.std, seed=config.seed)
    return fit(trained, data, training, seed=config.seed, run=run, stage=stage, **options)


def trained_base(config, data, run, **options):
    """(model, History) of a network as it is before any fine-tuning; of one seed trained once for all edits."""
    key = (config.network, config.data, config.training, config.adversary, config.seed)
    model = build(config, data)
    if key not in _base:
        history = train(model, data, config.training, config, run, "base", **options)
        _base[key] = [v.numpy() for v in model.variables], history
    weights, history = _base[key]
    for variable, value in zip(model.variables, weights):
        variable.assign(value)
    return model, history


def finetune(model, data, config, run):
    """Fine-tune a trained network with config.edit -> History, whose probes are what the edits did."""
    edit = config.edit
    training = dataclasses.replace(
        config.training,
        epochs=edit.finetune_epochs,
        learning_rate=edit.finetune_learning_rate,
        decay_epochs=edit.finetune_decay_epochs,
    )
    editor = Editor(model, edit, config.pad)
    stage = "finetune" if edit.edit == "none" else edit.edit
    return train(model, data, training, config, run, stage, callbacks=[editor], probe=editor.probe)


def editable(model, pad=False):
    """{name: Operator} that the edits change: all but the first, the logits and strided 1x1 convolutions."""
    operators = list(model_operators(model, pad=pad).items())
    if operators[-1][1].kind == "dense":
        operators = operators[:-1]
    result = {
        name: op for name, op in operators[1:]
        if not (op.kind == "conv" and op.kernel.shape[:2] == (1, 1) and max(op.strides) > 1)
    }  # fmt: skip
    if not result:
        raise ValueError(
            f"model {model.name!r} has no layer between its first and its logits whose rank could be edited: use more depth"
        )
    return result


class Editor(keras.callbacks.Callback):
    """Edits the operators at the start of the chosen epochs; `probe` hands on what the edit did, for fit to keep."""

    def __init__(self, network, edit, pad):
        super().__init__()
        self.edit, self.operators, self.done = edit, editable(network, pad) if edit.edit != "none" else {}, {}

    def on_epoch_begin(self, epoch, logs=None):
        if epoch + 1 not in self.edit.edit_epochs:
            return
        for name, op in self.operators.items():
            if self.edit.edit == "rank_min":
                result = rank_min(op.kernel, cut=self.edit.rank_cut, **op.arguments)
            else:
                result = rank_max(op.kernel, cap=self.edit.rank_cap, **op.arguments)
            op.assign(result.kernel)
            for when in ("before", "asked", "after"):
                self.done[f"{when}/{name}"] = curve(getattr(result, when))
                self.done[f"rank_{when}/{name}"] = np.array([relative_rank(getattr(result, when))])

    def probe(self, model, epoch):
        done, self.done = self.done, {}
        return done


def edit_measures(probes):
    """Relative effective rank before the first edit, asked for and after it (mean over layers), and the spectra of it."""
    first = next(iter(probes.values()), {})
    result = {}
    for when in ("before", "asked", "after"):
        ranks = [value[0] for name, value in first.items() if name.startswith(f"rank_{when}/")]
        if ranks:
            result[f"edit/rank_{when}"] = float(np.mean(ranks))
    arrays = {f"edit/{name}": value for name, value in first.items() if not name.startswith("rank_")}
    return {**result, **arrays}


def relative_rank(s):
    """Effective rank ||s||_1 / ||s||_2 over its largest possible value: 1 where all singular values are equal, 0 for none."""
    s = np.asarray(s, np.float64)
    return float(s.sum() / np.linalg.norm(s) / math.sqrt(len(s))) if s.any() else 0.0


def curve(s):
    """At most CURVE of the singular values s [n], evenly spaced in their order, with both ends."""
    return s[np.linspace(0, len(s) - 1, min(CURVE, len(s))).round().astype(int)]


def spectrum_measures(model, config):
    """(numbers, arrays, {layer: all singular values}) of a network: ranks averaged over its layers, and layer by layer.

    arrays: layers [l] (names), effective_rank [l], relative_rank [l], spectrum/<layer> [at most CURVE].
    """
    spectra = model_spectra(model, pad=config.pad)
    effective = np.array([s.effective_rank for s in spectra.values()])
    relative = np.array([relative_rank(s.values) for s in spectra.values()])
    numbers = {
        "rank/relative": float(relative.mean()),
        "rank/effective": float(effective.mean()),
        "rank/stable": float(np.mean([s.stable_rank for s in spectra.values()])),
        "rank/entropy": float(np.mean([s.entropy_rank for s in spectra.values()])),
        "rank/largest_singular_value": float(max(s.values[0] for s in spectra.values())),
    }
    arrays = {"layers": np.array(list(spectra)), "effective_rank": effective, "relative_rank": relative}
    arrays.update({f"spectrum/{name}": curve(s.values) for name, s in spectra.items()})
    return numbers, arrays, {name: s.values for name, s in spectra.items()}


def by_layer(lines):
    """Figure: relative effective rank of each layer, mean and interval over seeds, for lines [(name, [arrays of a seed])]."""
    figure, axes = plots.new(width=7.5, height=4)
    axis = axes[0, 0]
    for (name, seeds), style in zip(lines, plots.styles()):
        layers = list(seeds[0]["layers"])
        values = np.array([a["relative_rank"] for a in seeds if list(a["layers"]) == layers])  # [seeds, layers]
        plots.interval_line(axis, range(len(layers)), [t_interval(v) for v in values.T], label=name, **style)
        axis.set_xticks(range(len(layers)), layers, rotation=40, ha="right", fontsize=8)
    axis.set(ylabel="relative effective rank $\\|s\\|_1 / (\\|s\\|_2 \\sqrt{n})$")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def spectra(lines):
    """Figure: singular values of each layer for the first seed of lines [(name, [arrays of a seed])]."""
    layers = list(lines[0][1][0]["layers"])
    columns = min(4, len(layers))
    figure, axes = plots.new(-(-len(layers) // columns), columns, width=3.1, height=2.5)
    for axis in axes.flat[len(layers) :]:
        axis.set_visible(False)
    for (name, seeds), style in zip(lines, plots.styles()):
        for axis, layer in zip(axes.flat, layers):
            axis.set_title(layer, fontsize=9)
            s = seeds[0].get(f"spectrum/{layer}", [])
            axis.plot(np.linspace(0, 1, len(s)), s, color=style["color"], linestyle=style["linestyle"], label=name)
    for axis in axes[:, 0]:
        axis.set_ylabel("singular value")
    for axis in axes.flat[max(0, len(layers) - columns) : len(layers)]:
        axis.set_xlabel("rank / number of them")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return figure
