"""The folder of an experiment, `<out_dir>/<script>/<experiment>/`: nothing in it is ever computed twice, or half kept.

    runs/<config id>/result.json    a finished config: its fields, measures, seconds, versions
    runs/<config id>/arrays.npz     measures that are arrays;  history.csv  its epochs;  checkpoint/  while unfinished
    runs/<config id>/failed.txt     what the config's own code raised
    tensorboard/<config id>/        scalars, histograms, images, hparams
    tensorboard/report/             the figures, and the columns of the hparams page
"""
import contextlib
import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reporting import files
from reporting.tensorboard_report import FINAL, HISTOGRAM, buckets, session

CURVE_POINTS = 50  # epochs of a stage that TensorBoard gets; history.csv has them all
# One more whenever a config's result gets other bits, by rounding alone: docs/run_folder.md has the list. What computes
# something else needs a config field, or it would mix with earlier results unseen.
ARITHMETIC = 3
FIRST_ARITHMETIC = "1"  # of results that don't say


class ForeignCheckpoint(ValueError):
    """A checkpoint lies where it does not belong: it is neither used nor deleted."""


def versions() -> dict[str, str]:
    """What a result depends on beside its config: versions, threads, and the git revision if there is one."""
    return {**installed_versions(), "threads": str(threads_of_process()), "arithmetic": str(ARITHMETIC)}


def threads_of_process() -> int:
    """Threads of TensorFlow in this process: the order of floating-point sums depends on them."""
    import tensorflow as tf

    chosen = tf.config.threading.get_intra_op_parallelism_threads()
    chosen = chosen or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    return chosen or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


@functools.cache  # asking git takes some milliseconds
def installed_versions() -> dict[str, str]:
    result = {name: version(name) for name in ("tensorflow", "keras", "numpy", "scipy")}
    result["python"] = platform.python_version()
    here = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, check=True)
        result["git"] = revision.stdout.decode().strip()
        status = ["git", "status", "--porcelain", "--untracked-files=no", "--", "*.py"]
        if subprocess.run(status, cwd=here.parent, capture_output=True, check=True).stdout:
            result["git"] += " with changes"
    return result


class Run:
    """One config's place in the run folder, and what a training run reports to while it goes on."""

    def __init__(
        self, folder: str | Path, config_id: str, fields: dict, progress: Any = None, memo: Any = None,
        knows_stage: Callable | None = None,
    ):  # fmt: skip
        """folder: the experiment's.  fields: the flat config, for hparams and result.json.  progress: see progress.py.

        memo: what the configs of one call share (harness/memo.py); nothing is shared when None.  knows_stage: does the
        experiment declare a training stage of this name?  Any name will do when None.
        """
        self.folder = Path(folder) / "runs" / config_id
        self.events = Path(folder) / "tensorboard" / config_id
        self.config_id, self.fields, self.progress = config_id, fields, progress
        self.memo, self.knows_stage = memo, knows_stage or (lambda stage: True)
        self.history, self._writer, self._begun = {}, None, set()

    def once(self, key: Any, function: Callable) -> Any:
        """function(), computed once for all configs of a call that ask with an equal key (see harness/memo.py)."""
        return self.memo.once(key, function) if self.memo else function()

    # -- finished results

    def result(self) -> tuple[dict, dict[str, np.ndarray], float] | None:
        """(measures, arrays, seconds) of a finished config, None if it is not; ValueError if a file is damaged."""
        path = self.folder / "result.json"
        if not path.exists():
            return None
        content = files.read_json(path)
        # The id has every field in it; the fields themselves may differ in the folder of a .keras file.
        if content.get("config_id") != self.config_id:
            raise ValueError(f"{path} is damaged (it belongs to another config)")
        for name, checksum in content["files"].items():
            if not (self.folder / name).exists():
                raise ValueError(f"{self.folder / name} is missing")
            if files.file_digest(self.folder / name) != checksum:
                raise ValueError(f"{self.folder / name} is damaged (its checksum does not match)")
        arrays = files.read_arrays(self.folder / "arrays.npz")[0] if "arrays.npz" in content["files"] else {}
        # JSON has no NaN: what was not finite (a diverged run's loss) was written as null.
        measures = {k: np.nan if v is None else v for k, v in content["measures"].items()}
        return measures, arrays, content["seconds"]

    def read_history(self) -> pd.DataFrame:
        """history.csv as a DataFrame, one row per stage and epoch; empty for configs that train nothing."""
        path = self.folder / "history.csv"
        return pd.read_csv(path) if path.exists() else pd.DataFrame()

    def finish(self, numbers: dict, arrays: dict[str, np.ndarray], seconds: float) -> None:
        """Keep the measures of a finished config: numbers in result.json, arrays in arrays.npz."""
        written = []
        if arrays:
            written.append("arrays.npz")
            files.write_arrays(self.folder / "arrays.npz", arrays)
        rows = [row for stage in self.history.values() for row in stage]
        if rows:
            written.append("history.csv")
            with files.atomic(self.folder / "history.csv") as stream:
                pd.DataFrame(rows).to_csv(stream, index=False)
        with self.writer.as_default():
            import tensorflow as tf

            for name, value in numbers.items():
                if isinstance(value, (int, float, np.generic)) and not isinstance(value, bool):
                    tf.summary.scalar(f"{FINAL}/{name}", np.float64(value), step=0)
        self.writer.flush()
        content = {
            "config_id": self.config_id,
            "config": self.fields,
            "measures": numbers,
            "files": {name: files.file_digest(self.folder / name) for name in written},
            "seconds": seconds,
            "versions": versions(),
        }
        files.write_json(self.folder / "result.json", content)  # last: it says that all the rest is there
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
        (self.folder / "failed.txt").unlink(missing_ok=True)

    def fail(self, text: str) -> None:
        """Keep what the config's code raised; the config is computed again when it is asked for again."""
        with files.atomic(self.folder / "failed.txt") as stream:
            stream.write(text)

    def clear(self) -> None:
        """Forget this config's results, to compute them again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.events, ignore_errors=True)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    # -- while it trains

    def begin(self, stage: str) -> None:
        """A training stage begins; ValueError if its name is not declared, or was used before in this config."""
        if not self.knows_stage(stage):
            raise ValueError(f"training stage {stage!r} is not among the stages that the experiment declares")
        if stage in self._begun:
            raise ValueError(
                f"training stage {stage!r} was used before: the second would take up the first's checkpoint"
            )
        self._begun.add(stage)

    def save_checkpoint(self, stage: str, state: dict) -> None:
        """state: {"arrays": {name: array}, ...JSON values}."""
        meta = {k: v for k, v in state.items() if k != "arrays"}
        path = self.folder / "checkpoint" / f"{stage}.npz"
        files.write_arrays(
            path, state["arrays"], config_id=self.config_id, stage=stage, versions=versions(), **meta
        )  # fmt: skip

    def load_checkpoint(self, stage: str) -> dict | None:
        """The state that save_checkpoint kept, or None (a damaged one too).

        One of another config raises ForeignCheckpoint; one of other versions is used, and said.
        """
        path = self.folder / "checkpoint" / f"{stage}.npz"
        try:
            arrays, meta = files.read_arrays(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self.say(f"{error}: this training starts again")
            return None
        if (meta.pop("config_id", None), meta.pop("stage", None)) != (self.config_id, stage):
            raise ForeignCheckpoint(
                f"checkpoint {path} belongs to another config: delete it, or choose another --out_dir"
            )
        before, now = {"arithmetic": FIRST_ARITHMETIC, **meta.pop("versions", {})}, versions()
        other = [f"{name} {before[name]}" for name in before if before[name] != now.get(name) and name != "git"]
        if other:
            self.say(
                f"{path} was written with {', '.join(other)}: its training goes on from there, and may round "
                "otherwise than one without an interruption"
            )
        self.history[stage] = list(meta["rows"])
        return {"arrays": arrays, **meta}

    def epoch(self, stage: str, row: dict, epochs: int) -> None:
        """One epoch of a training stage: history, TensorBoard scalars, progress."""
        import tensorflow as tf

        self.history.setdefault(stage, []).append(row)
        if self.progress:
            self.progress.epoch(stage, row, epochs)
        if row["epoch"] % max(1, epochs // CURVE_POINTS) and row["epoch"] != epochs:
            return
        with self.writer.as_default():
            for name, value in row.items():
                # The rest stays in history.csv: a grid of hundreds of configs must not slow TensorBoard down.
                if name not in ("stage", "epoch", "seconds") and (not name.startswith("norm/") or name == "norm/all"):
                    tf.summary.scalar(f"{stage}/{name}", np.float64(value), step=row["epoch"])

    def histograms(self, stage: str, step: int, arrays: dict[str, np.ndarray]) -> None:
        """Weight histograms by variable, for TensorBoard."""
        import tensorflow as tf

        with self.writer.as_default():
            for name, value in arrays.items():
                if np.isfinite(value).all():
                    # tf.summary.histogram counts by operations of TensorFlow, in thirty times the time
                    tf.summary.write(f"{stage}/{name}", buckets(value), step=step, metadata=HISTOGRAM)

    def say(self, line: str) -> None:
        if self.progress:
            self.progress.say(line)

    @property
    def writer(self) -> Any:
        """TensorBoard's event writer; opened on first use, with the config's fields as hparams."""
        if self._writer is None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self.events))
            with self._writer.as_default():
                session(self.fields, self.config_id)
        return self._writer
