"""Which way of adding seeds until a verdict is decided?  Error over all looks, power, and seeds used, by simulation.

    python benchmarks/sequential_designs.py

One-sided t-tests at 2.5 % in all, looked at after some numbers of seeds:

- fixed: one look, at the last number; no trial can do better at so many seeds.
- uncorrected: every look at 2.5 %, which is what widening a grid by hand amounts to.
- Bonferroni spending: look k at the level that the power family of Kim & DeMets 1987 spends there, alpha ((n_k / N)^rho
  - (n_{k-1} / N)^rho); what judging/looks.py does, with rho = 2.
- group-sequential: boundaries of the same spending from the joint normal distribution of the looks (Lan & DeMets
  1983), used for the t-tests' p-values (the significance-level approach, Jennison & Turnbull 2000, chapter 11).
- anytime: the Bayes factor of the t-test with a standard normal prior on the effect (Goenen et al. 2005),
  an e-process under the scale group (Perez-Ortiz et al. 2024; Wang & Ramdas 2025): decided above 1 / (2 * 2.5 %).
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from absl import app, flags
from scipy import stats

from benchmarks.tables import head, row
from judging.decision import SKEW

LEVEL = 0.025
FLAGS = flags.FLAGS


def p_values(x, looks):
    """One-sided p-values [looks, trials] of the mean of the first n of x [trials, N]."""
    return np.array([stats.t.sf(t_statistic(x[:, :n]), n - 1) for n in looks])


def t_statistic(x):
    return x.mean(axis=1) / (x.std(axis=1, ddof=1) / np.sqrt(x.shape[1]))


def spending(looks, rho):
    """Shares of the level that are spent at each look."""
    return np.diff(np.r_[0, (np.array(looks) / looks[-1]) ** rho])


def group_sequential_levels(looks, rho, draws=2_000_000):
    """Nominal levels of each look whose crossing probabilities are those of the spending function, for normal sums."""
    steps = np.random.default_rng(1).standard_normal((draws, len(looks))) * np.sqrt(np.diff(np.r_[0, looks]))
    z, alive, levels = np.cumsum(steps, axis=1) / np.sqrt(looks), np.ones(draws, bool), []
    for k, share in enumerate(spending(looks, rho)):
        boundary = np.sort(z[alive, k])[::-1][round(share * LEVEL * draws)]
        levels.append(stats.norm.sf(boundary))
        alive &= z[:, k] <= boundary
    return np.array(levels)


def log_bayes_factor(x):
    """log of the Bayes factor of a standard normal effect against none, [trials]; -inf on the wrong side."""
    n = x.shape[1]
    t = t_statistic(x)
    log = -0.5 * np.log1p(n) + n / 2 * (np.log1p(t**2 / (n - 1)) - np.log1p(t**2 / ((n - 1) * (1 + n))))
    return np.where(t > 0, log, -np.inf)


def decided(design, x, looks):
    """[looks, trials]: does the design decide at this look?"""
    name, *rho = design
    if name == "anytime":
        return np.array([log_bayes_factor(x[:, :n]) >= -np.log(2 * LEVEL) for n in looks])
    levels = {
        "fixed": lambda: LEVEL * np.r_[np.zeros(len(looks) - 1), 1],
        "uncorrected": lambda: np.full(len(looks), LEVEL),
        "Bonferroni spending": lambda: LEVEL * spending(looks, *rho),
        "group-sequential": lambda: group_sequential_levels(looks, *rho),
    }[name]()
    return p_values(x, looks) <= levels[:, None]


DESIGNS = [("fixed",), ("uncorrected",), *((name, rho) for name in ("Bonferroni spending", "group-sequential")
                                           for rho in (1, 2, 3)), ("anytime",)]  # fmt: skip
NOISE = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t3": lambda rng, shape: rng.standard_t(3, shape) / np.sqrt(3),
}
SKEWED = {  # of mean 0
    "lognormal": lambda rng, shape: rng.lognormal(0, SIGMA, shape) - np.exp(SIGMA**2 / 2),
    "exponential": lambda rng, shape: rng.exponential(1, shape) - 1,
}
SIGMA = 0.5  # of benchmarks/scenarios: a skewness of 1.75
SINGLE = LEVEL / SKEW  # at which a single value is tested


def design_table(looks, trials):
    """Print a row for each design with looks at these numbers of seeds."""
    effects = (1, 2)
    head(f"design, looks at {'-'.join(map(str, looks))} seeds", *(f"error, {noise}" for noise in NOISE),
         *(f"power at {effect} sd (mean seeds)" for effect in effects))  # fmt: skip
    for design in DESIGNS:
        cells = []
        for effect, noise in (*((0, noise) for noise in NOISE), *((effect, "normal") for effect in effects)):
            x = effect + NOISE[noise](np.random.default_rng(0), (trials, looks[-1]))
            hits = decided(design, x, looks)
            used = np.array(looks)[np.where(hits.any(axis=0), hits.argmax(axis=0), len(looks) - 1)].mean()
            cells.append(f"{100 * hits.any(axis=0).mean():.1f} %" + (f" ({used:.1f})" if effect else ""))
        row(" ".join(map(str, design)), *cells)


def skewed_table(sizes, trials):
    """Print the error of a one-sided t-test of single values of mean 0, in the worse direction and in the other."""
    head("noise", "level", "direction", *(f"error with {n} seeds" for n in sizes))
    for noise, draw in SKEWED.items():
        x = draw(np.random.default_rng(0), (trials, sizes[-1]))
        for level in (LEVEL, SINGLE):
            for sign, direction in ((-1, "away from the tail"), (1, "towards the tail")):
                errors = [100 * np.mean(p_values(sign * x, [n]) <= level) for n in sizes]
                row(noise, f"{100 * level:g} %", direction, *(f"{error:.1f} %" for error in errors))


def main(_):
    for plan in FLAGS.looks:
        design_table([int(n) for n in plan.split("-")], FLAGS.trials)
        print()
    skewed_table([3, 4, 6, 12], FLAGS.trials)


if __name__ == "__main__":
    flags.DEFINE_integer("trials", 200_000, "simulated trials for each number")
    flags.DEFINE_list("looks", ["6-8-12", "3-4-6", "3-6-12", "6-12-24"], "numbers of seeds at the looks")
    app.run(main)
