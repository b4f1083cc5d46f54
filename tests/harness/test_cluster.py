"""harness/cluster.py: the same bits for every number of workers, and what becomes of a config whose worker dies.

Without Ray: what is refused, how workers and threads are chosen, failed configs, the desk. With it (slow): workers of
this machine, killed at random moments, and a cluster of two nodes.
"""
import contextlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tensorflow as tf

from harness import cluster, runner
from harness.cluster import CHOOSE, Workers
from harness.desk import Desk
from harness.experiment import ProtocolError
from reporting import files
from reporting.run_folder import Run, threads_of_process
from tests.fake_experiment import Config, Fake
from tests.marks import long_but

ROOT = Path(cluster.__file__).parents[1]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=f"Ray: {cluster.INSTALL}")


def run(fake, folder, given=None, quiet=True, **options):
    return runner.run("run_fake", fake.experiment, given, name="fake", out_dir=folder, quiet=quiet, **options)


# -- what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"number": 0}, "workers must be a whole number of at least 1, got 0"),
        ({"number": -1}, "workers must be a whole number of at least 1, got -1"),
        ({"threads": 0}, "threads_per_config must be a whole number of at least 1, got 0"),
        ({"threads": 10**5}, "threads_per_config must be at most 1024, got 100000"),
        ({"cpus": 0.0}, "cpus_per_config must be a number above 0, got 0.0"),
        ({"gpus": -1}, "gpus_per_config must be a share of one GPU, such as 0.25, or a number, got -1"),
        ({"gpus": 1.5}, "gpus_per_config must be a share of one GPU, such as 0.25, or a number, got 1.5"),
        ({"gpus": 99}, "gpus_per_config needs workers on Ray: give --workers=2 or more, or --ray_address"),
        ({"number": CHOOSE, "cpus": 4},
         "cpus_per_config needs workers on Ray: give --workers=2 or more, or --ray_address"),
        ({"address": "here"}, "ray_address must be auto or HOST:PORT, got 'here'"),
        ({"address": "ray://here:1"}, "ray_address must be auto or HOST:PORT, got 'ray://here:1'"),
    ],
)  # fmt: skip
def test_what_no_machine_can_do_is_one_line_and_leaves_no_folder(tmp_path, given, message):
    fake = Fake()
    with pytest.raises(runner.InvalidInput) as error:
        run(fake, tmp_path / "out", workers=Workers(**given))
    assert str(error.value) == message and fake.calls == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"number": 2}, {"address": "auto"}])
def test_without_ray_more_than_one_worker_says_how_to_install_it(tmp_path, monkeypatch, given):
    monkeypatch.setattr(cluster, "installed", lambda: False)
    with pytest.raises(runner.InvalidInput) as error:
        run(Fake(), tmp_path / "out", workers=Workers(**given))
    assert str(error.value).endswith("needs Ray, which is not installed: pip install -r requirements-cluster.txt")
    assert run(Fake(), tmp_path / "out", workers=Workers(1)).results.table["seed"].tolist() == [0]


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match=f"ray_address 127.0.0.1:{port}: no Ray cluster answers there"):
        cluster._reach(f"127.0.0.1:{port}")


@pytest.mark.slow
@needs_ray
def test_an_address_where_something_else_listens_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"ray_address {address}: what listens there is no Ray cluster that"):
            cluster._reach(address)


# -- what a cluster lacks: with a stand-in for Ray, whose tasks run here


class Answer:
    """A task of the stand-in: what its function gives, or what became of it."""

    def __init__(self, function):
        self.function = function

    def options(self, **_):
        return self

    def remote(self):
        return self.function()


def pool_of(monkeypatch, *nodes, lost=None, **workers):
    """(Pool on nodes with the given resources, lines that it says); lost: what a task on them ends with."""

    class RayError(Exception):
        pass

    def get(reference, **_):
        if lost:
            raise RayError(lost)
        return reference

    alive = [
        {"Alive": True, "NodeID": str(i), "NodeManagerAddress": f"10.0.0.{i}", "Resources": resources}
        for i, resources in enumerate(nodes)
    ]
    gone = {**alive[0], "Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
    errors = SimpleNamespace(RayError=RayError)
    pool, said = object.__new__(cluster.Pool), []
    pool.ray = SimpleNamespace(nodes=lambda: [*alive, gone], remote=Answer, exceptions=errors)
    pool.workers, pool.cpus, pool.say = Workers(**workers), workers.get("cpus", 1), said.append
    pool._strategy = lambda node: node
    monkeypatch.setattr(cluster, "_get", get)
    return pool, said


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpus": 4}, "gpus_per_config 4 is more than any node has: the most is 2 GPUs"),
        ({"cpus": 16.0}, "cpus_per_config 16 is more than any node has: the most is 8 CPUs"),
        ({"cpus": 8.0, "gpus": 1}, "no node has 8 CPUs and 1 GPUs for one config"),
    ],
)
def test_more_than_any_node_has_is_one_line_and_no_wait(monkeypatch, asked, message):
    pool, _ = pool_of(monkeypatch, {"CPU": 8.0}, {"CPU": 2.0, "GPU": 2.0}, **asked)
    with pytest.raises(ValueError) as error:
        pool._check_resources()
    assert str(error.value) == message
    pool_of(monkeypatch, {"CPU": 2.0, "GPU": 2.0}, gpus=0.25)[0]._check_resources()


def test_who_waits_for_a_node_is_told_once(monkeypatch):
    pool, said = pool_of(monkeypatch, {"CPU": 2.0}, cpus=2.0)
    pool.fits, (node, gone) = True, pool.ray.nodes()
    for alive in (True, False, False, True, True):
        pool.ray.nodes = lambda alive=alive: [{**node, "Alive": alive}, gone]
        pool._watch_nodes(pool._resources())
    assert said == [
        "No node is left with 2 CPUs and 0 GPUs: waiting for one. After Ctrl-C the same command goes on from here.",
        "A node fits again.",
    ]


def test_a_node_that_lacks_a_package_is_named_with_it(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("# what is needed\nnumpy>=1\nno-such-package[extra]>=2  # never\n")
    monkeypatch.setattr(cluster, "ROOT", tmp_path)
    pool, _ = pool_of(monkeypatch, {"CPU": 1.0})
    with pytest.raises(ValueError) as error:
        pool._check_packages()
    assert str(error.value) == (
        "node 10.0.0.0 lacks the package no-such-package: install requirements-cluster.txt there"
    )
    pool, _ = pool_of(monkeypatch, {"CPU": 1.0}, lost="it has no\nPython")
    with pytest.raises(ValueError, match="cannot run a task: it has no Python"):
        pool._check_packages()


def test_other_versions_on_a_node_are_said(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("numpy>=1\nscipy>=1\n")
    monkeypatch.setattr(cluster, "ROOT", tmp_path)
    numpy = iter(("2.0", "1.26"))  # here, and on the node
    monkeypatch.setattr(cluster.importlib.metadata, "version", lambda name: next(numpy) if name == "numpy" else "1.15")
    pool, said = pool_of(monkeypatch, {"CPU": 1.0})
    pool._check_packages()
    assert said == ["Node 10.0.0.0 has other versions, so bits may differ: numpy 1.26, here 2.0."]


# -- the defaults


def config(dataset="cifar10", **network):
    data = replace(Config().data, dataset=dataset)
    return replace(Config(), network=replace(Config().network, **network), data=data)


def test_small_networks_get_one_thread_and_all_others_every_core(monkeypatch):
    monkeypatch.setattr(cluster, "cores", lambda: 6)
    assert cluster.default_threads([config(), config(width=512), config(widths=(512, 8), width=None)]) == 1
    assert cluster.default_threads([config(), config(width=513)]) == 6
    assert cluster.default_threads([config(widths=(8, 1024), width=None)]) == 6
    assert cluster.default_threads([config(model="convnet", width=8)]) == 6
    assert cluster.default_threads([config(), config(model="resnet")]) == 6
    assert cluster.default_threads([config(model="nowhere.keras", width=None)]) == 6


def test_on_digits_larger_networks_are_small(monkeypatch):
    monkeypatch.setattr(cluster, "cores", lambda: 6)
    convnet = {"dataset": "digits", "model": "convnet"}
    assert cluster.default_threads([config("digits", width=1024), config(width=512), config(**convnet, width=8)]) == 1
    assert cluster.default_threads([config("digits", width=1025)]) == 6
    assert cluster.default_threads([config(**convnet, width=9)]) == 6
    assert cluster.default_threads([config(**convnet, width=None)]) == 6  # 16 is its own
    assert cluster.default_threads([config("digits", model="resnet", width=4)]) == 6


def test_no_process_takes_all_memory_of_a_gpu(monkeypatch):
    """The driver would have left nothing to its workers, as it looks at networks before they do."""
    grown = []

    def grow(device, on):
        grown.append((device, on))
        if device == "second":
            raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second"] * (kind == "GPU"))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    cluster.fix_threads(Workers(), [Config()])
    assert grown == [("first", True), ("second", True)]


def test_the_default_number_of_workers(monkeypatch):
    todo = [Config(seed=seed) for seed in range(100)]
    monkeypatch.setattr(cluster, "cores", lambda: 6)
    monkeypatch.setattr(cluster, "installed", lambda: True)

    def most(configs=todo, threads=1, **more):
        return cluster.most_workers(Workers(CHOOSE, threads=threads, **more), configs)[0]

    assert (most(), most(threads=2), most(threads=4), most(todo[:3]), most(todo[:1])) == (6, 3, 1, 3, 1)
    assert most(address="auto") is None
    mirrored = replace(Config(), training=replace(Config().training, strategy="mirrored"))
    assert most([*todo, mirrored]) == 1
    monkeypatch.setattr(cluster, "installed", lambda: False)
    assert most() == 1
    # 10 s a config: two workers save 5 s of each.
    assert not cluster.worth(2, 3, 10) and cluster.worth(2, 4, 10) and cluster.worth(8, 3, 10)
    assert cluster.worth(2, cluster.MANY, None) and not cluster.worth(2, cluster.MANY - 1, None)


def test_threads_are_recorded_and_cannot_change_once_tensorflow_has_begun(tmp_path):
    report = run(Fake(), tmp_path)
    (path,) = (report.folder / "runs").glob("*/result.json")
    assert json.loads(path.read_text())["versions"]["threads"] == str(threads_of_process())
    with pytest.raises(runner.InvalidInput, match=r"computes with \d+ threads already, and TensorFlow cannot change"):
        run(Fake(), tmp_path, workers=Workers(threads=threads_of_process() + 1))


@pytest.mark.slow
def test_a_new_process_computes_with_the_threads_that_it_is_given(tmp_path):
    code = (
        "from harness.cluster import set_threads; from reporting.run_folder import threads_of_process as n;"
        "import numpy, scipy.linalg, threadpoolctl; assert set_threads(3); import tensorflow as tf; tf.ones(3) + 1;"
        "print(n(), {pool['num_threads'] for pool in threadpoolctl.threadpool_info()}, set_threads(3), set_threads(2))"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "4"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "3 {3} True False", done.stderr[-2000:]


# -- failures, without workers


def fails(config, data, run):
    if config.seed == 1:
        raise ZeroDivisionError("one is too\nmany")
    return {}


def test_a_config_whose_code_raises_fails_alone_and_is_named(tmp_path, capsys):
    fake = Fake(fails, seed=[0, 1, 2])
    report = run(fake, tmp_path, quiet=False)
    printed = capsys.readouterr()
    assert report.results.table["seed"].tolist() == [0, 2] and "1 of 3 configs failed." in report.verdict.reason
    ((name, why),) = report.failed.items()
    assert "seed=1" in name and why == "ZeroDivisionError: one is too many"
    assert "1 configs failed" in printed.out and f"{name} failed: {why}" in printed.err
    for page in ("report.md", "report.html"):
        text = (report.folder / page).read_text()
        assert "Failed" in text and "one is too many" in text
    kept = report.folder / "runs" / name / "failed.txt"
    assert "in fails" in kept.read_text()
    # The same command tries it again, and only it.
    fake.asked()
    fake.measured = lambda config, data, run: {}
    again = run(fake, tmp_path)
    assert fake.asked() == [(1.0, 1)] and not again.failed and not kept.exists() and len(again.results.table) == 3


def test_no_verdict_where_every_config_failed(tmp_path):
    fake = Fake(fails)
    with pytest.raises(runner.ReportError, match=r"all 1 configs failed: .*seed=1.*: ZeroDivisionError: .*failed.txt"):
        run(fake, tmp_path, {"seed": 1})
    assert fake.results is None


def test_a_second_run_of_a_folder_is_told_of_the_first(tmp_path):
    def second(config, data, run_):
        with pytest.raises(runner.InvalidInput, match=r"another run is at .*fake: wait for its end, or choose another"):
            run(Fake(), tmp_path)
        return {}

    run(Fake(second), tmp_path)
    assert not list(tmp_path.rglob("run.lock"))
    assert run(Fake(), tmp_path).results.table["seed"].tolist() == [0]


def test_what_a_killed_driver_left_for_its_workers_goes_with_the_next_run(tmp_path):
    report = run(Fake(), tmp_path)
    left = report.folder / cluster.PROBE
    left.write_text("a token")
    run(Fake(), tmp_path)  # which measures nothing, and so has no workers
    assert not left.exists()


def test_the_lock_of_a_process_that_was_killed_holds_nobody_up(tmp_path):
    code = (
        "import sys, time; from reporting.files import only_one\n"
        "with only_one(sys.argv[1]): print('held', flush=True); time.sleep(100)"
    )
    path = tmp_path / "run.lock"
    process = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(BlockingIOError), files.only_one(path):
        pass
    process.kill()
    process.communicate()
    with files.only_one(path):
        assert path.exists()


# -- the desk, and a node without the run folder


class Remote:
    """An actor's handle that calls at once, so that what goes through Ray is tested without it."""

    def __init__(self, target):
        for name in ("begin", "tell", "say", "end", "news", "fetch", "keep"):
            method = getattr(target, name)
            setattr(self, name, type("Method", (), {"remote": staticmethod(method)}))


def carried(tmp_path, monkeypatch, where):
    monkeypatch.setattr(cluster, "_get", lambda value: value)
    return cluster.CarriedRun(Remote(Desk(tmp_path / "driver")), tmp_path / where, "name", {"seed": 0})


def test_checkpoints_and_results_pass_between_nodes_through_the_desk(tmp_path, monkeypatch):
    first = carried(tmp_path, monkeypatch, "first")
    first.save_checkpoint("real", {"arrays": {}, "rows": [{"epoch": 1}]})
    first.fail("it was not to be")
    shutil.rmtree(tmp_path / "first")  # the node is lost
    second = carried(tmp_path, monkeypatch, "second")
    assert second.load_checkpoint("real")["rows"] == [{"epoch": 1}]
    second.finish({"final/loss": 1.0}, {}, 2.0)
    second.close()
    driver = Run(tmp_path / "driver", "name", {})
    assert driver.result() == ({"final/loss": 1.0}, {}, 2.0)
    assert driver.read_history()["epoch"].tolist() == [1]
    assert not (driver.folder / "checkpoint").exists() and not (driver.folder / "failed.txt").exists()
    assert list(driver.events.glob("events*"))


def test_the_desk_begins_without_tensorflow():
    program = "import sys, harness.desk; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_the_desk_knows_what_workers_are_at_and_who_does_not_share():
    desk = Desk("/somewhere")
    for name, node, shares in (("a", "one", True), ("b", "two", False), ("c", "two", False)):
        desk.begin(name, node, shares)
    desk.tell("b", "training 3/4 epochs")
    desk.end("a")
    desk.tell("a", "a word that came too late")
    running, lines = desk.news()
    assert running == {"b": "training 3/4 epochs", "c": "begins"}
    assert lines == ["two does not share /somewhere: results and checkpoints come back through Ray."]
    assert desk.news()[1] == []


# -- with Ray: workers of this machine

SCRIPTS = {
    "run_local_minima.py": "--experiment=distillation --width=8,16 --depth=1 --train_size=100 --distillation_epochs=9",
    "run_norm.py": "--experiment=norm_bias --width=8 --depth=1 --train_size=100 --norm_target=300 --tuning_trials=0",
    "run_ntk.py": "--experiment=drift --width=8,16 --depth=1 --train_size=50 --ntk_sample=5",
    "run_rank.py": "--experiment=spectra --model=mlp --width=8 --depth=3 --train_epsilon=0 --train_size=100",
}


def start(script, folder, *arguments):
    command = [sys.executable, script, f"--out_dir={folder}", *arguments]
    # Ctrl-C counts, also where the tests run in the background of a shell, which lets its children ignore it.
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def ended(process, status=0):
    out, err = process.communicate(timeout=500)
    assert process.returncode == status, err[-3000:]
    return out, err


def measures(folder):
    (path,) = Path(folder).rglob("results.csv")
    return pd.read_csv(path).drop(columns="seconds")


def processes(pid=None):
    """Command lines of the processes that live, zombies apart; of those below a process if it is given."""
    command = ["ps", "-ww", "-eo", "pid,ppid,stat,args"]  # without -ww it cuts a line where a terminal would end
    listed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[1:]
    rows = [(number, parent, args) for number, parent, state, args in (line.split(None, 3) for line in listed)
            if not state.startswith("Z")]  # fmt: skip
    parents = {int(row[0]): int(row[1]) for row in rows}

    def below(child):
        while child in parents:
            if child == pid:
                return True
            child = parents[child]
        return False

    return {int(row[0]): row[2] for row in rows if pid is None or below(int(row[0]))}


def workers_of(pid):
    """Process ids of the workers below a driver that are measuring."""
    return [child for child, line in processes(pid).items() if line.startswith("ray::measure")]


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("script", long_but(["run_ntk.py"], SCRIPTS))
def test_two_workers_give_the_same_bits_as_one_process(script, tmp_path):
    options = [*SCRIPTS[script].split(), "--seed=0,1", "--epochs=4"]
    for number in (1, 2):
        ended(start(script, tmp_path / str(number), f"--workers={number}", *options))
    pd.testing.assert_frame_equal(measures(tmp_path / "1"), measures(tmp_path / "2"), check_exact=True)


def wait_for(what, process, seconds=240):
    """The first true value of what(), while the process lives."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        if process.poll() is not None:
            raise AssertionError(f"ended before: {process.communicate()[1][-3000:]}")
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def kill_worker(process):
    os.kill(wait_for(lambda: workers_of(process.pid), process)[0], signal.SIGKILL)


def kill_driver(process):
    wait_for(lambda: workers_of(process.pid), process)
    process.kill()


def kill_tree(process):
    wait_for(lambda: workers_of(process.pid), process)
    for pid in [process.pid, *processes(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


LONG = {script: [*options.split(), "--seed=0,1", "--epochs=300"] for script, options in SCRIPTS.items()}
KILLS = int(os.environ.get("RAY_KILLS", "1"))  # of each kind and script: 5 makes 20 of each kind


def strike(process, kill, moment):
    """Kill so many seconds after the workers of `process` have begun; nothing where it was done before."""
    with contextlib.suppress(AssertionError, ProcessLookupError):
        wait_for(lambda: workers_of(process.pid), process)
        time.sleep(moment)
        kill(process)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Measures of a script that nobody disturbs, in one process; once for each script."""
    known = {}

    def of(script):
        if script not in known:
            folder = tmp_path_factory.mktemp("whole")
            ended(start(script, folder, "--workers=1", *LONG[script]))
            known[script] = measures(folder)
        return known[script]

    return of


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("kill", long_but([kill_worker], [kill_worker, kill_driver, kill_tree]))
@pytest.mark.parametrize("script", long_but(["run_norm.py"], LONG))
def test_after_kills_at_random_moments_the_same_command_ends_in_the_same_bits(script, kill, tmp_path, whole):
    moments = random.Random(f"{script} {kill.__name__}")
    # A driver is killed once. Of its workers few enough that no config runs out of tries.
    most = cluster.TRIES - 1 if kill is kill_worker else 1
    folders = (tmp_path / str(number) for number in itertools.count())
    folder, kills, begun = next(folders), 0, 0
    while kills < KILLS or folder.exists():  # the last one that was killed is gone on with, too
        assert begun < 5 * KILLS + 5, f"{kills} of {KILLS} kills in {begun} runs"
        process = start(script, folder, "--workers=2", *LONG[script])
        begun += 1
        for _ in range(min(most, KILLS - kills)):
            strike(process, kill, moments.uniform(0, 10))
        _, err = process.communicate(timeout=500)
        died = kill is not kill_worker and process.returncode == -signal.SIGKILL
        assert died or process.returncode == 0, err[-3000:]
        kills += died or err.count("its worker was lost")
        if not died:
            pd.testing.assert_frame_equal(whole(script), measures(folder), check_exact=True)
            folder = next(folders)
    assert not list(tmp_path.rglob(".shared"))


@pytest.mark.slow
@needs_ray
def test_an_interrupt_ends_all_workers_and_leaves_no_process(tmp_path):
    process = start("run_norm.py", tmp_path, "--workers=2", *LONG["run_norm.py"])
    wait_for(lambda: workers_of(process.pid), process)
    children = processes(process.pid)
    assert any("raylet" in line for line in children.values()), children
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, err = ended(process, 1)
    assert err.splitlines()[-1] == "interrupted: the same command goes on from here"
    deadline = time.monotonic() + 20
    while left := children.keys() & processes().keys():
        assert time.monotonic() < deadline, f"left behind: {[children[pid] for pid in left]}"
        time.sleep(0.2)


def breaks(config, data, run):
    """Raises for seed 1; the worker of seed 2 dies each time."""
    if config.seed == 1:
        raise ZeroDivisionError("one is too many")
    if config.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.slow
@needs_ray
def test_what_fails_fails_alone_while_the_rest_goes_on_to_a_verdict(tmp_path, capsys):
    report = run(Fake(breaks, seed=[0, 1, 2, 3]), tmp_path, quiet=False, workers=Workers(2))
    said = capsys.readouterr().err
    assert report.results.table["seed"].tolist() == [0, 3] and "2 of 4 configs failed." in report.verdict.reason
    (_, raised), (two, lost) = sorted(report.failed.items(), key=lambda item: "seed=2" in item[0])
    assert raised == "ZeroDivisionError: one is too many"
    assert lost == f"its worker was lost (WorkerCrashedError), {cluster.TRIES} times"
    for number in range(2, cluster.TRIES + 1):
        assert f"{two}: its worker was lost (WorkerCrashedError), try {number} of {cluster.TRIES}" in said
    assert "[4/4]" in said and "2 failed" in said
    # Both are tried again by the same command, here without workers.
    again = run(Fake(seed=[0, 1, 2, 3]), tmp_path)
    assert again.results.table["seed"].tolist() == [0, 1, 2, 3] and not again.failed


@pytest.mark.slow
@needs_ray
def test_a_mistake_of_the_author_and_resources_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(ProtocolError, match="measure returned 'finl/loss'"):
        run(Fake(lambda config, data, run: {"finl/loss": 1.0}), tmp_path / "a", workers=Workers(2))
    with pytest.raises(runner.InvalidInput, match="gpus_per_config 99 is more than any node has: the most is 0 GPUs"):
        run(Fake(), tmp_path / "b", workers=Workers(2, gpus=99))


# -- with Ray: a cluster of two nodes, with two network namespaces on this machine, and a folder that they do not share


def allowed():
    """Why there can be no network namespaces here; "" where they can be made."""
    if not shutil.which("ip"):
        return "the command ip is not there"
    name = f"try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made.stderr.strip()


class Nodes:
    """Two namespaces joined by a veth pair, with a Ray node of one core in each; the second sees no `folder`."""

    def __init__(self, folder):
        self.names, self.folder = [f"ray{os.getpid()}{side}" for side in "ab"], folder
        self.addresses = ["10.77.14.1", "10.77.14.2"]
        self.environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        links = [f"v{os.getpid()}{side}" for side in "ab"]
        for name in self.names:
            self.sh(f"ip netns add {name}")
        self.sh(f"ip link add {links[0]} type veth peer name {links[1]}")
        for name, link, address in zip(self.names, links, self.addresses):
            self.sh(f"ip link set {link} netns {name}")
            self.sh(f"ip -n {name} addr add {address}/24 dev {link}")
            self.sh(f"ip -n {name} link set lo up")
            self.sh(f"ip -n {name} link set {link} up")
        ray = Path(sys.executable).with_name("ray")
        common = "--num-cpus=1 --disable-usage-stats --node-ip-address"
        self.sh(
            f"ip netns exec {self.names[0]} {ray} start --head --port=6379 --include-dashboard=false "
            f"{common}={self.addresses[0]}"
        )
        hide = f"mkdir -p /tmp/ray; mount -t tmpfs none /tmp/ray; mount -t tmpfs none {folder}"
        self.sh(
            f"ip netns exec {self.names[1]} unshare -m sh -c '{hide}; {ray} start --address={self.address} "
            f"{common}={self.addresses[1]}'"
        )

    @property
    def address(self):
        return f"{self.addresses[0]}:6379"

    def sh(self, command):
        done = subprocess.run(command, shell=True, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout[-1000:]} {done.stderr[-1000:]}"
        return done.stdout

    def start(self, script, *arguments):
        """A script on the first node."""
        command = ["ip", "netns", "exec", self.names[0], sys.executable, script, f"--out_dir={self.folder}", *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def kill(self, node):
        for pid in self.sh(f"ip netns pids {self.names[node]}").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def close(self):
        for node, name in enumerate(self.names):
            with contextlib.suppress(AssertionError):
                self.kill(node)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def nodes(tmp_path):
    if why := allowed():
        pytest.skip(f"no network namespaces: {why}")
    folder = tmp_path / "driver"
    folder.mkdir()
    found = Nodes.__new__(Nodes)
    try:
        found.__init__(folder)
        yield found
    finally:
        found.close()


@pytest.mark.slow
@needs_ray
def test_two_nodes_without_a_shared_folder_of_which_one_is_lost(nodes, tmp_path):
    options = ["--experiment=drift", "--width=8,16", "--epochs=40", "--train_size=50", "--ntk_sample=5", "--seed=0,1,2"]
    ended(start("run_ntk.py", tmp_path / "whole", "--workers=1", *options))
    asked = subprocess.run(
        ["ip", "netns", "exec", nodes.names[0], sys.executable, "run_ntk.py", f"--out_dir={nodes.folder}",
         f"--ray_address={nodes.address}", "--gpus_per_config=1", *options],
        cwd=ROOT, env=nodes.environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert asked.stderr.splitlines()[-1] == "error: gpus_per_config 1 is more than any node has: the most is 0 GPUs"
    process = nodes.start("run_ntk.py", f"--ray_address={nodes.address}", *options)
    # Results of the second node come through Ray alone; it is lost when some are there and others are not.
    wait_for(lambda: len(list(nodes.folder.rglob("result.json"))) >= 4, process, seconds=400)
    nodes.kill(1)
    _, err = ended(process)
    assert f"{nodes.addresses[1]} does not share" in err and "come back through Ray" in err
    assert "try 2 of" in err
    assert len(measures(nodes.folder)) == 12
    pd.testing.assert_frame_equal(measures(tmp_path / "whole"), measures(nodes.folder), check_exact=True)
