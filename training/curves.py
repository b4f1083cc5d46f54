"""Training a curve between two networks: Garipov et al. 2018 (1802.10026), section 3.1.

    minimize over the control point c   E_{t ~ U(0, 1)} loss(phi_c(t)),   phi_c a quadratic Bezier curve

A BezierCurve is a Keras model that trains the control point alone.
With a new t for every batch, `fit` trains it like any other network, with checkpoints and exact resume: the state of
the random numbers is among the model's variables.
"""
import keras
import numpy as np
import tensorflow as tf

from analysis.evaluation import dtype_of
from analysis.parameters import split_like
from analysis.paths import bezier_weights
from training.regularizers import is_kernel, penalty


class BezierCurve(keras.Model):
    """In training the network at a random t of the curve, else the one in its middle.

    network: a functional model, of which only the graph and, for batch norm, the statistics at the start are used.
    a, b: parameters [p] of the ends.  The control point starts halfway between them.  seed: of the random t.
    weight_decay: coefficient of a penalty coefficient / 2 ||theta||^2 of the network at t, as in Garipov et al.'s code,
    which the loss that training reports contains; the optimizer's own would draw the control point to 0, which is no
    network of the curve.  kernels_only: leave biases, scales and shifts out of it.
    """

    def __init__(
        self, network: keras.Model, a: np.ndarray, b: np.ndarray, *, seed: int, weight_decay: float = 0.0,
        kernels_only: bool = False,
    ):  # fmt: skip
        dtype = dtype_of(network)
        super().__init__(dtype=dtype, name="bezier_curve")
        self.uniform = keras.random.SeedGenerator(seed)
        self.weight_decay, self.kernels_only = weight_decay, kernels_only
        # Keras would count the network's own parameters among the curve's, and a function's it does not see.
        self.forward = lambda *arguments, **options: network.stateless_call(*arguments, **options)
        names = [variable.path.replace("/", "_") for variable in network.trainable_variables]
        # The ends are variables: constants would be folded into the graph, in an order that changes the last bits.
        self.start, self.control, self.end = (
            [
                self.hold(f"{point}_{name}", value, dtype, point == "control")
                for name, value in zip(names, split_like(network, vector), strict=True)
            ]
            for point, vector in (("start", a), ("control", (a + b) / 2), ("end", b))
        )
        states = network.non_trainable_variables
        self.states = [self.hold(f"state_{i}", v.numpy(), v.dtype) for i, v in enumerate(states)]
        self.built = True

    def hold(self, name: str, value: np.ndarray, dtype: str, trainable: bool = False) -> keras.Variable:
        """A variable of the curve with this value; Keras' own Constant would put it into its configuration."""
        return self.add_weight(
            shape=value.shape,
            initializer=lambda shape, dtype=None: tf.constant(value, dtype),
            dtype=dtype,
            trainable=trainable,
            name=name,
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        t = keras.random.uniform((), dtype=self.compute_dtype, seed=self.uniform) if training else 0.5
        values = [
            sum(weight * tf.convert_to_tensor(point) for weight, point in zip(bezier_weights(t), points))
            for points in zip(self.start, self.control, self.end, strict=True)
        ]
        outputs, states = self.forward(values, self.states, inputs, training=training)
        if training and self.weight_decay:
            penalized = [value for value in values if is_kernel(value) or not self.kernels_only]
            self.add_loss(penalty(penalized, "weight_decay", self.weight_decay))
        if training:
            for variable, value in zip(self.states, states, strict=True):
                variable.assign(value)
        return outputs

    @property
    def control_point(self) -> np.ndarray:
        """The trained parameters as a vector [p] float64."""
        return np.concatenate([np.asarray(v, np.float64).ravel() for v in self.control])
