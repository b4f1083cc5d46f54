"""A real TensorBoard server, started as the report says, shows what a finished run measured."""
import contextlib
import json
import re
import shlex
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pandas as pd
import pytest
from tensorboard.plugins.hparams import api_pb2

import run_ntk
from experiments.ntk.drift import EXPERIMENT
from harness import grid
from reporting import tensorboard_report

TINY = {
    "dataset": "gaussian",
    "train_size": 40,
    "test_size": 20,
    "ntk_sample": 6,
    "batch_size": 20,
    "depth": 1,
    "quiet": True,
}


@contextlib.contextmanager
def server(logdir):
    """The address of a TensorBoard server on a free loopback port; it has ended afterwards."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", "--host=127.0.0.1", "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found.group()
                return
        raise RuntimeError(said)
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def get(address, path, **query):
    with urllib.request.urlopen(f"{address}data/plugin/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
        return answer.read()


def post(address, path, **request):
    question = urllib.request.Request(
        f"{address}data/plugin/hparams/{path}", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(question, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose grid was widened by a second call."""
    out = tmp_path_factory.mktemp("my results")
    run_ntk.run("drift", out_dir=out, epochs=2, width=4, seed=[0, 1], **TINY)
    return run_ntk.run("drift", out_dir=out, epochs=2, width=[4, 8], seed=[0, 1], **TINY)


@pytest.mark.slow
def test_the_server_shows_scalars_images_histograms_and_hparams(finished):
    text = (finished.folder / "report.md").read_text()
    _, argument = shlex.split(re.search(r"`(tensorboard [^`]*)`", text).group(1))
    ids = list(finished.results.table["config_id"])
    with server(argument.removeprefix("--logdir=")) as address:
        for _ in range(60):  # it reads the folder in the background
            scalars = json.loads(get(address, "scalars/tags"))
            images = json.loads(get(address, "images/tags"))
            if set(scalars) == set(ids) and len(images.get("report", ())) == 2:
                break
            time.sleep(1)
        assert set(scalars) == set(ids)
        for config_id in ids:
            curves = [tag for tag in scalars[config_id] if not tag.startswith(f"{tensorboard_report.FINAL}/")]
            measures = {tag.removeprefix(f"{tensorboard_report.FINAL}/") for tag in {*scalars[config_id]} - {*curves}}
            assert len(curves) <= 6 and measures <= {*finished.results.table}  # few: 200 configs shall open quickly
            found = json.loads(get(address, "scalars/scalars", run=config_id, tag="training/train/loss"))
            history = finished.results.histories[config_id]
            assert [(step, value) for _, step, value in found] == [
                (epoch, pytest.approx(loss)) for epoch, loss in zip(history["epoch"], history["train/loss"])
            ]
            histograms = json.loads(get(address, "histograms/tags"))[config_id]
            (name, *_) = (tag for tag in histograms if tag.endswith("kernel"))
            assert [
                step for _, step, _ in json.loads(get(address, "histograms/histograms", run=config_id, tag=name))
            ] == [1, 2]
        assert set(images) == {"report"}  # figures are drawn once for a grid
        assert set(images["report"]) == {"figures/ntk_against_width", "figures/ntk_heat_maps"}
        (image,) = json.loads(get(address, "images/images", run="report", tag="figures/ntk_heat_maps", sample=0))
        data = get(address, "images/individualImage", **dict(urllib.parse.parse_qsl(image["query"])))
        assert data.startswith(b"\x89PNG") and min(struct.unpack(">II", data[16:24])) > 300  # width and height
        hparams(address, finished.results.table)


def hparams(address, table):
    """The columns are the fields, those that differ first, and the measures; the rows are the configs alone."""
    experiment = post(address, "experiment", experimentName="")
    columns = [info["name"] for info in experiment["hparamInfos"]]
    given = {name for name in grid.flat(EXPERIMENT.config()) if table[name].notna().any()}
    assert columns[:2] == ["seed", "width"] and set(columns) == given
    boxes = {info["name"]: info.get("domainDiscrete") for info in experiment["hparamInfos"]}
    assert boxes["width"] == [4, 8] and boxes["model"] == ["mlp"] and boxes["normalize"] == [False]
    metrics = {info["name"]["tag"]: info["displayName"] for info in experiment["metricInfos"]}
    assert metrics == {f"{tensorboard_report.FINAL}/{name}": heading for name, heading in EXPERIMENT.headings.items()}
    found = post(
        address, "session_groups", startIndex=0, sliceSize=100, allowedStatuses=["STATUS_UNKNOWN"],
        colParams=[{"metric": {"tag": tag, "group": ""}} for tag in metrics],
    )["sessionGroups"]  # fmt: skip
    assert sorted(group["name"] for group in found) == sorted(table["config_id"])
    for group in found:
        (row,) = table[table["config_id"] == group["name"]].to_dict("records")
        assert (group["hparams"]["width"], group["hparams"]["seed"]) == (row["width"], row["seed"])
        values = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
        assert values == {
            f"{tensorboard_report.FINAL}/{name}": pytest.approx(row[name], rel=1e-6) for name in EXPERIMENT.headings
        }


@pytest.mark.parametrize(
    ("values", "kind", "differs"),
    [
        ([1, 2, 2, None], [1.0, 2.0], True),
        ([0.5, 0.5, float("nan")], [0.5], False),
        ([True, False], [False, True], True),
        (["mlp", "mlp"], ["mlp"], False),
        ([(8, 4), ()], ["8-4", "none"], True),
        (list(range(40)), (0.0, 39.0), True),
        ([None, None], None, None),
        ([True, 3], None, None),
    ],
)
def test_domains(values, kind, differs):
    found = tensorboard_report.domain(pd.Series(values, dtype=object))
    if kind is None:
        assert found is None
        return
    info = api_pb2.HParamInfo()
    found.update_hparam_info(info)
    assert info.differs == differs
    assert ((found.min_value, found.max_value) if isinstance(kind, tuple) else found.values) == kind
