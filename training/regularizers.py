"""Regularizers of the parameter norm, added to the gradient inside the compiled training step.

    none          0
    weight_decay  coefficient * theta                                 penalty coefficient/2 ||theta||^2
    norm_bias     coefficient * sign(||theta||^2 - target) * theta    penalty coefficient/2 | ||theta||^2 - target |

Goldblum et al. 2020, section 3: norm_bias draws the parameters towards a norm that need not be small; weight_decay is
norm_bias with target 0. theta is all trainable parameters, batch norm and biases included, or the kernels only.
"""
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

REGULARIZERS = ("none", "weight_decay", "norm_bias")


def is_kernel(variable: keras.Variable | tf.Tensor) -> bool:
    """Kernels have two axes or more; biases, batch norm's scale and shift and Fixup's scalars have one or none."""
    return len(variable.shape) > 1


def squared_norm(variables: list) -> tf.Tensor:
    """||theta||^2 over a list of variables, a scalar tensor."""
    return tf.add_n([tf.reduce_sum(tf.square(tf.convert_to_tensor(v))) for v in variables])


def penalty(variables: list, regularizer: str, coefficient: float, target: float = 0.0) -> tf.Tensor:
    """The term that the training loss contains, a scalar tensor (see the table above); variables: those in theta."""
    if regularizer == "none" or coefficient == 0:
        return tf.zeros((), tf.convert_to_tensor(variables[0]).dtype)
    excess = squared_norm(variables)
    if regularizer == "norm_bias":
        excess = tf.abs(excess - target)
    return 0.5 * coefficient * excess


class RegularizedSGD(keras.optimizers.SGD):
    """SGD with momentum whose gradient includes the regularizer's, so that it enters exactly once.

    Keras' own `weight_decay` argument is decoupled: it bypasses the momentum, which is another algorithm.
    regularize_all=False leaves everything but the kernels out of theta, so out of its norm and of the gradient's term.
    """

    def __init__(
        self, *args: Any, regularizer: str = "none", coefficient: float = 0.0, norm_target: float = 0.0,
        regularize_all: bool = True, **kwargs: Any,
    ):  # fmt: skip
        super().__init__(*args, **kwargs)
        self.regularizer, self.coefficient, self.norm_target = regularizer, coefficient, norm_target
        self.regularize_all = regularize_all
        # Variables, so that another coefficient or target needs no other graph. They are no state of a checkpoint.
        self._numbers = {
            name: tf.Variable(value, trainable=False, dtype=tf.float64, name=name)
            for name, value in (("coefficient", coefficient), ("norm_target", norm_target))
        }

    def restart(self, learning_rate: float, coefficient: float, norm_target: float) -> None:
        """As at the start of a training with these numbers; a learning rate that follows a schedule stays it."""
        if bool(coefficient) != bool(self.coefficient):
            raise ValueError("whether there is a regularizer is part of the graph")
        self.coefficient, self.norm_target = coefficient, norm_target
        for name, variable in self._numbers.items():
            variable.assign(getattr(self, name))
        rate = self._learning_rate if isinstance(self._learning_rate, keras.Variable) else None
        for variable in self.variables:
            if variable is rate:
                variable.assign(learning_rate)
            else:
                variable.assign(tf.zeros(variable.shape, variable.dtype))

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence | None = None) -> None:
        if self.regularizer != "none" and self.coefficient != 0:
            variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
            # Replicas sum their gradients, so each adds its share.
            factor = self._numbers["coefficient"] / tf.distribute.get_strategy().num_replicas_in_sync
            chosen = [self.regularize_all or is_kernel(v) for v in variables]
            sign = 1.0
            if self.regularizer == "norm_bias":
                norm = squared_norm([v for v, use in zip(variables, chosen) if use])
                sign = tf.sign(norm - tf.cast(self._numbers["norm_target"], norm.dtype))
            grads = [
                g + tf.cast(factor, g.dtype) * tf.cast(sign, g.dtype) * v if use else g
                for g, v, use in zip(grads, variables, chosen)
            ]
        return super().apply(grads, trainable_variables)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "regularizer": self.regularizer,
            "coefficient": self.coefficient,
            "norm_target": self.norm_target,
            "regularize_all": self.regularize_all,
        }
