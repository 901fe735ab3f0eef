"""`prunella compress --cascade`: the bundle gets a gate; its threshold is found on rows that choose nothing else."""

import pytest
from labelled import compress_learned, make_learned, make_texts
from verbs import run

from compress.run import compress
from models.errors import InputError
from service.model.bundle import Bundle

ROWS = 400  # of --validation: a quarter chooses, a quarter decides the threshold, and half is reported


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory):
    return make_learned(tmp_path_factory.mktemp("learned"), make_texts(count=300), make_texts(count=ROWS, seed=1))


def test_a_compression_ends_with_a_gate_and_says_what_it_costs(learned, tmp_path, capsys, monkeypatch, byte_clock):
    folder, classifier = learned
    command = compress_learned(folder, classifier)
    code, line, err = run(
        capsys, monkeypatch, *command, "--cascade", "--cascade-loss", "20", "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert "rows of" in err
    assert "decide the threshold of the gate only" in err
    gate = Bundle.open(tmp_path / "out").gate
    assert gate is not None
    assert gate.info.rows <= ROWS // 4
    assert gate.info.max_loss == 20
    assert line["cascade"]["loss_against"] == "full model"
    assert line["cascade"]["test_rows"] == ROWS // 2
    assert line["choosing_rows"] == ROWS // 4
    assert line["folder"] == str(tmp_path / "out")


@pytest.mark.parametrize("loss", [0, -1, 100, float("nan")])
def test_an_impossible_loss_is_refused_before_any_work(learned, tmp_path, loss):
    folder, classifier = learned
    with pytest.raises(InputError, match="max_loss"):
        compress(
            classifier.path, str(folder / "train.csv"), str(folder / "dev.csv"), size_mb=0.1, cascade=True,
            cascade_loss=loss, store=tmp_path,
        )  # fmt: skip
