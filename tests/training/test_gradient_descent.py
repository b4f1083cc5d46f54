"""training/gradient_descent.py: full-batch steps on a quadratic loss in closed form, exact resume, divergence."""
import keras
import numpy as np
import pytest

from analysis.hessian import TrainingLoss
from analysis.parameters import get_parameters, set_parameters
from harness.memo import Memo
from reporting.run_folder import Run
from training.gradient_descent import descend

START = np.array([2.0, -1.0])
CURVATURE = np.array([4.0, 1.0])  # eigenvalues of the Hessian


def quadratic(dtype):
    """A linear model of two weights whose squared loss is (4 u^2 + v^2) / 2: gradient descent is known for it."""
    model = keras.Sequential([keras.Input((2,), dtype=dtype), keras.layers.Dense(1, use_bias=False, dtype=dtype)])
    x = np.diag(np.sqrt(2 * CURVATURE))  # the loss is a mean over two examples
    loss = TrainingLoss(model, x.astype(dtype), np.zeros((2, 1), dtype), "squared")
    set_parameters(model, START)
    return loss


@pytest.fixture
def surface():
    return quadratic("float32")


def position(step, kept):
    return {"calls": 0 if kept is None else int(kept[0])}, np.array([1.0 if kept is None else kept[0] + 1])


@pytest.mark.parametrize("rate", [0.1, 0.45, 0.5])
def test_every_step_is_that_of_the_quadratic(surface, rate):
    found = descend(surface, learning_rate=rate, steps=7, every=3, probe=position)
    points = START * (1 - rate * CURVATURE) ** np.arange(8)[:, None]
    np.testing.assert_allclose(found.losses, (CURVATURE * points**2).sum(axis=1) / 2, rtol=1e-5)
    np.testing.assert_allclose(get_parameters(surface.model), points[-1], rtol=1e-5, atol=1e-6)
    assert [row["epoch"] for row in found.rows] == [0, 3, 6, 7]  # every third step, and the last
    assert [row["calls"] for row in found.rows] == [0, 1, 2, 3]  # what a probe keeps comes back to it
    assert found.diverged_step is None


def test_a_descent_traces_one_graph(surface):
    descend(surface, learning_rate=0.1, steps=3, every=1, probe=position)
    descend(surface, learning_rate=0.1, steps=3, every=1, probe=position, search=True)
    graphs = [graph for graph in vars(surface._graphs).values() if hasattr(graph, "experimental_get_tracing_count")]
    assert sum(graph.experimental_get_tracing_count() for graph in graphs) == 1


def test_a_model_in_double_precision_moves_in_it():
    surface = quadratic("float64")
    descend(surface, learning_rate=0.1, steps=7, every=7, probe=position)
    np.testing.assert_allclose(get_parameters(surface.model), START * (1 - 0.1 * CURVATURE) ** 7, rtol=1e-14)


def test_each_variable_moves_in_its_own_precision():
    dense = keras.layers.Dense(1, use_bias=False, dtype="float64")
    model = keras.Sequential([keras.Input((2,)), dense, keras.layers.Activation("linear", dtype="float32")])
    surface = TrainingLoss(model, np.eye(2, dtype=np.float32), np.ones((2, 1), np.float32), "squared")
    descend(surface, learning_rate=0.1, steps=1, every=1, probe=position)
    moved = get_parameters(model)
    assert (moved != moved.astype(np.float32)).all()


def test_momentum_is_heavy_ball(surface):
    descend(surface, learning_rate=0.1, momentum=0.5, steps=2, every=1, probe=position)
    first = START - 0.1 * CURVATURE * START
    expected = first + 0.5 * (first - START) - 0.1 * CURVATURE * first
    np.testing.assert_allclose(get_parameters(surface.model), expected, rtol=1e-5)


def test_a_step_size_beyond_two_over_the_curvature_diverges(surface):
    found = descend(surface, learning_rate=40.0, steps=200, every=10, probe=position)
    assert found.diverged_step is not None and np.isfinite(found.losses).all()
    assert len(found.losses) == found.diverged_step


def test_until_ends_it_early(surface):
    found = descend(surface, learning_rate=0.1, steps=50, every=2, probe=position, until=lambda rows: len(rows) == 3)
    assert [row["epoch"] for row in found.rows] == [0, 2, 4] and len(found.losses) == 5


@pytest.mark.parametrize("how", [{"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": 1.0, "search": True}])
def test_an_interrupted_descent_ends_with_the_same_bits(surface, tmp_path, how):
    settings = {**how, "steps": 20, "every": 4}
    whole = descend(surface, probe=position, **settings)
    ended = get_parameters(surface.model)
    set_parameters(surface.model, START)

    def killed(step, kept):
        if step == 12:
            raise KeyboardInterrupt
        return position(step, kept)

    with pytest.raises(KeyboardInterrupt):
        descend(surface, probe=killed, run=Run(tmp_path, "one", {}, memo=Memo()), **settings)
    set_parameters(surface.model, np.zeros(2))  # a new process knows nothing of where it was
    run = Run(tmp_path, "one", {}, memo=Memo())
    again = descend(surface, probe=position, run=run, **settings)
    np.testing.assert_array_equal(again.losses, whole.losses)
    np.testing.assert_array_equal(get_parameters(surface.model), ended)
    assert again.rows == whole.rows and [row["epoch"] for row in run.history["descent"]] == [0, 4, 8, 12, 16, 20]
    assert again.gradients == whole.gradients


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"every": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}, {"learning_rate": float("nan")}]
)
def test_refused(surface, wrong):
    with pytest.raises(ValueError, match="need steps >= 1"):
        descend(surface, **{"learning_rate": 0.1, "steps": 2, "every": 1, **wrong}, probe=position)


@pytest.mark.parametrize("first", [1e-6, 1.0, 1e6])
def test_a_searched_step_size_lowers_the_loss_wherever_it_begins(surface, first):
    found = descend(surface, learning_rate=first, search=True, steps=400, every=50, probe=position)
    assert all(after < max(found.losses[max(0, i - 9) : i + 1]) for i, after in enumerate(found.losses[1:]))
    assert found.losses[-1] < 1e-12 * found.losses[0]
    assert len(found.losses) - 1 <= found.gradients < 3 * 400


def test_a_search_ends_where_no_step_lowers_the_loss_and_leaves_the_model_there(surface):
    set_parameters(surface.model, np.zeros(2))
    found = descend(surface, learning_rate=1.0, search=True, steps=50, every=20, probe=position)
    assert [row["epoch"] for row in found.rows] == [0] and (get_parameters(surface.model) == 0).all()


def test_a_search_has_no_momentum(surface):
    with pytest.raises(ValueError, match="0 with a search"):
        descend(surface, learning_rate=1.0, momentum=0.9, search=True, steps=5, every=1, probe=position)
