"""Drives any experiment: grid -> checks -> measure what is not yet known -> judge -> report."""
import hashlib
import json
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import keras
import pandas as pd

import models
from experiments import options as option_fields
from reporting import files
from reporting.progress import Progress
from reporting.report import write_report
from reporting.run_folder import ForeignCheckpoint, Run
from training import data as training_data


class InvalidInput(ValueError):
    """What was asked for cannot be run; the message is one line for the person who asked."""


@dataclass(frozen=True)
class Results:
    """What the configs of a run measured: what judge and figures work on.

    table: one row per config (config_id, config fields, measures, seconds).  arrays: {config_id: {name: array}}.
    histories: {config_id: DataFrame, one row per stage and epoch}.
    """

    table: pd.DataFrame
    arrays: dict
    histories: dict

    def over(self, **values):
        """The rows of the table whose fields have the given values."""
        chosen = self.table
        for name, value in values.items():
            chosen = chosen.loc[[v == value for v in chosen[name]]]  # value by value: a tuple is one of them
        return chosen


@dataclass(frozen=True)
class Report:
    """What a run hands back: verdict, results and the folder where all of it lies."""

    verdict: object
    results: Results
    folder: Path


def config_id(config):
    """Readable and unique: network, data, seed, and a hash of every field that decides the result.

    Of a person's own .keras file the name and the content count, not the folder it lies in.
    """
    fields = option_fields.flat(config)
    if fields["model"].endswith(".keras"):
        fields["model"] = hashlib.sha256(Path(fields["model"]).read_bytes()).hexdigest()
    canonical = json.dumps(files.plain(fields), sort_keys=True)
    parts = (models.network_name(config.network), training_data.describe(config.data), getattr(config, "label", ""))
    name = "-".join(filter(None, parts))
    return f"{name}-seed={config.seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"


def run(script, experiment, options=None, *, name, out_dir="results", data_dir=None, overwrite=False, quiet=False):
    """Run `experiment` (a module of experiments/) on the grid that `options` span, and write its report.

    script: name of the entry script, e.g. "run_ntk".  name: the experiment's name in it.  options: {field: value, or
    list of values}.  Finished configs are not computed again unless `overwrite`.
    Raises InvalidInput, before any training and with no folder made, where something asked for is not possible; and
    where a config finds the checkpoint of another one in its place.
    """
    folder = Path(out_dir) / script.removeprefix("run_") / name
    try:
        configs, grid = option_fields.expand(experiment, options or {})
        check_writable(folder)
        data_of = lru_cache(maxsize=2)(lambda config, seed: training_data.load(config, seed=seed, data_dir=data_dir))
        ids = [prepare(experiment, config, data_of, folder, overwrite) for config in configs]
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    started = time.monotonic()
    progress = Progress(len(configs))
    say = (lambda line: None) if quiet else progress.say
    try:
        rows, arrays, histories, reused = [], {}, {}, 0
        for config, identity in zip(configs, ids):
            run = Run(folder, identity, option_fields.flat(config), None if quiet else progress)
            if overwrite:
                run.clear()
            result = finished(run, say)
            reused += result is not None
            if result is None:
                progress.start(identity)
                result = compute(experiment, config, data_of(config.data, config.seed), run)
                if not quiet:
                    progress.done(identity, result[2])
            else:
                progress.skip()
            measures, arrays[identity], seconds = result
            histories[identity] = run.read_history()
            rows.append({"config_id": identity, **option_fields.flat(config), **measures, "seconds": seconds})
    except ForeignCheckpoint as error:
        raise InvalidInput(str(error)) from error
    finally:
        progress.close()
    if reused:
        say(f"{reused} of {len(configs)} configs were finished before and are not computed again (--overwrite does).")
    results = Results(pd.DataFrame(rows), arrays, histories)
    verdict = experiment.judge(results)
    diverged = int(results.table["diverged_epoch"].notna().sum()) if "diverged_epoch" in results.table else 0
    if diverged:
        verdict = replace(verdict, reason=f"{verdict.reason} {diverged} of {len(configs)} configs diverged.")
    flags = {"experiment": [name], "out_dir": [str(out_dir)], **({"data_dir": [str(data_dir)]} if data_dir else {}), **grid}
    write_report(
        folder,
        experiment,
        results,
        verdict,
        script=script,
        name=name,
        fields=list(grid),
        flags=[f"--{flag}={','.join(map(option_fields.text, values))}" for flag, values in flags.items()],
        seconds=time.monotonic() - started,
        quiet=quiet,
    )
    return Report(verdict, results, folder)


def prepare(experiment, config, data_of, folder, overwrite):
    """Everything that can be wrong with a config is found here, before any training; returns the config's id."""
    data = data_of(config.data, config.seed)
    models.validate(config.network, data.input_shape, data.num_classes)
    identity = config_id(config)
    known = (folder / "runs" / identity / "result.json").exists() and not overwrite
    if hasattr(experiment, "check") and not known:
        experiment.check(config, data)
    return identity


def check_writable(folder):
    """Raise ValueError if the run folder cannot be written; leaves nothing behind."""
    place = folder
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(f"{place} is not a folder")
        with files.atomic(place / ".write-test") as stream:
            stream.write("")
        (place / ".write-test").unlink()
    except OSError as error:
        raise ValueError(f"out_dir {folder} cannot be written: {error.strerror or error}") from error


def finished(run, say):
    """The result of a config that was finished before, or None; a damaged one is named, never trusted."""
    try:
        return run.result()
    except (ValueError, OSError) as error:
        say(f"{error}: this config is computed again")
        run.clear()
        return None


def compute(experiment, config, data, run):
    """Measure one config and keep the result: (measures, arrays, seconds)."""
    # Layer names and random state do not depend on what ran before, and the memory of earlier models is released.
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    started = time.monotonic()
    try:
        run.finish(experiment.measure(config, data, run), time.monotonic() - started)
    finally:
        run.close()
    return run.result()


def run_named(script, experiments, name, *, out_dir="results", data_dir=None, overwrite=False, quiet=False, **options):
    """`run` for the experiment called `name` of a script; options are config fields, a list being an axis of the grid."""
    if name not in experiments:
        raise InvalidInput(f"unknown experiment {name!r}: allowed are {', '.join(experiments)}")
    where = {"out_dir": out_dir, "data_dir": data_dir, "overwrite": overwrite, "quiet": quiet}
    return run(script, experiments[name], options, name=name, **where)
