import json
from pathlib import Path

import pytest
from bundles import make_tiny_bundle
from tiny import tiny_texts

from tools import vnni_portability as portability


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("portability"))


def test_the_same_processor_gives_the_same_answers(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": row[0]}) for row in tiny_texts(12).rows))
    portability.main(bundle, str(tmp_path / "texts.jsonl"), rows=12, emulator="env")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["rows"] == 12
    assert told["with_key"] == {"equal_labels": 1.0, "max_difference": 0.0, "mean_difference": 0.0}
    assert told["without_key"]["equal_labels"] > 0.5  # 8-bit weights saturate here where VNNI is missing


def test_a_processor_that_cannot_answer_is_an_error(bundle, tmp_path):
    with pytest.raises(FileNotFoundError):
        portability.answer(bundle / "onnx" / "cpu-int8.onnx", tmp_path / "none.json", False, ["no-such-emulator"])
