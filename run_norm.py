"""Is a small norm of the parameters what generalizes, and is that why weight decay helps?

Goldblum et al. 2020, "Truth or Backpropaganda", section 3: norm-bias, which draws the parameters to a large norm,
against weight decay, which draws them to 0, on the same seeds; and test accuracy over the whole range of norms. Zhang
et al. 2017, "Understanding deep learning requires rethinking generalization": do networks generalize because they
cannot fit random labels, what can they represent, and does the norm of an interpolating solution tell how well it
generalizes? And, after Belkin et al. 2019: does the test loss descend a second time as networks widen?

    python run_norm.py --model=resnet --width=8 --train_size=300
"""
from absl import app

from experiments import load_experiments
from harness import command_line, runner

# An experiment is called like its file in experiments/norm/; the first is the default.
EXPERIMENTS = load_experiments(
    "experiments.norm",
    "norm_bias",
    "norm_profile",
    "randomization",
    "expressivity",
    "minimum_norm",
    "double_descent",
    "measures",
)


def run(experiment="norm_bias", **options):
    """Run one experiment; see runner.run_named for the options. What tests and notebooks call."""
    return runner.run_named("run_norm", EXPERIMENTS, experiment, **options)


def main(_):
    command_line.call(run, EXPERIMENTS)


if __name__ == "__main__":
    command_line.define(EXPERIMENTS)
    app.run(main, flags_parser=command_line.parse)
