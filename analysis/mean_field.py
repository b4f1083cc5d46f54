"""To what do the kernels of an infinitely wide network tend with its depth, and over how many layers?

    q^{l+1} = Q(q^l),   c^{l+1} = C(c^l) at q = q*,   chi(c) = dC/dc = weight_variance E[phi'(u) phi'(v)]

The slope chi_1 = chi(1) parts the ordered phase (chi_1 < 1: all inputs become alike) from the chaotic one (chi_1 > 1:
they decorrelate to c* < 1). Poole et al. 2016; Schoenholz et al. 2017; for the NTK: Xiao, Pennington & Schoenholz 2020.
"""
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from analysis.infinite_width_kernels import Layer

CRITICAL = 1e-9  # chi_1 this near to 1 is critical


@dataclass(frozen=True)
class Phase:
    """What a very deep network's kernels tend to (fully connected; convolutions share all of it).

    Correlations approach c_star like chi_c^l. In the ordered phase the NTK becomes constant, p_star, at rate chi_1^l;
    in the chaotic one its diagonal grows like chi_1^l while the rest tends to theta_off.
    """

    name: str  # "ordered" (chi_1 < 1), "critical" or "chaotic"
    q_star: float  # variance of pre-activations; inf where it grows without bound (ReLU, weight_variance >= 2)
    c_star: float  # stable correlation of two inputs
    chi_1: float  # slope of the correlation map at 1
    chi_c: float  # slope at c_star
    p_star: float  # q* / (1 - chi_1); inf outside the ordered phase
    theta_off: float  # q* c* / (1 - chi_c); inf at criticality
    xi_1: float  # layers: scale of trainability, 1 / |log chi_1|
    xi_star: float  # layers: scale of generalization in the chaotic phase, 1 / (log chi_1 - log chi_c); inf elsewhere


def phase(activation: str, weight_variance: float, bias_variance: float) -> Phase:
    """Fixed points and depth scales; chi is defined as weight_variance * E[phi' phi'].

    ReLU with weight_variance > 2 is called chaotic by its chi_1 > 1, though correlations tend to 1 there too: kernels
    only grow, so xi_star is infinite. Raises ValueError as limit_kernels does. Source: Xiao et al. 2020, sections 2 and
    3.
    """
    layer = Layer(activation, weight_variance, bias_variance)
    if layer.relu:
        chi_1 = layer.weight / 2
        q = layer.bias / (1 - chi_1) if chi_1 < 1 else np.inf
    else:
        q, chi_1 = _variance(layer), _slope(layer)
    name = "critical" if abs(chi_1 - 1) < CRITICAL else "ordered" if chi_1 < 1 else "chaotic"
    c, chi_c = 1.0, chi_1
    if name == "chaotic" and not layer.relu:
        c, chi_c = _correlation(layer, q)
    critical = name == "critical"
    return Phase(
        name=name,
        q_star=q,
        c_star=c,
        chi_1=chi_1,
        chi_c=chi_c,
        p_star=q / (1 - chi_1) if name == "ordered" else np.inf,
        theta_off=np.inf if critical or chi_c >= 1 else q * c / (1 - chi_c),
        xi_1=np.inf if critical else float(1 / abs(np.log(chi_1))),
        xi_star=float(1 / (np.log(chi_1) - np.log(chi_c))) if chi_c < chi_1 else np.inf,
    )


def _variance(layer):
    """The stable fixed point of q -> Q(q) for erf: Q is concave and at most weight + bias."""

    def gain(q):
        return layer.affine(float(layer.own(np.array(q))[0])) - q

    low, high = (0.0 if layer.bias else 1e-14), layer.weight + layer.bias
    return brentq(gain, low, high, xtol=1e-15) if gain(low) > 0 else 0.0


def _correlation(layer, q):
    """(c*, chi at c*) in the chaotic phase: C(c) - c is convex with roots c* and 1, and least where chi(c) = 1."""

    def chi(c):
        return layer.weight * float(layer.expectations(np.array([q * c]), np.array([q]), np.array([q]))[1][0])

    def gain(c):
        return layer.affine(float(layer.expectations(np.array([q * c]), np.array([q]), np.array([q]))[0][0])) / q - c

    least = brentq(lambda c: chi(c) - 1, 0, 1)
    if gain(0) <= 0:
        c = 0.0
    elif gain(least) < -1e-13:
        c = brentq(gain, 0, least, xtol=1e-15)
    else:  # so near to criticality that rounding would decide: C is a parabola there
        c = 2 * least - 1
    return c, chi(c)


def critical_weight_variance(activation: str, bias_variance: float) -> float:
    """The weight variance between the ordered and the chaotic phase, where chi_1 = 1."""
    Layer(activation, 1.0, bias_variance)
    if activation == "relu":
        return 2.0
    if not bias_variance:
        return float(np.pi / 4)
    high = 2.0
    while _slope(Layer("erf", high, bias_variance)) < 1:
        high *= 2
    return brentq(lambda variance: _slope(Layer("erf", variance, bias_variance)) - 1, 1e-3, high, xtol=1e-14)


def _slope(layer):
    """chi_1 of an erf layer."""
    return layer.weight * float(layer.own(np.array(_variance(layer)))[1])
