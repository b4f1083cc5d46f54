"""Drives any experiment: grid -> checks -> measure what is not yet known -> results.csv -> judge -> figures -> report.

What is not yet known is measured in this process, or by the workers of harness/cluster.py.
"""
import contextlib
import hashlib
import json
import random
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import models
from analysis.keras_internals import releasable_graphs
from harness import cluster, stored, trial
from harness import grid as grids
from harness.cluster import Workers
from harness.experiment import Experiment, ProtocolError
from harness.memo import Memo, model_content
from judging.chance import chance_of, warn_at_chance
from judging.results import Results
from judging.verdict import Verdict
from models.user_model import check_file
from reporting import figures as plots
from reporting import files, verdict_file
from reporting.progress import Progress, print_line
from reporting.report import machine, versions_used, write_report, write_results
from reporting.run_folder import ForeignCheckpoint, Run
from training import data as training_data
from training import reuse


class InvalidInput(ValueError):
    """What was asked for cannot be run; the message is one line for the person who asked."""


class ReportError(RuntimeError):
    """The verdict or the figures could not be made; one line that says where all results are."""


@dataclass(frozen=True)
class Report:
    """What a run hands back: verdict, results and the folder where all of it lies.

    failed: {config id: what its code raised, or what became of its worker}; they are not among the results.
    """

    verdict: Verdict
    results: Results
    folder: Path
    failed: dict = field(default_factory=dict)


def config_id(experiment: Experiment, config: Any) -> str:
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
    script: str, experiment: Experiment, options: dict | None = None, *, name: str, out_dir: str | Path = "results",
    data_dir: str | None = None, overwrite: bool = False, quiet: bool = False, max_seeds: int | str | None = None,
    margins: dict | None = None, workers: Workers | None = None,
) -> Report:  # fmt: skip
    """Run an Experiment on the grid that `options` span, and write its report.

    script: name of the entry script, e.g. "run_ntk".  name: the experiment's name in it.  options: {field: value, or
    list of values}.  Finished configs are not computed again unless `overwrite`.  max_seeds: seeds are added until the
    verdict is decided or there are so many; the experiment's own number when None and no seeds are given, 0 for the
    seeds of the grid alone.  margins: {name: smallest effect that matters} in place of the experiment's own.
    workers: cluster.Workers; this process alone when None.
    Raises InvalidInput, before any training and with no folder made, where something asked for is not possible, and
    where a config finds the checkpoint of another one in its place; ReportError where judge or figures fail, after
    results.csv has been written.
    """
    sitting = Sitting(
        script, experiment, options or {}, name=name, out_dir=out_dir, data_dir=data_dir, overwrite=overwrite,
        quiet=quiet,
    )  # fmt: skip
    workers = workers or Workers()
    with refusals():
        if not str(out_dir):
            raise ValueError("out_dir must name a folder, got nothing")
        workers.validate()
        sitting.plan_looks(max_seeds, margins or {})
    with contextlib.ExitStack() as stack:
        crew = stack.enter_context(Crew(workers, experiment, sitting.folder, data_dir, sitting.say))
        for number in range(len(sitting.plan)):
            with refusals():
                configs, ids = sitting.prepare(number, crew)
            if not number:
                stack.enter_context(alone(sitting.folder))
                if note := describe_size(experiment, sitting.grid, sitting.options):
                    sitting.say(note)
            sitting.measure(configs, ids, crew)
            sitting.judge(number, crew.workers.threads if workers.threads else None)
            if sitting.verdict.outcome != "undecided":
                break
            sitting.say_what_follows(number)
        crew.close()
        return sitting.report()


def describe_size(experiment: Experiment, grid: dict, options: dict) -> str:
    """What to know where data were asked for, and how many images was not: the default was chosen for other data.

    Synthetic data are as many as are asked for, so that nothing is left out of them.
    """
    usual = grids.axes(experiment, {})["dataset"]
    others = [name for name in grid["dataset"] if name not in (*usual, "gaussian")]
    if not others or "train_size" in options or grid["train_size"] == [0]:
        return ""
    size = ", ".join(map(grids.text, grid["train_size"]))
    return f"--train_size is {size}, as for {', '.join(usual)}: --train_size=0 takes all images of {', '.join(others)}."


class Sitting:
    """One call of `run`: what was asked for, and what has come of it so far, look by look."""

    def __init__(
        self, script: str, experiment: Experiment, options: dict, *, name: str, out_dir: str | Path,
        data_dir: str | None, overwrite: bool, quiet: bool,
    ):  # fmt: skip
        """Arguments: those of `run`."""
        self.script, self.experiment, self.options, self.name = script, experiment, options, name
        self.out_dir, self.data_dir, self.overwrite, self.quiet = out_dir, data_dir, overwrite, quiet
        self.folder = Path(out_dir) / script.removeprefix("run_") / name
        self.memo, self.started = Memo(), time.monotonic()
        self.data_of = training_data.loader(data_dir)
        self.results, self.looks, self.verdict, self.chances, self.failed = None, None, None, {}, {}

    def say(self, line: str) -> None:
        if not self.quiet:
            print_line(line)

    def plan_looks(self, max_seeds: int | str | None, margins: dict) -> None:
        """The seeds of each look, and the margins of the judge.  Raises ValueError for what cannot be."""
        self.grid = grids.axes(self.experiment, self.options)
        self.limit = trial.parse_max_seeds(max_seeds, self.experiment, self.options)
        self.plan = trial.plan_seeds(self.grid["seed"], self.limit)
        self.margins = trial.check_margins(self.experiment, margins)
        for model in self.grid["model"]:
            if model.endswith(".keras"):
                check_file(model)  # before a default of the experiment is found not to suit a file
        self.taken = stored.describe(self.experiment, self.grid["model"], self.options)
        if self.taken:
            self.say(self.taken)

    def prepare(self, number: int, crew: "Crew") -> tuple[list, list[str]]:
        """(configs that a look adds, their ids); ValueError for all that can be refused, with no folder made."""
        known = self.plan[number - 1] if number else ()
        configs, self.grid = grids.expand(self.experiment, {**self.options, "seed": self.plan[number]})
        crew.fix_threads(configs)
        check_writable(self.folder)
        new = [config for config in configs if config.seed not in known]
        prepared = [
            prepare(self.experiment, config, self.data_of, self.folder, self.overwrite, self.memo) for config in new
        ]
        self.chances.update(prepared)
        if self.looks is None:
            axes = grids.identifying_axes(self.experiment.config, self.grid)
            self.looks = trial.Looks(self.folder, axes, self.plan, self.margins)
        return new, [identity for identity, _ in prepared]

    def measure(self, configs: list, ids: list[str], crew: "Crew") -> None:
        """Measure the configs that are new, and join them to the results."""
        found = measure_all(
            self.experiment, configs, ids, self.data_of, self.folder, self.overwrite, self.memo, crew, self.failed,
            self.quiet,
        )  # fmt: skip
        self.results = found if self.results is None else join(self.results, found)

    def judge(self, number: int, threads: int | None) -> None:
        """Take the look, keep results.csv and flags.cfg, judge, and keep the verdict beside them.

        threads: of a config, where they were asked for or chosen: the bits depend on them, so flags.cfg has them.
        """
        with refusals():
            look = self.looks.take(number)
        self.results = replace(self.results, look=look, margins=self.margins)
        self.flags = flag_lines(
            self.experiment, self.name, self.out_dir, self.data_dir, {**self.grid, "seed": self.plan[0]}, self.limit,
            self.margins, threads,
        )  # fmt: skip
        self.rows = write_results(self.folder, self.results, self.flags, self.experiment.modernize)
        self.verdict = conclude(self.experiment, self.results, self.folder, self.chances, self.failed, self.taken)
        ids = list(self.results.table["config_id"])
        self.versions = versions_used(self.folder, ids)
        verdict_file.write(
            self.folder, claim=self.experiment.claim, verdict=self.verdict, script=self.script, experiment=self.name,
            seeds=self.plan[number], configs=len(ids), chances=[self.chances[identity] for identity in ids],
            failed=self.failed, taken=self.taken, versions=self.versions, machine=machine(),
            seconds=self.results.table["seconds"].sum(),
        )  # fmt: skip

    def say_what_follows(self, number: int) -> None:
        """A line on the next look, where there is one."""
        if number + 1 < len(self.plan):
            seeds, more = len(self.plan[number]), len(self.plan[number + 1])
            self.say(f"Undecided with {seeds} seeds, look {number + 1} of {len(self.plan)}: on to {more}.")

    def report(self) -> Report:
        """Draw the figures and write the report; returns it."""
        drawn = draw(self.experiment, self.results, self.verdict, self.folder)
        write_report(
            self.folder, self.experiment, self.results, self.verdict, drawn, self.rows, script=self.script,
            name=self.name, flags=self.flags, versions=self.versions, seconds=time.monotonic() - self.started,
            quiet=self.quiet, failed=self.failed,
        )  # fmt: skip
        return Report(self.verdict, self.results, self.folder, self.failed)


class Crew:
    """Who measures: this process, or workers, which are started when there is something to compute.

    By default this process begins, and workers take over as soon as what is left would be done earlier with them.
    """

    def __init__(self, workers: Workers, experiment: Experiment, folder: Path, data_dir: str | None, say: Callable):
        self.workers, self.pool, self.said = workers, None, False
        self.where, self.say = (experiment, folder, data_dir, say), say

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def fix_threads(self, configs: list) -> None:
        self.workers = cluster.fix_threads(self.workers, configs)

    def hire(self, todo: list, seconds: float | None = None) -> cluster.Pool | None:
        """The cluster.Pool for the configs that are left, or None: then this process measures the next.

        seconds: that the last took; None where that says nothing yet.
        """
        if not todo or self.pool:
            return self.pool
        number = self.workers.number
        if number == cluster.CHOOSE:
            number, why = cluster.most_workers(self.workers, todo)
            if number != 1 and number is not None and not cluster.worth(number, len(todo), seconds):
                return None
            if not self.said:
                count = number or f"as many as {self.workers.address} has room for"
                self.say(f"Workers: {count}{f' ({why})' if why else ''}, threads of each: {self.workers.threads}.")
                self.said = True
        if number != 1 or self.workers.address:
            with refusals():
                self.pool = cluster.Pool(replace(self.workers, number=number), *self.where)
        return self.pool

    def close(self) -> None:
        if self.pool:
            self.pool.close()
        self.pool = None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No second run of the same folder meanwhile: it would compute everything again, and both would count looks."""
    try:
        with files.only_one(folder / "run.lock"):
            (folder / cluster.PROBE).unlink(missing_ok=True)  # of a driver that was killed
            yield
    except BlockingIOError as error:
        raise InvalidInput(f"another run is at {folder}: wait for its end, or choose another --out_dir") from error


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What cannot be run ends as InvalidInput, in one line."""
    try:
        yield
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def measure_all(
    experiment: Experiment, configs: list, ids: list[str], data_of: Callable, folder: Path, overwrite: bool, memo: Memo,
    crew: Crew, failed: dict[str, str], quiet: bool,
) -> Results:  # fmt: skip
    """`collect` with progress; InvalidInput where a config finds the checkpoint of another one in its place."""
    progress = None if quiet else Progress(len(configs))
    try:
        return collect(experiment, configs, ids, data_of, folder, overwrite, memo, crew, failed, progress)
    except ForeignCheckpoint as error:
        raise InvalidInput(str(error)) from error
    finally:
        if progress:
            progress.close()


def join(before: Results, more: Results) -> Results:
    """The Results of two looks, the configs of one network together as in one grid: its seeds follow each other."""
    table = pd.concat([before.table, more.table], ignore_index=True)
    joined = replace(
        before, table=table, arrays={**before.arrays, **more.arrays}, histories={**before.histories, **more.histories}
    )
    order = [i for group in joined.groups(apart=()) for i in group.rows.index]
    return replace(joined, table=table.loc[order].reset_index(drop=True))


def flag_lines(
    experiment: Experiment, name: str, out_dir: str | Path, data_dir: str | None, grid: dict[str, list],
    max_seeds: int | None, margins: dict[str, float], threads: int | None = None,
) -> list[str]:  # fmt: skip
    """The lines of flags.cfg, an absl flag file that repeats the run."""
    flags = {"experiment": [name], "out_dir": [str(out_dir)], **({"data_dir": [str(data_dir)]} if data_dir else {})}
    flags |= {**grid, "max_seeds": [max_seeds or 0]}
    flags |= {key: [value] for key, value in margins.items() if value != experiment.default_margins[key]}
    flags |= {"threads_per_config": [threads]} if threads else {}  # the bits depend on it
    return [f"--{flag}={','.join(map(grids.text, values))}" for flag, values in flags.items()]


def prepare(
    experiment: Experiment, config: Any, data_of: Callable, folder: Path, overwrite: bool, memo: Memo
) -> tuple[str, tuple]:
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


def check_writable(folder: Path) -> None:
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


def collect(
    experiment: Experiment, configs: list, ids: list[str], data_of: Callable, folder: Path, overwrite: bool, memo: Memo,
    crew: Crew, failed: dict[str, str], progress: Progress | None,
) -> Results:  # fmt: skip
    """Results of all configs: read where they were finished before, else measured and kept.

    failed: {config id: why}, which the configs are added to whose own code raises, or whose workers die.
    """
    say = progress.say if progress else lambda line: None
    runs = {}
    for config, identity in zip(configs, ids):
        fields = {**grids.flat(config), **stored.columns(config.network.model)}
        runs[identity] = Run(folder, identity, fields, progress, memo=memo, knows_stage=experiment.knows_stage)
    found = {} if overwrite else {
        identity: result for identity, run in runs.items() if (result := finished(run, say)) is not None
    }  # fmt: skip
    reused = len(found)
    todo = deque((config, identity) for config, identity in zip(configs, ids) if identity not in found)

    def next_job():
        if not todo:
            return None
        config, identity = todo.popleft()
        if overwrite:  # not before its turn: what an interrupt leaves is still good
            runs[identity].clear()
        return config, identity, runs[identity].fields

    if progress:
        progress.skip(reused)
    for identity, problem in measured(experiment, todo, next_job, data_of, runs, crew, progress):
        result = None if problem else finished(runs[identity], say)
        if result is None:
            failed[identity] = problem or "its result did not arrive in the run folder"
            say(f"{identity} failed: {failed[identity]}")
        else:
            found[identity] = result
        if progress:
            progress.done(identity, result[2] if result else None)
    if not found:
        first, *_ = failed
        raise ReportError(
            f"no verdict could be made, all {len(configs)} configs failed: {first}: {failed[first]}; what its code "
            f"raised is in {runs[first].folder / 'failed.txt'}"
        )
    if reused:
        say(f"{reused} of {len(configs)} configs were finished before and are not computed again (--overwrite does).")
    return assemble(experiment, {identity: found[identity] for identity in ids if identity in found}, runs, say)


def assemble(experiment: Experiment, found: dict[str, tuple], runs: dict[str, Run], say: Callable) -> Results:
    """Results of the configs that have one, under today's names.  found: {config id: (measures, arrays, seconds)}."""
    rows, arrays, histories, renamed = [], {}, {}, 0
    for identity, (measures, arrays[identity], seconds) in found.items():
        known = experiment.modernize(measures)
        renamed += known.keys() != measures.keys()
        histories[identity] = runs[identity].read_history()
        rows.append({"config_id": identity, **runs[identity].fields, **known, "seconds": seconds})
    if renamed:
        say(f"{renamed} of them were kept under names of columns that have changed since (as default/test_loss, now "
            "default/test/loss): they are read under the new ones.")  # fmt: skip
    return Results(pd.DataFrame(rows), arrays, histories, experiment.fields, experiment.apart)


def measured(
    experiment: Experiment, todo: deque, next_job: Callable, data_of: Callable, runs: dict[str, Run], crew: Crew,
    progress: Progress | None,
) -> Iterator[tuple[str, str | None]]:  # fmt: skip
    """Measure configs, here or by workers; yields (config id, None or what went wrong in one line) as they end.

    todo: those left.  next_job: takes the next of them as (config, config id, fields), None when there is none.
    """
    count, seconds = 0, None
    while todo:
        known = seconds if count > 1 or (count and seconds > cluster.SHORT) else None
        pool = crew.hire([config for config, _ in todo], known)
        if pool:
            yield from pool.measure(next_job, progress)
            return
        config, identity, _ = next_job()
        if progress:
            progress.start(identity)
        started = time.monotonic()
        went_wrong = attempt(experiment, config, data_of(config.data, config.seed), runs[identity])
        count, seconds = count + 1, time.monotonic() - started
        yield identity, went_wrong


def attempt(experiment: Experiment, config: Any, data: training_data.Data, run: Run) -> str | None:
    """Measure one config and keep the result; where its own code raises, keep that and return it in one line.

    What would befall every config is raised: a full disk, a foreign checkpoint, a mistake of the experiment's author.
    """
    try:
        compute(experiment, config, data, run)
    except (OSError, ProtocolError, ForeignCheckpoint):
        raise
    except Exception as error:  # whatever a config's own code runs into: the others go on
        run.fail(traceback.format_exc())
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def finished(run: Run, say: Callable) -> tuple | None:
    """The result of a config that was finished before, or None; a damaged one is named, never trusted."""
    try:
        return run.result()
    except (ValueError, OSError) as error:
        say(f"{error}: this config is computed again")
        run.clear()
        return None


def compute(experiment: Experiment, config: Any, data: training_data.Data, run: Run) -> None:
    """Measure one config and keep the result."""
    begin_anew(experiment, config)
    started = time.monotonic()
    try:
        with plots.style(), releasable_graphs(), reuse.lending():
            measures = experiment.measure(config, data, run)
        numbers, arrays = files.split_arrays(measures)
        experiment.check_measures(numbers)
        run.finish(numbers, arrays, time.monotonic() - started)
    finally:
        run.close()


def begin_anew(experiment: Experiment, config: Any) -> None:
    """Layer names and random state do not depend on what ran before.

    Keras' functions for it make TensorFlow compile every graph once more, 70 ms each: a small config computes less.
    The experiments and networks of this house need neither, as their layers have names, and what they draw with
    TensorFlow or Keras has seeds of its own (tests/conftest.py and ruff.toml refuse the rest). Others may.
    """
    random.seed(config.seed)
    np.random.seed(config.seed)
    if config.network.model.endswith(".keras") or not experiment.measure.__module__.startswith("experiments."):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(config.seed)


def conclude(
    experiment: Experiment, results: Results, folder: Path, chances: dict[str, tuple], failed: dict[str, str],
    taken: str,
) -> Verdict:  # fmt: skip
    """`judge_results`; ReportError where the experiment's own code fails at it."""
    try:
        return judge_results(experiment, results, chances, failed, taken)
    except Exception as error:  # whatever the judge of a claim runs into: the results must not be lost behind it
        said = f"all results are in {folder / 'results.csv'}"
        raise ReportError(f"no verdict could be made ({type(error).__name__}: {error}); {said}") from error


def judge_results(
    experiment: Experiment, results: Results, chances: dict[str, tuple], failed: dict[str, str], taken: str = ""
) -> Verdict:
    """The Verdict of an experiment's judge, with what holds for every experiment: configs that diverged or failed,
    networks at chance, defaults from a stored file.

    chances: {config id: chance_of its training set}.  failed: {config id: why}.  taken: `stored.describe`.
    """
    verdict = experiment.judge(results)
    diverged = int(results.table["diverged_epoch"].notna().sum()) if "diverged_epoch" in results.table else 0
    if diverged:
        verdict = replace(verdict, reason=f"{verdict.reason} {diverged} of {len(results.table)} configs diverged.")
    if failed:
        total = len(results.table) + len(failed)
        verdict = replace(verdict, reason=f"{verdict.reason} {len(failed)} of {total} configs failed.")
    warning = warn_at_chance(results.table, chances)
    return replace(verdict, reason=f"{verdict.reason}{warning}", test=f"{verdict.test} {taken}".strip())


def draw(experiment: Experiment, results: Results, verdict: Verdict, folder: Path) -> dict[str, Figure]:
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
    script: str, experiments: dict[str, Experiment], name: str, *, former: Mapping[str, str] | tuple = (),
    out_dir: str | Path = "results", data_dir: str | None = None, overwrite: bool = False, quiet: bool = False,
    max_seeds: int | None = None, margin: float | None = None, margin_factor: float | None = None,
    margin_level: float | None = None, workers: int | str = 1, ray_address: str | None = None,
    cpus_per_config: float | None = None, gpus_per_config: float = 0.0, threads_per_config: int | str | None = None,
    **options: Any,
) -> Report:  # fmt: skip
    """`run` for the experiment called `name` of a script; options are config fields, a list being an axis of the grid.

    workers, ray_address, cpus_per_config, gpus_per_config, threads_per_config: see cluster.Workers.

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
    margins = {"margin": margin, "margin_factor": margin_factor, "margin_level": margin_level}
    margins = {key: value for key, value in margins.items() if value is not None}
    return run(
        script, experiments[name], options, name=name, out_dir=out_dir, data_dir=data_dir, overwrite=overwrite,
        quiet=quiet, max_seeds=max_seeds, margins=margins,
        workers=Workers(workers, ray_address, cpus_per_config, gpus_per_config, threads_per_config),
    )  # fmt: skip
