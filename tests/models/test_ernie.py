"""ERNIE: BERT, with or without the embedding of a task, which goes into the segment embeddings."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_family, tiny_texts
from transformers import AutoModelForSequenceClassification

from models.checkpoint import load_checkpoint, save_checkpoint
from models.classifier import TensorBatch
from models.errors import FolderError
from models.task import Task
from models.tokenizer import Tokenizer
from tools.studies.folder_forms import change_config

TABLE = "ernie.embeddings.task_type_embeddings.weight"


def batch_of(folder):
    return TensorBatch(Tokenizer.open(folder, 40).batch(tiny_texts(6, pair=True).rows))


@pytest.mark.parametrize("uses_task", [False, True])
@torch.no_grad()
def test_task_0_is_added_once_and_transformers_reads_the_result(tmp_path, capsys, uses_task):
    theirs = make_tiny_family(tmp_path, "ernie", use_task_id=uses_task)
    model, batch = load_checkpoint(tmp_path), batch_of(tmp_path)
    wanted = theirs(batch.ids, attention_mask=batch.mask, token_type_ids=batch.types).logits
    assert torch.allclose(model(batch)[0], wanted, atol=1e-5)
    assert ("the embedding of task 0 (of 3) is added" in capsys.readouterr().err) == uses_task
    saved = tmp_path / "saved"
    saved.mkdir()
    save_checkpoint(model, Task(labels=("a", "b", "c")), saved)
    assert torch.equal(load_checkpoint(saved)(batch)[0], model(batch)[0])
    again, info = AutoModelForSequenceClassification.from_pretrained(saved, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.allclose(
        again.eval()(batch.ids, attention_mask=batch.mask, token_type_ids=batch.types).logits, wanted, atol=1e-5
    )


def test_tables_and_settings_that_do_not_fit_are_refused(tmp_path):
    make_tiny_family(tmp_path, "ernie")
    change_config(tmp_path, use_task_id=False)  # transformers would leave the table out
    with pytest.raises(FolderError, match=r"not supported: .*task_type_embeddings"):
        load_checkpoint(tmp_path)
    change_config(tmp_path, use_task_id=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[TABLE] = tensors[TABLE][:, :-1].contiguous()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FolderError, match=r"tasks and segments have shapes \(3, 63\) and \(2, 64\)"):
        load_checkpoint(tmp_path)
    del tensors[TABLE]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FolderError, match=r"use_task_id = True, and the weights lack .*task_type_embeddings"):
        load_checkpoint(tmp_path)
