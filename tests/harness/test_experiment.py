"""harness/experiment.py: whatever contradicts the protocol ends the import, with a line that says what is wrong."""
import dataclasses
import importlib
import sys
from dataclasses import dataclass, field

import pytest

from harness.experiment import Experiment, ProtocolError, evaluation_columns, former_evaluation_columns, seed_field
from judging.verdict import Claim
from models import NetworkConfig
from tests.fake_experiment import Fake
from training.data import DataConfig


def parts(**changes):
    """The arguments of a sound experiment, with changes."""
    sound = {f.name: getattr(Fake().experiment, f.name) for f in dataclasses.fields(Experiment)}
    return {**sound, **changes}


@dataclass(frozen=True)
class Clash:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    width: int = field(default=1, metadata={"help": "the network has one too"})
    seed: int = seed_field()

    def validate(self):
        pass


@dataclass(frozen=True)
class Unchecked:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    seed: int = seed_field()

    def validte(self):
        pass


@dataclass(frozen=True)
class Helpless:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    factor: float = 1.0
    seed: int = seed_field()

    def validate(self):
        pass


@dataclass
class Thawed:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    seed: int = seed_field()

    def validate(self):
        pass


@dataclass(frozen=True)
class Seedless:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()

    def validate(self):
        pass


BROKEN = {
    "a column of the table is misspelt": (
        {"table": ("finl/loss",)},
        r"table has 'finl/loss', which is no column \(did you mean",
    ),
    "a stage twice": ({"stages": ("a", "b", "a")}, "stages must be names, none of them twice"),
    "one stage as text": ({"stages": "training"}, "stages must be names"),
    "a clash of field names": ({"config": Clash}, "field width stands in NetworkConfig and Clash"),
    "a config that can change": ({"config": Thawed}, "config must be a frozen dataclass"),
    "a config without seed": ({"config": Seedless, "grid": {}, "apart": ()}, "config has no field seed"),
    "validate is misspelt": ({"config": Unchecked, "apart": ()}, r"Unchecked has no validate\(\)"),
    "a field without help": ({"config": Helpless}, "field factor has no metadata with its help"),
    "an axis that is no field": (
        {"grid": {"widht": [1]}},
        r"grid has 'widht', which is no field .* \(did you mean width\?\)",
    ),
    "comparing what is no field": ({"apart": ("fctor",)}, "apart has 'fctor', which is no field"),
    "comparing seeds": ({"apart": ("seed",)}, "apart has 'seed', which is the replicate"),
    "a column named like a field": (
        {"columns": {"final/loss": "", "loss": ""}},
        "column 'loss' is the name of a config field",
    ),
    "a column named like the runner's": (
        {"columns": {"final/loss": "", "seconds": ""}},
        "column 'seconds' is the name",
    ),
    "measure without run": ({"measure": lambda config, data: {}}, "measure must be a function of 3 arguments"),
    "check without run": ({"check": lambda config, data: None}, "check must be a function of 3 arguments"),
    "judge of two": ({"judge": lambda results, level: None}, "judge must be a function of 1 arguments"),
    "applies without its line": ({"applies": lambda config: True}, "applies and needs belong together"),
    "an old name of nothing": ({"former_columns": {"old": "new"}}, "'new' must be a column"),
    "a claim that is text": ({"claim": "All is well."}, "claim must be a Claim"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_contradiction_is_an_error_at_once(what):
    changes, message = BROKEN[what]
    Experiment(**parts())
    with pytest.raises(ProtocolError, match=message):
        Experiment(**parts(**changes))


@pytest.mark.parametrize("name", ["chek", "aplies", "MEASURES", "GRID"])
def test_a_misspelt_part_is_an_error_at_once(name):
    with pytest.raises(TypeError, match=name):
        Experiment(**parts(), **{name: None})


@pytest.mark.parametrize(
    "name", ["claim", "config", "columns", "table", "stages", "apart", "measure", "judge", "figures"]
)
def test_a_missing_part_is_an_error_at_once(name):
    given = parts()
    del given[name]
    with pytest.raises(TypeError, match=name):
        Experiment(**given)


def test_the_import_of_a_broken_module_says_where(tmp_path, monkeypatch):
    module = tmp_path / "broken_claim.py"
    module.write_text(
        "from tests.harness.test_experiment import Experiment, parts\n\n"
        "def measure(config, data, run):\n    return {}\n\n"
        "EXPERIMENT = Experiment(**parts(measure=measure, table=('nothing',)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProtocolError, match="experiment in broken_claim: table has 'nothing', which is no column"):
        importlib.import_module("broken_claim")
    assert "broken_claim" not in sys.modules


def test_numbers_must_have_a_column_and_patterns_stand_for_any_text():
    experiment = Experiment(**parts(columns={"final/loss": "", "robust/<epsilon>": "", "a.b/<x>/c": ""}))
    experiment.check_measures({"final/loss": 1, "robust/8": 1, "a.b/1/c": 1, "diverged_epoch": None})
    for name in ("robust", "robust/", "aXb/1/c", "rubust/8"):
        with pytest.raises(ProtocolError, match=f"measure returned '{name}'"):
            experiment.check_measures({name: 1})


def test_stages_may_be_patterns():
    experiment = Experiment(**parts(stages=("base", "sw2=<variance>-depth=<depth>")))
    assert (
        experiment.knows_stage("base")
        and experiment.knows_stage("sw2=0.5-depth=4")
        and not experiment.knows_stage("bas")
    )


def test_earlier_names_become_todays():
    @dataclass(frozen=True)
    class Renamed:
        network: NetworkConfig = NetworkConfig()
        data: DataConfig = DataConfig()
        attack_steps: int = field(default=7, metadata={"help": "steps", "formerly": "steps"})
        seed: int = seed_field()

        def validate(self):
            pass

    experiment = Experiment(
        claim=Claim("", ""), config=Renamed, grid={}, stages=(), apart=(), table=("train/loss",),
        columns=evaluation_columns(), former_columns=former_evaluation_columns("trained"),
        **{name: parts()[name] for name in ("measure", "judge", "figures")},
    )  # fmt: skip
    old = {"steps": 3, "trained/loss": 1.0, "trained/test_accuracy": 0.5, "model": "mlp"}
    assert experiment.modernize(old) == {"attack_steps": 3, "train/loss": 1.0, "test/accuracy": 0.5, "model": "mlp"}
