"""Does the rank of a network's operators explain its generalization or its robustness?

Goldblum et al. 2020, "Truth or Backpropaganda", section 5: networks pushed to low and to high rank, naturally and
adversarially trained, and the spectra of convolutions as the linear operators that they are. And, after Papyan et al.
2020: do the last layer's features collapse to rank (classes - 1)?

    python run_rank.py --model=resnet --width=8 --dataset=cifar10 --train_size=2000
"""
from absl import app

from experiments import load_experiments
from harness import command_line, runner

# An experiment is called like its file in experiments/rank/; the first is the default.
EXPERIMENTS = load_experiments(
    "experiments.rank",
    "robustness",
    "spectra",
    "collapse",
)


def run(experiment="robustness", **options):
    """Run one experiment; see runner.run_named for the options. What tests and notebooks call."""
    return runner.run_named("run_rank", EXPERIMENTS, experiment, **options)


def main(_):
    command_line.call(run, EXPERIMENTS)


if __name__ == "__main__":
    command_line.define(EXPERIMENTS)
    app.run(main, flags_parser=command_line.parse)
