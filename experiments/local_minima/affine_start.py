"""What the claims that start at an affine optimum share: the optimum itself, and what a network must be to take it in.

The affine optimum is the lowest training loss of a map x A + c; embedded in a ReLU network it is a local minimum
(analysis/affine_minimum.py).
"""
import hashlib
from typing import Any

import numpy as np

from analysis.affine_minimum import AffineMinimum, embed, fit_affine
from reporting.run_folder import Run
from training.data import Data
from training.fit import TrainingConfig, build_network


def affine_optimum(config: Any, data: Data, run: Run, loss: str | None = None) -> AffineMinimum:
    """fit_affine on the training set, for the loss of config.training unless another is given.

    Computed once for all configs of a run whose training sets are equal, as those of several seeds may be: the optimum
    of 50 000 images takes a minute.
    """
    loss = loss or config.training.loss
    digests = [hashlib.sha256(np.ascontiguousarray(values)).hexdigest() for values in (data.x_train, data.y_train)]
    return run.once(("affine optimum", loss, *digests), lambda: fit_affine(data.x_train, data.y_train, loss=loss))


def check_embeddable(config: Any, data: Data, run: Run) -> None:
    """Raise ValueError, with the reason, where the data have no affine optimum or config.network cannot equal it.

    By a trial on one image: it refuses what is no ReLU mlp, and a width below the rank of the affine map.
    """
    affine = affine_optimum(config, data, run)
    embed(affine, build_network(config, data), data.x_train[:1], shift=1.0)


def stable_rate(training: TrainingConfig, largest_eigenvalue: float) -> float:
    """A learning rate that noise does not drive out of a minimum of this curvature: 0.1 (1 - momentum) / largest.

    SGD with momentum is unstable above 2 (1 + momentum) / largest, and the excess loss by gradient noise grows with
    rate / (1 - momentum). The curvature at the embedded minimum is far above that at default initialization.
    """
    return 0.1 * (1 - training.momentum) / largest_eigenvalue
