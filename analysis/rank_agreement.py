"""Do two orders of the same networks agree, and is it one hyperparameter that makes them?  Kendall's tau.

Jiang, Neyshabur, Mobahi, Krishnan & Bengio 2020 (1912.02178, section 4): of networks T with measure mu and
generalization gap g,

    tau = 1 / (|T| (|T| - 1))  sum_{a != b}  sign(mu_a - mu_b) sign(g_a - g_b)                              (equation 1)

A measure may have a large tau because it follows one hyperparameter that moves the gap. The granulated coefficient
compares only networks that differ along one axis i of the hyperparameters (a line of the grid):

    psi_i = mean over the lines along axis i of tau on the line,      Psi = mean over i of psi_i           (equation 4)

Dziugaite et al. 2020 (2010.11924, section 3): a mean over settings hides those in which a measure fails. An environment
is one change of one hyperparameter (from this value to that); its sign error is the share of pairs of networks that
differ by it which mu and g order otherwise, ties being half; the robust sign error is that of the worst environment.
They weight pairs by how sure the order of g is; here all count alike, which draws an error towards 1/2.
"""
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """Pairs of networks of one block (seed) that differ along one axis alone.

    first, second: positions of the networks, [m].  axis: place in `axes`, [m].  block: place in `blocks`, [m].
    environment: place in `environments`, [m].  share: 1 / number of pairs on its line, [m].
    """

    first: np.ndarray
    second: np.ndarray
    axis: np.ndarray
    block: np.ndarray
    environment: np.ndarray
    share: np.ndarray
    axes: tuple
    blocks: tuple
    environments: tuple


def single_changes(cells: dict, blocks: Iterable) -> Pairs:
    """All pairs of networks of a block that differ along one axis alone.

    cells: {axis: values [n]}, the settings of each network, compared by ==; an axis with one value has no pairs.
    blocks: [n], the seed of each network. ValueError where a block has a setting twice.
    """
    axes, blocks = tuple(cells), list(blocks)
    codes = []  # by place of a value in the order of its first appearance
    values = [list(dict.fromkeys(cells[axis])) for axis in axes]
    for axis, known in zip(axes, values):
        place = {value: i for i, value in enumerate(known)}
        codes.append([place[value] for value in cells[axis]])
    keys = list(zip(blocks, *codes))
    if len(set(keys)) < len(keys):
        raise ValueError("a seed has the same setting twice")
    names = tuple(dict.fromkeys(blocks))
    number = {name: i for i, name in enumerate(names)}
    environments, rows = {}, []
    for i, axis in enumerate(axes):
        lines = {}
        for position, key in enumerate(keys):
            lines.setdefault((key[0], *key[1 : i + 1], *key[i + 2 :]), []).append(position)
        for line in lines.values():
            line = sorted(line, key=lambda position: codes[i][position])
            pairs = list(itertools.combinations(line, 2))
            for a, b in pairs:
                change = axis, values[i][codes[i][a]], values[i][codes[i][b]]
                place = environments.setdefault(change, len(environments))
                rows.append((a, b, i, number[blocks[a]], place, len(pairs)))
    table = np.array(rows, int).reshape(-1, 6)
    return Pairs(*table[:, :5].T, 1 / np.maximum(table[:, 5], 1), axes, names, tuple(environments))


def agreement(pairs: Pairs, measures: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """sign(mu_a - mu_b) sign(g_a - g_b) of every pair: 1, 0 or -1, [m, measures]; measures [n, measures], gap [n]."""
    measures, gap = np.asarray(measures, float), np.asarray(gap, float)
    order = np.sign(gap[pairs.first] - gap[pairs.second])
    return np.sign(measures[pairs.first] - measures[pairs.second]) * order[:, None]


def granulated_tau(pairs: Pairs, agrees: np.ndarray, weights: np.ndarray | None = None) -> tuple:
    """(psi [axes, measures], Psi [measures]) over all blocks, or with weights of the pairs, [m].

    Psi is the mean over the axes that have pairs (of weight above 0); nan where none has.
    """
    weights = pairs.share if weights is None else pairs.share * weights
    by_axis = (np.arange(len(pairs.axes))[:, None] == pairs.axis) * weights  # [axes, m]
    with np.errstate(invalid="ignore", divide="ignore"):
        psi = (by_axis @ agrees) / by_axis.sum(axis=1, keepdims=True)
    known = psi[by_axis.sum(axis=1) > 0]
    return psi, known.mean(axis=0) if len(known) else np.full(agrees.shape[1], np.nan)


def granulated_by_block(pairs: Pairs, agrees: np.ndarray) -> np.ndarray:
    """Psi of every block alone, [blocks, measures]; nan where one of the axes that have pairs elsewhere has none."""
    psi = np.full((len(pairs.blocks), agrees.shape[1]), np.nan)
    axes = set(pairs.axis.tolist())
    for block in range(len(pairs.blocks)):
        inside = pairs.block == block
        if axes and set(pairs.axis[inside].tolist()) == axes:
            psi[block] = granulated_tau(pairs, agrees, inside.astype(float))[1]
    return psi


def kendall_tau(measures: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Jiang et al.'s tau of each measure, [measures]; measures [n, measures], gap [n]. nan for fewer than two."""
    measures, gap = np.asarray(measures, float), np.asarray(gap, float)
    if len(gap) < 2:
        return np.full(measures.shape[1], np.nan)
    a, b = np.triu_indices(len(gap), 1)
    return np.mean(np.sign(measures[a] - measures[b]) * np.sign(gap[a] - gap[b])[:, None], axis=0)


def sign_errors(pairs: Pairs, agrees: np.ndarray) -> np.ndarray:
    """The sign error of every environment, over all its pairs and blocks, [environments, measures]."""
    of = np.arange(len(pairs.environments))[:, None] == pairs.environment  # [environments, m]
    return (of @ ((1 - agrees) / 2)) / np.maximum(of.sum(axis=1, keepdims=True), 1)


def bootstrap_granulated(
    pairs: Pairs, agrees: np.ndarray, cell: np.ndarray, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> np.ndarray:
    """Percentile intervals of Psi over networks, [2, measures]: seeds and settings are both drawn anew.

    Networks share seeds (data and initialization) and settings, so neither the networks nor the pairs are independent:
    both are drawn with replacement, and a pair counts as often as its seed times each of its two settings (the
    pigeonhole bootstrap, Owen 2007, which is conservative). cell: [n], the setting of each network, as a number.
    """
    cell = np.asarray(cell, int)
    rng, cells = np.random.default_rng(seed), int(cell.max(initial=-1)) + 1
    if not len(pairs.axis):
        return np.full((2, agrees.shape[1]), np.nan)
    blocks = rng.multinomial(len(pairs.blocks), np.full(len(pairs.blocks), 1 / len(pairs.blocks)), draws)
    settings = rng.multinomial(cells, np.full(cells, 1 / cells), draws)
    blocks, settings = (np.ascontiguousarray(drawn.T, float) for drawn in (blocks, settings))  # rows are picked fast
    counts = blocks[pairs.block]  # [m, draws]: how often a pair is drawn
    counts *= settings[cell[pairs.first]]
    counts *= settings[cell[pairs.second]]
    total, axes = np.zeros((draws, agrees.shape[1])), np.zeros((draws, 1))
    for axis in range(len(pairs.axes)):
        inside = pairs.axis == axis
        part, share = counts[inside].T, pairs.share[inside, None]
        whole = part @ share
        total += (part @ (share * agrees[inside])) / np.where(whole > 0, whole, 1)
        axes += whole > 0
    found = (total / np.maximum(axes, 1))[axes[:, 0] > 0]
    limits = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.round(limits, 12) + 0.0  # a sum of thirds that cancel is 0, and no -1e-18
