"""The forms of DeBERTa's graph that are compared with each other answer as transformers does."""

import json

from export import writer
from export.deberta_layers import DebertaLayers
from tools.studies.deberta import main


def test_every_form_answers_as_transformers(capsys):
    main(layers=2, width=128, tokens=[1, 7, 150], rounds=1)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name, difference in result["difference"].items():
        assert difference < (0.05 if "int8" in name else 1e-5), name
    assert set(result["median_ms"]) == {"1", "7", "150"}
    assert result["fastest_ms"]["7"].keys() == result["difference"].keys()
    assert writer.LAYERS["deberta-v2"] is DebertaLayers
