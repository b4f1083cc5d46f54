"""Are all local minima of neural networks (nearly) global?

Goldblum et al. 2020, "Truth or Backpropaganda", section 2: an affine optimum, embedded in a ReLU network, is a local
minimum that is not global. Here with a proof for every network: a certified ball around it.

    python run_local_minima.py --width=32 --depth=3 --seed=0,1,2
"""
from absl import app

from experiments import load_experiments
from harness import command_line, runner

# An experiment is called like its file in experiments/local_minima/; the first is the default.
EXPERIMENTS = load_experiments(
    "experiments.local_minima",
    "affine_minimum",
    "initialization",
    "distillation",
    "depth_width",
    "elimination",
    "sharpness",
    "edge_of_stability",
    "connectivity",
)
FORMER = {"embedding": "affine_minimum"}  # earlier names of experiments


def run(experiment="affine_minimum", **options):
    """Run one experiment; see runner.run_named for the options. What tests and notebooks call."""
    return runner.run_named("run_local_minima", EXPERIMENTS, experiment, former=FORMER, **options)


def main(_):
    command_line.call(run, EXPERIMENTS)


if __name__ == "__main__":
    command_line.define(EXPERIMENTS, former=FORMER)
    app.run(main, flags_parser=command_line.parse)
