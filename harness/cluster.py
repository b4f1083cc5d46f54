"""A grid over many workers, by Ray: processes of this machine, or a running cluster (docs/clusters.md).

Ray starts and renews the workers, gives each its cores and GPUs, and notices what dies. The run folder stays the truth:
a worker finds and leaves there what the process of a run without workers would. Where a node does not share that
folder, the desk (harness/desk.py) hands checkpoints out and takes checkpoints and results in.
"""
import contextlib
import functools
import gc
import importlib.metadata
import importlib.util
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from harness.desk import Desk
from harness.experiment import Experiment
from harness.memo import Memo
from models import default_width
from reporting import files
from reporting.progress import Progress
from reporting.run_folder import Run, threads_of_process
from training import data as training_data

ROOT = Path(__file__).parents[1]
CHOOSE = "choose"  # the value of an absent flag: the defaults of docs/clusters.md
START = 15  # seconds that Ray and TensorFlow need until the first config of a worker begins, about
MANY = 230  # configs that are worth that start to two workers however short they are: the shortest take 0.13 s
SHORT = 5  # seconds of a run's first config, which traces for all of its architecture, that say little of the next
WIDE = {"mlp": 512}  # widest layer of networks that have by default one thread, by model; all others have all cores
WIDE_ON_DIGITS = {"mlp": 1024, "convnet": 8}  # of 8x8 pixels, where a second thread brings little
MAX_THREADS = 1024  # more than any machine has cores; with very many TensorFlow never begins
RENEW = 500  # configs after which Ray renews a worker: its memory is flat, but for what a person's layers may keep
TRIES = 3  # of a config whose worker dies
PATIENCE = 20  # seconds for a cluster to answer
PROBE = ".shared"  # file in the run folder: a node that reads this run's token in it shares the folder
INSTALL = "pip install -r requirements-cluster.txt"


@dataclass(frozen=True)
class Workers:
    """How many workers measure a grid, where, and what each config gets.

    number: 1 is this process itself; CHOOSE: see `most_workers`.  address: of a running Ray cluster, `auto` or
    HOST:PORT; its resources then limit the workers, and `number` where it is given.  cpus, gpus: what a config asks of
    Ray; as many CPUs as threads when None.  threads: of TensorFlow and of linear algebra in a config, as sums of
    floating-point numbers depend on them; as many as this process has when None, CHOOSE: see `default_threads`.
    """

    number: int | str = 1
    address: str | None = None
    cpus: float | None = None
    gpus: float = 0
    threads: int | str | None = None

    def validate(self) -> None:
        """Raise ValueError, in one line, for what no machine can do, or this one cannot without Ray."""
        for name, value in (("workers", self.number), ("threads_per_config", self.threads)):
            if value not in (CHOOSE, None) and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        if isinstance(self.threads, int) and self.threads > MAX_THREADS:
            raise ValueError(f"threads_per_config must be at most {MAX_THREADS}, got {self.threads}")
        if self.cpus is not None and not (0 < self.cpus < math.inf):
            raise ValueError(f"cpus_per_config must be a number above 0, got {self.cpus}")
        if not 0 <= self.gpus < math.inf or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus_per_config must be a share of one GPU, such as 0.25, or a number, got {self.gpus}")
        if self.address and self.address != "auto" and not re.fullmatch(r"[^:/\s]+:\d{1,5}", self.address):
            raise ValueError(f"ray_address must be auto or HOST:PORT, got {self.address!r}")
        if not self.address and self.number in (1, CHOOSE):  # Ray may not be asked, and only Ray gives them
            for name, given in (("cpus_per_config", self.cpus is not None), ("gpus_per_config", self.gpus)):
                if given:
                    raise ValueError(f"{name} needs workers on Ray: give --workers=2 or more, or --ray_address")
        if (self.address or self.number not in (1, CHOOSE)) and not installed():
            asked = f"ray_address {self.address}" if self.address else f"workers {self.number}"
            raise ValueError(f"{asked} needs Ray, which is not installed: {INSTALL}")


def installed() -> bool:
    """Is Ray there?"""
    return importlib.util.find_spec("ray") is not None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# -- threads


def default_threads(configs: Iterable) -> int:
    """Threads of each config of a grid: one where all networks are small, else all cores."""

    def small(network, dataset):
        limit = (WIDE_ON_DIGITS if dataset == "digits" else WIDE).get(network.model)
        return limit is not None and max(network.widths or [network.width or default_width(network.model)]) <= limit

    asked = {(config.network, config.data.dataset) for config in configs}
    return 1 if all(small(network, dataset) for network, dataset in asked) else cores()


def set_threads(number: int) -> bool:
    """Let TensorFlow and linear algebra of this process use so many threads; False where it is too late."""
    import tensorflow as tf

    if threads_of_process() != number or not tf.config.threading.get_intra_op_parallelism_threads():
        try:
            tf.config.threading.set_intra_op_parallelism_threads(number)
            tf.config.threading.set_inter_op_parallelism_threads(number)
        except RuntimeError:  # TensorFlow has begun
            return threads_of_process() == number
    threadpoolctl.threadpool_limits(number)
    return True


def share_gpus() -> None:
    """Let TensorFlow take a GPU's memory as it needs it, and not all at once: other processes may have a part of it."""
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # TensorFlow has begun
            tf.config.experimental.set_memory_growth(device, True)


def fix_threads(workers: Workers, configs: Iterable) -> Workers:
    """Set this process' threads and return `workers` with their number."""
    share_gpus()  # this process looks at networks before any worker does
    chosen = workers.threads == CHOOSE
    wanted = default_threads(configs) if chosen else workers.threads
    if wanted and not set_threads(wanted) and not chosen:
        raise ValueError(
            f"threads_per_config {wanted}: this process computes with {threads_of_process()} threads already, and "
            "TensorFlow cannot change that: start a new process"
        )
    return replace(workers, threads=threads_of_process())


def most_workers(workers: Workers, todo: list) -> tuple[int | None, str]:
    """(number of workers that the default may come to, why no more): every core, where nothing speaks against it."""
    if workers.address:
        return None, ""  # as many as the cluster has room for
    import tensorflow as tf

    room = min(cores() // workers.threads, len(todo))
    if room < 2:
        return 1, f"{cores()} cores, {workers.threads} threads a config, {len(todo)} configs"
    if tf.config.list_physical_devices("GPU"):
        return 1, "it has the GPU"
    if any(getattr(getattr(config, "training", None), "strategy", "single") != "single" for config in todo):
        return 1, "strategy mirrored has all devices"
    if not installed():
        return 1, f"more need Ray: {INSTALL}"
    return room, f"{cores()} cores, {len(todo)} configs left"


def worth(number: int, left: int, seconds: float | None) -> bool:
    """Do so many workers save more time than they take to start?  seconds: of a config; None where none is known."""
    return left >= MANY if seconds is None else left * seconds * (1 - 1 / number) > START


# -- in a worker


class Teller:
    """A worker's progress: goes to the desk, at most once a second."""

    def __init__(self, desk: Any, identity: str):
        self.desk, self.identity, self.told = desk, identity, -math.inf

    def epoch(self, stage: str, row: dict, epochs: int) -> None:
        if time.monotonic() - self.told >= 1:
            self.told = time.monotonic()
            text = f"{stage} {row['epoch']}/{epochs} epochs, loss {row['train/loss']:.4g}"
            self.desk.tell.remote(self.identity, text)

    def say(self, line: str) -> None:
        self.desk.say.remote(line)


class CarriedRun(Run):
    """A Run on a node without the run folder: begins with the checkpoints of the desk, and brings there what it keeps.
    """

    def __init__(self, desk: Any, folder: str | Path, identity: str, *arguments: Any, **options: Any):
        super().__init__(folder, identity, *arguments, **options)
        self.desk, self.root = desk, Path(folder)
        for name, content in _get(desk.fetch.remote(identity)).items():
            with files.atomic(self.root / name, "wb") as stream:
                stream.write(content)

    def _bring(self, *paths):
        found = [path for path in (*paths, *self.events.rglob("*")) if path.is_file()]
        contents = {path.relative_to(self.root).as_posix(): path.read_bytes() for path in found}
        _get(self.desk.keep.remote(self.config_id, contents))  # waits, so that fit knows what saving costs

    def save_checkpoint(self, stage: str, state: dict) -> None:
        super().save_checkpoint(stage, state)
        self._bring(self.folder / "checkpoint" / f"{stage}.npz")

    def finish(self, numbers: dict, arrays: dict[str, np.ndarray], seconds: float) -> None:
        super().finish(numbers, arrays, seconds)
        self._bring(*self.folder.iterdir())

    def fail(self, text: str) -> None:
        super().fail(text)
        self._bring(self.folder / "failed.txt")


def _get(reference, **options):
    import ray

    return ray.get(reference, **options)


@dataclass(frozen=True)
class Place:
    """What all tasks of a run know: where it lies, and what a worker may use."""

    folder: str
    data_dir: str | None
    token: str
    threads: int
    gpus: float


_memos = {}  # of this worker: {token of a run: Memo}
_loader = functools.lru_cache(maxsize=1)(training_data.loader)


def measure(
    experiment: Experiment, config: Any, identity: str, fields: dict, place: Place, desk: Any, model: bytes | None
) -> str | None:
    """Ray's task: one config on this worker; returns None, or in one line what its code raised.

    fields: of its row, as the driver found them.  model: bytes of the .keras file that the config names, None without
    one.
    """
    import ray

    from harness import runner  # runner imports this module

    begin_process(place)
    memo = _memos.setdefault(place.token, Memo())
    probe = Path(place.folder) / PROBE
    shares = probe.exists() and probe.read_text() == place.token
    _get(desk.begin.remote(identity, ray.util.get_node_ip_address(), shares))
    given = (fields, Teller(desk, identity), memo, experiment.knows_stage)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: desk.end.remote(identity))
        if shares:
            run = Run(place.folder, identity, *given)
        else:
            here = stack.enter_context(tempfile.TemporaryDirectory())
            run = CarriedRun(desk, here, identity, *given)
            if model is not None:
                path = Path(here) / "model.keras"
                path.write_bytes(model)
                config = replace(config, network=replace(config.network, model=str(path)))
        return runner.attempt(experiment, config, _loader(place.data_dir)(config.data, config.seed), run)


@functools.cache
def begin_process(place: Place) -> None:
    """A new worker: its threads and GPUs, before TensorFlow begins."""
    import tensorflow as tf

    if place.gpus:
        share_gpus()
    else:
        tf.config.set_visible_devices([], "GPU")
    if not set_threads(place.threads):
        raise RuntimeError(f"a worker has {threads_of_process()} threads instead of {place.threads}")
    gc.freeze()  # what the libraries brought stays: looking through it after every config took 0.2 s each


# -- the driver


class Pool:
    """Ray's workers for one run: local ones that end with it, or those of a running cluster."""

    def __init__(self, workers: Workers, experiment: Experiment, folder: Path, data_dir: str | None, say: Callable):
        """Start or find them.  ValueError, in one line, for a cluster that is not there or cannot run a config."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self.workers, self.folder, self.say = workers, Path(folder).resolve(), say
        self.cpus = workers.cpus or workers.threads
        environment = {"env_vars": _variables(workers.threads)}
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if workers.address:
            _reach(workers.address)
            modules = [str(path.parent) for path in sorted(ROOT.glob("*/__init__.py"))]
            own = (experiment.measure.__module__.split(".")[0], "analysis", "models", "training", "judging",
                   "reporting", "harness", "experiments")  # fmt: skip
            environment["py_modules"] = [path for path in modules if Path(path).name in own]
            try:
                context = ray.init(address=workers.address, runtime_env=environment, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ValueError(f"ray_address {workers.address}: {' '.join(str(error).split())}") from error
        else:
            number = max(1, math.ceil(workers.number * self.cpus))
            # The dashboard would cost a process and its memory.
            context = ray.init("local", num_cpus=number, include_dashboard=False, runtime_env=environment, **quiet)
        self.ray, self.dashboard = ray, context.dashboard_url
        try:
            self._check_resources()
            if workers.address:
                self._check_packages()
            self._set_up(experiment, data_dir)
        except BaseException:
            ray.shutdown()
            raise

    def _nodes(self):
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _resources(self):
        return [node["Resources"] for node in self._nodes()]

    def _fits(self, resources):
        """Whether a node with such resources, all of them free, can run a config."""
        return resources.get("CPU", 0) >= self.cpus and resources.get("GPU", 0) >= self.workers.gpus

    def _check_resources(self):
        """Raise ValueError if no node could ever run a config."""
        found = self._resources()
        for flag, name, asked in (("cpus_per_config", "CPU", self.cpus), ("gpus_per_config", "GPU", self.workers.gpus)):
            most = max((resources.get(name, 0) for resources in found), default=0)
            if asked > most:
                raise ValueError(f"{flag} {asked:g} is more than any node has: the most is {most:g} {name}s")
        if not any(map(self._fits, found)):
            raise ValueError(f"no node has {self.cpus:g} CPUs and {self.workers.gpus:g} GPUs for one config")

    def _check_packages(self):
        """ValueError where a node lacks what the project needs; a line where it has other versions than this one."""
        lines = (ROOT / "requirements.txt").read_text().splitlines()
        names = [re.split(r"[<>=~!;\s\[]", line)[0] for line in lines if line and line[0] not in "#-"]

        def look():  # defined here, it travels by value: the node may lack everything
            import importlib.metadata

            found = {}
            for name in names:
                try:
                    found[name] = importlib.metadata.version(name)
                except importlib.metadata.PackageNotFoundError:
                    found[name] = None
            return found

        here, asked = look(), {}
        for node in self._nodes():
            strategy = self._strategy(node["NodeID"])
            task = self.ray.remote(look).options(num_cpus=0, scheduling_strategy=strategy, max_retries=0)
            asked[node["NodeManagerAddress"]] = task.remote()
        for node, reference in asked.items():
            try:
                found = _get(reference, timeout=3 * PATIENCE)
            except self.ray.exceptions.RayError as error:
                raise ValueError(f"node {node} cannot run a task: {' '.join(str(error).split())[:200]}") from error
            if missing := [name for name in names if not found[name]]:
                raise ValueError(f"node {node} lacks the package {missing[0]}: install requirements-cluster.txt there")
            other = [f"{name} {found[name]}, here {here[name]}" for name in names if found[name] != here[name]]
            if other:
                self.say(f"Node {node} has other versions, so bits may differ: {'; '.join(other)}.")

    def _strategy(self, node):
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _set_up(self, experiment, data_dir):
        ray, here = self.ray, self._strategy(self.ray.get_runtime_context().get_node_id())
        token = uuid.uuid4().hex
        with files.atomic(self.folder / PROBE) as stream:
            stream.write(token)
        self.desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote(str(self.folder))
        _get(self.desk.news.remote())
        data_dir = str(Path(data_dir).resolve()) if data_dir else None
        place = Place(str(self.folder), data_dir, token, self.workers.threads, self.workers.gpus)
        self.common = ray.put(experiment), ray.put(place)
        self.models, self.fits = {}, True
        self.task = ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.workers.gpus,
            max_calls=1 if self.workers.gpus else RENEW,  # only its end gives the memory of a GPU back
            max_retries=0,  # counted here: Ray's own count has no end where memory was short
        )(measure)
        where = self.workers.address or f"{self.workers.number} on this machine"
        self.say(f"Ray: {where}" + (f", dashboard http://{self.dashboard}" if self.dashboard else "") + ".")

    def _room(self, resources):
        """Tasks to hand to Ray at once: what can run, and none that waits.

        A task that asks the desk gives its CPU free while it waits for the answer, and Ray would begin the next one
        there: of two workers three were at work, each at two thirds of its speed.
        """
        if self.workers.number:
            return self.workers.number
        return max(1, sum(int(node.get("CPU", 0) // self.cpus) for node in resources))

    def _watch_nodes(self, resources):
        """Say when the last node that fits is gone, and when there is one again: until then Ray's tasks wait."""
        fits = any(map(self._fits, resources))
        if fits != self.fits:
            self.say("A node fits again." if fits else (
                f"No node is left with {self.cpus:g} CPUs and {self.workers.gpus:g} GPUs: waiting for one. After "
                "Ctrl-C the same command goes on from here."
            ))  # fmt: skip
        self.fits = fits

    def _submit(self, config, identity, fields):
        model = config.network.model
        if not model.endswith(".keras") or not self.workers.address:
            content = None
        elif (content := self.models.get(model)) is None:
            content = self.models[model] = self.ray.put(Path(model).read_bytes())
        experiment, place = self.common
        return self.task.remote(experiment, config, identity, fields, place, self.desk, content)

    def measure(self, next_job: Callable, progress: Progress | None) -> Iterator[tuple[str, str | None]]:
        """Yield (config id, None or what went wrong in one line) as they end.

        next_job: takes the next (config, config id, fields), None when there is none.  progress: None when quiet.
        """
        errors = self.ray.exceptions
        again, running, tries, shown, room = deque(), {}, Counter(), -math.inf, self._room(self._resources())
        while True:
            while len(running) < room and (job := again.popleft() if again else next_job()):
                running[self._submit(*job)] = job
            if not running:
                return
            ready, _ = self.ray.wait(list(running), timeout=1)
            if time.monotonic() - shown >= 1:
                at, lines = _get(self.desk.news.remote())
                for line in lines:
                    self.say(line)
                if progress:
                    progress.others(at)
                resources = self._resources()
                self._watch_nodes(resources)
                shown, room = time.monotonic(), self._room(resources)
            for reference in ready:
                job = running.pop(reference)
                identity = job[1]
                try:
                    yield identity, _get(reference)
                except errors.RayTaskError as error:  # a full disk, or a mistake of the experiment's author
                    raise error.cause from error
                except errors.RayError as error:  # the worker is gone: killed, out of memory, or its node lost
                    self.desk.end.remote(identity)
                    tries[identity] += 1
                    what = f"its worker was lost ({type(error).__name__})"
                    if tries[identity] < TRIES:
                        self.say(f"{identity}: {what}, try {tries[identity] + 1} of {TRIES} from its checkpoint on")
                        again.append(job)
                    else:
                        yield identity, f"{what}, {TRIES} times"

    def close(self) -> None:
        """End the workers; local ones leave no process behind."""
        with contextlib.suppress(OSError):
            (self.folder / PROBE).unlink(missing_ok=True)
        self.ray.shutdown()


def _variables(threads):
    """Environment of a worker; linear algebra reads its threads when it is loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**{name: str(threads) for name in names}, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": path}


def _reach(address):
    """Raise ValueError unless a Ray cluster answers at HOST:PORT: Ray itself would try for minutes, and then exit."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        with contextlib.suppress(OSError):
            address = address or Path(tempfile.gettempdir(), "ray", "ray_current_cluster").read_text().strip()
        if not address:
            raise ValueError("ray_address auto: no Ray cluster runs on this machine (ray start)")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"ray_address {address}: no Ray cluster answers there ({error})") from error
    # Something listens. Whether it is Ray, `ray status` says, as a process of its own, which can be stopped.
    ask = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "status", f"--address={address}"]
    try:
        subprocess.run(ask, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except subprocess.TimeoutExpired as error:
        late = f"no Ray cluster that answers within {PATIENCE} s"
        raise ValueError(f"ray_address {address}: what listens there is {late}") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().rpartition("\n")[2][:200]
        raise ValueError(f"ray_address {address}: `ray status` fails there ({last})") from error
