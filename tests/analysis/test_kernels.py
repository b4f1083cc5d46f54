"""analysis/kernels.py: drift by hand and by NumPy, regression against dense solutions, singular kernels."""
import numpy as np
import pytest

from analysis.kernels import centred_alignment, kernel_drift, kernel_regression, label_alignment, trace_kernel

RNG = np.random.default_rng(0)


def random_kernel(size):
    factor = RNG.standard_normal([size, size + 3])
    return factor @ factor.T


def test_drift():
    kernel = random_kernel(6).reshape(3, 2, 3, 2)
    same = kernel_drift(kernel, kernel)
    assert (
        same.relative_change == 0
        and same.correlation == pytest.approx(1, abs=1e-14)
        and same.cosine == pytest.approx(1, abs=1e-14)
    )
    doubled = kernel_drift(kernel, 2 * kernel)
    assert doubled.relative_change == pytest.approx(1) and doubled.correlation == pytest.approx(1)
    assert doubled.norm_after == pytest.approx(2 * np.linalg.norm(kernel))
    other = random_kernel(6).reshape(3, 2, 3, 2)
    drift = kernel_drift(kernel, other)
    assert drift.correlation == pytest.approx(np.corrcoef(kernel.ravel(), other.ravel())[0, 1])
    assert drift.relative_change == pytest.approx(np.linalg.norm(other - kernel) / np.linalg.norm(kernel))
    assert drift.condition_after == pytest.approx(np.linalg.cond(other.reshape(6, 6)))
    assert kernel_drift(np.ones([3, 3]), np.ones([3, 3])).condition_before == np.inf
    for bad in (kernel[:2], np.zeros([6, 6]), kernel * np.nan):
        with pytest.raises(ValueError, match="kernel"):
            kernel_drift(bad, kernel)


def test_centred_alignment_is_that_of_centred_features_and_ignores_scale_and_offset():
    """Kornblith et al. 2019, eq. 4, with features: ||Y'X||^2 / (||X'X|| ||Y'Y||) with centred columns."""
    x, y = RNG.standard_normal([7, 3]), RNG.standard_normal([7, 5])
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    wanted = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert centred_alignment(x @ x.T, y @ y.T) == pytest.approx(wanted)
    assert centred_alignment(3 * x @ x.T + 7, y @ y.T) == pytest.approx(wanted)
    assert centred_alignment(x @ x.T, x @ x.T) == pytest.approx(1)
    assert np.isnan(centred_alignment(x @ x.T, np.ones([7, 7])))


def test_alignment_with_labels_is_1_for_the_classes_themselves():
    labels = np.array([0, 0, 1, 1, 2])
    assert label_alignment(np.eye(3)[labels] @ np.eye(3)[labels].T, labels) == pytest.approx(1)
    blind = RNG.standard_normal([5, 9])
    assert label_alignment(blind @ blind.T, labels) < 0.9
    kernel = random_kernel(6).reshape(3, 2, 3, 2)
    np.testing.assert_allclose(trace_kernel(kernel), (kernel[:, 0, :, 0] + kernel[:, 1, :, 1]) / 2)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_regression_against_dense_numpy(ridge):
    kernel, cross, y, start = (
        random_kernel(6),
        RNG.standard_normal([4, 2, 3, 2]),
        RNG.standard_normal([3, 2]),
        RNG.standard_normal([4, 2]),
    )
    got = kernel_regression(kernel.reshape(3, 2, 3, 2), y, cross, start, ridge=ridge)
    wanted = start + (cross.reshape(8, 6) @ np.linalg.solve(kernel + ridge * np.eye(6), y.ravel())).reshape(4, 2)
    np.testing.assert_allclose(got.predictions, wanted, rtol=1e-9)
    assert got.condition_number == pytest.approx(np.linalg.cond(kernel + ridge * np.eye(6)))
    assert got.full_rank and got.relative_residual < 1e-10
    y, cross = RNG.standard_normal([6, 2]), RNG.standard_normal([4, 6])
    wanted = cross @ np.linalg.solve(kernel + ridge * np.eye(6), y)
    np.testing.assert_allclose(kernel_regression(kernel, y, cross, ridge=ridge).predictions, wanted, rtol=1e-9)


def test_regression_of_a_linear_model_is_least_squares():
    """The linearized network of a linear model is the model itself, trained to the least-norm change that fits."""
    x, x_test, y, start = (RNG.standard_normal(shape) for shape in ([4, 6], [5, 6], [4, 2], [4, 2]))
    design, test_design = np.c_[x, np.ones(4)], np.c_[x_test, np.ones(5)]
    test_start = RNG.standard_normal([5, 2])
    got = kernel_regression(design @ design.T, y - start, test_design @ design.T, test_start)  # the NTK of x W + b
    change = np.linalg.lstsq(design, y - start)[0]
    np.testing.assert_allclose(got.predictions, test_start + test_design @ change, rtol=1e-9)


def test_singular_regression_says_so():
    for seed in range(200):  # an eigenvalue that is 0 comes out as one or two epsilons now and then
        rng = np.random.default_rng(seed)
        factor = rng.standard_normal([6, 3])
        got = kernel_regression(factor @ factor.T, rng.standard_normal([6, 1]), np.ones([1, 6]))
        assert got.rank == 3 and not got.full_rank and got.condition_number == np.inf and got.relative_residual > 1e-3
    with pytest.raises(ValueError, match="positive semidefinite"):
        kernel_regression(-np.eye(2), np.ones([2, 1]), np.ones([1, 2]))
    with pytest.raises(ValueError, match="ridge"):
        kernel_regression(np.eye(2), np.ones([2, 1]), np.ones([1, 2]), ridge=-1)
    with pytest.raises(ValueError, match="shapes"):
        kernel_regression(np.eye(2), np.ones([2, 1]), np.ones([1, 3]))
