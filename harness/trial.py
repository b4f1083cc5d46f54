"""The looks at a trial, kept in the run folder: how many seeds a verdict was asked of, and what that cost it.

`<run folder>/looks.json` has every trial (a grid of configs without its seeds) with its looks and their shares of the
error budget (judging/looks.py). It is written before a verdict is made: who has seen a report has taken a look.
"""
import json
import math
from pathlib import Path

from harness import grid as grids
from harness.experiment import MARGINS, Experiment
from harness.memo import content
from judging.looks import Look, Trial, plan_sizes
from reporting import files

FILE = "looks.json"


def parse_max_seeds(value: int | str | None, experiment: Experiment, options: dict) -> int | None:
    """The number of seeds up to which a run widens its grid: a number, or None for the seeds of the grid alone.

    value: None for the experiment's own, which holds where no seeds are given; 0 for no widening. Raises ValueError for
    what is no number of seeds.
    """
    if value is None:
        return None if "seed" in options else experiment.max_seeds
    number = grids.convert("max_seeds", value, int)
    if number < 0:
        raise ValueError(f"max_seeds must be a number of seeds, or 0 for those of the grid, got {value}")
    return number or None


def plan_seeds(first: list[int], max_seeds: int | None) -> list[list[int]]:
    """[seeds of each look]: those of the grid first, then with the next ones, up to max_seeds of them."""
    if max_seeds is not None and max_seeds < len(first):
        raise ValueError(f"max_seeds must be at least the number of seeds, {len(first)}, got {max_seeds}")
    more = range(max(first) + 1, max(first) + 1 + (max_seeds or len(first)) - len(first))
    return [[*first, *more][:size] for size in plan_sizes(len(first), max_seeds or len(first))]


def check_margins(experiment: Experiment, given: dict) -> dict[str, float]:
    """{name: margin} that the judge uses: the experiment's own, but for those given.  Raises ValueError."""
    margins = {}
    for name, value in given.items():
        if name not in experiment.margins:
            known = " and ".join(experiment.margins) or "none"
            raise ValueError(f"this experiment has no {name}: its smallest effects that matter are {known}")
        margins[name] = grids.convert(name, value, float)
        if not (1 if name == "margin_factor" else 0) < margins[name] < math.inf:
            raise ValueError(f"{name} must be {MARGINS[name]}, got {value}")
    return {**experiment.default_margins, **margins}


class Looks:
    """The looks of one run: a plan of sets of seeds for one grid and one set of margins."""

    def __init__(self, folder: Path, grid: dict[str, list], plan: list[list[int]], margins: dict[str, float]):
        """folder: the experiment's.  grid: {field: values}.  plan: [seeds].  ValueError for a damaged file."""
        self.path, self.plan, self.margins = folder / FILE, plan, margins
        axes = {name: content(values) for name, values in grid.items() if name != "seed"}
        self.key = files.digest(axes)[:16]
        self.grid = {name: ",".join(map(grids.text, values)) for name, values in grid.items() if name != "seed"}
        self._read()

    def _read(self):
        try:
            return files.read_json(self.path)["trials"] if self.path.exists() else {}
        except ValueError as error:
            raise ValueError(
                f"{error}: it has the looks that were taken at this trial; delete it only to begin the count anew, "
                "and say so where you publish the verdict"
            ) from error

    def _text(self, seeds):
        return json.dumps({"seeds": sorted(seeds), **self.margins}, sort_keys=True)

    def take(self, number: int) -> Look:
        """The judging.looks.Look at the plan's set of seeds with this number; it is written down first."""
        trials = self._read()
        known = trials.get(self.key, {"grid": self.grid, "looks": {}})
        trial, sizes = Trial(known["looks"]), [len(seeds) for seeds in self.plan]
        trial.plan([self._text(seeds) for seeds in self.plan], sizes)
        look = trial.take(self._text(self.plan[number]), sizes)
        trials[self.key] = {**known, "looks": trial.entries}
        files.write_json(self.path, {"trials": trials})
        return look

    def taken(self, number: int) -> Look:
        """The judging.looks.Look that was taken at the plan's set of seeds with this number, out of the file alone.

        Raises ValueError where the file has no such look.
        """
        known = self._read().get(self.key, {"looks": {}})
        text = self._text(self.plan[number])
        if known["looks"].get(text, {"judged": None})["judged"] is None:
            raise ValueError(f"{self.path} has no look at this grid with {text}")
        return Trial(known["looks"]).take(text, [len(seeds) for seeds in self.plan])
