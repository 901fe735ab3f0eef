"""The stage: what it reads, what it learns, what its folder is, and how it goes on."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tokenizers
import torch
from pretraining import LENGTH, objective_of, tiny_shape, write_shape
from pydantic import ValidationError
from tiny import BAD, GOOD, OTHER, make_tiny_checkpoint
from tokenizers.models import WordPiece
from transformers import AutoTokenizer, BertForMaskedLM, ModernBertConfig, ModernBertModel

from models.checkpoint import load_checkpoint
from models.errors import InputError
from models.pretraining.corpus import Packing
from models.pretraining.masked_lm import MaskedBatch, load_masked_model, new_masked_model
from models.pretraining.masking import MaskingConfig
from models.pretraining.objective import MaskedObjective, maskable_rows
from models.pretraining.pretrain import ENDLESS, SIZES, PretrainConfig, Sources, pretrain, resolve_size
from models.pretraining.wordpiece import SPECIAL, open_backend
from models.train.loop import DRY_RUNS, Run, TrainingConfig, fit
from models.train.optimizer import set_learning_rate, warm_then_linear
from models.train.snapshot import load_snapshot

TRAINING = TrainingConfig(steps=30, batch_size=16, learning_rate=3e-3, freeze_embeddings=False, snapshot_minutes=0)
CONFIG = PretrainConfig(
    packing=Packing(length=LENGTH, hold_out=10), vocabulary=300, training=TRAINING, held_out_rows=16
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, corpus_file):
    """A store, the sources, and the folder that 30 steps made."""
    store = tmp_path_factory.mktemp("store")
    sources = Sources((corpus_file,), size=write_shape(store / "architecture.json"))
    return store, sources, pretrain(sources, CONFIG, store).folder.path


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_the_loss_goes_down_and_the_folder_says_so(pretrained, corpus_file):
    store, sources, folder = pretrained
    report = report_of(folder)
    size = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    assert report["held_out_loss_before"] == pytest.approx(np.log(size), rel=0.05)
    assert report["held_out_loss"] < report["held_out_loss_before"] - 0.5
    assert report["perplexity"] == pytest.approx(np.exp(report["held_out_loss"]))
    assert 0 <= report["masked_accuracy"] <= 1
    assert report["details"]["history"]["steps"] == 30
    assert 0 < report["tokens_seen"] <= 30 * 16 * LENGTH
    assert report["tokens_per_second"] > 0
    assert report["details"]["corpus"]["train"]["documents"] == 54
    again = pretrain(sources, CONFIG, store)
    assert again.reused
    assert again.folder.path == folder
    assert [step.stage for step in again.folder.manifest.lineage] == ["corpus", "pretrain"]
    assert not list(store.glob("*.scratch"))


def test_the_folder_is_one_to_fine_tune_and_one_of_transformers(pretrained):
    _, _, folder = pretrained
    classifier = load_checkpoint(folder, labels=2)
    model = load_masked_model(folder)
    assert all(torch.equal(t, classifier.encoder.state_dict()[n]) for n, t in model.encoder.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = BertForMaskedLM.from_pretrained(folder).eval()
    told = tokenizer(["The good film."], return_tensors="pt")
    assert told["input_ids"][0].tolist() == open_backend(folder).encode("The good film.").ids
    places = torch.arange(told["input_ids"].numel())
    with torch.no_grad():
        found = model(MaskedBatch(told["input_ids"], told["attention_mask"], places, places))
        assert torch.allclose(theirs(**told).logits[0], found, atol=1e-4)


def test_transformers_keeps_the_case_of_a_cased_tokenizer(tmp_path, corpus_file):
    config = CONFIG.model_copy(update={"lowercase": False, "training": TRAINING.model_copy(update={"steps": 1})})
    sources = Sources((corpus_file,), size=write_shape(tmp_path / "architecture.json"), tokenizer="new")
    folder = pretrain(sources, config, tmp_path).folder.path
    text = "The Good film."
    wanted = open_backend(folder).encode(text).ids
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == wanted
    assert open_backend(folder).encode(text.lower()).ids != wanted


def test_going_on_starts_where_the_checkpoint_ended(pretrained, tmp_path):
    _, sources, folder = pretrained
    onward = Sources(sources.corpus, encoder=str(folder))
    gentle = TRAINING.model_copy(update={"steps": 5, "learning_rate": 1e-4})
    made = pretrain(onward, CONFIG.model_copy(update={"training": gentle}), tmp_path)
    before, after = report_of(folder), report_of(made.folder.path)
    assert after["held_out_loss_before"] == pytest.approx(before["held_out_loss"], rel=1e-5)
    assert after["held_out_loss"] == pytest.approx(before["held_out_loss"], abs=0.1)
    assert (made.folder.path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_cut_encoders_are_pretrained_too(tmp_path, corpus_file, tokenizer_folder):
    size = write_shape(tmp_path / "architecture.json", layers=((1, 24), (2, 0), (0, 16)))
    config = CONFIG.model_copy(update={"training": TRAINING.model_copy(update={"steps": 2})})
    made = pretrain(Sources((corpus_file,), size=size, tokenizer=str(tokenizer_folder)), config, tmp_path)
    shape = load_checkpoint(made.folder.path, labels=3).architecture
    assert [(layer.heads, layer.ffn) for layer in shape.layers] == [(1, 24), (2, 0), (0, 16)]
    onward = pretrain(Sources((corpus_file,), encoder=str(made.folder.path)), config, tmp_path)
    assert report_of(onward.folder.path)["held_out_loss_before"] == pytest.approx(
        report_of(made.folder.path)["held_out_loss"], rel=1e-5
    )


class Interrupted(MaskedObjective):
    """Breaks off in its ninth batch."""

    left: ClassVar[list[int]] = [9]

    def collate(self, rows, epoch, device):
        self.left[0] -= 1
        if self.left[0] == 0:
            raise KeyboardInterrupt
        return MaskedObjective.collate(self, rows, epoch, device)


def test_a_run_that_was_broken_off_ends_with_the_same_weights(tmp_path, vocabulary):
    config = TRAINING.model_copy(update={"steps": 14, "batch_size": 16})
    whole, broken, resumed = (new_masked_model(tiny_shape(vocabulary.size), 0.1, seed=0) for _ in range(3))
    fit(whole, objective_of(64, vocabulary), config)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, objective_of(64, vocabulary, cls=Interrupted), config, Run(scratch=tmp_path))
    history = fit(resumed, objective_of(64, vocabulary), config, Run(scratch=tmp_path))
    assert history.steps == 14
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())


class SlowingClock:
    """A step takes a second, and three after `fast` of them; two dry runs precede the first."""

    def __init__(self, fast):
        self.asked, self.fast = 0, fast + DRY_RUNS

    def perf_counter(self):
        self.asked += 1
        steps = self.asked // 2
        return float(steps + 2 * max(0, steps - self.fast))

    def monotonic(self):
        return 0.0


def test_minutes_end_a_training_whose_steps_get_slower(tmp_path, vocabulary, monkeypatch):
    monkeypatch.setattr("models.train.loop.time", SlowingClock(20))
    model = new_masked_model(tiny_shape(vocabulary.size), 0.1, seed=0)
    config = TRAINING.model_copy(update={"steps": 1000, "batch_size": 4})
    history = fit(model, objective_of(64, vocabulary), config, Run(scratch=tmp_path, minutes=1))
    assert history.steps == 34  # 20 s and 14 times 3 s: the first step that ends after 60 s is the last
    assert history.seconds == 62
    assert not history.stopped_early
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 34
    assert 0 < last["learning_rate"] < 0.05 * config.learning_rate  # it fell with the time


def test_the_first_steps_of_a_minute_have_the_rates_of_a_training_of_as_many_steps(vocabulary, monkeypatch):
    monkeypatch.setattr("models.train.loop.time", SlowingClock(60))
    rates = []

    def noting(optimizer, factor):
        rates.append(factor)
        return set_learning_rate(optimizer, factor)

    monkeypatch.setattr("models.train.step.set_learning_rate", noting)
    model = new_masked_model(tiny_shape(vocabulary.size), 0.1, seed=0)
    config = TRAINING.model_copy(update={"steps": ENDLESS, "batch_size": 4, "warmup": 0.2})
    assert fit(model, objective_of(64, vocabulary), config, Run(minutes=1)).steps == 60
    assert rates == [warm_then_linear(step, 60, 0.2) for step in range(60)]


def test_a_run_with_minutes_goes_on_with_the_time_that_is_left(tmp_path, vocabulary, monkeypatch):
    monkeypatch.setattr("models.train.loop.time", SlowingClock(60))
    config = TRAINING.model_copy(update={"steps": ENDLESS, "batch_size": 4})
    Interrupted.left[0] = DRY_RUNS + 21
    with pytest.raises(KeyboardInterrupt):
        fit(new_masked_model(tiny_shape(vocabulary.size), 0.1, seed=0), objective_of(64, vocabulary, cls=Interrupted),
            config, Run(scratch=tmp_path, minutes=1))  # fmt: skip
    assert load_snapshot(tmp_path).counters.step == 20
    monkeypatch.setattr("models.train.loop.time", SlowingClock(60 - DRY_RUNS))  # no dry run after a resume
    model = new_masked_model(tiny_shape(vocabulary.size), 0.1, seed=0)
    history = fit(model, objective_of(64, vocabulary), config, Run(scratch=tmp_path, minutes=1))
    assert (history.steps, history.seconds) == (60, 60)


def test_minutes_that_suffice_change_nothing(vocabulary):
    config = TRAINING.model_copy(update={"steps": 20, "batch_size": 4})
    free, bound = (new_masked_model(tiny_shape(vocabulary.size), 0.1, seed=0) for _ in range(2))
    fit(free, objective_of(64, vocabulary), config)
    fit(bound, objective_of(64, vocabulary), config, Run(minutes=1e6))
    assert all(torch.equal(tensor, bound.state_dict()[name]) for name, tensor in free.state_dict().items())


def test_a_pretraining_of_no_time_takes_one_step(tmp_path, corpus_file):
    training = TRAINING.model_copy(update={"steps": None, "batch_size": 4})
    config = CONFIG.model_copy(update={"minutes": 1e-6, "training": training})
    sources = Sources((corpus_file,), size=write_shape(tmp_path / "architecture.json"))
    made = pretrain(sources, config, tmp_path)
    assert report_of(made.folder.path)["details"]["history"]["steps"] == 1


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_turc(vocabulary, name):
    shape = resolve_size(name, vocabulary, 128)
    layers, width = SIZES[name]
    assert (len(shape.layers), shape.width, shape.positions, shape.vocabulary) == (
        layers,
        width,
        128,
        vocabulary.size,
    )
    assert shape.is_uniform()
    assert shape.layers[0].ffn == 4 * width


def test_wrong_use_is_refused_with_a_reason(tmp_path, corpus_file, tokenizer_folder):
    size, files = write_shape(tmp_path / "architecture.json"), (corpus_file,)
    make_tiny_checkpoint(tmp_path / "other")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ModernBertModel(ModernBertConfig(vocab_size=200, pad_token_id=0, **shape)).save_pretrained(tmp_path / "modern")
    own = str(tokenizer_folder)
    cases = [
        (Sources((tmp_path / "none.txt",), size="huge"), "neither a file nor one of tiny"),
        (Sources(files, size="huge", tokenizer=own), "neither a file nor one of tiny, mini, small, base"),
        (Sources(files, size=size, tokenizer=str(tmp_path)), r"has no tokenizer\.json"),
        (Sources(files, encoder=str(tmp_path / "other"), tokenizer=own), "token embeddings, the tokenizer"),
        (
            Sources(files, encoder=str(tmp_path / "modern"), tokenizer=own),
            "'modernbert' encoder; pretraining supports",
        ),
        (Sources(files, encoder=str(tmp_path / "gone")), r"has no tokenizer\.json"),
        (Sources((tmp_path / "gone.txt",), size=size), "is not a file"),
        (Sources(files, (tmp_path / "gone.txt",), tokenizer=own, size=size), "is not a file"),
    ]
    for sources, told in cases:
        with pytest.raises(InputError, match=told):
            pretrain(sources, CONFIG, tmp_path / "store")
    long = CONFIG.model_copy(update={"packing": Packing(length=64, hold_out=10)})
    with pytest.raises(InputError, match="takes 16 tokens, and the sequences have 64"):
        pretrain(Sources(files, size=size, tokenizer=own), long, tmp_path / "store")
    for wrong in ({"size": "tiny"}, {"tokenizer": "new"}):
        with pytest.raises(InputError, match=r"wanted one of the two|leave out 'new'"):
            Sources(files, encoder="there", **wrong)
    wrong_settings = (
        ({"minutes": 1, "training": TRAINING}, "minutes or steps"),
        ({"training": TrainingConfig(metric="accuracy")}, "unknown metric 'accuracy'; choose from held_out_loss"),
        ({"training": TrainingConfig(patience=2)}, "patience needs a metric"),
    )
    for settings, told in wrong_settings:
        with pytest.raises(ValidationError, match=told):
            PretrainConfig(**settings)


def test_whole_words_need_pieces_that_tell_them(tmp_path, corpus_file):
    words = {word: i for i, word in enumerate([*SPECIAL, *GOOD, *BAD, *OTHER])}
    tokenizers.Tokenizer(WordPiece(words, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    config = CONFIG.model_copy(update={"masking": MaskingConfig(whole_words=True)})
    with pytest.raises(InputError, match="no pieces that begin with ##"):
        pretrain(Sources((corpus_file,), tokenizer=str(tmp_path)), config, tmp_path / "store")


UNKNOWN = "天气很好我们去公园散步然后回家吃饭"


def write_held_out(path: Path, texts: list[str]) -> Path:
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_held_out_sequences_of_unknown_tokens_only_are_not_measured(tmp_path, corpus_file, tokenizer_folder):
    """The first held-out sequences were all unknown, and the mean over no tokens was a division by zero."""
    size = write_shape(tmp_path / "architecture.json")
    config = CONFIG.model_copy(update={"held_out_rows": 2, "training": TRAINING.model_copy(update={"steps": 1})})
    known = [" ".join(GOOD + OTHER + BAD + OTHER)] * 12
    mixed = write_held_out(tmp_path / "mixed.txt", [" ".join(UNKNOWN) * 3, *known])
    sources = Sources((corpus_file,), (mixed,), tokenizer=str(tokenizer_folder), size=size)
    folder = pretrain(sources, config, tmp_path / "store").folder.path
    assert report_of(folder)["hidden_tokens"] == 3  # in one sequence of both scripts, and one of known tokens


def test_nothing_to_measure_is_one_sentence(vocabulary):
    with pytest.raises(InputError, match="none of the 3 held-out sequences has a token that can be masked"):
        maskable_rows(np.full((3, LENGTH), vocabulary.unknown), vocabulary, 2)
    rows = objective_of(4, vocabulary).rows
    mixed = np.concatenate([np.full((3, LENGTH), vocabulary.unknown), rows])
    assert np.array_equal(maskable_rows(mixed, vocabulary, 3), rows[:3])
    assert np.array_equal(maskable_rows(rows, vocabulary, 9), rows)
