"""What is the curvature of the full training loss at this network?

    L(theta) = 1/n sum_i l(f(x_i), y_i) + weight_decay/2 ||theta||^2

over model.trainable_variables, in inference mode (training=False), so that batch norm uses its moving statistics and
dropout is off. The L2 term enters exactly once: regularizers attached to Keras layers (model.losses) are ignored.
Gradients and Hessian-vector products run over micro-batches inside one tf.function; the micro-batch bounds memory and
does not change the result beyond rounding.
"""
from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from analysis.keras_internals import graphs_of
from analysis.losses import LOSSES
from analysis.parameters import get_parameters, parameters_kept, split_like

MOST_GRAPHS = 8  # shapes of training sets whose graphs are kept with a model


class _Sums:
    """Sums over a training set of n examples in micro-batches: the graphs behind TrainingLoss, for one model.

    They take the examples, so that they are traced once for all training sets of a shape.
    """

    def __init__(self, model, loss, n, batch):
        self.model, self.loss, self.n, self.batch = model, LOSSES[loss], n, batch
        self.value_graph = tf.function(self.value)
        self.value_at_graph = tf.function(self.value_at)
        self.gradient_graph = tf.function(self.gradients)
        self.gradients_at_graph = tf.function(self.gradients_at)
        self.product_graph = tf.function(self.products)

    def variables(self):
        return [v.value for v in self.model.trainable_variables]

    def batch_loss(self, x, y, start):
        """Summed loss of the micro-batch at `start`, divided by n."""
        x, y = x[start:start + self.batch], y[start:start + self.batch]
        return tf.reduce_sum(self.loss(y, self.model(x, training=False))) / self.n

    def value(self, x, y):
        total = tf.constant(0.0, tf.float64)
        for start in tf.range(0, self.n, self.batch):
            total += tf.cast(self.batch_loss(x, y, start), tf.float64)
        return total

    def gradients(self, x, y):
        values = self.variables()
        total, sums = tf.constant(0.0, tf.float64), [tf.zeros(v.shape, tf.float64) for v in values]
        for start in tf.range(0, self.n, self.batch):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)   # one micro-batch in memory
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                value = self.batch_loss(x, y, start)
            gradients = tape.gradient(value, values, unconnected_gradients="zero")
            total += tf.cast(value, tf.float64)
            sums = [s + tf.cast(g, tf.float64) for s, g in zip(sums, gradients, strict=True)]
        return total, sums

    def products(self, x, y, vectors):
        values = self.variables()
        sums = [tf.zeros(v.shape, tf.float64) for v in values]
        for start in tf.range(0, self.n, self.batch):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            with tf.GradientTape(watch_accessed_variables=False) as outer:  # reverse over reverse: the faster one here
                outer.watch(values)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(values)
                    value = self.batch_loss(x, y, start)
                gradients = tape.gradient(value, values, unconnected_gradients="zero")
            products = outer.gradient(gradients, values, output_gradients=vectors, unconnected_gradients="zero")
            sums = [s + tf.cast(p, tf.float64) for s, p in zip(sums, products, strict=True)]
        return sums

    def value_at(self, x, y, point):
        self.move(point)
        return self.value(x, y)

    def gradients_at(self, x, y, point):
        self.move(point)
        return self.gradients(x, y)

    def move(self, point):
        """Assigns the vector [p] inside the graph: one call a point, where assigning eagerly took as long as the loss.

        TensorFlow's kernels make 0 of numbers below the smallest normal one, as they do wherever they compute.
        """
        variables = self.variables()
        parts = tf.split(point, [int(np.prod(v.shape)) for v in variables])
        for variable, part in zip(variables, parts, strict=True):
            variable.assign(tf.reshape(tf.cast(part, variable.dtype), variable.shape))


class TrainingLoss:
    """The training loss of one model on x [n, ...], y [n, k]: value, gradient and Hessian-vector products.

    It reads the model's parameters at each call, and traces each of its functions at most once for all training sets of
    one shape.
    """

    def __init__(
        self, model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str, *, weight_decay: float = 0.0,
        batch_size: int = 1024,
    ):  # fmt: skip
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {sorted(LOSSES)}, got {loss!r}")
        if len(x) != len(y) or len(x) == 0 or batch_size < 1 or weight_decay < 0:
            raise ValueError(
                f"need as many inputs as targets, batch_size >= 1 and weight_decay >= 0, got {len(x)} inputs, "
                f"{len(y)} targets, batch_size {batch_size}, weight_decay {weight_decay}"
            )
        self.model, self.weight_decay = model, float(weight_decay)
        dtype = model.trainable_variables[0].dtype
        self._x, self._y = tf.convert_to_tensor(x), tf.cast(tf.convert_to_tensor(y), dtype)
        if self._x.dtype.is_floating:
            self._x = tf.cast(self._x, dtype)
        self.parameter_count = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        batch = min(int(batch_size), len(x))
        graphs, key = graphs_of(model, "_loss_graphs"), (loss, batch, *((*t.shape, t.dtype) for t in self._examples))
        if key not in graphs:
            if len(graphs) >= MOST_GRAPHS:
                graphs.clear()
            graphs[key] = _Sums(model, loss, len(x), batch)
        self._graphs = graphs[key]

    @property
    def _examples(self):
        return self._x, self._y

    @staticmethod
    def _flat(tensors):
        return np.concatenate([t.numpy().ravel() for t in tensors])

    def value(self) -> float:
        """The loss, float."""
        value = float(self._graphs.value_graph(*self._examples))
        if self.weight_decay:
            value += self._decay(get_parameters(self.model))
        return value

    def value_and_gradient(self) -> tuple[float, np.ndarray]:
        """The loss and its gradient [p] float64."""
        return self._with_decay(*self._graphs.gradient_graph(*self._examples))

    def _with_decay(self, value, gradients):
        value, gradient = float(value), self._flat(gradients)
        if self.weight_decay:
            theta = get_parameters(self.model)
            value += self._decay(theta)
            gradient += self.weight_decay * theta
        return value, gradient

    def _decay(self, theta):
        return 0.5 * self.weight_decay * float(np.sum(np.square(theta)))

    def product(self, vector: np.ndarray) -> np.ndarray:
        """Hessian times vector, [p] -> [p] float64."""
        vector = np.asarray(vector, np.float64).ravel()
        parts = [tf.constant(part, v.dtype) for part, v in
                 zip(split_like(self.model, vector), self.model.trainable_variables, strict=True)]
        return self._flat(self._graphs.product_graph(*self._examples, parts)) + self.weight_decay * vector

    def hessian(self) -> LinearOperator:
        """The Hessian as a symmetric LinearOperator [p, p], at the parameters that the model has when it is applied."""
        p = self.parameter_count
        return LinearOperator((p, p), matvec=self.product, rmatvec=self.product, dtype=np.float64)

    def value_at(self, point: np.ndarray) -> float:
        """The loss at a parameter vector [p], at which the model is left; ValueError for another shape."""
        value = float(self._graphs.value_at_graph(*self._examples, self._point(point)))
        if self.weight_decay:
            value += self._decay(point)
        return value

    def value_and_gradient_at(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient [p] float64 at a parameter vector [p], at which the model is left; ValueError for
        another shape. The graph is not that of `value_and_gradient`: who asks at points asks for all there.
        """
        return self._with_decay(*self._graphs.gradients_at_graph(*self._examples, self._point(point)))

    def _point(self, point):
        if np.shape(point) != (self.parameter_count,):
            raise ValueError(f"expected a point of {self.parameter_count} parameters, got shape {np.shape(point)}")
        return tf.constant(point, tf.float64)

    def values_at(self, points: Iterable[np.ndarray]) -> np.ndarray:
        """The loss at parameter vectors, [m, p] or any iterable of [p] -> [m]; the model is left as it was."""
        with parameters_kept(self.model):
            return np.array([self.value_at(point) for point in points])


def loss_and_gradient(
    model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str, *, weight_decay: float = 0.0, batch_size: int = 1024,
) -> tuple[float, np.ndarray]:  # fmt: skip
    """The training loss and its gradient [p] in float64; for repeated calls hold a TrainingLoss, which traces once."""
    return TrainingLoss(model, x, y, loss, weight_decay=weight_decay, batch_size=batch_size).value_and_gradient()


def gradient_norm(
    model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str, *, weight_decay: float = 0.0, batch_size: int = 1024,
) -> float:  # fmt: skip
    """Euclidean norm of the full-data gradient, the L2 term included."""
    return float(
        np.linalg.norm(loss_and_gradient(model, x, y, loss, weight_decay=weight_decay, batch_size=batch_size)[1])
    )


def hessian_operator(
    model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str, *, weight_decay: float = 0.0, batch_size: int = 1024,
) -> LinearOperator:  # fmt: skip
    """The training loss's Hessian as a LinearOperator [p, p]: products cost about four gradients' memory, never p^2."""
    return TrainingLoss(model, x, y, loss, weight_decay=weight_decay, batch_size=batch_size).hessian()


def losses_along(
    model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str, points: Iterable[np.ndarray], *,
    weight_decay: float = 0.0, batch_size: int = 1024,
) -> np.ndarray:  # fmt: skip
    """The training loss at parameter vectors [m, p] -> [m]; the model is left as it was."""
    return TrainingLoss(model, x, y, loss, weight_decay=weight_decay, batch_size=batch_size).values_at(points)


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """Both ends of a symmetric operator's spectrum as Ritz values theta = v'Hv of unit vectors v.

    An eigenvalue lies within `residual` = ||Hv - theta v|| of theta. But a Ritz value bounds the smallest eigenvalue
    from above only (and the largest from below): no product can exclude a more negative one in a direction not yet
    seen, so say "no negative curvature found down to ...".
    """
    largest: float
    smallest: float
    largest_residual: float
    smallest_residual: float
    largest_relative_residual: float        # residual / largest magnitude
    smallest_relative_residual: float
    largest_converged: bool                 # relative residual <= tolerance
    smallest_converged: bool
    products: int                           # operator applications, those for the residuals included


def extreme_eigenvalues(
    operator: LinearOperator, *, tolerance: float = 1e-6, max_products: int = 1000, seed: int = 0, basis_size: int = 60,
) -> ExtremeEigenvalues:  # fmt: skip
    """The largest and the smallest eigenvalue of a symmetric LinearOperator [p, p], from matrix-vector products alone.

    Thick-restart Lanczos (Wu and Simon, SIAM J. Matrix Anal. Appl. 22:602, 2000) with full orthogonalization. One
    Krylov space serves both ends, and residuals are relative to the largest magnitude; ARPACK takes a run for each end,
    and its tolerance, relative to the eigenvalue it seeks, is never met at an eigenvalue near 0. Whichever sign
    dominates, no shift is needed. tolerance: of the residual, relative to the largest magnitude; a float32 operator
    reaches some 1e-6. If max_products do not suffice, the best pairs are returned with converged=False. The basis holds
    basis_size vectors [p] in float64: lower it for large models. Deterministic for a given seed. Raises ValueError for
    an operator that is not square, max_products < 3 or basis_size < 8.
    """
    p = operator.shape[0]
    if operator.shape != (p, p) or p == 0 or max_products < 3 or basis_size < 8:
        raise ValueError("need a square operator, max_products >= 3 and basis_size >= 8, got shape "
                         f"{operator.shape}, {max_products} and {basis_size}")
    size = min(basis_size, p)
    basis, projected = np.empty((size, p)), np.zeros((size, size))
    w = np.random.default_rng(seed).standard_normal(p)
    basis[0] = w / np.linalg.norm(w)
    j = products = 0
    while True:
        w = np.asarray(operator.matvec(basis[j]), np.float64).ravel()
        products += 1
        length = np.linalg.norm(w)
        w, projected[j, :j + 1] = _orthogonalize(w, basis[:j + 1])
        projected[:j + 1, j] = projected[j, :j + 1]
        theta, s = np.linalg.eigh(projected[:j + 1, :j + 1])
        beta = np.linalg.norm(w)
        bound = tolerance * np.abs(theta).max()
        # beta |s_last| is the residual of a Ritz pair; 1.2 leaves room for the rounding of the final check.
        done = j > 0 and 1.2 * beta * max(abs(s[-1, 0]), abs(s[-1, -1])) <= bound
        exhausted = j + 1 == p or beta <= 10 * np.finfo(np.float64).eps * length        # invariant space
        if done or exhausted or products >= max_products - 2:
            break
        if j + 1 == size:
            j = _restart(basis, projected, theta, s)
        j += 1
        basis[j] = w / beta
    largest, smallest = (_true_pair(operator, s[:, i] @ basis[:j + 1]) for i in (-1, 0))
    scale = max(abs(largest[0]), abs(smallest[0]))
    relative = [residual / scale if scale else residual for _, residual in (largest, smallest)]
    return ExtremeEigenvalues(largest[0], smallest[0], largest[1], smallest[1], relative[0], relative[1],
                              relative[0] <= tolerance, relative[1] <= tolerance, products + 2)


def _orthogonalize(w, basis):
    """(w without its part in the rows of an orthonormal basis, coefficients of that part)."""
    coefficients = basis @ w
    w = w - coefficients @ basis
    again = basis @ w                                   # twice is enough for orthogonality to rounding
    w -= again @ basis
    return w, coefficients + again


def _restart(basis, projected, theta, s):
    """Keeps the outermost Ritz vectors of both ends in place of a full basis; returns the index of the last one.

    theta, s: eigenvalues and eigenvectors of the projected operator, which becomes diagonal.
    """
    size = len(basis)
    keep = np.r_[:size // 4, size - size // 4:size]
    basis[:len(keep)] = s[:, keep].T @ basis
    projected[:] = 0
    np.fill_diagonal(projected[:len(keep), :len(keep)], theta[keep])
    return len(keep) - 1


def _true_pair(operator, vector):
    """(Rayleigh quotient, residual) of a vector [p] by one more product, and not from the recurrence."""
    vector = vector / np.linalg.norm(vector)
    image = np.asarray(operator.matvec(vector), np.float64).ravel()
    value = float(vector @ image)
    return value, float(np.linalg.norm(image - value * vector))


@dataclass(frozen=True)
class LargestEigenvalue:
    """value: the Rayleigh quotient of the unit vector [p], a lower bound of the largest eigenvalue.

    relative_residual: ||Hv - value v|| / |value|; an eigenvalue lies as near.  products: operator applications.
    """

    value: float
    vector: np.ndarray
    relative_residual: float
    products: int


def largest_eigenvalue(
    operator: LinearOperator, *, start: np.ndarray | None = None, tolerance: float = 1e-2, basis_size: int = 8,
    max_restarts: int = 50,
) -> LargestEigenvalue:  # fmt: skip
    """The algebraically largest eigenvalue of a symmetric LinearOperator [p, p], by SciPy's Lanczos method (ARPACK).

    start: where the Krylov space begins, [p]: the eigenvector found a few training steps ago saves most of the
    products.
    tolerance: relative, of ARPACK. The vector that was found, converged or not, gets its true residual. Deterministic.
    Raises ValueError for an operator that is not square or a start of another size.
    """
    p = operator.shape[0]
    if operator.shape != (p, p) or (start is not None and np.shape(start) != (p,)):
        raise ValueError(f"need a square operator and a start of its size, got {operator.shape}, {np.shape(start)}")
    products = 0

    def counted(vector):
        nonlocal products
        products += 1
        return np.asarray(operator.matvec(vector), np.float64).ravel()

    start = np.random.default_rng(0).standard_normal(p) if start is None else np.asarray(start, np.float64)
    if p <= basis_size:
        matrix = np.stack([counted(column) for column in np.eye(p)])
        vector = np.linalg.eigh((matrix + matrix.T) / 2)[1][:, -1]
    else:
        counting = LinearOperator((p, p), matvec=counted, dtype=np.float64)
        try:
            _, vectors = eigsh(
                counting, k=1, which="LA", v0=start, tol=tolerance, ncv=basis_size, maxiter=max_restarts
            )
            vector = vectors[:, 0]
        except ArpackNoConvergence as error:
            vector = error.eigenvectors[:, 0] if error.eigenvectors.size else start / np.linalg.norm(start)
    image = counted(vector)
    value = float(vector @ image)
    residual = float(np.linalg.norm(image - value * vector))
    return LargestEigenvalue(value, vector, residual / abs(value) if value else residual, products)
