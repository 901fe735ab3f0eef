"""Masks keep their rules, and the model that guesses them is transformers' model."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from pretraining import LENGTH, objective_of, tiny_shape
from tiny import make_tiny_checkpoint
from transformers import (
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ErnieConfig,
    ErnieForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from models.checkpoint import load_checkpoint
from models.errors import FolderError
from models.pretraining.corpus import Packing, pack_corpus
from models.pretraining.masked_lm import (
    MaskedBatch,
    load_masked_model,
    new_masked_model,
    save_masked_model,
    set_sinusoidal_positions,
)
from models.pretraining.masking import IGNORED, MaskingConfig, generator_of, mask_tokens
from models.pretraining.objective import MaskedObjective, measure
from models.pretraining.pretrain import resolve_size


@pytest.mark.parametrize("whole_words", [False, True])
def test_masks_keep_their_rules(tmp_path, corpus_file, tokenizer_folder, vocabulary, whole_words):
    corpus = pack_corpus([corpus_file], [], tokenizer_folder, Packing(length=32, hold_out=10), tmp_path)
    config = MaskingConfig(whole_words=whole_words)
    for row, ids in enumerate(corpus.train):
        seen, labels = mask_tokens(ids, vocabulary, config, generator_of(1, 0, row))
        chosen = labels != IGNORED
        assert np.array_equal(labels[chosen], ids[chosen])
        assert np.array_equal(seen[~chosen], ids[~chosen])  # what is not asked for is not touched
        assert not vocabulary.special[ids[chosen]].any()
        assert ((seen[chosen] == vocabulary.mask) | ~vocabulary.special[seen[chosen]]).all()
        count = max(1, round(0.15 * (~vocabulary.special[ids]).sum()))
        assert chosen.sum() == count or (whole_words and chosen.sum() >= 1)
        if whole_words:
            inside = vocabulary.inside[ids[1:]] & ~vocabulary.special[ids[:-1]]
            assert np.array_equal(chosen[1:][inside], chosen[:-1][inside])  # a word is hidden whole or not at all


def test_masks_are_eighty_ten_ten(vocabulary):
    ids = np.resize(vocabulary.ordinary, 400_000)
    seen, labels = mask_tokens(ids, vocabulary, MaskingConfig(), np.random.default_rng(0))
    chosen = labels != IGNORED
    assert chosen.sum() == 60_000
    as_mask = (seen[chosen] == vocabulary.mask).mean()
    replaced = (seen[chosen] != vocabulary.mask) & (seen[chosen] != ids[chosen])
    lucky = 0.1 / len(vocabulary.ordinary)  # random tokens that are the same by chance
    assert as_mask == pytest.approx(0.8, abs=0.01)  # 6 standard deviations
    assert replaced.mean() == pytest.approx(0.1 - lucky, abs=0.0075)
    drawn = np.bincount(seen[chosen][replaced], minlength=vocabulary.size)
    assert not drawn[vocabulary.special].any()
    assert (drawn[vocabulary.ordinary] > 0).all()  # each of them can come


def test_long_and_short_words_are_hidden_at_one_rate(vocabulary):
    first, inside = (
        vocabulary.ordinary[~vocabulary.inside[vocabulary.ordinary]][0],
        np.flatnonzero(vocabulary.inside)[0],
    )
    ids = np.array([vocabulary.cls, *[first, inside, first] * 40, vocabulary.sep])
    config = MaskingConfig(whole_words=True)
    hidden = np.array([mask_tokens(ids, vocabulary, config, generator_of(0, 0, r))[1] != IGNORED for r in range(600)])
    assert (hidden.sum(1) == 18).all()  # single tokens fill what pairs leave
    by_place = hidden.mean(0)[1:-1].reshape(40, 3)
    assert np.array_equal(by_place[:, 0], by_place[:, 1])
    # what is left at the end takes short words only, so these come a little more often
    assert by_place.mean(0) == pytest.approx([0.15] * 3, abs=0.02)


def test_one_long_word_is_still_hidden(vocabulary):
    first, inside = (
        vocabulary.ordinary[~vocabulary.inside[vocabulary.ordinary]][0],
        np.flatnonzero(vocabulary.inside)[0],
    )
    ids = np.array([vocabulary.cls, first, inside, inside, vocabulary.sep])
    labels = mask_tokens(ids, vocabulary, MaskingConfig(whole_words=True), generator_of(0, 0, 0))[1]
    assert labels.tolist() == [IGNORED, first, inside, inside, IGNORED]


def test_a_row_of_special_tokens_is_left_alone(vocabulary):
    ids = np.array([vocabulary.cls, vocabulary.unknown, vocabulary.sep, vocabulary.pad])
    seen, labels = mask_tokens(ids, vocabulary, MaskingConfig(), generator_of(0, 0, 0))
    assert seen.tolist() == ids.tolist()
    assert (labels == IGNORED).all()


def test_a_batch_without_a_hidden_token_teaches_nothing(vocabulary):
    rows = np.full((2, LENGTH), vocabulary.unknown)
    objective = MaskedObjective(rows, vocabulary, MaskingConfig(), seed=0)
    batch = objective.collate(range(2), 0, torch.device("cpu"))
    model = new_masked_model(tiny_shape(vocabulary.size), 0.0, seed=0)
    (objective.loss(model, batch) / objective.weight(batch)).backward()
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


def test_masks_depend_on_seed_epoch_and_row_only(vocabulary):
    objective = objective_of(12, vocabulary)
    cpu = torch.device("cpu")
    together = objective.collate(range(12), 2, cpu)
    alone = [objective.collate([row], 2, cpu) for row in (5, 11, 0)]
    for row, batch in zip((5, 11, 0), alone, strict=True):
        assert torch.equal(batch.ids[0], together.ids[row])
    rows = {tuple(row.tolist()) for row in together.ids == vocabulary.mask}
    assert len(rows) > 1  # rows do not share their places
    others = (objective.collate(range(12), 3, cpu), objective_of(12, vocabulary, seed=4).collate(range(12), 2, cpu))
    assert not any(torch.equal(other.ids, together.ids) for other in others)
    assert torch.equal(objective.collate(range(12), 2, cpu).targets, together.targets)
    shown = together.ids.flatten()[together.positions]
    assert len(together.positions) == len(together.targets) == objective.weight(together) == 12 * 2
    assert torch.tensor(objective.rows).flatten()[together.positions].equal(together.targets)
    assert (shown == vocabulary.mask).any()


def test_an_epoch_has_every_row_once(vocabulary):
    objective = objective_of(50, vocabulary)
    plans = [objective.plan(epoch, 16, seed=7) for epoch in (0, 1)]
    assert plans[0] == objective.plan(0, 16, seed=7)
    assert plans[0] != plans[1]
    for plan in plans:
        assert [len(rows) for rows in plan] == [16, 16, 16, 2]
        assert sorted(row for rows in plan for row in rows) == list(range(50))


def test_new_weights_are_berts(vocabulary):
    shape = resolve_size("tiny", vocabulary, LENGTH)
    state = new_masked_model(shape, 0.1, seed=5).state_dict()
    for name, tensor in state.items():
        if "norm.weight" in name:
            assert (tensor == 1).all()
        elif name.endswith("bias"):
            assert (tensor == 0).all()
        elif "positions" not in name:
            assert tensor.std() == pytest.approx(0.02, rel=0.1), name
            assert abs(tensor.mean()) < 0.003
    assert all(torch.equal(t, state[n]) for n, t in new_masked_model(shape, 0.1, seed=5).state_dict().items())
    other = new_masked_model(shape, 0.1, seed=6).state_dict()
    assert not torch.equal(other["head.dense.weight"], state["head.dense.weight"])


@pytest.mark.parametrize("width", [6, 7])
def test_positions_begin_as_waves_as_large_as_words(width):
    table = torch.zeros(400, width)
    set_sinusoidal_positions(table)
    for position in (0, 1, 57, 399):
        for column in range(width):
            angle = position / 10_000 ** (2 * (column // 2) / width)
            wave = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert table[position, column] == pytest.approx(wave * 0.02 * 2**0.5, abs=1e-5)
    assert table[:, :6].square().mean().sqrt() == pytest.approx(0.02, rel=0.1)


def test_the_decoder_is_the_embedding_table(vocabulary):
    model = new_masked_model(tiny_shape(vocabulary.size), 0.0, seed=0)
    tables = [n for n, p in model.named_parameters() if vocabulary.size in p.shape]
    assert tables == ["encoder.embeddings.tokens.weight", "head.bias"]
    batch = objective_of(4, vocabulary).collate(range(4), 0, torch.device("cpu"))
    before = model(batch)
    table = model.encoder.embeddings.tokens.weight
    absent = next(i for i in vocabulary.ordinary.tolist() if i not in batch.ids)
    with torch.no_grad():
        table[absent] += 1  # no input: only the decoder reads this row
    changed = (model(batch) != before).any(0)
    assert changed.nonzero().flatten().tolist() == [absent]
    functional.cross_entropy(model(batch), batch.targets).backward()
    assert table.grad[absent].abs().sum() > 0


def masked_lm(family: str):
    sizes = {"vocab_size": 60, "max_position_embeddings": 24, "pad_token_id": 1}
    layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(1)
    if family == "roberta":
        return RobertaForMaskedLM(RobertaConfig(**sizes, **layers, type_vocab_size=1))
    if family == "distilbert":
        return DistilBertForMaskedLM(DistilBertConfig(**sizes, dim=32, n_layers=2, n_heads=4, hidden_dim=48))
    if family == "mpnet":
        return MPNetForMaskedLM(MPNetConfig(**sizes, **layers))
    if family == "ernie":
        return ErnieForMaskedLM(ErnieConfig(**sizes, **layers))
    config = BertForMaskedLM.config_class(**sizes, **layers)
    return BertForMaskedLM(config)


@pytest.mark.parametrize("family", ["bert", "ernie", "roberta", "mpnet", "distilbert"])
def test_logits_equal_transformers_there_and_back(tmp_path, family):
    theirs = masked_lm(family).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(mean=1.0 if "orm.weight" in name else 0.0, std=0.15)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_masked_model(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    with torch.no_grad():
        ours.head.bias += torch.randn(60)  # something was learned
        ours.encoder.embeddings.tokens.weight *= 1.1
    save_masked_model(ours, tmp_path / "ours")
    saved = type(theirs).from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(2, 60, (3, 11))
    mask = torch.ones_like(ids)
    ids[1, 7:], mask[1, 7:] = 1, 0  # 1 pads
    places = mask.flatten().nonzero().flatten()
    batch = MaskedBatch(ids, mask, places, ids.flatten()[places])
    with torch.no_grad():
        found = ours(batch)
        for model, wanted in ((saved, found), (theirs, load_masked_model(tmp_path / "theirs")(batch))):
            logits = model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)[places]
            assert torch.allclose(wanted, logits, atol=1e-4)
        assert torch.equal(load_masked_model(tmp_path / "ours")(batch), found)


def test_a_classifier_gives_its_encoder_and_a_new_head(tmp_path):
    make_tiny_checkpoint(tmp_path)
    first, second, other = (load_masked_model(tmp_path, seed=seed) for seed in (0, 0, 1))
    state = load_checkpoint(tmp_path).encoder.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.encoder.state_dict().items())
    assert torch.equal(first.head.dense.weight, second.head.dense.weight)
    assert not torch.equal(first.head.dense.weight, other.head.dense.weight)


def test_half_a_head_is_refused(tmp_path):
    theirs = masked_lm("bert")
    del theirs.cls.predictions.transform.dense.bias
    theirs.save_pretrained(tmp_path)
    with pytest.raises(FolderError, match=r"lacks cls\.predictions\.transform\.dense\.bias"):
        load_masked_model(tmp_path)


def test_measuring_does_not_depend_on_the_batches_and_leaves_the_mode(vocabulary):
    model = new_masked_model(tiny_shape(vocabulary.size), 0.3, seed=0).train()
    objective = objective_of(20, vocabulary)
    found = [measure(model, objective, size) for size in (1, 7, 32)]
    assert model.training
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2])
    assert found[0]["hidden_tokens"] == 40
    everything = objective.collate(range(20), 0, torch.device("cpu"))
    with torch.no_grad():
        wanted = functional.cross_entropy(model.eval()(everything), everything.targets).item()
        assert found[0]["held_out_loss"] == pytest.approx(wanted, rel=1e-5)
        model.head.bias[everything.targets[0]] = 1e6  # now it answers this and nothing else
        share = (everything.targets == everything.targets[0]).float().mean().item()
        assert measure(model, objective, 7)["masked_accuracy"] == pytest.approx(share)


def test_the_loss_is_summed_in_fp32_whatever_the_matrices_are(vocabulary):
    model = new_masked_model(tiny_shape(vocabulary.size), 0.0, seed=0)
    objective = objective_of(64, vocabulary)
    batch = objective.collate(range(64), 0, torch.device("cpu"))
    wanted = objective.loss(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(batch).dtype == torch.bfloat16
        found = objective.loss(model, batch)
    assert found.dtype == torch.float32
    assert found.item() != wanted.item()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-3)
