"""judging/replicates.py: what the seeds of some results resample, for every kind of data."""
import pandas as pd
import pytest

from judging.decision import Finding, decide
from judging.replicates import describe_replicates
from judging.results import Results
from training.data import TFDS_SIZES

FIELDS = {"model": "mlp", "epochs": 3, "dataset": "digits", "train_size": 0, "test_size": 0, "resample": False,
          "augment": False, "label_noise": 0.0, "pixel_noise": "none"}  # fmt: skip
SPLIT = "the split of digits into training and test set"


def results(*settings, left_out=()):
    rows = [{**FIELDS, **fields, "seed": seed} for fields in settings for seed in range(3)]
    return Results(pd.DataFrame(rows).drop(columns=list(left_out)), {}, {}, tuple(FIELDS))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, f"initialization, order and {SPLIT}."),
        ({"train_size": 100}, f"initialization, order and {SPLIT}."),
        ({"dataset": "gaussian"}, "initialization, order and the data (gaussian)."),
        (
            {"dataset": "cifar10"},
            "initialization and order, and the verdict speaks of those: all seeds share the training and test set of "
            "cifar10.",
        ),
        (
            {"dataset": "cifar10", "train_size": 2000},
            "initialization, order and the training subset of cifar10, and the verdict speaks of those: all seeds "
            "share the test set of cifar10.",
        ),
        (
            {"dataset": "mnist", "test_size": 500},
            "initialization, order and the test subset of mnist, and the verdict speaks of those: all seeds share the "
            "training set of mnist.",
        ),
        (
            {"dataset": "mnist", "train_size": 1000, "test_size": 500},
            "initialization, order and the training and test subset of mnist.",
        ),
        (
            {"dataset": "cifar10", "resample": True},
            "initialization, order and the training and test set (out of all images of cifar10).",
        ),
        (
            {"dataset": "cifar10", "augment": True, "label_noise": 0.5, "pixel_noise": "random"},
            "initialization, order, augmentation, the corruption of labels and the corruption of pixels, and the "
            "verdict speaks of those: all seeds share the training and test set of cifar10.",
        ),
        (
            {"model": "mine.keras"},  # its weights are the file's
            f"order and {SPLIT}, and the verdict speaks of those: all seeds share the stored weights.",
        ),
    ],
)
def test_says_what_seeds_resample(fields, says):
    assert describe_replicates(results(fields)) == f" Seeds resample {says}"


@pytest.mark.parametrize("dataset", TFDS_SIZES)
def test_a_subset_of_all_images_is_no_subset(dataset):
    train_size, test_size = TFDS_SIZES[dataset]
    whole = describe_replicates(results({"dataset": dataset}))
    assert describe_replicates(results({"dataset": dataset, "train_size": train_size, "test_size": test_size})) == whole


def test_several_data_sets_are_one_sentence():
    assert describe_replicates(results({}, {"dataset": "cifar10"}, {"dataset": "cifar10", "train_size": 500})) == (
        f" Seeds resample initialization, order, {SPLIT} and the training subset of cifar10, and the verdict speaks of "
        "those: all seeds share the training and test set of cifar10 and the test set of cifar10."
    )


def test_what_is_not_trained_has_no_order_and_a_table_without_data_says_nothing():
    assert describe_replicates(results({}, left_out=["epochs"])) == f" Seeds resample initialization and {SPLIT}."
    assert describe_replicates(results({}, left_out=["dataset"])) == ""


def test_every_verdict_says_it():
    table = results({"dataset": "cifar10"})
    verdict = decide(table, [Finding("mlp", "nothing")], "a rule")
    assert verdict.family.endswith(describe_replicates(table)) and describe_replicates(table)
