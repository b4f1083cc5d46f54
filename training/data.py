"""Every data set of the project, as arrays, with the corruptions that the papers ask for.

`digits` ships with scikit-learn and needs no network. The image sets come through tensorflow_datasets. `gaussian` is a
mixture of ten Gaussians in 8x8 pixels whose classes overlap, so that even a linear classifier has a finite optimum.

Splits, subsets and corruptions are functions of the seed alone. Corruptions follow Zhang et al. 2017, section 2.
"""
import dataclasses
import functools
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf  # imported late: half of the data need none of it

TFDS_SIZES = {  # images for training and test in the split that tensorflow_datasets has
    "cifar10": (50000, 10000),
    "cifar100": (50000, 10000),
    "mnist": (60000, 10000),
    "fashion_mnist": (60000, 10000),
    "svhn_cropped": (73257, 26032),
}
DATASETS = ("digits", *TFDS_SIZES, "gaussian")
PIXEL_NOISE = ("none", "shuffled", "random", "gaussian")

# Stream numbers keep the random draws of one seed independent of each other: adding label noise moves no split. No two
# seeds (below 2^32, as NumPy's and Keras' global ones must be) have a stream in common.
SPLIT, SUBSET, LABELS, PIXELS, SYNTHETIC = range(5)


def generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


@dataclass(frozen=True)
class DataConfig:
    """Which data a config sees. The folder it lies in decides nothing and is no part of it."""

    dataset: str = field(default="digits", metadata={"help": f"data set, one of {', '.join(DATASETS)}"})
    train_size: int = field(default=0, metadata={"help": "number of training images, class-balanced; 0: all"})
    test_size: int = field(default=0, metadata={"help": "number of test images, class-balanced; 0: all"})
    normalize: bool = field(default=True, metadata={"help": "subtract the channel mean, divide by the channel std"})
    augment: bool = field(default=False, metadata={"help": "random crop (padding height/8) and horizontal flip"})
    label_noise: float = field(
        default=0.0, metadata={"help": "probability that a training label is replaced by a uniform class"}
    )
    pixel_noise: str = field(default="none", metadata={"help": f"pixel corruption, one of {', '.join(PIXEL_NOISE)}"})
    resample: bool = field(
        default=False,
        metadata={"help": "draw training and test set anew by seed, out of both (image sets)", "added": True},
    )

    def validate(self) -> None:
        if self.dataset not in DATASETS:
            raise ValueError(f"unknown dataset {self.dataset!r}: allowed are {', '.join(DATASETS)}")
        for name in ("train_size", "test_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (all) or positive, got {getattr(self, name)}")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise is a probability in [0, 1], got {self.label_noise}")
        if self.pixel_noise not in PIXEL_NOISE:
            raise ValueError(f"unknown pixel_noise {self.pixel_noise!r}: allowed are {', '.join(PIXEL_NOISE)}")
        if self.augment and self.dataset == "gaussian":
            raise ValueError("augment crops and flips images, but dataset gaussian has no images")
        if self.resample and self.dataset not in TFDS_SIZES:
            raise ValueError(
                f"resample is for data sets with a fixed split, {', '.join(TFDS_SIZES)}, but every seed draws "
                f"{self.dataset} anew without it"
            )

    @property
    def drawn(self) -> bool:
        """Does a seed decide anything of these data?  The whole training and test set of an image set are fixed."""
        fixed = self.dataset in TFDS_SIZES and not self.resample
        whole = fixed and not drawn_subsets(self.dataset, self.train_size, self.test_size)
        return bool(not whole or self.label_noise or self.pixel_noise != "none")


def drawn_subsets(dataset: str, train_size: int, test_size: int) -> list[str]:
    """Of "training" and "test" those of which a seed draws a part; of an image set with a fixed split."""
    sizes = zip(("training", "test"), (train_size, test_size), TFDS_SIZES[dataset])
    return [kind for kind, size, all_of_it in sizes if size not in (0, all_of_it)]


@dataclass(frozen=True)
class Data:
    """Training and test set. Inputs are float32; targets are one-hot rows.

    x_train [n, ...], y_train [n, k], x_test [m, ...], y_test [m, k].  A pixel p of channel c in [0, 1] enters the
    network as (p - mean[c]) / std[c] (mean 0 and std 1 where the data are not normalized).
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    augment: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        return self.y_train.shape[1]

    def first_balanced(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first training images of each class in turn, as balanced as `count` allows, sorted by class.

        Returns (x [count, ...], labels [count]).
        """
        labels = self.y_train.argmax(axis=1)
        if not 1 <= count <= len(labels):
            raise ValueError(f"a sample of {count} images was asked of {len(labels)} training images")
        chosen = np.sort(balanced_subset(labels, count, rng=None))
        chosen = chosen[np.argsort(labels[chosen], kind="stable")]
        return self.x_train[chosen], labels[chosen]


def balanced_subset(labels: np.ndarray, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """Indices of `count` examples with class counts as equal as the data allow; in order when rng is None."""
    order = np.arange(len(labels)) if rng is None else rng.permutation(len(labels))
    # The rank of each example within its class: taking the lowest ranks first balances the classes.
    ranks = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        ranks[members] = np.arange(len(members))
    place = np.empty(len(labels), int)
    place[order] = np.arange(len(labels))
    return np.lexsort((place, ranks))[:count]


def load(config: DataConfig, *, seed: int, data_dir: str | None = None) -> Data:
    """The data of `config`, as a function of (config, seed).

    data_dir: folder of tensorflow_datasets (its default, or TFDS_DATA_DIR, when None); no part of the result.
    Raises ValueError where the config is invalid, asks for more images than there are, or the data cannot be had.
    """
    config.validate()
    x_train, labels, x_test, test_labels, classes = raw(config, seed, data_dir)
    x_train, labels = subset(x_train, labels, config.train_size, "train", generator(seed, SUBSET))
    x_test, test_labels = subset(x_test, test_labels, config.test_size, "test", generator(seed, SUBSET))
    # Only what is used becomes float.
    x_train, x_test = (x / np.float32(255) if x.dtype == np.uint8 else x for x in (x_train, x_test))
    labels = corrupt_labels(labels, config.label_noise, classes, generator(seed, LABELS))
    x_train, x_test = corrupt_pixels(x_train, x_test, config.pixel_noise, generator(seed, PIXELS))
    channels = x_train.shape[-1] if x_train.ndim > 2 else 1
    mean, std = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    if config.normalize:
        flat = x_train.reshape(-1, channels)
        mean, std = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
        mean, std = mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
        x_train, x_test = (x_train - mean) / std, (x_test - mean) / std
    one_hot = np.eye(classes, dtype=np.float32)
    return Data(x_train, one_hot[labels], x_test, one_hot[test_labels], mean, std, config.augment)


def loader(data_dir: str | None = None) -> Callable[[DataConfig, int], Data]:
    """`load` as a function (config, seed), which remembers the last two data sets; all seeds have those that no seed
    decides anything of, such as the whole of CIFAR-10, in common.
    """
    remembered = functools.lru_cache(maxsize=2)(lambda config, seed: load(config, seed=seed, data_dir=data_dir))
    return lambda config, seed: remembered(config, seed if config.drawn else 0)


def raw(config: DataConfig, seed: int, data_dir: str | None) -> tuple:
    """(x_train, labels, x_test, test_labels, number of classes), pixels float32 in [0, 1] or uint8."""
    if config.dataset == "digits":
        return digits(seed)
    if config.dataset == "gaussian":
        return gaussian(seed, config.train_size or 1000, config.test_size or 1000)
    train, test, classes = read_tfds(config.dataset, data_dir)
    if config.resample:
        images, labels = (np.concatenate(both) for both in zip(train, test))
        return *draw_split(images, labels, len(test[0]), seed), classes
    return *train, *test, classes


def draw_split(images: np.ndarray, labels: np.ndarray, test_size: float | int, seed: int) -> tuple[np.ndarray, ...]:
    """(x_train, labels, x_test, test_labels), stratified by class; test_size: a share, or a number of images."""
    from sklearn.model_selection import train_test_split

    # scikit-learn takes 32-bit seeds only
    state = int(generator(seed, SPLIT).integers(2**32))
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=test_size, stratify=labels, random_state=state
    )
    return x_train, y_train, x_test, y_test


@functools.lru_cache(maxsize=1)
def read_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels


def digits(seed: int) -> tuple:
    return *draw_split(*read_digits(), 0.2, seed), 10


def gaussian(
    seed: int, train_size: int, test_size: int, shape: tuple[int, ...] = (8, 8, 1), classes: int = 10,
    separation: float = 0.25,
) -> tuple:  # fmt: skip
    """x = separation * mean of its class + noise, both standard normal: classes overlap, so the Bayes error is > 0."""
    rng = generator(seed, SYNTHETIC)
    means = separation * rng.standard_normal((classes, *shape))
    labels = rng.integers(classes, size=train_size + test_size)
    x = (means[labels] + rng.standard_normal((len(labels), *shape))).astype(np.float32)
    return x[:train_size], labels[:train_size], x[train_size:], labels[train_size:], classes


@functools.lru_cache(maxsize=2)
def read_tfds(name: str, data_dir: str | None) -> tuple:
    """((x_train, labels), (x_test, labels), classes) with uint8 pixels, read through tensorflow_datasets."""
    import tensorflow_datasets as tfds

    try:
        tfds.display_progress_bar(False)
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            require_network(builder)
        builder.download_and_prepare()
        train, test = builder.as_dataset(split=["train", "test"], batch_size=-1, as_supervised=True)
    except Exception as error:  # TFDS lets every kind of network and file error through
        where = f"data_dir {data_dir!r}" if data_dir else "tensorflow_datasets' default folder"
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"dataset {name!r} is not in {where} and could not be downloaded there ({type(error).__name__}: {reason}); "
            "allowed: a data_dir with the prepared data set, a network, or --dataset=digits"
        ) from error
    arrays = [(np.asarray(x), np.asarray(y)) for x, y in (train, test)]
    return *arrays, builder.info.features["label"].num_classes


def require_network(builder: Any) -> None:
    """Raise ConnectionError at once where the host of a data set cannot be found: TFDS would retry for minutes."""
    if urllib.request.getproxies():
        return  # the proxy finds it
    for host in {urllib.parse.urlsplit(url).hostname for url in builder.url_infos or ()}:
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            raise ConnectionError(f"no network: {host} cannot be found") from error


def subset(
    x: np.ndarray, labels: np.ndarray, size: int, split: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    if size > len(x):
        raise ValueError(f"{split}_size {size} was asked, but the data set has {len(x)} {split} images")
    if size in (0, len(x)):
        return x, labels
    chosen = np.sort(balanced_subset(labels, size, rng))
    return x[chosen], labels[chosen]


def corrupt_labels(labels: np.ndarray, probability: float, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Each label is replaced by a uniform class with the given probability (so about 0.9 p change when k = 10)."""
    replaced = rng.random(len(labels)) < probability
    return np.where(replaced, rng.integers(classes, size=len(labels)), labels)


def corrupt_pixels(
    x_train: np.ndarray, x_test: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """none; shuffled: one permutation of the pixels for all images; random: one for each; gaussian: matched noise.

    Permutations move whole pixels (all channels together). Noise has the training set's mean and variance.
    """
    if kind == "none":
        return x_train, x_test
    if kind == "gaussian":
        mean, std = x_train.mean(dtype=np.float64), x_train.std(dtype=np.float64)
        return tuple(rng.normal(mean, std, x.shape).astype(np.float32) for x in (x_train, x_test))
    channels = x_train.shape[-1] if x_train.ndim > 2 else 1
    flat = [x.reshape(len(x), -1, channels) for x in (x_train, x_test)]  # [n, pixels, channels]
    if kind == "shuffled":
        order = rng.permutation(flat[0].shape[1])
        flat = [x[:, order] for x in flat]
    else:
        flat = [np.take_along_axis(x, rng.random(x.shape[:2]).argsort(axis=1)[..., None], axis=1) for x in flat]
    return flat[0].reshape(x_train.shape), flat[1].reshape(x_test.shape)


def batches(
    data: Data, *, batch_size: int, seed: int, epochs: int, first_epoch: int = 0, dtype: str = "float32"
) -> "tuple[tf.data.Dataset, int]":
    """tf.data pipeline over epochs first_epoch ... epochs-1: (x [b, ...], y [b, k]), and the steps in an epoch.

    The order of an epoch is a function of (seed, epoch), the augmentation of an image of (seed, epoch, image): a
    pipeline started at a later epoch continues exactly where an interrupted one stopped. The last, smaller batch of an
    epoch is dropped (as in the code of Goldblum et al. 2020), so that every step has one shape.
    """
    import tensorflow as tf

    x, y = tf.constant(data.x_train, dtype), tf.constant(data.y_train, dtype)
    batch_size = min(batch_size, len(x))
    make = _pipeline(len(x), batch_size, data.augment)
    pipeline = make(x, y, *(tf.constant(number, tf.int64) for number in (seed, first_epoch, epochs)))
    options = _options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return pipeline.with_options(options), len(x) // batch_size


def epoch_numbers(first: int, end: int) -> "tf.data.Dataset":
    """tf.data pipeline over the numbers first ... end-1."""
    import tensorflow as tf

    return tf.data.Dataset.range(first, end).with_options(_options())


def _options():
    """Without tf.data's tuning, which finds nothing here that it might tune: to end its thread took a tenth of a second
    for every training on busy cores.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return options


@functools.lru_cache(maxsize=8)
def _pipeline(n, batch_size, augment):
    """Function (x [n, ...], y [n, k], seed, first epoch, end) -> tf.data pipeline, traced once for data of a shape."""
    import tensorflow as tf

    steps = n // batch_size

    @tf.function
    def make(x, y, seed, first_epoch, end):
        def epoch_batches(epoch):
            rows, take = epoch_of(x, y, seed, epoch, steps=steps, batch_size=batch_size, augment=augment)
            return tf.data.Dataset.from_tensor_slices(rows).map(take)

        # Prefetching one batch lets the gather (and the augmentation) run beside the training step.
        return tf.data.Dataset.range(first_epoch, end).flat_map(epoch_batches).prefetch(1)

    return make


def epoch_of(
    x: "tf.Tensor", y: "tf.Tensor", seed: "tf.Tensor", epoch: "tf.Tensor", *, steps: int, batch_size: int, augment: bool
) -> "tuple[tf.Tensor, Callable]":
    """(rows [steps, b], take) of one epoch, for use in a graph: take(rows[i]) is its batch i, (x [b, ...], y [b, k]).

    What `batches` says of order, augmentation and the last batch is decided here.
    """
    import tensorflow as tf

    key, n = tf.stack([seed, epoch]), x.shape[0]
    order = tf.random.experimental.stateless_shuffle(tf.range(n), key)[: steps * batch_size]
    draws = augmentation(n, x.shape[1], key) if augment else None

    def take(chosen):
        images = tf.gather(x, chosen)
        if augment:
            images = crop_and_flip(images, *(tf.gather(drawn, chosen) for drawn in draws))
        return images, tf.gather(y, chosen)

    return tf.reshape(order, [steps, batch_size]), take


def augmentation(count: int, height: int, key: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor, tf.Tensor]":
    """(top, left, flip) [count] of every image of an epoch: the corner of its crop, and 1 where it is flipped.

    Drawn for all images at once, so that an image's augmentation does not depend on the batch it is in. key: [2], the
    seed and the epoch.
    """
    import tensorflow as tf

    # These keys are the next two seeds' too, for their orders and crops. The draws of two seeds are independent all the
    # same: a flip is the last of 32 random bits, a crop their remainder by an odd number, and an order comes from its
    # key in another way. Keys of their own would change the bits of results.
    draws = tf.random.stateless_uniform([count, 3], key + [1, 0], maxval=2 * _padding(height) + 1, dtype=tf.int32)
    flips = tf.random.stateless_uniform([count], key + [2, 0], maxval=2, dtype=tf.int32)
    return draws[:, 0], draws[:, 1], flips


def _padding(height):
    return max(1, height // 8)


def crop_and_flip(images: "tf.Tensor", top: "tf.Tensor", left: "tf.Tensor", flip: "tf.Tensor") -> "tf.Tensor":
    """Crop after zero padding by height/8 on each side (4 at 32x32), flip where flip [b] is 1. [b, h, w, c].

    Zero is the mean colour of normalized images.  top, left: [b], the crop's corner in the padded image.
    """
    import tensorflow as tf

    height, width = images.shape[1:3]
    pad = _padding(height)
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    rows = top[:, None] + tf.range(height)  # [b, h]
    steps = tf.range(width)
    columns = left[:, None] + tf.where(flip[:, None] == 1, steps[::-1], steps)  # [b, w]
    return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def describe(config: DataConfig) -> str:
    """A short readable name, such as cifar10-1000-noise=0.5: the data set and what differs from the defaults."""
    parts = [config.dataset]
    if config.train_size:
        parts.append(str(config.train_size))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name not in ("dataset", "train_size", "test_size") and value != item.default:
            parts.append(f"{item.name}={value}")
    return "-".join(parts)
