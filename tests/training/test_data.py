"""training/data.py: splits, subsets, corruptions, augmentation, batch order, and real TFDS code."""
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chi2_contingency

from models.layers import layer_seed
from training.data import (
    PIXEL_NOISE,
    TFDS_SIZES,
    Data,
    DataConfig,
    augmentation,
    balanced_subset,
    batches,
    corrupt_labels,
    corrupt_pixels,
    crop_and_flip,
    generator,
    load,
    loader,
    read_tfds,
    require_network,
)

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tensorflow_datasets"


def test_digits_have_1437_and_360_images_of_one_channel():
    data = load(DataConfig(), seed=0)
    assert data.x_train.shape == (1437, 8, 8, 1) and data.x_test.shape == (360, 8, 8, 1)
    assert data.y_train.shape == (1437, 10) and (data.y_train.sum(1) == 1).all()
    np.testing.assert_allclose(data.x_train.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std(), 1, atol=1e-5)


def test_normalization_is_the_stated_map_of_pixels_in_the_unit_interval():
    plain, normal = (load(DataConfig(normalize=on), seed=0) for on in (False, True))
    assert plain.x_train.min() == 0 and plain.x_train.max() == 1
    np.testing.assert_allclose(normal.x_test * normal.std + normal.mean, plain.x_test, atol=1e-6)


def test_splits_are_fixed_by_the_seed():
    first, again, other = (load(DataConfig(), seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.x_train, again.x_train)
    assert not np.array_equal(first.x_train, other.x_train)


def test_subset_is_balanced_and_within_the_training_set():
    whole, part = load(DataConfig(normalize=False), seed=3), load(DataConfig(normalize=False, train_size=105), seed=3)
    counts = part.y_train.sum(0)
    assert counts.sum() == 105 and counts.max() - counts.min() <= 1
    rows = {x.tobytes() for x in whole.x_train}
    assert all(x.tobytes() in rows for x in part.x_train)


def test_first_balanced_is_sorted_by_class_and_balanced():
    x, labels = load(DataConfig(), seed=0).first_balanced(25)
    assert len(x) == 25 and (np.diff(labels) >= 0).all() and set(np.bincount(labels, minlength=10)) == {2, 3}


def test_balanced_subset_takes_what_rare_classes_have():
    labels = np.array([0] * 10 + [1] * 2)
    chosen = balanced_subset(labels, 6, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [4, 2] and len(set(chosen)) == 6


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_label_noise_changes_nine_tenths_of_p(probability):
    labels = np.random.default_rng(1).integers(10, size=20000)
    changed = np.mean(corrupt_labels(labels, probability, 10, generator(0, 2)) != labels)
    assert abs(changed - 0.9 * probability) < 4 * np.sqrt(0.25 / 20000)


def test_label_noise_leaves_the_test_set_and_the_images_alone():
    clean, noisy = load(DataConfig(), seed=0), load(DataConfig(label_noise=1.0), seed=0)
    np.testing.assert_array_equal(clean.y_test, noisy.y_test)
    np.testing.assert_array_equal(clean.x_train, noisy.x_train)
    assert np.mean((clean.y_train == noisy.y_train).all(1)) < 0.2


def test_pixel_noise():
    x = np.random.default_rng(0).random((50, 4, 4, 3)).astype(np.float32)
    test = x[:7]
    rng = lambda: generator(0, 3)  # noqa: E731
    train_shuffled, test_shuffled = corrupt_pixels(x, test, "shuffled", rng())
    np.testing.assert_array_equal(train_shuffled[:7], test_shuffled)  # one permutation for both sets
    np.testing.assert_array_equal(np.sort(train_shuffled.reshape(50, 16, 3), 1), np.sort(x.reshape(50, 16, 3), 1))
    assert not np.array_equal(train_shuffled, x)
    train_random, test_random = corrupt_pixels(x, test, "random", rng())
    np.testing.assert_array_equal(np.sort(train_random.reshape(50, 16, 3), 1), np.sort(x.reshape(50, 16, 3), 1))
    assert not np.array_equal(train_random[:7], test_random)  # a permutation of its own for every image
    noise, _ = corrupt_pixels(np.tile(x, (40, 1, 1, 1)), test, "gaussian", rng())
    assert abs(noise.mean() - x.mean()) < 0.01 and abs(noise.std() - x.std()) < 0.01


def order(data, seed, epochs, first=0):
    """Indices of the images in the order in which the pipeline gives them, [epochs, n]."""
    pipeline, steps = batches(data, batch_size=100, seed=seed, epochs=epochs, first_epoch=first)
    index = {x.tobytes(): i for i, x in enumerate(data.x_train)}
    rows = [index[x.tobytes()] for images, _ in pipeline.as_numpy_iterator() for x in images]
    return np.array(rows).reshape(epochs - first, steps * 100)


def test_order_is_a_function_of_seed_and_epoch():
    data = load(DataConfig(dataset="gaussian", train_size=500), seed=0)
    three = order(data, 5, 3)
    assert all(sorted(epoch) == list(range(500)) for epoch in three)
    assert not np.array_equal(three[0], three[1]) and not np.array_equal(three[1], three[2])
    np.testing.assert_array_equal(three, order(data, 5, 3))
    np.testing.assert_array_equal(three[2:], order(data, 5, 3, first=2))  # resumed at epoch 3
    assert not np.array_equal(three, order(data, 6, 3))


def augmented(batch_size, first=0):
    data = load(DataConfig(augment=True, train_size=60), seed=0)
    # The label row tells which image it is once it is made unique.
    data = type(data)(data.x_train, np.eye(60, dtype=np.float32), data.x_test, data.y_test, data.mean, data.std, True)
    pipeline, _ = batches(data, batch_size=batch_size, seed=2, epochs=2, first_epoch=first)
    found = [(y.argmax(1), x) for x, y in pipeline.as_numpy_iterator()]
    images, x = (np.concatenate(part) for part in zip(*found))
    half = len(images) // (2 - first)
    return data, [x[k * half : (k + 1) * half][np.argsort(images[k * half : (k + 1) * half])] for k in range(2 - first)]


def test_augmentation_depends_on_seed_epoch_and_image_alone():
    data, (one, two) = augmented(60)
    _, (one_again, two_again) = augmented(20)
    np.testing.assert_array_equal(one, one_again)
    np.testing.assert_array_equal(two, two_again)
    np.testing.assert_array_equal(two, augmented(30, first=1)[1][0])
    assert not np.array_equal(one, two)
    for image, original in zip(one, data.x_train):  # each is one of the 3 x 3 x 2 crops and flips
        padded = np.pad(original, [(1, 1), (1, 1), (0, 0)])
        crops = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        assert any(np.array_equal(image, c) or np.array_equal(image, c[:, ::-1]) for c in crops)


def crops_and_flips(seed, count, pad):
    """(top, left, flipped) [count] of every image's augmentation, read off pixels that are numbered."""
    side = 8 * pad
    numbered = np.arange(1, 1 + side * side, dtype=np.float32).reshape(1, side, side, 1)
    images = np.broadcast_to(numbered, (count, side, side, 1))
    found = crop_and_flip(images, *augmentation(count, side, tf.constant([seed, 3], tf.int64))).numpy()
    middle, right = (found[:, side // 2, side // 2 + i, 0].astype(int) - 1 for i in (0, 1))
    flipped = right < middle
    left = np.where(flipped, middle % side + side // 2 + 1 - side, middle % side - side // 2)
    return middle // side - side // 2 + pad, left + pad, flipped


@pytest.mark.parametrize("pad", [1, 4])
def test_augmentation_of_consecutive_seeds_is_independent_although_they_share_keys(pad):
    count = 6000
    _, _, flipped = crops_and_flips(0, count, pad)
    crops = np.stack(crops_and_flips(1, count, pad)[:2], axis=1)  # drawn from the bits of seed 0's flips, 3 an image
    assert crops.min() == 0 and crops.max() == 2 * pad
    flips = flipped[: 3 * (count // 3)].reshape(-1, 3)[:, :2]  # of the images that share the bits of these crops
    table = np.zeros((2 * pad + 1, 2))
    np.add.at(table, (crops[: len(flips)].ravel(), flips.astype(int).ravel()), 1)
    assert chi2_contingency(table).pvalue > 1e-3
    places = np.argsort(order(numbered_data(count), 1, 4)[3])  # of seed 1, by the key of seed 0's crops
    top, left, _ = crops_and_flips(0, count, pad)
    for draws in (top, left):
        assert abs(np.corrcoef(places[: len(draws)], draws[: len(places)])[0, 1]) < 3.5 / np.sqrt(len(places))


def numbered_data(count):
    x = np.arange(count, dtype=np.float32).reshape(count, 1)
    return Data(x, np.ones((count, 1), np.float32), x, np.ones((count, 1), np.float32), np.zeros(1), np.ones(1))


def test_no_stream_of_one_seed_is_one_of_another():
    numpy_draws = [generator(seed, stream).random() for seed in range(20) for stream in range(40)]
    assert len(set(numpy_draws)) == len(numpy_draws)
    names = ("dense_0", "dense_1", "logits", "conv_0", "exponential", "dropout_0")
    weights = [layer_seed(seed, name) for seed in range(200) for name in names]
    assert len(set(weights)) == len(weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "cifar"}, "unknown dataset 'cifar'"),
        ({"label_noise": 1.5}, r"probability in \[0, 1\], got 1.5"),
        ({"label_noise": -0.1}, "got -0.1"),
        ({"train_size": 99999}, "99999 was asked, but the data set has 1437 train images"),
        ({"train_size": -1}, "train_size must be 0"),
        ({"pixel_noise": "fog"}, "unknown pixel_noise"),
        ({"dataset": "gaussian", "augment": True}, "has no images"),
        ({"dataset": "digits", "resample": True}, "resample is for data sets with a fixed split, .*draws digits anew"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        load(DataConfig(**options), seed=0)


@pytest.fixture(scope="module")
def tiny_mnist(tmp_path_factory):
    """A data set named mnist with 30 and 12 images, prepared with TFDS' own builder code."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(256, size=(30, 28, 28, 1), dtype=np.uint8),
              "test": rng.integers(256, size=(12, 28, 28, 1), dtype=np.uint8)}  # fmt: skip

    class Mnist(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("3.0.1")
        name = "mnist"

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in images}

        def _generate_examples(self, split):
            for i, image in enumerate(images[split]):
                yield i, {"image": image, "label": i % 10}

    Mnist(data_dir=str(folder)).download_and_prepare()
    return str(folder), images


def test_tfds_data_set_is_read_whole_and_in_order_free_form(tiny_mnist):
    folder, images = tiny_mnist
    data = load(DataConfig(dataset="mnist", normalize=False), seed=0, data_dir=folder)
    assert data.x_train.shape == (30, 28, 28, 1) and data.num_classes == 10
    expected = {image.tobytes(): i % 10 for i, image in enumerate(images["train"])}
    for x, y in zip(data.x_train, data.y_train):
        assert expected[np.rint(x * 255).astype(np.uint8).tobytes()] == y.argmax()


@pytest.mark.parametrize("options", [
    {}, {"augment": True}, {"normalize": False}, {"train_size": 10}, {"test_size": 10},
    {"train_size": 30, "test_size": 12}, {"label_noise": 0.9},
    *({"pixel_noise": kind} for kind in PIXEL_NOISE), {"resample": True}, {"dataset": "digits"},
    {"dataset": "gaussian"},
], ids=str)  # fmt: skip
def test_a_data_set_is_loaded_once_for_all_seeds_just_where_they_all_have_the_same(tiny_mnist, options, monkeypatch):
    monkeypatch.setitem(TFDS_SIZES, "mnist", (30, 12))
    config = DataConfig(**{"dataset": "mnist", **options})
    of = loader(tiny_mnist[0])
    first, second, fresh = of(config, 1), of(config, 2), load(config, seed=2, data_dir=tiny_mnist[0])
    fields = ("x_train", "y_train", "x_test", "y_test", "mean", "std")
    same = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in fields)
    assert (first is second) == same and of(config, 2) is second
    for name in fields:
        np.testing.assert_array_equal(getattr(second, name), getattr(fresh, name))


def test_resampling_draws_both_sets_by_seed_out_of_their_union(tiny_mnist):
    folder, images = tiny_mnist
    fixed = load(DataConfig(dataset="mnist", normalize=False), seed=0, data_dir=folder)
    config = DataConfig(dataset="mnist", normalize=False, resample=True)
    first, again, other = (load(config, seed=seed, data_dir=folder) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x_train, again.x_train)
    np.testing.assert_array_equal(first.x_test, again.x_test)
    label_of = {image.tobytes(): i % 10 for both in images.values() for i, image in enumerate(both)}
    for data in (first, other):
        assert data.x_train.shape == fixed.x_train.shape and data.x_test.shape == fixed.x_test.shape
        x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
        pixels = [np.rint(image * 255).astype(np.uint8).tobytes() for image in x]
        assert set(pixels) == set(label_of)  # every image once, in one of both sets
        assert [label_of[image] for image in pixels] == y.argmax(axis=1).tolist()
    tests = [{x.tobytes() for x in data.x_test} for data in (fixed, first, other)]
    assert tests[0] != tests[1] and tests[1] != tests[2] and tests[0] != tests[2]
    part = load(DataConfig(dataset="mnist", normalize=False, resample=True, train_size=10), seed=0, data_dir=folder)
    assert {x.tobytes() for x in part.x_train} < {x.tobytes() for x in first.x_train}
    np.testing.assert_array_equal(part.x_test, first.x_test)


def test_missing_data_set_is_one_line(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(*args, **kwargs):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(ValueError, match=r"could not be downloaded.*no network.*--dataset=digits") as caught:
        load(DataConfig(dataset="mnist"), seed=0, data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the prepared CIFAR-10 is not here")
def test_real_cifar10():
    (x, labels), (x_test, _), classes = read_tfds("cifar10", str(SHARED))
    assert x.shape == (50000, 32, 32, 3) and x_test.shape == (10000, 32, 32, 3) and classes == 10
    assert x.dtype == np.uint8 and np.bincount(labels).tolist() == [5000] * 10
    assert (len(x), len(x_test)) == TFDS_SIZES["cifar10"]
    drawn = load(DataConfig(dataset="cifar10", test_size=10, resample=True), seed=0, data_dir=str(SHARED))
    assert drawn.y_train.sum(axis=0).tolist() == [5000] * 10  # stratified


def test_a_host_that_cannot_be_found_ends_at_once(monkeypatch):
    import socket
    import types

    def unknown(*args):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr("training.data.urllib.request.getproxies", dict)
    monkeypatch.setattr("training.data.socket.getaddrinfo", unknown)
    with pytest.raises(ConnectionError, match=r"no network: example\.org cannot be found"):
        require_network(types.SimpleNamespace(url_infos={"https://example.org/data.tar.gz": None}))
