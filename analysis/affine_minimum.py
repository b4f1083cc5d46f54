"""Is this ReLU network at a suboptimal local minimum, and how large is the ball in which nothing is lower?

1. fit_affine: the minimum of the convex training loss of f(x) = x A + c.
2. embed: a ReLU network that equals this affine map on every training input (Goldblum et al., ICLR 2020,
   arXiv 1910.00359, Lemma 1 and Theorem 1): with A = V S U' of rank s, the first layer is [V S^p, 0] with biases that
   make every unit positive on the training set, the next ones are diagonal on the s live units, the last is S^p U' and
   undoes the shift.
3. certify: a Euclidean radius r such that for every parameter vector within r of the network's, every hidden unit keeps
   its sign on every training input. With h_0 = x, delta_0 = 0 and m_l = r sqrt((||h_{l-1}|| + delta_{l-1})^2 + 1),

       |z_{l,u}(x)| > ||W_{l,u}|| delta_{l-1} + m_l   for all x, u, l,      delta_l = ||W_l||_2 delta_{l-1} + m_l.

   Where each unit has one sign on the whole training set, all networks of the ball are affine in x on it, so no loss
   there is below the affine minimum: a proof, not an estimate.

Everything is NumPy in float64; inputs [n, ...] are flattened to [n, d], a Dense kernel is [in, out], and losses are
means over examples (analysis/losses.py).
"""
from dataclasses import dataclass

import keras
import numpy as np
import scipy.linalg
from scipy.optimize import minimize

_BLOCK = 2048           # examples a pass holds at a time
_RANGES = 4.0           # embed's shift, in ranges of the pre-activations: the radius is then near its limit
_ROUNDING = 1e-12       # allowance for float64 rounding in norms, losses and radii (see certify)
_EPS = np.finfo(np.float64).eps


class SeparableDataError(ValueError):
    """Cross-entropy of an affine map has no minimizer on these data: its infimum is approached at infinity only."""


@dataclass(frozen=True)
class AffineMinimum:
    """A minimum of the mean training loss over affine maps x -> x @ weight + bias."""
    weight: np.ndarray          # [d, k], of numerical rank `rank`
    bias: np.ndarray            # [k]
    loss: float
    gradient_norm: float        # of the mean loss in (weight, bias); within the rank-s matrices if rank_constrained
    rank: int
    converged: bool             # gradient_norm <= tolerance
    iterations: int             # 0 for the closed form
    rank_constrained: bool = False


@dataclass(frozen=True)
class Certificate:
    """No network within `radius` (Euclidean, all parameters) has a training loss below `loss_floor`."""
    radius: float               # 0: some unit changes sign on the training set, nothing is certified
    loss: float                 # of the network itself, float64
    loss_floor: float           # nan if radius is 0
    gap: float                  # loss - loss_floor
    gradient_norm: float        # of the affine minimum, recomputed on the given examples
    unit_margin: tuple          # per hidden layer: min |pre-activation|, 0 where a unit changes sign
    max_output_error: float     # max |network - affine map| over training inputs and outputs


# ---- the affine minimum

def _arrays(x, y, loss):
    x, y = np.asarray(x), np.asarray(y, np.float64)
    if loss not in ("squared", "cross_entropy"):
        raise ValueError(f"loss must be 'squared' or 'cross_entropy', got {loss!r}")
    if y.ndim != 2 or len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x [n, ...] and y [n, k] must hold the same n > 0 examples, got {x.shape} and {y.shape}")
    if loss == "cross_entropy" and (y.shape[1] < 2 or y.min() < 0 or np.abs(y.sum(1) - 1).max() > 1e-5):
        raise ValueError("cross_entropy needs targets y [n, k >= 2] whose rows are class probabilities")
    x = x.reshape(len(x), -1)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("x and y must be finite, got nan or infinite entries")
    return x, y


def _loss_and_residual(outputs, y, loss):
    """Summed loss and its derivative in the outputs, [m, k] -> (float, [m, k])."""
    if loss == "squared":
        residual = outputs - y
        return 0.5 * np.sum(residual**2), residual
    log_p = outputs - outputs.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    return -np.sum(y * log_p), np.exp(log_p) * y.sum(1, keepdims=True) - y


def _affine_loss_and_gradient(x, y, weight, bias, loss):
    """Mean loss and gradient [d + 1, k] in (weight, bias), in blocks of examples."""
    total, gradient = 0.0, np.zeros((len(weight) + 1, y.shape[1]))
    for i in range(0, len(x), _BLOCK):
        h = x[i:i + _BLOCK].astype(np.float64)
        value, residual = _loss_and_residual(h @ weight + bias, y[i:i + _BLOCK], loss)
        total += value
        gradient[:-1] += h.T @ residual
        gradient[-1] += residual.sum(0)
    return total / len(x), gradient / len(x)


def _svd(weight, rank=None):
    """V [d, s], S [s], U' [s, k] of the numerical rank s, or of the given rank if that is smaller."""
    v, s, ut = np.linalg.svd(weight, full_matrices=False)
    numerical = int(np.sum(s > 1e-10 * s[0])) if s[0] > 0 else 0
    numerical = numerical if rank is None else min(numerical, rank)
    return v[:, :numerical], s[:numerical], ut[:numerical]


def fit_affine(
    x: np.ndarray, y: np.ndarray, *, loss: str = "squared", tolerance: float = 1e-6, rank: int | None = None,
    max_iterations: int = 2000,
) -> AffineMinimum:  # fmt: skip
    """The minimum of the mean training loss over affine maps, x [n, ...] and y [n, k].

    squared: closed form (minimum norm where features are dependent). cross_entropy: L-BFGS on whitened inputs until
    the gradient norm, in the original coordinates, is at most `tolerance`; `converged` tells whether it got there.
    rank: ask for the global minimum over maps of at most this rank (reduced-rank regression; squared loss only).
    Raises SeparableDataError when cross-entropy has no minimizer because an affine map classifies every example
    correctly (an iterate that does so is the proof), and ValueError for unusable arrays or options.
    """
    x, y = _arrays(x, y, loss)
    if rank is not None and (loss != "squared" or rank < 0):
        raise ValueError(f"rank must be None, or >= 0 with the squared loss (closed form), got {rank} with {loss}")
    if loss == "squared":
        mean, target_mean, iterations = x.mean(0, dtype=np.float64), y.mean(0), 0
        centred = x - mean                                                              # [n, d]
        weight = scipy.linalg.lstsq(centred, y - target_mean, cond=max(x.shape) * _EPS, check_finite=False)[0]
        full_rank = len(_svd(weight)[1])
        constrained = rank is not None and rank < full_rank
        if constrained:     # Eckart-Young on the fitted values: project on their leading right singular vectors
            leading = np.linalg.svd(centred @ weight, full_matrices=False)[2][:rank]    # [rank, k]
            weight = weight @ leading.T @ leading
        del centred
        v, s, ut = _svd(weight, rank)
        weight = (v * s) @ ut
        bias = target_mean - mean @ weight
    else:
        weight, bias, iterations = _fit_cross_entropy(x, y, tolerance, max_iterations)
        constrained = False
        v, s, ut = _svd(weight)
        weight = (v * s) @ ut
    value, gradient = _affine_loss_and_gradient(x, y, weight, bias, loss)
    if constrained:         # tangent space of the rank-s matrices at weight
        g = gradient[:-1]
        left, right = v.T @ g, g @ ut.T                                                 # [s, k], [d, s]
        gradient[:-1] = v @ left + right @ ut - v @ (left @ ut.T) @ ut
    norm = float(np.linalg.norm(gradient))
    return AffineMinimum(weight, bias, float(value), norm, len(s), norm <= tolerance, iterations, constrained)


def _fit_cross_entropy(x, y, tolerance, max_iterations):
    """L-BFGS in whitened coordinates z = (x - mean) T, in which a few dozen iterations suffice."""
    n, d = x.shape
    one_hot = bool(((y == 0) | (y == 1)).all())
    if (y.sum(0) == 0).any():
        raise SeparableDataError(f"class {int(np.argmin(y.sum(0)))} has no training example, so cross-entropy has no "
                                 "affine minimum: use loss='squared', more images or label noise")
    labels, rows = y.argmax(1), np.arange(n)
    mean = x.mean(0, dtype=np.float64)
    z = x - mean
    values, vectors = scipy.linalg.eigh(z.T @ z / n)
    keep = values > d * _EPS * max(values[-1], 0)       # constant and dependent features carry nothing
    values, vectors = values[keep], vectors[:, keep]
    for i in range(0, n, _BLOCK):                       # in place: z is the largest array here
        z[i:i + _BLOCK, :len(values)] = z[i:i + _BLOCK] @ (vectors / np.sqrt(values))
    z = z[:, :len(values)]

    def objective(flat):
        theta = flat.reshape(-1, y.shape[1])
        outputs = z @ theta[:-1] + theta[-1]
        if one_hot:
            others = outputs.copy()
            others[rows, labels] = -np.inf
            if (outputs[rows, labels] - others.max(1)).min() > _ROUNDING * np.abs(outputs).max():
                raise SeparableDataError(
                    f"an affine map separates all {n} training images, so cross-entropy has no minimum (its infimum "
                    "is 0, at infinity): use loss='squared', more images or label noise")
        value, residual = _loss_and_residual(outputs, y, "cross_entropy")
        return value / n, np.concatenate([z.T @ residual, residual.sum(0, keepdims=True)]).ravel() / n

    def stop(intermediate_result):      # SciPy shows callbacks no gradient; it evaluates each accepted point last
        if objective.last_norm <= 0.5 * tolerance:
            raise StopIteration

    def tracked(flat):
        value, gradient = objective(flat)
        g = gradient.reshape(-1, y.shape[1])
        original = (vectors * np.sqrt(values)) @ g[:-1] + np.outer(mean, g[-1])
        objective.last_norm = np.hypot(np.linalg.norm(original), np.linalg.norm(g[-1]))
        return value, gradient

    start = np.zeros((len(values) + 1) * y.shape[1])
    fit = minimize(tracked, start, jac=True, method="L-BFGS-B", callback=stop,
                   options={"maxcor": 20, "maxiter": max_iterations, "maxfun": 2 * max_iterations,
                            "ftol": 0, "gtol": 0})
    theta = fit.x.reshape(-1, y.shape[1])
    weight = (vectors / np.sqrt(values)) @ theta[:-1]
    return weight, theta[-1] - mean @ weight, int(fit.nit)


# ---- the network

def relu_mlp_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The Dense layers of a ReLU mlp, in order; ValueError, with the reason, for any other model."""
    def is_relu(layer):
        return (isinstance(layer, keras.layers.ReLU) and layer.max_value is None and not layer.negative_slope
                and not layer.threshold) or (isinstance(layer, keras.layers.Activation)
                                             and layer.activation is keras.activations.relu)

    def refuse(why):
        raise ValueError(f"model {model.name!r} is no ReLU mlp: {why}; allowed are Flatten, then Dense layers with "
                         "bias, all but the last followed by ReLU")

    if not model.built or len(model.inputs) != 1 or len(model.outputs) != 1:
        refuse("it must be built, with one input and one output")
    dense, linear, tensor = [], False, model.inputs[0]      # linear: the last Dense has no activation yet
    sequential = isinstance(model, keras.Sequential)        # whose layers may know tensors of earlier builds
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if layer.input is not tensor and not sequential:
            refuse(f"layer {layer.name!r} does not take the output of the layer before it")
        tensor = layer.output
        if isinstance(layer, keras.layers.Dense):
            if linear:
                refuse(f"layer {layer.name!r} follows a Dense layer without ReLU")
            if not layer.use_bias or len(layer.input.shape) != 2:
                refuse(f"layer {layer.name!r} has no bias or takes no flat input")
            if layer.activation not in (keras.activations.relu, keras.activations.linear):
                refuse(f"layer {layer.name!r} has activation {layer.activation.__name__}")
            dense.append(layer)
            linear = layer.activation is keras.activations.linear
        elif is_relu(layer):
            if not linear:
                refuse(f"layer {layer.name!r} follows no linear Dense layer")
            linear = False
        elif not (isinstance(layer, keras.layers.Flatten) and not dense):
            refuse(f"layer {layer.name!r} is a {type(layer).__name__}")
    if len(dense) < 2 or not linear or (tensor is not model.outputs[0] and not sequential):
        refuse("it needs a hidden Dense layer with ReLU and a last Dense layer without")
    return dense


def relu_mlp_weights(model: keras.Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(kernel [in, out], bias [out]), ...] in float64 of a built ReLU mlp; ValueError for any other model."""
    return [tuple(np.asarray(v, np.float64) for v in layer.get_weights()) for layer in relu_mlp_layers(model)]


def embed(
    affine: AffineMinimum, model: keras.Model, x: np.ndarray, *, shift: float | None = None, spare: str = "active",
) -> None:  # fmt: skip
    """Sets the weights of a ReLU mlp so that it equals `affine` on the training inputs x [n, ...]  (Lemma 1).

    S is shared evenly between the layers (S^(1/L) each). `shift` is every hidden unit's smallest pre-activation over x.
    The radius grows with it, towards a limit with two hidden layers or more, and so does rounding: None takes 4 times
    the pre-activations' range.
    spare: units beyond the rank have weights 0 and bias +shift ("active", as in the lemma: every unit of the network is
    positive) or -shift ("inactive": dead units, which do not lengthen the hidden vectors, so that wide networks are
    certified on a larger ball).
    Raises ValueError: not a ReLU mlp, a hidden width below the rank, wrong input or output size, shift <= 0.
    A float32 model holds the map to float32 rounding only; certify measures that.
    """
    layers = relu_mlp_layers(model)
    widths = [layer.units for layer in layers[:-1]]
    x = np.asarray(x).reshape(len(x), -1)
    d, k = affine.weight.shape
    if (layers[0].kernel.shape[0], layers[-1].units, x.shape[1]) != (d, k, d):
        raise ValueError(f"the affine map is {d} -> {k}, but the model is {layers[0].kernel.shape[0]} -> "
                         f"{layers[-1].units} and x has {x.shape[1]} features")
    if min(widths) < affine.rank:
        raise ValueError(f"hidden width {min(widths)} is below the affine map's rank {affine.rank}: every hidden layer "
                         f"needs at least {affine.rank} units")
    if spare not in ("active", "inactive") or (shift is not None and not shift > 0):
        raise ValueError(f"spare must be 'active' or 'inactive' and shift None or > 0, got {spare!r} and {shift}")
    v, s, ut = _svd(affine.weight, affine.rank)
    root = s ** (1 / len(layers))
    live = np.concatenate([x[i:i + _BLOCK].astype(np.float64) @ v for i in range(0, len(x), _BLOCK)])   # [n, s]
    low = live.min(0)
    if shift is None:       # layer l's live pre-activations range over (live - low) root^l
        ranges = [((live - low) * root**(i + 1)).max(initial=0) for i in range(len(widths))]
        shift = _RANGES * max(max(ranges), 1e-6)
    shift = float(shift)
    weights = []
    for i, width in enumerate(widths):
        kernel = np.zeros((d if i == 0 else widths[i - 1], width))
        if i == 0:
            kernel[:, :affine.rank] = v * root
            live_bias = shift - low * root
        else:
            kernel[:affine.rank, :affine.rank] = np.diag(root)
            live_bias = shift - shift * root
        bias = np.full(width, shift if spare == "active" else -shift)
        bias[:affine.rank] = live_bias
        weights += [kernel, bias]
    last = np.zeros((widths[-1], k))
    last[:affine.rank] = root[:, None] * ut
    weights += [last, affine.bias - (shift - low * root**len(widths)) @ last[:affine.rank]]
    for layer, pair in zip(layers, zip(weights[::2], weights[1::2], strict=True), strict=True):
        layer.set_weights(list(pair))


# ---- the certificate

def _spectral_norm(matrix):
    """An upper bound, tight to rounding: root of the largest eigenvalue of the smaller Gram matrix."""
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    top = scipy.linalg.eigvalsh(gram, subset_by_index=[len(gram) - 1] * 2)[0]
    return np.sqrt(max(top, 0.0)) * (1 + _ROUNDING)


def _holds(r, conditions):
    """Whether the module's inequality holds at radius r for every unit of every example."""
    delta = np.zeros(len(conditions[0][0]))                                             # [m]
    for margin, unit_norms, spectral, input_norm, rounding in conditions:
        move = r * np.sqrt((input_norm + delta)**2 + 1) + rounding
        if np.any(margin <= np.multiply.outer(delta, unit_norms) + move[:, None]):
            return False
        delta = spectral * delta + move
    return True


def _largest_radius(conditions, upper):
    """The largest radius <= upper (to 1e-9 relative, from below) at which the conditions hold."""
    high = min(upper, min(np.min(c[0].min(1) / np.sqrt(c[3]**2 + 1)) for c in conditions))
    if high <= 0 or _holds(high, conditions):
        return max(high, 0.0)
    low = 0.0
    while high - low > 1e-9 * high and high > 1e-300:
        middle = (low + high) / 2
        low, high = (middle, high) if _holds(middle, conditions) else (low, middle)
    return low


def certify(model: keras.Model, affine: AffineMinimum, x: np.ndarray, y: np.ndarray, *, loss: str) -> Certificate:
    """Certified radius of a ReLU mlp at, or near, the affine minimum of the same data, x [n, ...] and y [n, k].

    The floor. Within the radius the network is x -> x A~ + c~ on the training set, the loss is convex in (A~, c~), and
    loss >= affine loss - ||affine gradient|| * ||(A~, c~) - (A, c)||, and `_map_motion` bounds the last norm.
    After fit_affine(rank=s) with a binding s the affine map is no minimum of the convex problem; the claim then holds
    only for networks whose narrowest hidden layer has s units (no map of the ball has a larger rank); others are
    refused.

    Rounding. Pre-activations are trusted up to the usual bound of a float64 dot product, which enters the inequality as
    a further motion of each layer; norms, loss and floor carry a relative allowance of 1e-12. This is float64 with
    allowances, not interval arithmetic. The parameters are those the model stores, whatever its dtype, and the network
    that is certified is the exact-arithmetic one with these parameters.
    Raises ValueError: not a ReLU mlp, wrong shapes, a rank-constrained map with a wider network.
    """
    x, y = _arrays(x, y, loss)
    weights = relu_mlp_weights(model)
    _refuse_misfit(weights, affine, x, loss)
    seen = _look_at_examples(weights, affine, x, y, loss)
    active = [low > 0 for low in seen.low]
    one_sign = [a | (high < 0) for a, high in zip(active, seen.high, strict=True)]
    margins = tuple(float(np.where(s, np.where(a, low, -high), 0.0).min())
                    for s, a, low, high in zip(one_sign, active, seen.low, seen.high, strict=True))
    radius = float(seen.radius) * (1 - _ROUNDING) if all(s.all() for s in one_sign) else 0.0
    floor, gradient_norm = _loss_floor(weights, active, affine, radius, x, y, loss)
    return Certificate(radius, seen.loss, floor, seen.loss - floor, gradient_norm, margins, seen.output_error)


def _refuse_misfit(weights, affine, x, loss):
    """ValueError where the shapes do not fit together, or where a map of constrained rank is no minimum."""
    if (weights[0][0].shape[0], weights[-1][0].shape[1]) != affine.weight.shape or x.shape[1] != len(affine.weight):
        raise ValueError(f"model {weights[0][0].shape[0]} -> {weights[-1][0].shape[1]}, affine map "
                         f"{affine.weight.shape} and x with {x.shape[1]} features do not fit together")
    if affine.rank_constrained and (loss != "squared" or min(len(b) for _, b in weights[:-1]) > affine.rank):
        raise ValueError(f"an affine map constrained to rank {affine.rank} is a minimum only for networks whose "
                         f"narrowest hidden layer has {affine.rank} units, and for the squared loss")


@dataclass(frozen=True)
class _Seen:
    """What a pass over the training set shows of a network."""
    low: list                   # per hidden layer: every unit's smallest pre-activation, [width]
    high: list                  # and its largest
    radius: float               # the largest at which the conditions hold for all examples
    loss: float                 # mean
    output_error: float         # max |network - affine map|


def _look_at_examples(weights, affine, x, y, loss):
    """One pass over the examples, block by block.

    Within the radius every unit keeps its sign on each example; whether it has one sign on all, `low` and `high` tell.
    """
    hidden = weights[:-1]
    norms = [(np.linalg.norm(w, axis=0) * (1 + _ROUNDING), _spectral_norm(w)) for w, _ in hidden]
    # |computed - exact| of a pre-activation vector is at most _EPS (fan_in + 2) (||W||_F ||h|| + ||b||).
    errors = [_EPS * (w.shape[0] + 2) * np.array([np.linalg.norm(w), np.linalg.norm(b)]) for w, b in hidden]
    low = [np.full(len(b), np.inf) for _, b in hidden]
    high = [np.full(len(b), -np.inf) for _, b in hidden]
    radius, network_loss, output_error = np.inf, 0.0, 0.0
    for start in range(0, len(x), _BLOCK):
        h, conditions = x[start:start + _BLOCK].astype(np.float64), []
        affine_outputs = h @ affine.weight + affine.bias
        for i, (w, b) in enumerate(hidden):
            z = h @ w + b                                                               # [m, width]
            low[i], high[i] = np.minimum(low[i], z.min(0)), np.maximum(high[i], z.max(0))
            h_norm = np.linalg.norm(h, axis=1)
            conditions.append((np.abs(z), *norms[i], h_norm, errors[i][0] * h_norm + errors[i][1]))
            h = np.maximum(z, 0)
        radius = _largest_radius(conditions, radius)    # one check, unless this block lowers it
        outputs = h @ weights[-1][0] + weights[-1][1]
        network_loss += _loss_and_residual(outputs, y[start:start + _BLOCK], loss)[0]
        output_error = max(output_error, float(np.abs(outputs - affine_outputs).max()))
    return _Seen(low, high, radius, float(network_loss / len(x)), output_error)


def _loss_floor(weights, active, affine, radius, x, y, loss):
    """(loss below which no network within the radius is, nan if that is 0;  the affine map's gradient norm)."""
    affine_loss, gradient = _affine_loss_and_gradient(x, y, affine.weight, affine.bias, loss)
    gradient_norm, floor = float(np.linalg.norm(gradient)), np.nan
    if radius > 0 and affine.rank_constrained:
        floor = fit_affine(x, y, loss=loss, rank=affine.rank).loss      # the global minimum over this rank: no slope
        gradient_norm = affine.gradient_norm
    elif radius > 0:
        floor = affine_loss - gradient_norm * _map_motion(weights, active, affine, radius)
    return float(floor - _ROUNDING * (1 + abs(affine_loss))), gradient_norm


def _map_motion(weights, active, affine, r):
    """Upper bound of ||(A~, c~) - (A, c)||_F over the networks within r that keep the units' signs.

    Write layer l's output as the affine map H_l [d + 1, width] of (x, 1), with inactive columns 0, and [H_l, e] for it
    with the constant 1 appended. A perturbation E_l of (W_l; b_l), ||E_l||_F <= r, gives
    H~_l - H_l = (H~_{l-1} - H_{l-1}) W_l + [H~_{l-1}, e] E_l on the active units, hence, with D_l >= ||H~_l - H_l||_F,
    D_0 = 0 and D_l = ||W_l||_2 D_{l-1} + r (||[H_{l-1}, e]||_2 + D_{l-1}); the last layer has no inactive units.
    To D_L comes the distance of the network's own map H_L from (A, c).
    """
    d = len(affine.weight)
    one = np.zeros((d + 1, 1))
    one[-1] = 1.0
    prefix, motion = np.vstack([np.eye(d), np.zeros((1, d))]), 0.0          # H_0: x itself
    for (w, b), keep in zip(weights, [*active, True], strict=True):
        augmented = np.hstack([prefix, one])                                # [d + 1, in + 1]
        length = 1.0 if prefix.shape[1] == d and motion == 0.0 else _spectral_norm(augmented)
        motion = _spectral_norm(w) * motion + r * (length + motion)
        prefix = (prefix @ w + one * b) * keep                              # [d + 1, out]
    distance = np.linalg.norm(prefix - np.vstack([affine.weight, affine.bias]))
    return (motion + distance) * (1 + _ROUNDING)


def worst_direction(model: keras.Model, x: np.ndarray, layer: int, unit: int, example: int) -> np.ndarray:
    """Unit parameter direction [p], in the Dense layers' order (kernel, bias), that switches a hidden unit fastest.

    It is minus the gradient of |z_{layer,unit}(x[example])|, with layers counted from 0. In the first layer the
    pre-activation is linear in the parameters and the certificate's inequality is an equality along it.
    """
    weights = relu_mlp_weights(model)
    if not (0 <= layer < len(weights) - 1 and 0 <= unit < len(weights[layer][1]) and 0 <= example < len(x)):
        raise ValueError(f"no hidden unit {unit} in hidden layer {layer}, or no example {example} among {len(x)}")
    hs, z = [np.asarray(x[example], np.float64).ravel()], None
    for w, b in weights[:layer + 1]:
        z = hs[-1] @ w + b
        hs.append(np.maximum(z, 0))
    gradients = [(np.zeros_like(w), np.zeros_like(b)) for w, b in weights]
    cotangent = np.zeros_like(z)
    cotangent[unit] = -np.sign(z[unit]) if z[unit] else -1.0
    for i in range(layer, -1, -1):
        gradients[i] = (np.outer(hs[i], cotangent), cotangent)
        cotangent = (weights[i][0] @ cotangent) * (hs[i] > 0) if i else None
    flat = np.concatenate([g.ravel() for pair in gradients for g in pair])
    return flat / np.linalg.norm(flat)
