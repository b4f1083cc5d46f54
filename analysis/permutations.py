"""Which hidden units of one network are those of another?  Weight matching, and the symmetries it works on.

Permuting the units of a hidden layer, with all weights that lead to and from them, leaves a network's function as it
is. Ainsworth, Hayase & Srinivasa 2023 (2209.04836, section 3.2) bring a network B near to A by the permutations that
maximize the inner product of their parameters,

    sum_l <W_l^A, P_l W_l^B P_{l-1}'> + <b_l^A, P_l b_l^B>,

one layer at a time with the others fixed, each a linear assignment problem, until no layer gains (their algorithm 1).
Here the layers are those of a Keras graph: channels that are added up, as by a residual network's skip connections,
have one permutation; batch norm's parameters and statistics follow their channels.
"""
from dataclasses import dataclass

import keras
import numpy as np
from scipy.optimize import linear_sum_assignment

FIXED = 0  # the group of inputs and outputs, whose order has a meaning
MIXING = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)  # kernels [.., in, out]
SCALING = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)  # weights [channels]
# They do the same to every channel, without weights.
ALIKE = (
    keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.Dropout,
    keras.layers.SpatialDropout2D, keras.layers.GaussianNoise, keras.layers.ZeroPadding2D, keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D, keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D,
)  # fmt: skip
SUMS = (keras.layers.Add, keras.layers.Average, keras.layers.Maximum)
GAIN = 1e-12  # of the parameters' squared norms: a smaller gain is rounding


@dataclass(frozen=True)
class Symmetries:
    """The hidden units of a model whose order does not matter.

    sizes: {group: units}; the units of a group are permuted alike.  places: for each of model.weights ((axis, group,
    repeats), ..): along the axis stand the group's units, `repeats` times over (a flattened image has one for each
    pixel).  trained: for each of model.weights, is it trained?
    """

    sizes: dict
    places: tuple
    trained: tuple


@dataclass(frozen=True)
class Matching:
    """permutations: {group: [units] int}: at position i stands B's unit permutation[i].

    weights: those of B, permuted.  similarity: inner product of the trained weights with A's, at the start and after
    each sweep over all groups; the last sweep gained nothing.
    """

    permutations: dict
    weights: list
    similarity: tuple

    @property
    def moved(self) -> float:
        """The share of all units that have another place."""
        places = np.concatenate([p != np.arange(len(p)) for p in self.permutations.values()])
        return float(places.mean())


def find_symmetries(model: keras.Model) -> Symmetries:
    """The permutation symmetries of a functional model made of dense, convolutional, normalizing, elementwise, pooling,
    flattening and adding layers; any layer may stand where nothing has been permuted yet.

    Raises ValueError, with the layer, for a model that has another one, and for one without hidden units.
    """
    graph = _Graph(model)
    for layer in model.layers:
        graph.visit(layer)
    for tensor in model.outputs:
        graph.join(graph.channels[id(tensor)][0], FIXED)
    places, sizes = [], {}
    for variable in model.weights:
        found = []
        for axis, group, repeats in graph.places.get(id(variable), ()):
            group = graph.root(group)
            if group != FIXED:
                sizes[group] = variable.shape[axis] // repeats
                found.append((axis, group, repeats))
        places.append(tuple(found))
    if not sizes:
        raise ValueError("the network has no hidden units whose order could be permuted")
    trained = {id(variable) for variable in model.trainable_variables}
    return Symmetries(sizes, tuple(places), tuple(id(variable) in trained for variable in model.weights))


class _Graph:
    """Follows the channels through a model: of every tensor its group and how often that stands along the last axis."""

    def __init__(self, model):
        self.parent, self.places = [FIXED], {}
        self.channels = {id(tensor): (FIXED, 1) for tensor in model.inputs}

    def root(self, group):
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def join(self, *groups):
        """Makes one group of several: the one with the smallest number, so that what is fixed stays fixed."""
        roots = sorted(map(self.root, groups))
        for group in roots:
            self.parent[group] = roots[0]
        return roots[0]

    def visit(self, layer):
        if isinstance(layer, keras.layers.InputLayer):
            return
        try:
            inputs, output = layer.input, layer.output
        except (AttributeError, ValueError) as error:
            raise ValueError(f"weight matching needs layers that are called once; {layer.name} is not") from error
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if not all(id(tensor) in self.channels for tensor in inputs):  # of a call in another model
            raise ValueError(f"weight matching needs layers that are called once; {layer.name} is not")
        entering = [self.channels[id(tensor)] for tensor in inputs]
        self.channels[id(output)] = self.leaving(layer, entering, inputs, output)

    def leaving(self, layer, entering, inputs, output):
        """(group, repeats) of the layer's output; notes where the layer's weights have which group."""
        kind, (group, repeats) = getattr(layer, "computes", type(layer)), entering[0]
        last = len(inputs[0].shape) - 1
        images = getattr(layer, "data_format", None) != "channels_first"
        if kind in MIXING and getattr(layer, "groups", 1) == 1 and images:
            self.parent.append(len(self.parent))
            new = len(self.parent) - 1
            axes = len(layer.kernel.shape)
            self.places[id(layer.kernel)] = ((axes - 2, group, repeats), (axes - 1, new, 1))
            if layer.use_bias:
                self.places[id(layer.bias)] = ((0, new, 1),)
            return new, 1
        axis = getattr(layer, "axis", None)
        if kind in SCALING and (axis if isinstance(axis, int) else axis[0] if len(axis) == 1 else None) in (-1, last):
            for variable in layer.weights:
                self.places[id(variable)] = ((0, group, repeats),)
            return group, repeats
        if kind in ALIKE and images:
            return group, repeats
        if kind is keras.layers.Flatten and images and None not in inputs[0].shape[1:]:
            return group, repeats * int(np.prod(inputs[0].shape[1:-1]))
        if kind in SUMS and len({repeats for _, repeats in entering}) == 1:
            return self.join(*(group for group, _ in entering)), repeats
        if all(self.root(group) == FIXED for group, _ in entering):
            return FIXED, 1
        raise ValueError(f"weight matching knows no layer such as {layer.name} ({type(layer).__name__})")


def permute(weights: list[np.ndarray], symmetries: Symmetries, permutations: dict, *, but: tuple | None = None) -> list:
    """The weights [in the order of model.weights] of the same function with permuted units.

    but: (position of one weight, axis) that is left as it is.
    """
    result = []
    for position, (value, places) in enumerate(zip(weights, symmetries.places, strict=True)):
        for axis, group, repeats in places:
            if (position, axis) != but:
                value = np.take(value, spread(permutations[group], repeats), axis)
        result.append(value)
    return result


def spread(permutation: np.ndarray, repeats: int) -> np.ndarray:
    """The permutation of `repeats` blocks of units, each permuted alike: [repeats * units]."""
    units = len(permutation)
    return (np.arange(repeats)[:, None] * units + permutation).ravel()


def match_weights(
    a: list[np.ndarray], b: list[np.ndarray], symmetries: Symmetries, *, seed: int, max_sweeps: int = 200
) -> Matching:
    """The permutations that bring weights b near to weights a, found layer by layer from the order that b has.

    a, b: as of model.get_weights().  seed: of the order of the layers, drawn anew for each sweep.
    A step is taken only where the inner product grows, so that the search ends also where a group stands on two axes of
    one weight, as in a residual stage, which no assignment problem takes into account.
    """
    rng = np.random.default_rng([seed, 71])
    used = [i for i, trained in enumerate(symmetries.trained) if trained]
    part = Symmetries(symmetries.sizes, tuple(symmetries.places[i] for i in used), (True,) * len(used))
    a, own = ([np.asarray(values[i], np.float64) for i in used] for values in (a, b))
    permutations = {group: np.arange(size) for group, size in part.sizes.items()}
    least = GAIN * (sum(np.vdot(v, v) for v in a) + sum(np.vdot(v, v) for v in own))
    similarity, gained, groups = [_inner(a, own)], True, list(part.sizes)
    while gained and len(similarity) <= max_sweeps:
        gained = False
        for i in rng.permutation(len(groups)):
            group = groups[i]
            trial = {**permutations, group: _assign(a, own, part, permutations, group)}
            touched = [j for j, places in enumerate(part.places) if any(g == group for _, g, _ in places)]
            before, after = (_inner_of(a, own, part, chosen, touched) for chosen in (permutations, trial))
            if after > before + least:
                permutations, gained = trial, True
        similarity.append(_inner(a, permute(own, part, permutations)))
    return Matching(permutations, permute(b, symmetries, permutations), tuple(similarity))


def _assign(a, b, symmetries, permutations, group):
    """The best permutation of one group, the others as they are."""
    size = symmetries.sizes[group]
    gains = np.zeros((size, size))  # [A's unit, B's unit]
    for j, places in enumerate(symmetries.places):
        for axis, found, repeats in places:
            if found == group:
                one = Symmetries(symmetries.sizes, (places,), (True,))
                (moved,) = permute([b[j]], one, permutations, but=(0, axis))
                gains += _by_unit(a[j], axis, repeats) @ _by_unit(moved, axis, repeats).T
    return linear_sum_assignment(gains, maximize=True)[1]


def _by_unit(value, axis, repeats):
    """The weights of every unit along an axis, [units, ..]."""
    value = np.moveaxis(value, axis, 0)
    return value.reshape(repeats, len(value) // repeats, -1).swapaxes(0, 1).reshape(len(value) // repeats, -1)


def _inner(a, b):
    return float(sum(np.vdot(x, y) for x, y in zip(a, b, strict=True)))


def _inner_of(a, b, symmetries, permutations, positions):
    """The inner product of some of the weights, permuted."""
    one = Symmetries(symmetries.sizes, tuple(symmetries.places[j] for j in positions), (True,) * len(positions))
    return _inner([a[j] for j in positions], permute([b[j] for j in positions], one, permutations))
