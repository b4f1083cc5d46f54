"""training/attacks.py: balls, pixels, worst cases in closed form, determinism, inference, adversarial training."""
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis.evaluation import evaluate
from analysis.parameters import get_parameters
from models import NetworkConfig, build
from training import attacks
from training.attacks import AdversarialModel, AttackConfig, fgsm, pgd, robust_accuracy, strong_robust_accuracy
from training.data import DataConfig, load
from training.fit import TrainingConfig, fit

pytestmark = pytest.mark.slow  # half a minute: CI runs them

MEAN, STD = np.array([0.3, 0.6], "float32"), np.array([0.5, 0.1], "float32")  # of channels, far from equal
SCALING = {"mean": MEAN, "std": STD}


def images(count=40, seed=0, size=(4, 3)):
    """x [n, *size, 2] in network units whose pixels fill [0, 1], both ends included; targets [n, 2]."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-0.3, 1.3, (count, *size, 2)).clip(0, 1).astype("float32")
    return (pixels - MEAN) / STD, np.eye(2, dtype="float32")[rng.integers(2, size=count)]


def linear_model(seed=0, dtype="float64", size=(4, 3)):
    """Logits of two classes, so that the margin is a linear function of the pixels."""
    inputs = keras.Input((*size, 2), dtype=dtype)
    model = keras.Model(inputs, keras.layers.Dense(2, dtype=dtype)(keras.layers.Flatten(dtype=dtype)(inputs)))
    rng = np.random.default_rng(seed)
    model.layers[-1].set_weights([rng.standard_normal((2 * size[0] * size[1], 2)), rng.standard_normal(2)])
    return model


def pixel_margin(model, x, y):
    """Margin of the right class [n] and its gradient for the pixels [n, 4, 3, 2]."""
    weights, bias = (v.numpy() for v in model.trainable_variables)
    sign = (2 * y[:, 1] - 1)[:, None]
    gradient = (sign * (weights[:, 1] - weights[:, 0])).reshape(x.shape) / STD
    margin = sign[:, 0] * (x.reshape(len(x), -1) @ (weights[:, 1] - weights[:, 0]) + bias[1] - bias[0])
    return margin, gradient


def small_network(shape=(4, 3, 2), num_classes=2, seed=0):
    """A tiny convolutional network with batch norm."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    h = keras.layers.Conv2D(4, 3, padding="same", activation="tanh", name="conv")(inputs)
    h = keras.layers.Flatten()(keras.layers.BatchNormalization(name="norm")(h))
    return keras.Model(inputs, keras.layers.Dense(num_classes, name="logits")(h))


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.06), ("linf", 0.5), ("l2", 0.4), ("l2", 3.0)])
def test_stays_in_the_ball_and_in_the_pixel_range(norm, epsilon, random_start):
    (x, y), model = images(), small_network()
    for attack in (
        {"step_size": epsilon / 3, "steps": 5, "random_start": random_start},
        {"step_size": 10 * epsilon, "steps": 1, "random_start": random_start},
    ):
        examples = pgd(model, x, y, norm=norm, epsilon=epsilon, seed=1, **attack, **SCALING)
        pixels, before = (v * STD + MEAN for v in (examples, x))
        assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6
        d = (pixels - before).reshape(len(x), -1)
        size = np.abs(d).max(axis=1) if norm == "linf" else np.linalg.norm(d, axis=1)
        assert size.max() < epsilon + 2e-6
        assert np.median(size) > 0.5 * epsilon or epsilon == 3.0  # it goes somewhere


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_epsilon_zero_is_the_identity(norm):
    (x, y), model = images(), small_network()
    examples = pgd(model, x, y, norm=norm, epsilon=0, step_size=0.1, steps=3, **SCALING)
    np.testing.assert_array_equal(examples, x)
    np.testing.assert_array_equal(fgsm(model, x, y, norm=norm, epsilon=0, **SCALING), x)
    attack = AttackConfig(norm=norm, epsilon=0.0)
    assert robust_accuracy(model, x, y, attack, **SCALING) == evaluate(model, x, y, "cross_entropy")[1]


def test_inputs_outside_of_the_pixel_range_go_no_further_out():
    model = linear_model()
    x = np.full((2, 4, 3, 2), 3.0)
    y = np.eye(2)
    _, gradient = pixel_margin(model, x, y)
    examples = pgd(model, x, y, epsilon=0.5, step_size=0.2, steps=5, pixel_range=(0, 0.8), **SCALING)
    x_limit = (0.8 - MEAN) / STD  # 1 and 2: all inputs lie outside
    outward = (x > x_limit) & (gradient < 0)
    assert outward.any()
    np.testing.assert_allclose(examples[outward], x[outward])
    assert np.all(examples[(x > x_limit) & (gradient > 0)] < 3.0)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_linf_reaches_the_worst_case_of_a_linear_model(loss):
    """The worst corner of box and ball: d = -epsilon sign(gradient of the margin), clipped to the pixel range."""
    (x, y), model, epsilon = images(), linear_model(), 0.05
    margin, gradient = pixel_margin(model, x, y)
    d = np.clip(x * STD + MEAN - epsilon * np.sign(gradient), 0, 1) - (x * STD + MEAN)
    worst = margin + np.sum(gradient * d, axis=(1, 2, 3))
    examples = pgd(model, x, y, epsilon=epsilon, step_size=0.02, steps=8, loss=loss, **SCALING)
    np.testing.assert_allclose(pixel_margin(model, examples, y)[0], worst, rtol=1e-5, atol=1e-5 * np.abs(margin).max())
    one = fgsm(model, x, y, epsilon=epsilon, loss=loss, **SCALING)
    np.testing.assert_allclose(pixel_margin(model, one, y)[0], worst, rtol=1e-5, atol=1e-5 * np.abs(margin).max())
    attack = AttackConfig(epsilon=epsilon, step_size=0.02, steps=8, loss=loss)
    assert robust_accuracy(model, x, y, attack, **SCALING) == np.mean(worst > 0) < np.mean(margin > 0)


def test_l2_reaches_the_worst_case_of_a_linear_model_away_from_the_edges():
    model, epsilon = linear_model(), 0.2
    _, y = images()
    x = (np.random.default_rng(0).uniform(0.4, 0.6, (40, 4, 3, 2)) - MEAN) / STD
    margin, gradient = pixel_margin(model, x, y)
    worst = margin - epsilon * np.linalg.norm(gradient.reshape(len(x), -1), axis=1)
    examples = pgd(model, x, y, norm="l2", epsilon=epsilon, step_size=0.1, steps=60, **SCALING)
    np.testing.assert_allclose(pixel_margin(model, examples, y)[0], worst, rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_or_restarts_never_help_a_linear_model(norm):
    (x, y), model = images(200), linear_model()
    attack = AttackConfig(norm=norm, epsilon=0.1 if norm == "linf" else 0.3, step_size=0.01)
    accuracy = lambda **change: robust_accuracy(model, x, y, dataclasses.replace(attack, **change), **SCALING)  # noqa: E731
    by_steps = [accuracy(steps=steps) for steps in (1, 3, 10, 30)]
    by_restarts = [accuracy(steps=2, restarts=restarts) for restarts in (1, 2, 5, 10)]
    for values in (by_steps, by_restarts):
        assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_pgd_keeps_the_restart_of_highest_loss():
    (x, y), model = images(), small_network()
    settings = {"epsilon": 0.3, "step_size": 0.05, "steps": 2, "seed": 3, **SCALING}
    loss = lambda examples: attacks.LOSSES["cross_entropy"](y, model(examples)).numpy()  # noqa: E731
    losses = [loss(pgd(model, x, y, restarts=restarts, **settings)) for restarts in (1, 4)]
    assert np.all(losses[1] >= losses[0]) and np.any(losses[1] > losses[0])


def test_deterministic_and_independent_of_the_batch_size():
    (x, y), model = images(), small_network()
    for norm in ("linf", "l2"):
        settings = {"norm": norm, "epsilon": 0.3, "step_size": 0.1, "steps": 3, "restarts": 2, **SCALING}
        first = pgd(model, x, y, seed=5, **settings)
        np.testing.assert_array_equal(pgd(model, x, y, seed=5, **settings), first)
        assert np.abs(pgd(model, x, y, seed=6, **settings) - first).max() > 1e-3
        np.testing.assert_allclose(pgd(model, x, y, seed=5, batch_size=7, **settings), first, atol=1e-5)


@pytest.mark.parametrize("batch_size", [256, 7])
def test_what_is_left_out_changes_no_other_images_attack(batch_size):
    (x, y), model = images(), small_network()
    attack = attacks.AttackConfig(epsilon=0.3, step_size=0.1, steps=3, restarts=2)
    of = np.arange(len(x)) % 3 == 1

    def examples(of=None):
        found = attacks._attacks(model, x, y, attack, 0.0, 1.0, (0.0, 1.0), 5, batch_size, of)
        pairs = [pair for rows, examples, *_ in found for pair in zip(rows, examples)]  # one restart after the other
        return [dict(pairs[: len(pairs) // 2]), dict(pairs[len(pairs) // 2 :])]

    for everything, some in zip(examples(), examples(of)):
        assert list(some) == list(np.flatnonzero(of)) and len(everything) == len(x)
        for row, example in some.items():
            np.testing.assert_allclose(example, everything[row], atol=1e-5)
    assert not list(attacks._attacks(model, x, y, attack, 0.0, 1.0, (0.0, 1.0), 5, batch_size, np.zeros(len(x), bool)))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball_uniformly(norm):
    attack = AttackConfig(norm=norm, epsilon=0.5)
    x = tf.zeros([4000, 2, 1, 1], tf.float64)
    points = [
        attacks.numpy_start(np.random.default_rng(0), x.shape, attack),
        attacks.graph_start([1, 2], x, attack).numpy(),
    ]
    for p in points:
        size = np.abs(p).max(axis=(1, 2, 3)) if norm == "linf" else np.linalg.norm(p.reshape(4000, 2), axis=1)
        assert size.max() <= 0.5
        np.testing.assert_allclose(np.quantile(size, [0.25, 0.5, 0.75]), 0.5 * np.sqrt([0.25, 0.5, 0.75]), atol=0.02)


def test_attacks_are_in_inference_mode():
    (x, y), model = images(), small_network()
    before = [v.numpy() for v in model.variables]
    attack = AttackConfig(epsilon=0.3, step_size=0.1, steps=3)
    together = pgd(model, x, y, epsilon=0.3, step_size=0.1, steps=3, random_start=False, **SCALING)
    robust_accuracy(model, x, y, attack, **SCALING)
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)
    alone = pgd(model, x[:1], y[:1], epsilon=0.3, step_size=0.1, steps=3, random_start=False, **SCALING)
    np.testing.assert_allclose(alone, together[:1], atol=1e-5)  # no image depends on its batch


def test_a_function_of_the_inputs_can_be_attacked_like_its_model():
    (x, y), model = images(), small_network()
    settings = {"epsilon": 0.3, "step_size": 0.1, "steps": 3, **SCALING}
    np.testing.assert_array_equal(
        pgd(lambda v: model(v, training=False), x, y, **settings), pgd(model, x, y, **settings)
    )
    attack = AttackConfig(epsilon=0.3)
    accuracy = robust_accuracy(lambda v: model(v, training=False), x, y, attack, **SCALING)
    assert accuracy == robust_accuracy(model, x, y, attack, **SCALING)


@pytest.fixture(scope="module")
def digits():
    return load(DataConfig(train_size=400, test_size=200), seed=0)


TRAINING = TrainingConfig(epochs=12, batch_size=32, learning_rate=0.05)
ATTACK = AttackConfig(epsilon=0.15, step_size=0.05, steps=5)


def test_adversarial_training_lowers_the_loss_under_attack(digits):
    scaling = {"mean": digits.mean, "std": digits.std}
    losses, robust = [], []
    for adversarial in (False, True):
        network = build(NetworkConfig(width=32, depth=1), digits.input_shape, 10, seed=0)
        model = AdversarialModel(network, ATTACK, seed=0, **scaling) if adversarial else network
        fit(model, digits, TRAINING, seed=0)
        examples = pgd(
            network, digits.x_test, digits.y_test, epsilon=0.15, step_size=0.05, steps=10, restarts=2, **scaling
        )
        losses.append(evaluate(network, examples, digits.y_test, "cross_entropy")[0])
        robust.append(robust_accuracy(network, digits.x_test, digits.y_test, ATTACK, **scaling))
    assert losses[1] < 0.7 * losses[0]
    assert robust[1] > robust[0] + 0.1


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


class Memory:
    """What training.fit asks of a run, in memory."""

    def __init__(self):
        self.saved = None

    def begin(self, stage):
        assert stage == "training"

    def load_checkpoint(self, stage):
        return self.saved

    def save_checkpoint(self, stage, state):
        self.saved = {**state, "rows": list(state["rows"])}

    def epoch(self, stage, row, epochs):
        pass

    def histograms(self, stage, epoch, arrays):
        assert arrays


def test_adversarial_training_resumes_exactly(digits):
    training = dataclasses.replace(TRAINING, epochs=4)
    attack = dataclasses.replace(ATTACK, norm="l2", steps=2)

    def model(seed):
        network = small_network(digits.input_shape, 10, seed)
        return AdversarialModel(network, attack, mean=digits.mean, std=digits.std, seed=0)

    whole = model(0)
    history = fit(whole, digits, training, seed=0)
    run, stopped = Memory(), model(0)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, digits, training, seed=0, run=run, callbacks=[Interrupt()])
    resumed = model(99)
    rows = fit(resumed, digits, training, seed=0, run=run).rows
    np.testing.assert_array_equal(get_parameters(resumed.network), get_parameters(whole.network))
    assert [r["train/loss"] for r in rows] == [r["train/loss"] for r in history.rows]
    assert "norm/logits" in rows[-1] and rows[-1]["test/accuracy"] == evaluate(
        resumed.network, digits.x_test, digits.y_test, "cross_entropy"
    )[1]


def test_the_wrapper_trains_as_the_network_does_when_epsilon_is_zero(digits):
    """Variables are shared, and batch-norm statistics move in the outer step, once."""
    finals = []
    for adversarial in (False, True):
        network = small_network(digits.input_shape, 10)
        model = network
        if adversarial:
            attack = dataclasses.replace(ATTACK, epsilon=0.0, steps=1)
            model = AdversarialModel(network, attack, mean=digits.mean, std=digits.std)
            assert [v.path for v in model.trainable_variables] == [v.path for v in network.trainable_variables]
        fit(model, digits, dataclasses.replace(TRAINING, epochs=2), seed=0)
        finals.append([v.numpy() for v in network.variables])
    for first, second in zip(*finals):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_an_attack_costs_one_pass_a_step():
    (x, y), model, passes = images(), small_network(), []

    def logits(v):
        passes.append(len(v))
        return model(v, training=False)

    numbers = [tf.constant(v) for v in (MEAN, STD, 0.0, 1.0, 0.1, 0.05)]
    attacks.perturb(logits, tf.constant(x), y, tf.zeros_like(x), "linf", "cross_entropy", 5, *numbers)
    assert passes == [40] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be a finite number >= 0, got -0.1"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"step_size": 0.0}, "step_size must be a finite number > 0"),
        ({"steps": 0}, "steps of an attack must be at least 1, got 0"),
        ({"restarts": 0}, "restarts of an attack must be at least 1"),
        ({"restarts": 2, "random_start": False}, "without random_start"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
    ],
)
def test_bad_attacks(options, message):
    with pytest.raises(ValueError, match=message):
        AttackConfig(**options).validate()
    settings = {"epsilon": 0.1, "step_size": 0.1, "steps": 1, **options}
    with pytest.raises(ValueError, match=message):
        pgd(linear_model(), *images(), **settings)
    with pytest.raises(ValueError, match=message):
        AdversarialModel(linear_model(), AttackConfig(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_range": (1, 0)}, "pixel_range must be"),
        ({"std": 0.0}, "std must be positive"),
        ({"y": np.eye(2)}, "one length"),
    ],
)
def test_bad_data(options, message):
    x, y = images()
    with pytest.raises(ValueError, match=message):
        pgd(linear_model(), x, **{"y": y, "epsilon": 0.1, "step_size": 0.1, "steps": 1, **options})


def test_strong_attacks_without_the_toolbox(monkeypatch):
    monkeypatch.setattr(attacks, "strong_attacks_installed", lambda: False)
    with pytest.raises(ValueError, match="is not installed: pip install"):
        strong_robust_accuracy(linear_model(), *images(), AttackConfig())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_strong_attacks_beside_pgd(norm):
    pytest.importorskip("art", reason="requirements-attacks.txt is not installed")
    (x, y), model = images(60, size=(8, 8)), linear_model(dtype="float32", size=(8, 8))
    attack = AttackConfig(norm=norm, epsilon=0.05 if norm == "linf" else 0.2, step_size=0.02, steps=30)
    before = np.random.get_state()[1].copy()
    result = strong_robust_accuracy(model, x, y, attack, apgd_steps=10, square_queries=50, **SCALING)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    clean = evaluate(model, x, y, "cross_entropy")[1]
    assert result["pgd"] == robust_accuracy(model, x, y, attack, **SCALING) < clean
    assert result["worst"] <= min(result["pgd"], result["apgd_ce"], result["square"]) <= clean
    assert abs(result["apgd_ce"] - result["pgd"]) < 0.05  # both find the worst case of a linear model
    assert strong_robust_accuracy(model, x, y, attack, apgd_steps=10, square_queries=50, **SCALING) == result
    zero = strong_robust_accuracy(model, x, y, dataclasses.replace(attack, epsilon=0.0), **SCALING)
    assert set(zero.values()) == {clean}


def test_a_sound_attack_passes_its_check_and_a_blunt_one_does_not():
    """A linear model, on which one long step is the best attack, and a network that masks its gradients."""
    rng = np.random.default_rng(0)
    x, w = rng.uniform(0.3, 0.7, (40, 6)).astype("float32"), rng.standard_normal((6, 3)).astype("float32")
    y = np.eye(3, dtype="float32")[(x @ w).argmax(axis=1)]
    attack = attacks.AttackConfig(epsilon=0.1, step_size=0.025, steps=20)
    found = attacks.check_attack(lambda inputs: inputs @ w, x, y, attack)
    losses = [found[name] for name in ("loss_clean", "loss_few", "loss", "loss_strong")]
    assert losses[0] < losses[1] <= losses[2] * 1.02 and losses[3] >= losses[2] * 0.999
    assert found["accuracy"] == attacks.robust_accuracy(lambda inputs: inputs @ w, x, y, attack)
    assert found["accuracy_strong"] <= found["accuracy"] < 1

    blunt = attacks.check_attack(lambda inputs: inputs @ w, x, y, dataclasses.replace(attack, step_size=1e-4, steps=2))
    assert blunt["accuracy"] - blunt["accuracy_strong"] > 0 or blunt["loss_strong"] > blunt["loss"]

    def saturated(inputs):  # the cross-entropy's gradient is 0 in float32; the margin's is not
        return 1000 * (inputs @ w)

    fooled = attacks.check_attack(lambda inputs: inputs @ w, x, y, dataclasses.replace(attack, epsilon=0.5))
    assert fooled["accuracy"] == fooled["accuracy_strong"] == 0  # nothing is left to the attack on the margin

    masked = attacks.check_attack(saturated, x, y, attack)
    assert masked["accuracy_strong"] == found["accuracy_strong"]
