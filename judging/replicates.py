"""What do the seeds of some results resample?  A verdict over seeds speaks of that, and of nothing that they share."""
from typing import TYPE_CHECKING

from judging.wording import list_words
from training.data import drawn_subsets

if TYPE_CHECKING:
    from judging.results import Results  # which imports Keras

DATA_FIELDS = ("dataset", "train_size", "test_size", "resample")
SETTINGS = ("model", "augment", "label_noise", "pixel_noise")


def describe_replicates(results: "Results") -> str:
    """` Seeds resample ..`: a sentence on what every seed of the results draws anew, and which data all of them share.

    Empty for a table without data fields, which no experiment's own results are.
    """
    table = results.table
    if not set(DATA_FIELDS) <= set(table):
        return ""
    values = {name: set(table[name].tolist()) for name in SETTINGS if name in table}
    drawn = []
    if not all(model.endswith(".keras") for model in values.get("model", [""])):  # a file's weights are no seed's
        drawn.append("initialization")
    if "epochs" in table:
        drawn.append("order")
    if True in values.get("augment", ()):
        drawn.append("augmentation")
    if any(share > 0 for share in values.get("label_noise", ())):
        drawn.append("the corruption of labels")
    if values.get("pixel_noise", set()) - {"none"}:
        drawn.append("the corruption of pixels")
    shared = ["the stored weights"] if any(model.endswith(".keras") for model in values.get("model", ())) else []
    for setting in dict.fromkeys(zip(*(table[name].tolist() for name in DATA_FIELDS))):
        of_data, all_share = data_parts(*setting)
        drawn += of_data
        shared += all_share
    drawn, shared = (list(dict.fromkeys(parts)) for parts in (drawn, shared))
    scope = f", and the verdict speaks of those: all seeds share {list_words(shared)}" if shared else ""
    return f" Seeds resample {list_words(drawn) or 'nothing'}{scope}."


def data_parts(dataset: str, train_size: int, test_size: int, resample: bool) -> tuple[list[str], list[str]]:
    """([what of the data a seed draws], [what all seeds share]), in words."""
    if dataset == "digits":
        return ["the split of digits into training and test set"], []
    if dataset == "gaussian":
        return ["the data (gaussian)"], []
    if resample:
        return [f"the training and test set (out of all images of {dataset})"], []
    partial = drawn_subsets(dataset, train_size, test_size)
    whole = [kind for kind in ("training", "test") if kind not in partial]
    drawn = [f"the {' and '.join(partial)} subset of {dataset}"] if partial else []
    return drawn, [f"the {' and '.join(whole)} set of {dataset}"] if whole else []
