"""Drives any experiment: grid -> checks -> measure what is not yet known -> results.csv -> judge -> figures -> report.
"""
import contextlib
import hashlib
import json
import sys
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import keras
import pandas as pd

import models
from harness import grid as grids
from harness import stored, trial
from harness.memo import Memo, model_content
from judging.chance import chance_of, warn_at_chance
from judging.results import Results
from reporting import figures as plots
from reporting import files
from reporting.progress import Progress
from reporting.report import write_report, write_results
from reporting.run_folder import ForeignCheckpoint, Run
from training import data as training_data


class InvalidInput(ValueError):
    """What was asked for cannot be run; the message is one line for the person who asked."""


class ReportError(RuntimeError):
    """The verdict or the figures could not be made; one line that says where all results are."""


@dataclass(frozen=True)
class Report:
    """What a run hands back: verdict, results and the folder where all of it lies."""

    verdict: object
    results: Results
    folder: Path


def config_id(experiment, config):
    """Readable and unique: network, data, seed, and a hash of every field that decides the result.

    Of a person's own .keras file the name and the content count, not the folder it lies in.
    """
    fields = grids.identifying(config)
    fields["model"] = model_content(fields["model"])
    canonical = json.dumps(files.plain(fields), sort_keys=True)
    parts = (models.network_name(config.network), training_data.describe(config.data), experiment.label(config))
    name = "-".join(filter(None, parts))
    return f"{name}-seed={config.seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"


def run(
    script, experiment, options=None, *, name, out_dir="results", data_dir=None, overwrite=False, quiet=False,
    max_seeds=None, margins=None,
):  # fmt: skip
    """Run an Experiment on the grid that `options` span, and write its report.

    script: name of the entry script, e.g. "run_ntk".  name: the experiment's name in it.  options: {field: value, or
    list of values}.  Finished configs are not computed again unless `overwrite`.  max_seeds: seeds are added until the
    verdict is decided or there are so many; the experiment's own number when None and no seeds are given, 0 for the
    seeds of the grid alone.  margins: {name: smallest effect that matters} in place of the experiment's own.
    Raises InvalidInput, before any training and with no folder made, where something asked for is not possible, and
    where a config finds the checkpoint of another one in its place; ReportError where judge or figures fail, after
    results.csv has been written.
    """
    folder, options, memo = Path(out_dir) / script.removeprefix("run_") / name, options or {}, Memo()
    say = (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    data_of = lru_cache(maxsize=2)(lambda config, seed: training_data.load(config, seed=seed, data_dir=data_dir))
    with refusals():
        grid = grids.axes(experiment, options)
        limit = trial.parse_max_seeds(max_seeds, experiment, options)
        plan = trial.plan_seeds(grid["seed"], limit)
        margins = trial.check_margins(experiment, margins or {})
    taken = stored.describe(experiment, grid["model"], options)
    if taken:
        say(taken)
    started, results, looks, chances = time.monotonic(), None, None, {}
    for number, seeds in enumerate(plan):
        with refusals():
            configs, grid = grids.expand(experiment, {**options, "seed": seeds})
            check_writable(folder)
            new = configs if results is None else [config for config in configs if config.seed not in plan[number - 1]]
            prepared = [prepare(experiment, config, data_of, folder, overwrite, memo) for config in new]
            chances.update(prepared)
            ids = [identity for identity, _ in prepared]
            looks = looks or trial.Looks(folder, grids.identifying_axes(experiment.config, grid), plan, margins)
        found = measure_all(experiment, new, ids, data_of, folder, overwrite, memo, quiet)
        results = found if results is None else join(results, found)
        with refusals():
            look = looks.take(number)
        results = replace(results, look=look, margins=margins)
        flags = flag_lines(experiment, name, out_dir, data_dir, {**grid, "seed": plan[0]}, limit, margins)
        rows = write_results(folder, results, flags, experiment.modernize)
        verdict = conclude(experiment, results, folder, chances)
        verdict = replace(verdict, test=f"{verdict.test} {taken}".strip())
        if verdict.outcome != "undecided" or number + 1 == len(plan):
            break
        say(f"Undecided with {len(seeds)} seeds, look {number + 1} of {len(plan)}: on to {len(plan[number + 1])}.")
    drawn = draw(experiment, results, verdict, folder)
    write_report(
        folder, experiment, results, verdict, drawn, rows, script=script, name=name, flags=flags,
        seconds=time.monotonic() - started, quiet=quiet,
    )  # fmt: skip
    return Report(verdict, results, folder)


@contextlib.contextmanager
def refusals():
    """What cannot be run ends as InvalidInput, in one line."""
    try:
        yield
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def measure_all(experiment, configs, ids, data_of, folder, overwrite, memo, quiet):
    """`collect` with progress; InvalidInput where a config finds the checkpoint of another one in its place."""
    progress = None if quiet else Progress(len(configs))
    try:
        return collect(experiment, configs, ids, data_of, folder, overwrite, memo, progress)
    except ForeignCheckpoint as error:
        raise InvalidInput(str(error)) from error
    finally:
        if progress:
            progress.close()


def join(before, more):
    """The Results of two looks, the configs of one network together as in one grid: its seeds follow each other."""
    table = pd.concat([before.table, more.table], ignore_index=True)
    joined = replace(
        before, table=table, arrays={**before.arrays, **more.arrays}, histories={**before.histories, **more.histories}
    )
    order = [i for group in joined.groups(apart=()) for i in group.rows.index]
    return replace(joined, table=table.loc[order].reset_index(drop=True))


def flag_lines(experiment, name, out_dir, data_dir, grid, max_seeds, margins):
    """The lines of flags.cfg, an absl flag file that repeats the run."""
    flags = {"experiment": [name], "out_dir": [str(out_dir)], **({"data_dir": [str(data_dir)]} if data_dir else {})}
    flags |= {**grid, "max_seeds": [max_seeds or 0]}
    flags |= {key: [value] for key, value in margins.items() if value != experiment.default_margins[key]}
    return [f"--{flag}={','.join(map(grids.text, values))}" for flag, values in flags.items()]


def prepare(experiment, config, data_of, folder, overwrite, memo):
    """Everything that can be wrong with a config is found here, before any training; returns the config's id,
    and chance of its training set (judging/chance.py).
    """
    data = data_of(config.data, config.seed)
    models.validate(config.network, data.input_shape, data.num_classes)
    identity = config_id(experiment, config)
    known = (folder / "runs" / identity / "result.json").exists() and not overwrite
    if experiment.check and not known:
        experiment.check(config, data, Run(folder, identity, grids.flat(config), memo=memo))
    return identity, chance_of(data.y_train)


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


def collect(experiment, configs, ids, data_of, folder, overwrite, memo, progress):
    """Results of all configs: read where they were finished before, else measured and kept."""
    say = progress.say if progress else lambda line: None
    rows, arrays, histories, reused, renamed = [], {}, {}, 0, 0
    for config, identity in zip(configs, ids):
        fields = {**grids.flat(config), **stored.columns(config.network.model)}
        run = Run(folder, identity, fields, progress, memo=memo, knows_stage=experiment.knows_stage)
        if overwrite:
            run.clear()
        result = finished(run, say)
        reused += result is not None
        if result is not None and progress:
            progress.skip()
        if result is None:
            if progress:
                progress.start(identity)
            result = compute(experiment, config, data_of(config.data, config.seed), run)
            if progress:
                progress.done(identity, result[2])
        measures, arrays[identity], seconds = result
        known = experiment.modernize(measures)
        renamed += known.keys() != measures.keys()
        histories[identity] = run.read_history()
        rows.append({"config_id": identity, **fields, **known, "seconds": seconds})
    if reused:
        say(f"{reused} of {len(configs)} configs were finished before and are not computed again (--overwrite does).")
    if renamed:
        say(f"{renamed} of them were kept under names of columns that have changed since (as default/test_loss, now "
            "default/test/loss): they are read under the new ones.")  # fmt: skip
    return Results(pd.DataFrame(rows), arrays, histories, experiment.fields, experiment.apart)


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
        with plots.style():
            measures = experiment.measure(config, data, run)
        numbers, arrays = files.split_arrays(measures)
        experiment.check_measures(numbers)
        run.finish(numbers, arrays, time.monotonic() - started)
    finally:
        run.close()
    return run.result()


def conclude(experiment, results, folder, chances):
    """The Verdict on the results; ReportError where the experiment's own code fails at it."""
    said = f"all results are in {folder / 'results.csv'}"
    try:
        verdict = experiment.judge(results)
    except Exception as error:  # whatever the judge of a claim runs into: the results must not be lost behind it
        raise ReportError(f"no verdict could be made ({type(error).__name__}: {error}); {said}") from error
    diverged = int(results.table["diverged_epoch"].notna().sum()) if "diverged_epoch" in results.table else 0
    if diverged:
        verdict = replace(verdict, reason=f"{verdict.reason} {diverged} of {len(results.table)} configs diverged.")
    return replace(verdict, reason=f"{verdict.reason}{warn_at_chance(results.table, chances)}")


def draw(experiment, results, verdict, folder):
    """{name: figure} of the results; ReportError where the experiment's own code fails at it."""
    try:
        with plots.style():
            return experiment.figures(results)
    except Exception as error:
        raise ReportError(
            f"no figures could be drawn ({type(error).__name__}: {error}); the verdict is {verdict.outcome}: "
            f"{verdict.reason} All results are in {folder / 'results.csv'}"
        ) from error


def run_named(
    script, experiments, name, *, former=(), out_dir="results", data_dir=None, overwrite=False, quiet=False,
    max_seeds=None, margin=None, margin_factor=None, **options,
):  # fmt: skip
    """`run` for the experiment called `name` of a script; options are config fields, a list being an axis of the grid.

    former: {earlier name of an experiment: its name}. An earlier name still works, and results that lie in a folder of
    that name are taken along.
    """
    former = dict(former)
    name = former.get(name, name)
    if name not in experiments:
        raise InvalidInput(f"unknown experiment {name!r}: allowed are {', '.join(experiments)}")
    place = Path(out_dir) / script.removeprefix("run_")
    for earlier in (before for before, now in former.items() if now == name):
        if (place / earlier).is_dir() and not (place / name).exists():
            (place / earlier).rename(place / name)
            if not quiet:
                print(f"{place / earlier} is now {place / name}: the experiment has a new name.")
    renamed = grids.former_names(experiments[name].config)
    options = {renamed.get(option, option): value for option, value in options.items()}
    margins = {key: value for key, value in (("margin", margin), ("margin_factor", margin_factor)) if value is not None}
    return run(
        script, experiments[name], options, name=name, out_dir=out_dir, data_dir=data_dir, overwrite=overwrite,
        quiet=quiet, max_seeds=max_seeds, margins=margins,
    )  # fmt: skip
