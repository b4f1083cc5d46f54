"""harness/grid.py: from flags to configs and back. What is an axis, what is one value, and what is refused."""

import pytest
from absl import flags

import run_local_minima
import run_rank
from harness import command_line, grid, runner
from tests.fake_experiment import Config, Fake
from training.fit import TrainingConfig

AFFINE, INITIALIZATION, DISTILLATION = (
    run_local_minima.EXPERIMENTS[name] for name in ("affine_minimum", "initialization", "distillation")
)

# The id of a config in the version before DataConfig had `resample`.
BEFORE_RESAMPLE = "convnet-w8-cifar10-2000-normalize=False-natural-plain-seed=0-f9bdc4b9fd"


def configs(given=None, **axes):
    return grid.expand(Fake(**axes).experiment, given or {})[0]


def test_flat_and_make_are_inverse():
    config = grid.make(Config, {"width": 8, "widths": (4, 4), "label_noise": 0.5, "factor": 2.0, "seed": 3})
    assert (config.network.width, config.network.widths, config.data.label_noise) == (8, (4, 4), 0.5)
    assert (
        config.training == TrainingConfig(epochs=2, batch_size=20) and config.data.dataset == "gaussian"
    )  # Config's own defaults
    assert grid.make(Config, grid.flat(config)) == config
    assert set(grid.flat(config)) == set(grid.leaves(Config))


def test_a_list_is_an_axis_and_a_tuple_one_value():
    found = configs({"widths": [(8, 8), (4,)], "seed": range(3), "decay_epochs": (1, 2)})
    assert [(c.network.widths, c.seed) for c in found] == [((8, 8), s) for s in range(3)] + [
        ((4,), s) for s in range(3)
    ]
    assert {c.training.decay_epochs for c in found} == {(1, 2)}


def test_options_go_before_the_grid_and_the_grid_before_defaults():
    assert [(c.network.depth, c.seed) for c in configs(depth=[1, 2], seed=[0, 1])] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [(c.network.depth, c.seed) for c in configs({"depth": 3}, depth=[1, 2], seed=[0, 1])] == [(3, 0), (3, 1)]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("3", int, 3),
        (3.0, int, 3),
        ("1e-3", float, 1e-3),
        (1, float, 1.0),
        ("true", bool, True),
        ("False", bool, False),
        ("0", bool, False),
        ("none", int | None, None),
        (None, int | None, None),
        ("64", int | None, 64),
        ("2048-2048-1024", tuple[int, ...], (2048, 2048, 1024)),
        ([16, 8], tuple[int, ...], (16, 8)),
        ("", tuple[int, ...], ()),
        ("resnet", str, "resnet"),
    ],
)
def test_convert_and_text(value, kind, expected):
    found = grid.convert("x", value, kind)
    assert found == expected and type(found) is type(expected)
    assert grid.convert("x", grid.text(found), kind) == found  # flags.cfg keeps it


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-4, 1e-17, 1e22])
def test_numbers_survive_their_text_to_the_bit(value):
    assert grid.convert("x", grid.text(value), float) == value


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("two", int, "x must be a whole number, got 'two'"),
        (2.5, int, "x must be a whole number, got 2.5"),
        (float("inf"), int, "x must be a whole number, got inf"),
        ("wide", int | None, "x must be a whole number, got 'wide'"),
        ("1,5", float, "x must be a number, got '1,5'"),
        ("maybe", bool, "x must be true or false, got 'maybe'"),
        ("64-x", tuple[int, ...], "x must be numbers joined by '-', got '64-x'"),
        (64, tuple[int, ...], "x must be numbers joined by '-', got 64"),
    ],
)
def test_convert_says_what_was_expected(value, kind, message):
    with pytest.raises(ValueError) as error:
        grid.convert("x", value, kind)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widht": 3}, r"unknown option 'widht' \(did you mean width\?\)"),
        ({"zzz": 3}, "unknown option 'zzz'; this experiment has model, width"),
        ({"seed": [0, 1, 0]}, "seed is given twice: 0"),
        ({"widths": [(8,), "8"]}, "widths is given twice: 8"),
        ({"seed": []}, "seed has no value"),
        ({"seed": -1}, "seed must be 0 or positive, got -1"),
        ({"model": "resnt"}, r"unknown model 'resnt' \(did you mean resnet\?\); allowed: mlp, resnet"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"label_noise": [0.5, 1.5]}, r"label_noise is a probability in \[0, 1\], got 1.5"),
        ({"label_noise": float("nan")}, "label_noise is a probability"),
    ],
)
def test_refused(given, message):
    with pytest.raises(ValueError, match=message):
        configs(given)


def test_an_option_gives_way_where_another_model_of_the_grid_has_it():
    found = configs({"model": ["mlp", "resnet"], "skip": [True, False]})
    assert [(c.network.model, c.network.skip) for c in found] == [("mlp", True), ("resnet", True), ("resnet", False)]
    found = configs({"model": ["mlp", "convnet"], "widths": [(8,), (4, 4)], "seed": [0, 1]})
    first = [(c.network.model, c.network.widths) for c in found if c.seed == 0]
    assert first == [("mlp", (8,)), ("mlp", (4, 4)), ("convnet", ())] and len(found) == 6


def test_an_option_that_no_model_has_stays_to_be_refused():
    """models.validate, which the runner calls, sees it: dropping it would be an answer to another question."""
    (config,) = configs({"model": "mlp", "skip": False})
    assert config.network.skip is False
    from models import validate

    with pytest.raises(ValueError, match="skip=False does not apply to model 'mlp'"):
        validate(config.network, (8, 8, 1), 10)


def test_what_was_not_asked_for_falls_away_silently():
    """Widths and depths of the GRID mean nothing to a person's own .keras file."""
    assert len(AFFINE.grid["width"]) * len(AFFINE.grid["depth"]) > 1
    found, axes = grid.expand(AFFINE, {"model": "my.keras", "seed": [0, 1]})
    assert [(c.network.width, c.network.depth, c.seed) for c in found] == [(None, None, 0), (None, None, 1)]
    assert (axes["width"], axes["depth"]) == ([None], [None])


def test_applies_filters_and_says_what_is_needed():
    found = grid.expand(
        INITIALIZATION, {"model": ["mlp", "convnet"], "initialization": ["embedding", "zero"], "seed": 0}
    )[0]
    assert {(c.network.model, c.initialization) for c in found} == {
        ("mlp", "embedding"),
        ("mlp", "zero"),
        ("convnet", "zero"),
    }
    with pytest.raises(ValueError, match="needs --model=mlp with --activation=relu"):
        grid.expand(INITIALIZATION, {"model": "convnet", "initialization": "embedding"})


def parsed(arguments):
    """(experiment, {option: list}) as a script reads them from its command line."""
    values = flags.FlagValues()
    command_line.define(run_local_minima.EXPERIMENTS, values)
    values(["run_local_minima.py", *arguments])
    fields = grid.leaves(run_local_minima.EXPERIMENTS[values.experiment].config)
    return values, {name: values[name].value for name in fields if values[name].value is not None}


def test_flags_are_axes_of_typed_values():
    arguments = "--width=16,none --seed=0,1 --widths=8-4, --noaugment --skip=true,false --normalize"
    values, given = parsed(arguments.split())
    assert given["width"] == [16, None] and given["seed"] == [0, 1] and given["widths"] == [(8, 4), ()]
    assert given["augment"] == [False] and given["skip"] == [True, False] and given["normalize"] == [True]
    assert values.experiment == "affine_minimum" and "loss" not in given
    with pytest.raises(flags.IllegalFlagValueError, match="width must be a whole number, got 'wide'"):
        parsed(["--width=wide"])


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (AFFINE, {}),
        (AFFINE, {"model": "my.keras", "seed": [0, 1]}),
        (AFFINE, {"widths": [(32, 16), (16,)], "learning_rate": [1 / 3, 1e-7], "decay_epochs": (2, 5)}),
        (INITIALIZATION, {"model": ["convnet", "mlp"], "normalize": [True, False], "width": [None, 8]}),
        (INITIALIZATION, {"model": "resnet", "skip": False, "hessian_size": 100}),
        (DISTILLATION, {"model": ["mlp", "resnet", "convnet"], "skip": [True, False], "batch_norm": [False, True]}),
        (DISTILLATION, {"model": "mlp"}),
    ],
)
def test_a_flag_file_of_all_axes_repeats_the_configs(module, given, tmp_path):
    """What the runner writes to flags.cfg, read by absl, spans the same configs in the same order."""
    configs, axes = grid.expand(module, given)
    path = tmp_path / "flags.cfg"
    path.write_text("\n".join(f"--{name}={','.join(map(grid.text, values))}" for name, values in axes.items()))
    name = next(name for name, value in run_local_minima.EXPERIMENTS.items() if value is module)
    values, again = parsed([f"--experiment={name}", f"--flagfile={path}"])
    assert values.experiment == name
    assert grid.expand(module, again)[0] == configs


def test_every_flag_has_help_and_its_default():
    values = flags.FlagValues()
    command_line.define(run_local_minima.EXPERIMENTS, values)
    for experiment in run_local_minima.EXPERIMENTS.values():
        for name in grid.leaves(experiment.config):
            text, _, default = values[name].help.partition(" (default: ")
            assert text and default, name
    width = ",".join(map(str, AFFINE.grid["width"]))
    assert f"default: {width} for affine_minimum; {INITIALIZATION.config().network.width} for " in values["width"].help


def test_a_field_that_came_later_counts_only_where_it_is_used():
    robustness = run_rank.EXPERIMENTS["robustness"]
    options = {
        "dataset": "cifar10", "train_size": 2000, "train_epsilon": 0.0, "edit": "none", "check_size": 0, "seed": 0
    }  # fmt: skip
    (config,), _ = grid.expand(robustness, options)
    assert "resample" not in grid.identifying(config)
    assert runner.config_id(robustness, config) == BEFORE_RESAMPLE
    (config,), _ = grid.expand(robustness, {**options, "resample": "true"})
    assert grid.identifying(config)["resample"] is True
    assert "-cifar10-2000-normalize=False-resample=True-" in runner.config_id(robustness, config)


def test_a_field_that_came_later_is_no_other_trial():
    """Its default is what was done before: looks at a trial count on, whatever fields later versions have."""
    experiment = run_local_minima.EXPERIMENTS["sharpness"]
    before = {"width": [8], "seed": [0]}
    assert grid.identifying_axes(experiment.config, {**before, "resample": [False]}) == before
    for values in ([True], [False, True]):
        assert "resample" in grid.identifying_axes(experiment.config, {**before, "resample": values})
