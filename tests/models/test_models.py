import numpy as np
import pytest
import torch
from tiny import make_tiny_checkpoint, tiny_texts
from transformers import AutoModel, AutoModelForSequenceClassification

from models.checkpoint import load_checkpoint, save_checkpoint
from models.classifier import TensorBatch
from models.data.builtin import minilm_folder
from models.data.columns import Columns
from models.data.texts import read_texts
from models.errors import FolderError, InputError
from models.store.folder import ModelFolder
from models.store.stage import Stage, run_stage
from models.task import Task
from models.tokenizer import Tokenizer


@pytest.mark.parametrize("pair", [False, True])
def test_logits_equal_transformers(tmp_path, pair):
    theirs = make_tiny_checkpoint(tmp_path, labels=3)
    batch = TensorBatch(Tokenizer.open(tmp_path, 32).batch(tiny_texts(9, pair).rows))
    ours = load_checkpoint(tmp_path)
    with torch.no_grad():
        wanted = theirs(batch.ids, attention_mask=batch.mask, token_type_ids=batch.types).logits
        assert torch.allclose(ours(batch)[0], wanted, atol=1e-5)


def test_many_rows_are_tokenized_as_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("models.tokenizer.PIECE", 4)
    make_tiny_checkpoint(tmp_path)
    tokenizer, rows = Tokenizer.open(tmp_path, 32), tiny_texts(11).rows
    assert tokenizer.encode(rows) == [tokenizer.encode([row])[0] for row in rows]
    assert tokenizer.encode([]) == []


def test_minilm_hidden_states_equal_transformers():
    folder = minilm_folder()
    batch = TensorBatch(Tokenizer.open(folder, 64).batch([("A man is eating food.",), ("Prunella heals itself.",)]))
    ours, theirs = load_checkpoint(folder, labels=2), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = theirs(batch.ids, attention_mask=batch.mask, token_type_ids=batch.types).last_hidden_state
        found, _ = ours.encoder(batch.ids, batch.mask, batch.types)
    real = batch.mask.bool()
    assert torch.allclose(found[real], wanted[real], atol=1e-5)


def test_saved_folder_loads_here_and_in_transformers(tmp_path):
    make_tiny_checkpoint(tmp_path / "source")
    model = load_checkpoint(tmp_path / "source")
    (tmp_path / "saved").mkdir()
    save_checkpoint(model, Task(labels=("negative", "positive")), tmp_path / "saved")
    batch = TensorBatch(Tokenizer.open(tmp_path / "source", 32).batch(tiny_texts(5).rows))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        wanted = model(batch)[0]
        assert torch.equal(load_checkpoint(tmp_path / "saved")(batch)[0], wanted)
        assert torch.allclose(theirs(batch.ids, batch.mask, batch.types).logits, wanted, atol=1e-5)
    assert theirs.config.id2label == {0: "negative", 1: "positive"}


@pytest.mark.parametrize(
    ("change", "told"),
    [('"model_type": "bert"', "'gpt2'"), ('"hidden_act": "gelu"', "hidden_act")],
)
def test_unknown_checkpoints_are_refused_by_name(tmp_path, change, told):
    make_tiny_checkpoint(tmp_path)
    config = tmp_path / "config.json"
    key = change.split(":")[0]
    config.write_text(config.read_text().replace(change, f'{key}: "gpt2"'))
    with pytest.raises(InputError, match=told):
        load_checkpoint(tmp_path)


def test_bin_with_code_in_it_is_refused(tmp_path):
    make_tiny_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"x": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FolderError, match="more than weights"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"text,label\nhi,1\n,0\n", "line 3.*empty"),
        ("a.csv", b"words,label\nhi,1\n", "no column 'text'"),
        ("a.csv", b"text,label\nhi,1,2\n", "line 2.*columns"),
        ("a.csv", b"text,label\n\xff\xfe,1\n", "line 2.*UTF-8"),
        ("a.jsonl", b'{"text": "hi"\n', "line 1.*JSON"),
        ("a.jsonl", b'{"text": 7}\n', "wanted a text"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "surrogate"),
        ("a.jsonl", b"", "no rows"),
        ("a.xlsx", b"", "ends in '.xlsx'"),
    ],
)
def test_bad_text_files_are_refused_with_the_line(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_texts(tmp_path / name)


def test_missing_file_and_unknown_builtin():
    with pytest.raises(InputError, match="cannot read"):
        read_texts("/nowhere/a.csv")
    with pytest.raises(InputError, match="not built in"):
        read_texts("builtin:nothing")


def test_csv_and_jsonl_give_equal_rows(tmp_path):
    (tmp_path / "a.csv").write_text('body,topic\n"two, parts",3\nplain,10\n')
    (tmp_path / "a.jsonl").write_text('{"body": "two, parts", "topic": 3}\n{"body": "plain", "topic": "10"}\n')
    columns = Columns(text="body", label="topic")
    first, second = (read_texts(tmp_path / n, columns) for n in ("a.csv", "a.jsonl"))
    assert (first.rows, first.labels) == (second.rows, second.labels)
    assert first.label_names() == ("3", "10")


def test_builtin_splits_are_disjoint():
    splits = [set(read_texts(f"builtin:bbc-news:{s}").rows) for s in ("train", "validation", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 2125


def test_a_stage_runs_once_and_a_killed_one_again(tmp_path):
    calls = []

    def make(target):
        calls.append(target)
        (target / "a.txt").write_text("whole")

    stage = Stage("work", 1, {"size": 3})
    (tmp_path / "work-x.partial").mkdir()
    first = run_stage(stage, [], tmp_path, make)
    second = run_stage(stage, [], tmp_path, make)
    assert (first.reused, second.reused, len(calls)) == (False, True, 1)
    other = run_stage(Stage("work", 1, {"size": 4}), [], tmp_path, make).folder
    assert other.path != first.folder.path
    assert other.id == first.folder.id  # another recipe, the same content

    def dies(target):
        (target / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(Stage("work", 2, {}), [], tmp_path, dies)
    again = run_stage(Stage("work", 2, {}), [], tmp_path, make)
    assert sorted(again.folder.manifest.files) == ["a.txt"]


def test_altered_or_unfinished_folders_are_refused(tmp_path):
    folder = run_stage(Stage("w", 1, {}), [], tmp_path, lambda t: (t / "a.txt").write_text("one") and None).folder
    (folder.path / "a.txt").write_text("two")
    with pytest.raises(FolderError, match="altered"):
        ModelFolder.open(folder.path)
    (folder.path / "manifest.json").unlink()
    with pytest.raises(FolderError, match="has not finished"):
        ModelFolder.open(folder.path)


def test_scores_are_probabilities_even_for_huge_logits():
    logits = np.array([[1e4, -1e4], [0, 0]], dtype=np.float32)
    assert np.allclose(Task(labels=("a", "b")).scores(logits), [[1, 0], [0.5, 0.5]])
    assert np.allclose(Task(labels=("a", "b"), kind="multi").scores(logits), [[1, 0], [0.5, 0.5]])
