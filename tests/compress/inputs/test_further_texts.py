"""`compress --texts`: rows on which a student is judged are not among those that it learns."""

from pathlib import Path

import pytest
from labelled import make_texts, write_csv
from tiny import make_tiny_checkpoint

from compress.inputs.read import Files, read_inputs
from models.data.texts import Texts
from models.errors import InputError

TRAIN, DEV, TEST, MORE = (make_texts(count=120, seed=seed) for seed in range(4))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    make_tiny_checkpoint(tmp_path / "model", labels=3)
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace("LABEL_0", "mixed").replace("LABEL_1", "negative"))
    config.write_text(config.read_text().replace("LABEL_2", "positive"))
    for name, rows in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        write_csv(tmp_path / f"{name}.csv", rows)
    return tmp_path


@pytest.mark.parametrize("with_test", [False, True])
def test_held_out_rows_are_left_out_of_further_texts(files, capsys, with_test):
    copies = [(row[0].upper() + ".",) for row in (*DEV.rows, *(TEST.rows if with_test else ()))]
    rows = [*MORE.rows, *copies]
    write_csv(files / "more.csv", Texts(rows, ["mixed"] * len(rows), "more"))
    named = Files(
        str(files / "train.csv"), str(files / "dev.csv"), str(files / "test.csv") if with_test else None,
        texts=str(files / "more.csv"),
    )  # fmt: skip
    inputs = read_inputs(files / "model", named, files / "store", None, seed=0)
    held_out = {row[0] for row in inputs.roles.everything.rows}
    assert not held_out & {row[0].lower().rstrip(".") for row in inputs.parts[1].rows}
    assert "are labelled rows, apart from case, punctuation and spaces: they are left out" in capsys.readouterr().err
    write_csv(files / "more.csv", Texts(copies, ["mixed"] * len(copies), "more"))
    with pytest.raises(InputError, match="are labelled rows as well: wanted further texts"):
        read_inputs(files / "model", named, files / "store", None, seed=0)
