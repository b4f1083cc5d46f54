"""The affine optimum of a config's training data, computed once for all configs that share the data."""
import hashlib

import numpy as np

from analysis.affine_minimum import SeparableDataError, fit_affine

_known = {}


def affine_optimum(data, loss):
    """fit_affine on the training set. Cached by content: the optimum of 50 000 images takes a minute."""
    content = hashlib.sha256(np.ascontiguousarray(data.x_train)).hexdigest()
    key = (content, hashlib.sha256(np.ascontiguousarray(data.y_train)).hexdigest(), loss)
    if key not in _known:
        try:
            _known[key] = fit_affine(data.x_train, data.y_train, loss=loss)
        except SeparableDataError as error:
            _known[key] = error
    if isinstance(_known[key], Exception):
        raise _known[key]
    return _known[key]
