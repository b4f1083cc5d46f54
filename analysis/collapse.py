"""How far have the last layer's features collapsed to a simplex of class means?  Papyan, Han & Donoho 2020.

"Prevalence of neural collapse during the terminal phase of deep learning training" (PNAS 117, 2008.08186) names four
limits, NC1 to NC4. The numbers here are those of its figures 2 to 7, and each of them is 0 where the collapse is
complete.
"""
from dataclasses import dataclass

import keras
import numpy as np

from analysis.features import last_with_weights


@dataclass(frozen=True)
class Collapse:
    """The paper's measures of one set of features; 0: complete collapse. nan: not defined (features that died).

    nc1: Tr(S_W S_B^+) / C, the spread within classes against the spread of the C class means (figure 6).
    nc2_norms: standard deviation over mean of the class means' lengths, measured from their centre (figure 2).
    nc2_angles: mean of |cos + 1 / (C - 1)| over pairs of class means: how far from the largest angle (figure 4).
    nc3: || W / ||W|| - M / ||M|| ||^2 of the classifier W and the centred class means M, in Frobenius norms (figure 5).
    nc4: share of examples that the network puts into another class than that of the nearest class mean (figure 7).
    """

    nc1: float
    nc2_norms: float
    nc2_angles: float
    nc3: float
    nc4: float


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean features [C, p] of every class; features [n, p], labels [n]. A class without examples is a ValueError."""
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise ValueError(f"class {int(np.argmin(counts))} has no example")
    return np.stack([features[labels == c].mean(axis=0) for c in range(classes)])


def neural_collapse(
    features: np.ndarray, labels: np.ndarray, kernel: np.ndarray, bias: np.ndarray | float,
    means: np.ndarray | None = None,
) -> Collapse:  # fmt: skip
    """NC1 to NC4 of features [n, p] with labels [n] below a classifier with kernel [p, C] and bias [C], or 0.

    means [C, p]: the class means that NC4 compares distances to; those of the features themselves when None. With test
    features, give those of the training set: the paper's nearest class centre is learned there.
    Every class counts alike, however many examples it has: the centre is the mean of the class means, and the spread
    within classes is the mean over classes. For balanced classes these are the paper's definitions.
    """
    classes = kernel.shape[1]
    own = class_means(features, labels, classes)
    centred = own - own.mean(axis=0)  # [C, p]
    lengths = np.linalg.norm(centred, axis=1)
    directions = centred / np.where(lengths > 0, lengths, np.nan)[:, None]
    cosines = (directions @ directions.T)[np.triu_indices(classes, 1)]
    norm, classifier_norm = np.linalg.norm(centred), np.linalg.norm(kernel)
    aligned = kernel.T / classifier_norm - centred / norm if norm > 0 and classifier_norm > 0 else np.full(1, np.nan)
    return Collapse(
        nc1=_within_over_between(features - own[labels], labels, centred),
        nc2_norms=float(lengths.std() / lengths.mean()) if norm > 0 else float("nan"),
        nc2_angles=float(np.mean(np.abs(cosines + 1 / (classes - 1)))),
        nc3=float(np.sum(aligned**2)),
        nc4=_mismatch(features, kernel, bias, own if means is None else means),
    )


def _within_over_between(deviations, labels, centred):
    """Tr(S_W S_B^+) / C without a [p, p] matrix: the spread within classes along the singular directions of the means.

    deviations [n, p]: features minus the mean of their class.  centred [C, p]: class means minus their centre.
    """
    classes = len(centred)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    # The centred means have rank C - 1 at most; below rounding there is no direction to divide by.
    kept = singular > singular[0] * max(centred.shape) * np.finfo(float).eps
    if not kept.any():
        return float("nan")
    along = (deviations @ directions[kept].T) ** 2  # [n, r]
    spread = np.mean([along[labels == c].mean(axis=0) for c in range(classes)], axis=0)  # diagonal of S_W there
    return float(np.sum(spread / (singular[kept] ** 2 / classes)) / classes)


def _mismatch(features, kernel, bias, means):
    """Share of features whose largest logit and nearest class mean are of different classes."""
    decided = (features @ kernel + bias).argmax(axis=1)
    # ||h - m||^2 = ||h||^2 - 2 <h, m> + ||m||^2, and the first term is the same for every class.
    nearest = (np.sum(means**2, axis=1) - 2 * features @ means.T).argmin(axis=1)
    return float(np.mean(decided != nearest))


def last_layer(model: keras.Model) -> keras.layers.Dense:
    """The dense layer that makes the logits of a functional Keras model of its penultimate features.

    ValueError where the logits are no affine function of a vector of features with its own weights, or where a simplex
    of that many classes does not fit.
    """
    last = last_with_weights(model)
    if type(last) is not keras.layers.Dense or last.activation is not keras.activations.linear:
        raise ValueError(
            f"neural collapse speaks of a dense last layer, linear and without an activation; this network's is "
            f"{last.name} ({type(last).__name__})"
        )
    if model.outputs[0] is not last.output:
        raise ValueError(f"the network's output must be that of its last dense layer, {last.name}")
    if len(last.input.shape) != 2:
        raise ValueError(f"the last dense layer, {last.name}, must see one vector an example")
    size, classes = last.kernel.shape
    if classes < 3:
        raise ValueError(f"neural collapse needs at least 3 classes (two class means always lie opposite): {classes}")
    if size < classes - 1:
        raise ValueError(f"a simplex of {classes} class means needs at least {classes - 1} features, there are {size}")
    return last
