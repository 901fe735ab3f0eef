"""The model in transformers, as reports compare it: each family gets the inputs that it takes, and no others."""

import numpy as np
import pytest
from tiny import TINY_FAMILIES, make_tiny_family, tiny_texts

from bench.engines.pytorch import eager_engine
from bench.measure.engine_spec import EngineSpec
from export.baseline.other_engines import ctranslate2_int8
from models.checkpoint import load_checkpoint
from models.errors import InputError
from models.finetuning.predict import predict
from models.store.folder import Manifest, ModelFolder
from models.task import Task
from models.tokenizer import Tokenizer


@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.parametrize("pair", [False, True])
def test_every_family_answers_as_ours(tmp_path, family, pair):
    make_tiny_family(tmp_path, family)
    task = Task(labels=("a", "b", "c"), pair=pair, max_tokens=40)
    engine, tokenizer = eager_engine(EngineSpec("pytorch", tmp_path, task)), Tokenizer.open(tmp_path, 40)
    rows = tiny_texts(7, pair).rows
    wanted = predict(load_checkpoint(tmp_path), tokenizer.encode(rows), tokenizer)
    assert np.allclose(engine.answer(engine.prepare(rows, None)), wanted, atol=1e-4)


def test_an_engine_that_does_not_know_the_family_says_so(tmp_path):
    make_tiny_family(tmp_path, "modernbert")
    folder = ModelFolder(tmp_path, Manifest(id="a", lineage=(), files={}))
    with pytest.raises(InputError, match="family bert only, this is a modernbert"):
        ctranslate2_int8(folder, tmp_path)
