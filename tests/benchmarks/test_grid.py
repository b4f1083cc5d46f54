"""benchmarks/grid.py: what stands in for a worker is called as one, and leaves what a worker would."""
import inspect
from types import SimpleNamespace

from benchmarks import trivial
from harness import cluster, grid, runner


def test_the_instant_worker_is_called_as_a_worker_and_its_result_counts(tmp_path, capsys):
    assert list(inspect.signature(trivial.instant).parameters) == list(inspect.signature(cluster.measure).parameters)
    config = trivial.Config(seed=3)
    identity, folder = runner.config_id(trivial.EXPERIMENT, config), tmp_path / "trivial" / "trivial"
    place = SimpleNamespace(folder=str(folder))
    trivial.instant(trivial.EXPERIMENT, config, identity, grid.flat(config), place, None, None)
    report = runner.run("run_trivial", trivial.EXPERIMENT, {"seed": [3, 4]}, name="trivial", out_dir=tmp_path)
    assert report.results.table["seed/squared"].tolist() == [9.0, 16.0]
    assert "1 of 2 configs were finished before" in capsys.readouterr().err
