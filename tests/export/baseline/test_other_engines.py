"""What the exports for other engines depend on."""

from pathlib import Path

from export.baseline import other_engines
from export.baseline.other_engines import CalibrationTexts
from models.data.texts import Texts
from models.store.folder import FileEntry, Manifest, ModelFolder


def folder_of(content: str) -> ModelFolder:
    return ModelFolder(Path(content), Manifest(id="", lineage=(), files={"file": FileEntry(bytes=1, sha256=content)}))


def test_openvino_quantizes_another_exporters_graph_again(monkeypatch):
    keys = []
    monkeypatch.setattr(other_engines, "_versions", lambda *_: {})
    monkeypatch.setattr(other_engines, "run_stage", lambda stage, parents, *_: keys.append(stage.key(parents)))
    texts = Texts([("a",)], None, "texts")
    for exporter in ("optimum", "torch", "torch"):
        calibration = CalibrationTexts(texts, texts, 32)
        other_engines.openvino_int8(folder_of("classifier"), folder_of(exporter), calibration, Path("store"))
    assert keys[0] != keys[1] == keys[2]
