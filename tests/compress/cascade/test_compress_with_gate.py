"""`prunella compress --cascade`: the bundle gets a gate; its threshold is found on rows that choose nothing else."""

import pytest
from labelled import compress_learned, make_learned, make_texts, write_csv
from verbs import run

from compress.cascade.gate_plan import plan_gate
from compress.inputs.read import Files, read_inputs
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


def test_further_texts_stay_apart_from_the_labelled_ones_and_few_rows_are_named_before_the_work(learned, capsys):
    folder, classifier = learned
    write_csv(folder / "more.csv", make_texts(count=50, seed=5))
    files = Files(str(folder / "train.csv"), str(folder / "dev.csv"), texts=str(folder / "more.csv"))
    plan = plan_gate(read_inputs(classifier.path, files, folder / "store", None, seed=0), max_loss=0.5, seed=0)
    assert plan.texts.train.labels is not None
    assert plan.texts.extra is not None
    assert len(plan.texts.train) == 300
    assert "decide the threshold, and a loss of at most 0.5 points takes 6" in capsys.readouterr().err
    few = Files(str(folder / "more.csv"), str(folder / "dev.csv"))
    with pytest.raises(InputError, match="100 training texts or more, found 50"):
        plan_gate(read_inputs(classifier.path, few, folder / "store", None, seed=0), max_loss=0.5, seed=0)


@pytest.mark.parametrize("loss", [0, -1, 100, float("nan")])
def test_an_impossible_loss_is_refused_before_any_work(learned, tmp_path, loss):
    folder, classifier = learned
    with pytest.raises(InputError, match="max_loss"):
        compress(
            classifier.path, str(folder / "train.csv"), str(folder / "dev.csv"), size_mb=0.1, cascade=True,
            cascade_loss=loss, store=tmp_path,
        )  # fmt: skip
