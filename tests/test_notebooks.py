"""Every notebook runs from its first cell to its last, at tiny settings, and was saved with the outputs of a whole run.
"""
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.marks import long_but

FOLDER = Path(__file__).parents[1] / "notebooks"
TINY = {
    "local_minima": "OPTIONS.update(width=[16], depth=[1], seed=[0], epochs=2, embedding_epochs=1, train_size=100)",
    "ntk": 'OPTIONS.update(width=[4, 8], depth=[1], seed=[0], epochs=1, train_size=100)',
    "norm": 'OPTIONS.update(norm_target=[100.0], seed=[0], epochs=2, width=8, train_size=100)',
    "rank": 'OPTIONS.update(train_epsilon=[0.0, 8.0], edit=["none", "rank_min"], seed=[0], epochs=1, train_size=100, '
            'width=2, attack_steps=1, test_steps=1, finetune_epochs=1, edit_epochs=(1,))',
    "own_model": "IMAGES, TRAIN_IMAGES, EPOCHS = 20, 200, 2",
}  # fmt: skip


def notebooks():
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def cells(book, tag):
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("name", notebooks())
def test_saved_with_the_outputs_of_a_whole_run(name):
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(book)
    code = [
        cell for cell in book.cells if cell.cell_type == "code" and "tensorboard" not in cell.metadata.get("tags", [])
    ]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert len(cells(book, "parameters")) == 1
    assert "FLAGS" not in "".join(cell.source for cell in code)
    text = nbformat.writes(book)
    assert str(Path.home()) not in text or str(Path.home()) == "/"


@pytest.mark.slow
@pytest.mark.parametrize("name", long_but(["local_minima", "own_model"], notebooks()))
def test_runs_from_the_first_cell_to_the_last(name, tmp_path):
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (parameters,) = cells(book, "parameters")
    where = f"OUT_DIR = {str(tmp_path)!r}"
    parameters.source += f"\n{where}\n{TINY[name]}"
    book.cells = [cell for cell in book.cells if "tensorboard" not in cell.metadata.get("tags", [])]
    # TensorBoard's cell starts a server that outlives the notebook: test_tensorboard.py has one of its own.
    nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    printed = "".join(o.get("text", "") for cell in book.cells if cell.cell_type == "code" for o in cell.outputs)
    assert any(outcome in printed for outcome in ("SUPPORTED", "REFUTED", "UNDECIDED"))
