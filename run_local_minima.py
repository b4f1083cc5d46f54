"""Are all local minima of neural networks (nearly) global?

Goldblum et al. 2020, "Truth or Backpropaganda", section 2: an affine optimum, embedded in a ReLU network, is a local
minimum that is not global. Here with a proof for every network: a certified ball around it.

    python run_local_minima.py --width=32 --depth=3 --seed=0,1,2
"""
from absl import app

from experiments import (
    affine_embedding,
    command_line,
    depth_width,
    distillation,
    elimination,
    initialization,
    runner,
    sharpness,
)

EXPERIMENTS = {
    "embedding": affine_embedding,
    "initialization": initialization,
    "distillation": distillation,
    "depth_width": depth_width,
    "elimination": elimination,
    "sharpness": sharpness,
}


def run(experiment="embedding", **options):
    """Run one experiment; see runner.run_named for the options. What tests and notebooks call."""
    return runner.run_named("run_local_minima", EXPERIMENTS, experiment, **options)


def main(_):
    command_line.call(run, EXPERIMENTS)


if __name__ == "__main__":
    command_line.define(EXPERIMENTS)
    app.run(main, flags_parser=command_line.parse)
