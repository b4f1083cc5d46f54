"""Does the neural tangent kernel (NTK) of a wide network stand still during training?

Jacot et al. 2018 prove it for infinite width; Goldblum et al. 2020, "Truth or Backpropaganda", section 4, find that it
does not hold for ResNets. Here with the exact kernel of every network, and trends with width over seeds.

    python run_ntk.py --width=1024
"""
from absl import app

from experiments import load_experiments
from harness import command_line, runner

# An experiment is called like its file in experiments/ntk/; the first is the default.
EXPERIMENTS = load_experiments(
    "experiments.ntk",
    "drift",
    "evolution",
    "features",
    "linearization",
    "lazy",
    "infinite_width",
    "spectrum",
)


def run(experiment="drift", **options):
    """Run one experiment; see runner.run_named for the options. What tests and notebooks call."""
    return runner.run_named("run_ntk", EXPERIMENTS, experiment, **options)


def main(_):
    command_line.call(run, EXPERIMENTS)


if __name__ == "__main__":
    command_line.define(EXPERIMENTS)
    app.run(main, flags_parser=command_line.parse)
