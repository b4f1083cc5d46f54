"""harness/runner.py: nothing is computed twice, lost or trusted unseen; bad input is one line."""
import errno
import json
import os
import re
import shutil
import types
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from absl import flags

import run_local_minima
import run_norm
from analysis.ntk import empirical_ntk
from harness import command_line, grid, runner
from harness.experiment import ProtocolError
from judging.results import Results
from reporting.run_folder import Run
from tests.fake_experiment import Config, Fake
from tests.graphs import live_graphs
from tests.reporting.test_run_folder import DAMAGES, damage
from training import data as training_data
from training import reuse
from training.fit import build_network, fit


def run(fake, folder, given=None, quiet=True, **options_):
    return runner.run("run_fake", fake.experiment, given, name="fake", out_dir=folder, quiet=quiet, **options_)


def result_files(report):
    return {path.parent.name: path.read_bytes() for path in (report.folder / "runs").glob("*/result.json")}


# -- nothing is computed twice


def test_finished_configs_are_not_computed_again(tmp_path, capsys):
    fake = Fake(seed=[0, 1])
    first = run(fake, tmp_path)
    assert fake.asked() == [(1.0, 0), (1.0, 1)]
    assert [path.name for path in first.folder.parents][:2] == ["fake", tmp_path.name]
    kept = result_files(first)
    again = run(fake, tmp_path, quiet=False)
    assert fake.asked() == [] and result_files(again) == kept
    assert "2 of 2 configs were finished before" in capsys.readouterr().err
    pd.testing.assert_frame_equal(first.results.table, again.results.table)
    for name, arrays in first.results.arrays.items():
        np.testing.assert_array_equal(arrays["curve"], again.results.arrays[name]["curve"])
        pd.testing.assert_frame_equal(first.results.histories[name], again.results.histories[name])


def test_a_size_that_was_chosen_for_other_data_is_told():
    experiment = run_norm.EXPERIMENTS["double_descent"]  # which is about 200 digits

    def told(**options):
        return runner.describe_size(experiment, grid.axes(experiment, options), options)

    assert told(dataset=["digits", "cifar10"]) == (
        "--train_size is 200, as for digits: --train_size=0 takes all images of cifar10."
    )
    assert told() == told(dataset="digits") == told(dataset="cifar10", train_size=200) == ""
    assert told(dataset="gaussian") == ""  # it has no end


def test_widening_a_grid_computes_only_what_is_new_and_the_csv_holds_all(tmp_path):
    fake = Fake()
    run(fake, tmp_path, {"seed": [0, 1]})
    fake.asked()
    report = run(fake, tmp_path, {"factor": [1.0, 2.0], "seed": [1, 2]})
    assert fake.asked() == [(1.0, 2), (2.0, 1), (2.0, 2)]
    csv = pd.read_csv(report.folder / "results.csv")
    assert len(report.results.table) == 4 and len(csv) == 5
    assert sorted(zip(csv["factor"], csv["seed"])) == [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    np.testing.assert_array_equal(csv["final/loss"], csv["factor"] / 3 + csv["seed"])
    run(fake, tmp_path, {"factor": 2.0, "seed": 2})
    assert fake.asked() == [] and len(pd.read_csv(report.folder / "results.csv")) == 5


def test_overwrite_computes_again_what_was_asked_for_and_keeps_the_rest(tmp_path):
    fake = Fake()
    before = result_files(run(fake, tmp_path, {"seed": [0, 1]}))
    fake.asked()
    after = result_files(run(fake, tmp_path, {"seed": 1}, overwrite=True))
    assert fake.asked() == [(1.0, 1)]
    assert [after[name] == before[name] for name in sorted(before, key=lambda n: "seed=1" in n)] == [True, False]


def test_random_state_does_not_depend_on_what_ran_before(tmp_path):
    alone = run(Fake(), tmp_path / "a", {"seed": 1}).results.table["random"].iloc[0]
    second = run(Fake(), tmp_path / "b", {"seed": [0, 1]}).results.table["random"]
    assert second.iloc[1] == alone != second.iloc[0]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_result_is_named_and_computed_again(tmp_path, capsys, how):
    fake = Fake()
    report = run(fake, tmp_path, {"seed": [0, 1], "factor": 0.9})
    fake.asked()
    zero, one = sorted((report.folder / "runs").iterdir(), key=lambda path: "seed=1" in path.name)
    one.rename(one.with_name("bb"))  # where `damage` takes copies from
    path = damage(zero, how)
    (one.parent / "bb").rename(one)
    again = run(fake, tmp_path, {"seed": [0, 1], "factor": 0.9}, quiet=False)
    assert fake.asked() == [(0.9, 0)]
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if "computed again" in line and "configs" not in line
    ]
    assert str(path) in line
    pd.testing.assert_frame_equal(
        report.results.table.drop(columns="seconds"), again.results.table.drop(columns="seconds")
    )


def test_a_killed_grid_goes_on_where_it_was(tmp_path):
    def stop(config, data, run):
        if config.seed == 1:
            raise KeyboardInterrupt
        return {}

    fake = Fake(stop, seed=[0, 1, 2])
    with pytest.raises(KeyboardInterrupt):
        run(fake, tmp_path)
    fake.measured = lambda config, data, run: {}
    fake.asked()
    run(fake, tmp_path)
    assert fake.asked() == [(1.0, 1), (1.0, 2)]


def test_an_interrupted_training_is_taken_up_and_ends_in_the_same_bits(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    epochs_run, callbacks = [], []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            epochs_run.append(epoch + 1)

    def train(config, data, run):
        model = build_network(config, data)
        fit(model, data, config.training, seed=config.seed, run=run, stage="real", callbacks=[Count(), *callbacks])
        return {"weights": np.concatenate([v.numpy().ravel() for v in model.trainable_variables])}

    given = {"epochs": 5, "seed": 3}
    whole = run(Fake(train), tmp_path / "whole", given)
    callbacks.append(Stop())
    with pytest.raises(KeyboardInterrupt):
        run(Fake(train), tmp_path / "stopped", given)
    callbacks.clear()
    epochs_run.clear()
    resumed = run(Fake(train), tmp_path / "stopped", given)
    assert epochs_run and epochs_run[0] > 1 and epochs_run[-1] == 5
    (name,) = whole.results.arrays
    np.testing.assert_array_equal(resumed.results.arrays[name]["weights"], whole.results.arrays[name]["weights"])
    curves = [r.results.histories[name].query("stage == 'real'")["train/loss"].tolist() for r in (whole, resumed)]
    assert curves[0] == curves[1] and len(curves[0]) == 5


# -- results


def test_nan_stays_nan_and_diverged_configs_are_in_the_report(tmp_path):
    diverged = lambda config, data, run: {"final/loss": np.nan, "diverged_epoch": 4} if config.seed else {}  # noqa: E731
    for _ in range(2):  # computed, and read back
        report = run(Fake(diverged, seed=[0, 1, 2]), tmp_path)
        assert report.results.table["final/loss"].isna().tolist() == [False, True, True]
        assert report.results.table["diverged_epoch"].tolist()[1:] == [4, 4]
        assert report.verdict.reason.endswith("2 of 3 configs diverged.")
        text = (report.folder / "report.md").read_text()
        assert "## Diverged" in text and text.count("| 4 |") == 2
        assert "| mlp | 3 | 0.3333 (2 missing) |" in text
    assert pd.read_csv(report.folder / "results.csv")["final/loss"].isna().sum() == 2


def test_results_over_fields(tmp_path):
    results = run(Fake(), tmp_path, {"widths": [(3, 3), (2,)], "seed": [0, 1]}).results
    assert results.over(seed=1)["widths"].tolist() == [(3, 3), (2,)]
    assert results.over(widths=(3, 3), seed=0)["config_id"].tolist() == results.table["config_id"].tolist()[:1]
    assert len(results.over(seed=7)) == 0 and len(results.over(seed=7, widths=(2,))) == 0


def test_the_flag_file_repeats_the_run(tmp_path):
    fake = Fake(seed=[0, 1])
    report = run(fake, tmp_path / "my results", {"widths": [(3, 3), (2,)], "learning_rate": 1 / 3})
    before = [config for config in fake.calls]
    values = flags.FlagValues()
    command_line.define({"fake": fake.experiment}, values)
    values(["run_fake.py", f"--flagfile={report.folder / 'flags.cfg'}"])
    fake.asked()
    repeat = lambda name, **given: runner.run_named("run_fake", {"fake": fake.experiment}, name, quiet=True, **given)  # noqa: E731
    command_line.call(repeat, {"fake": fake.experiment}, values)
    assert fake.calls == [] and len(before) == 4
    assert [grid.flat(config)["widths"] for config in before] == fake.results.table["widths"].tolist()


# -- the config id


def changed(config, name, kind):
    """The config with one field changed to another value of its type."""
    value = grid.flat(config)[name]
    other = {str: "other", bool: not value, int: 7, float: 0.123}.get(kind)
    other = other if other is not None else (9, 8) if isinstance(value, tuple) else 77
    if name == "model":
        other = "convnet"
    assert other != value
    return grid.replace(config, {name: other})


def config_id(config):
    return runner.config_id(Fake().experiment, config)


def test_the_id_changes_with_every_field():
    config = Config()
    ids = {name: config_id(changed(config, name, leaf[2])) for name, leaf in grid.leaves(Config).items()}
    assert len({*ids.values(), config_id(config)}) == len(ids) + 1 > 20
    assert config_id(config) == config_id(Config())
    assert re.fullmatch(r"mlp-1x4-gaussian-20-seed=0-[0-9a-f]{10}", config_id(config))


def saved(path, units=10, inputs=(8, 8, 1), seed=0):
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Flatten(), keras.layers.Dense(6, activation="relu")]
    model = keras.Sequential([keras.Input(inputs), *hidden, keras.layers.Dense(units)])
    path.parent.mkdir(exist_ok=True)
    model.save(path)
    return str(path)


def test_of_a_persons_own_file_the_content_counts_and_not_its_folder(tmp_path):
    first = saved(tmp_path / "a" / "net.keras")
    second = str(tmp_path / "b" / "net.keras")
    (tmp_path / "b").mkdir()
    shutil.copy(first, second)
    fake = Fake()
    run(fake, tmp_path / "out", {"model": first})
    report = run(fake, tmp_path / "out", {"model": second})
    assert len(fake.calls) == 1  # not computed again, and not called damaged
    assert report.results.table["model"].tolist() == [second]
    saved(tmp_path / "b" / "net.keras", seed=1)
    run(fake, tmp_path / "out", {"model": second})
    assert len(fake.calls) == 2
    values = flags.FlagValues()
    command_line.define({"fake": fake.experiment}, values)
    values(["x", f"--flagfile={report.folder / 'flags.cfg'}"])
    assert values["model"].value == [second] and values["width"].value == [None]


# -- what cannot be run


def no_folder(folder):
    return list(folder.rglob("*")) == []


BAD = {
    "unknown option": ({"foo": 1}, "unknown option 'foo'"),
    "unknown model": ({"model": "resnt"}, "unknown model 'resnt' (did you mean resnet?); allowed: mlp"),
    "unknown dataset": ({"dataset": "imagenet"}, "unknown dataset 'imagenet': allowed are digits"),
    "width 0": ({"width": 0}, "width must be a whole number of at least 1; received 0"),
    "negative width": ({"width": [4, -3]}, "width must be a whole number of at least 1; received -3"),
    "probability": ({"label_noise": 1.01}, "label_noise is a probability in [0, 1], got 1.01"),
    "dropout": ({"dropout": 1.0}, "dropout must lie in [0, 1); received 1.0"),
    "epochs 0": ({"epochs": 0}, "epochs must be at least 1, got 0"),
    "seed": ({"seed": [1, 1]}, "seed is given twice: 1"),
    "negative seed": ({"seed": -2}, "seed must be 0 or positive, got -2"),
    "option of another model": ({"skip": False}, "skip=False does not apply to model 'mlp'"),
    "activation": ({"activation": "rlu"}, "unknown activation 'rlu'; allowed: relu"),
    "too many images": ({"dataset": "digits", "train_size": 5000}, "train_size 5000 was asked, but the data set has"),
    "the experiment's own": ({"factor": -1}, "factor must be positive, got -1.0"),
    "no such file": ({"model": "nowhere/net.keras"}, "model file nowhere/net.keras does not exist"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_ends_before_any_folder_or_measure(tmp_path, what):
    given, message = BAD[what]
    fake = Fake()
    with pytest.raises(runner.InvalidInput) as error:
        run(fake, tmp_path / "out", given)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert fake.calls == [] and no_folder(tmp_path)


def test_a_folder_without_a_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where everything would have been written
    with pytest.raises(runner.InvalidInput, match="out_dir must name a folder"):
        run(Fake(), "")
    assert not list(tmp_path.iterdir())


def test_a_bad_config_late_in_the_grid_ends_before_the_first_is_computed(tmp_path):
    def check(config, data, run):
        if config.seed == 2:
            raise ValueError("seed 2 is not for this")

    fake = Fake(check=check)
    with pytest.raises(runner.InvalidInput, match="seed 2 is not for this"):
        run(fake, tmp_path / "out", {"seed": [0, 1, 2]})
    assert fake.calls == [] and no_folder(tmp_path)


def test_bad_files_of_a_person(tmp_path):
    damaged, wrong = tmp_path / "damaged.keras", saved(tmp_path / "files" / "wrong.keras", inputs=(9, 9, 3))
    damaged.write_bytes(Path(wrong).read_bytes()[:3000])
    classes = saved(tmp_path / "files" / "classes.keras", units=7)
    for path, message in ((damaged, "cannot be loaded"), (wrong, "(None, 9, 9, 3)"), (classes, "(None, 7)")):
        with pytest.raises(runner.InvalidInput) as error:
            run(Fake(), tmp_path / "out", {"model": str(path)})
        assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(runner.InvalidInput, match=f"cannot be written: {tmp_path / 'out'} is not a folder"):
            run(Fake(), folder)
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unreadable_place(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", refused)
    with pytest.raises(runner.InvalidInput, match="cannot be written: Permission denied"):
        run(Fake(), tmp_path / "out")
    assert no_folder(tmp_path)


def test_the_checkpoint_of_another_config_is_one_line_and_stays(tmp_path):
    config = Config()
    name = config_id(config)
    other = Run(tmp_path / "fake" / "fake", "other", {})
    other.save_checkpoint("real", {"arrays": {}, "rows": []})
    place = tmp_path / "fake" / "fake" / "runs" / name / "checkpoint"
    shutil.copytree(other.folder / "checkpoint", place)
    fake = Fake(lambda config, data, run: run.load_checkpoint("real"))
    with pytest.raises(runner.InvalidInput, match="belongs to another config: delete it, or choose another --out_dir"):
        run(fake, tmp_path)
    assert (place / "real.npz").exists()


# -- the command line, in this process


def command(experiments, folder, *arguments, script="run_fake"):
    """What a script does with its arguments."""
    values = flags.FlagValues()
    command_line.define(experiments, values)
    values([f"{script}.py", f"--out_dir={folder}", *arguments])
    command_line.call(lambda name, **o: runner.run_named(script, experiments, name, **o), experiments, values)


def refused(capsys, experiments, folder, *arguments, started=False):
    """The one line in which a command ends; exit status 1 follows from sys.exit with a text."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        command(experiments, folder, *arguments)
    printed = capsys.readouterr()
    assert isinstance(end.value.code, str) and end.value.code.startswith("error: ") and "\n" not in end.value.code
    assert printed.out == "" and (started or printed.err == "")
    return end.value.code


@pytest.mark.parametrize("writes", [0, 1, 2, 3, 4, 6])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch, capsys, writes):
    """The disk is full after some files: the write test, arrays, history, result, figure or report."""
    fake = Fake()
    run(fake, tmp_path, {"seed": 0})
    fsync, written = os.fsync, []

    def full(descriptor):
        written.append(descriptor)
        if len(written) > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    line = refused(capsys, {"fake": fake.experiment}, tmp_path, "--seed=0,1", started=True)
    assert "cannot be written" in line if writes == 0 else line.startswith(f"error: cannot write or read {tmp_path}")
    assert line.endswith("No space left on device")
    monkeypatch.setattr(os, "fsync", fsync)
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]  # nothing half-written
    fake.asked()
    report = run(fake, tmp_path, {"seed": [0, 1]})
    assert fake.asked() == ([(1.0, 1)] if writes < 4 else [])
    assert report.results.table["final/loss"].tolist() == [1 / 3, 1 / 3 + 1]


def test_a_number_without_a_column_is_refused_before_it_is_kept(tmp_path):
    with pytest.raises(ProtocolError, match=r"measure returned 'finl/loss', which .* \(did you mean final/loss\?\)"):
        run(Fake(lambda config, data, run: {"finl/loss": 1.0}), tmp_path)
    assert not list(tmp_path.rglob("result.json"))


def test_missing_data_without_a_network_is_one_line(tmp_path, monkeypatch, capsys):
    class Builder:
        def download_and_prepare(self):
            raise ConnectionError("Failed to resolve 'www.cs.toronto.edu'\n[Errno -3] Temporary failure")

    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder())
    training_data.read_tfds.cache_clear()
    where = tmp_path / "data"
    line = refused(capsys, {"fake": Fake().experiment}, tmp_path / "out", "--dataset=cifar10", f"--data_dir={where}")
    assert f"dataset 'cifar10' is not in data_dir '{where}' and could not be downloaded" in line
    assert "--dataset=digits" in line and no_folder(tmp_path)


def test_unknown_flags_values_and_experiments_are_usage_errors(tmp_path):
    for argument in ("--experiment=ntk", "--colour=red", "--width=wide", "--widths=8-x", "--normalize=maybe"):
        with pytest.raises(flags.Error, match=argument[2:].partition("=")[0]):
            command({"fake": Fake().experiment}, tmp_path / "out", argument)
    with pytest.raises(
        runner.InvalidInput, match="unknown experiment 'ntk': allowed are affine_minimum, initialization"
    ):
        run_local_minima.run("ntk")
    assert no_folder(tmp_path)


def test_an_interrupt_says_how_to_go_on(tmp_path, capsys):
    def interrupted(config, data, run):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="interrupted: the same command goes on from here"):
        command({"fake": Fake(interrupted).experiment}, tmp_path)


def test_local_minima_refuse_in_one_line(tmp_path, capsys):
    """What only the real experiments can know: separable data, and a width below the rank of the affine map."""
    experiments, small = run_local_minima.EXPERIMENTS, ("--seed=0", "--train_size=100", "--depth=1")
    line = refused(
        capsys, experiments, tmp_path / "out", *small, "--loss=cross_entropy", "--dataset=digits", "--width=16"
    )
    assert "separates all 100 training images" in line and "use loss='squared', more images or label noise" in line
    line = refused(capsys, experiments, tmp_path / "out", *small, "--dataset=gaussian", "--width=3")
    assert "width" in line and "rank" in line and "3" in line
    line = refused(capsys, experiments, tmp_path / "out", *small, "--model=resnet", "--dataset=digits")
    assert "--model=mlp" in line
    line = refused(capsys, experiments, tmp_path / "out", *small, "--activation=tanh", "--dataset=digits")
    assert "relu" in line
    assert no_folder(tmp_path)


def test_a_result_of_a_run_is_json_that_others_can_read(tmp_path):
    report = run(Fake(), tmp_path)
    (path,) = (report.folder / "runs").glob("*/result.json")
    content = json.loads(path.read_text())
    assert content["config"]["model"] == "mlp" and content["measures"]["final/loss"] == 1 / 3
    assert isinstance(report.results, Results) and types.SimpleNamespace(**content["versions"]).python


def trained(models):
    """A measure that trains a network, and adds it to `models`."""

    def trains(config, data, run_):
        models.append(build_network(config, data))
        kernel = empirical_ntk(models[-1], data.x_train[:5])
        history = fit(models[-1], data, config.training, seed=config.seed, run=run_)
        return {"extra/kernel": float(kernel.sum()), "extra/loss": history.rows[-1]["test/loss"]}

    return trains


@pytest.mark.slow
def test_configs_of_one_network_share_a_model_and_have_the_bits_of_their_own(tmp_path):
    reuse.clear()
    models, given = [], {"learning_rate": [0.1, 0.3], "seed": [0, 1], "width": 5}
    shared = run(Fake(trained(models)), tmp_path / "shared", given).results
    assert len(models) == 4 and all(model is models[0] for model in models)
    alone = []
    for rate in given["learning_rate"]:
        for seed in given["seed"]:
            reuse.clear()
            folder, own = tmp_path / f"{rate}-{seed}", {**given, "learning_rate": rate, "seed": seed}
            alone.append(run(Fake(trained(models)), folder, own).results)
    assert len({id(model) for model in models[3:]}) == 5
    tables = (shared.table, pd.concat([results.table for results in alone], ignore_index=True))
    pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in tables), check_exact=True)
    for results in alone:
        ((identity, history),) = results.histories.items()
        histories = (shared.histories[identity], history)
        pd.testing.assert_frame_equal(*(h.drop(columns="seconds") for h in histories), check_exact=True)


def test_workers_are_asked_for_by_the_last_config_and_a_short_first_one_says_nothing(monkeypatch):
    asked, now = [], iter([0, 3, 10, 12, 20, 60])
    monkeypatch.setattr(runner, "attempt", lambda *_: None)
    monkeypatch.setattr(runner, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    crew = types.SimpleNamespace(hire=lambda todo, seconds: asked.append(seconds))
    todo = [(types.SimpleNamespace(data=None, seed=0), str(i)) for i in range(4)]

    def next_job():
        config, identity = todo.pop(0)
        return config, identity, {}

    found = runner.measured(None, todo, next_job, lambda *_: None, {str(i): None for i in range(4)}, crew, None)
    assert [next(found) for _ in range(3)] == [("0", None), ("1", None), ("2", None)]
    assert asked == [None, None, 2]


@pytest.mark.slow
def test_no_graph_of_a_config_outlives_its_network(tmp_path):
    def graphs():
        reuse.clear()
        return live_graphs()

    graphs()
    run(Fake(trained([])), tmp_path, {"width": [4, 5, 6], "depth": 1})
    after = graphs()
    run(Fake(trained([])), tmp_path, {"width": [7, 8, 9, 10, 11], "depth": 1})
    assert graphs() == after
