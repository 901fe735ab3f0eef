"""What labels, teachers and further texts contribute: the ways that are compared, and the file that is written."""

import json

import pytest
from labelled import make_learned, make_texts, write_csv
from tiny import make_tiny_checkpoint

from models.errors import InputError
from tools.teacher_ablation import LABELS, main, ways


def test_the_ways_are_labels_teachers_and_texts_in_all_combinations():
    assert list(ways(["a", "b", "c"], "texts.csv", 0.5)) == [
        "labels only", "one teacher only", "labels and one teacher", "3 teachers only", "labels and 3 teachers",
        "one teacher only, with texts", "labels and one teacher, with texts", "3 teachers only, with texts",
        "labels and 3 teachers, with texts",
    ]  # fmt: skip
    assert list(ways(["a"], None, 0.5)) == ["labels only", "one teacher only", "labels and one teacher"]


def test_a_study_is_written_and_names_no_folder_of_the_machine(tmp_path, capsys):
    folder, teacher = make_learned(tmp_path, make_texts(count=200, seed=1), make_texts(count=60, seed=2))
    make_tiny_checkpoint(folder / "small", layers=1, seed=4)
    write_csv(folder / "test.csv", make_texts(count=80, seed=3))
    write_csv(folder / "texts.csv", make_texts(count=40, seed=4))

    def start():
        main(
            "tiny", str(folder / "train.csv"), str(folder / "dev.csv"), str(folder / "test.csv"), [str(teacher.path)],
            texts=str(folder / "texts.csv"), encoder=str(folder / "small"), seeds=2, epochs=1, max_tokens=32,
            results=tmp_path / "results", store=folder / "store", nearest=None, weight=0.5,
        )  # fmt: skip

    start()
    text = (tmp_path / "results" / "tiny.json").read_text()
    assert str(tmp_path) not in text
    rows = {row["way"]: row for row in json.loads(text)["ways"]}
    assert len(rows) == 5
    assert "points" not in rows[LABELS]
    for way, row in rows.items():
        assert len(row["accuracy"]) == 2
        assert row["mean"] == pytest.approx(sum(row["accuracy"]) / 2)
        if way != LABELS:
            assert row["points"] == pytest.approx(100 * (row["mean"] - rows[LABELS]["mean"]))
            assert row["points_interval"][0] <= row["points"] <= row["points_interval"][1]
            assert row["teachers"][0]["teacher"] == teacher.path.name
    start()  # the models are there already: the same result
    assert json.loads((tmp_path / "results" / "tiny.json").read_text())["ways"] == json.loads(text)["ways"]
    with pytest.raises(InputError, match="is not a name"):
        main("a/b", "", "", "", [])
