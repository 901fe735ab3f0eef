"""Whether a full model learned from the rows that its student is judged on: known of our folders, of others not."""

import pytest
from labelled import make_texts, write_csv
from tiny import make_tiny_checkpoint

from compress.inputs.provenance import split_train
from compress.inputs.read import Files, read_inputs
from models.data.texts import Texts, read_texts
from models.errors import InputError
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.finetuning.seeds import finetune_seeds
from models.train.loop import TrainingConfig

CONFIG = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=1, batch_size=16, precision="fp32"))


def config(seed: int) -> FinetuneConfig:
    return CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"seed": seed})})


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """An encoder, a file of rows, and those rows."""
    folder = tmp_path_factory.mktemp("given")
    make_tiny_checkpoint(folder / "encoder")
    path = write_csv(folder / "train.csv", make_texts(count=240, seed=1))
    return str(folder / "encoder"), path, read_texts(path)


@pytest.mark.parametrize(("seed", "asked"), [(0, 0), (3, 0), (3, 7)])
def test_the_tenth_is_the_one_that_fine_tuning_held_out_whatever_seed_is_asked_for(given, tmp_path, seed, asked):
    encoder, _, rows = given
    train, held_out = rows.split(0.1, seed)
    folder = finetune(encoder, Splits(train, held_out), config(seed), tmp_path).folder.path
    learned, judged, known = split_train(rows, folder, asked)
    assert (learned.sha256, judged.sha256, known) == (train.sha256, held_out.sha256, False)


def test_of_several_seeds_the_tenth_is_that_of_the_first(given, tmp_path):
    encoder, _, rows = given
    train, held_out = rows.split(0.1, 2)
    _, found = finetune_seeds(encoder, Splits(train, held_out), config(2), tmp_path, 2)
    for folder in found["folders"]:
        assert split_train(rows, tmp_path / folder, 0)[1].sha256 == held_out.sha256


def test_a_model_that_learned_from_all_rows_is_called_so(given, tmp_path, capsys):
    encoder, path, rows = given
    folder = finetune(encoder, Splits(rows, make_texts(count=40, seed=5)), config(0), tmp_path).folder.path
    inputs = read_inputs(folder, Files(str(path)), tmp_path, None, 0)
    assert inputs.summary()["judged_on_training_rows"] is True
    assert "WARNING: there is no --validation" in (told := capsys.readouterr().err)
    assert "it learned from all of them" in told
    known = read_inputs(folder, Files(str(path), validation=str(path)), tmp_path, None, 0)
    assert known.on_training_rows is True
    other = write_csv(tmp_path / "other.csv", Texts([("so it was",)] * 8, ["mixed", "negative"] * 4, "other"))
    assert read_inputs(folder, Files(str(path), validation=str(other)), tmp_path, None, 0).on_training_rows is False


def test_of_an_edited_file_and_of_a_foreign_folder_nothing_is_known(given, tmp_path, capsys):
    encoder, _, rows = given
    train, held_out = rows.split(0.1, 0)
    folder = finetune(encoder, Splits(train, held_out), config(0), tmp_path).folder.path
    edited = write_csv(tmp_path / "edited.csv", rows.take(range(1, 240)))
    make_tiny_checkpoint(tmp_path / "hub", labels=2)
    names = {"mixed": "LABEL_0", "negative": "LABEL_1", "positive": "LABEL_0"}
    foreign = write_csv(tmp_path / "foreign.csv", Texts(rows.rows, [names[str(x)] for x in rows.labels], "foreign"))
    for model, file in ((folder, edited), (tmp_path / "hub", foreign)):
        capsys.readouterr()
        inputs = read_inputs(model, Files(str(file)), tmp_path, None, 0)
        assert inputs.summary()["judged_on_training_rows"] == "unknown"
        assert "whether it learned from them is not known" in capsys.readouterr().err
    inputs = read_inputs(tmp_path / "hub", Files(str(foreign), validation=str(foreign)), tmp_path, None, 0)
    assert inputs.on_training_rows == "unknown"
    assert "240 of 240 rows" in capsys.readouterr().err


def test_one_validation_file_is_split_and_a_test_file_reports(given, tmp_path, capsys):
    encoder, path, rows = given
    train, held_out = rows.split(0.1, 0)
    folder = finetune(encoder, Splits(train, held_out), config(0), tmp_path).folder.path
    dev = write_csv(tmp_path / "dev.csv", make_texts(count=121, seed=7))
    test = write_csv(tmp_path / "test.csv", make_texts(count=40, seed=9))
    one = read_inputs(folder, Files(str(path), validation=str(dev)), tmp_path, None, 0)
    assert (len(one.validation), len(one.test)) == (61, 60)
    assert one.summary()["chosen_on_reported_rows"] is False
    assert "61 rows" in capsys.readouterr().err
    two = read_inputs(folder, Files(str(path), validation=str(dev), test=str(test)), tmp_path, None, 0)
    assert (len(two.validation), len(two.test)) == (121, 40)
    few = read_inputs(folder, Files(str(path), validation=str(test)), tmp_path, None, 0)
    assert (few.test, few.summary()["chosen_on_reported_rows"]) == (None, True)
    assert "WARNING: the same 40 rows" in capsys.readouterr().err
    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("text\na film\n")
    with pytest.raises(InputError, match="no column 'label'"):
        read_inputs(folder, Files(str(path), validation=str(dev), test=str(unlabelled)), tmp_path, None, 0)
