"""Is a small norm of the parameters what generalises, and is that why weight decay helps?

Goldblum et al. 2020, "Truth or Backpropaganda", section 3: norm-bias, which draws the parameters to a large norm, against
weight decay, which draws them to 0, on the same seeds; and test accuracy over the whole range of norms.

    python run_norm.py --model=resnet --width=8 --train_size=300
"""
from absl import app

from experiments import command_line, norm_bias, norm_profile, runner

EXPERIMENTS = {"norm_bias": norm_bias, "norm_profile": norm_profile}


def run(experiment="norm_bias", **options):
    """Run one experiment; see runner.run_named for the options. What tests and notebooks call."""
    return runner.run_named("run_norm", EXPERIMENTS, experiment, **options)


def main(_):
    command_line.call(run, EXPERIMENTS)


if __name__ == "__main__":
    command_line.define(EXPERIMENTS)
    app.run(main, flags_parser=command_line.parse)
