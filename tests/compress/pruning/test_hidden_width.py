"""A narrower hidden state: equal to the masked model, to numpy's least squares, and served in every form."""

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from compressing import compress_tiny, tiny_config
from cutting import cut_units
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts

from bench.measure.accuracy.evaluate import bundle_logits
from compress.pruning.hidden_width import CHANNELS, Channels, choose_channels, narrow, narrowed, refit_narrow
from compress.search.search_to_target import Target
from models.checkpoint import load_checkpoint, save_checkpoint
from models.classifier import Classifier, TensorBatch
from models.errors import InputError
from models.finetuning.predict import predict
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.loop import TrainingConfig
from service.model.bundle import Bundle

WIDTH = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    make_tiny_checkpoint(folder, labels=3)
    return folder


def size_mb(value: float) -> Target:
    return Target(kind="size_mb", value=value)


def batches_of(folder, texts: int = 64) -> list[TensorBatch]:
    tokenizer = Tokenizer.open(folder, 32)
    encoded = tokenizer.encode(tiny_texts(texts).rows)
    return [TensorBatch(tokenizer.pad(encoded[i : i + 16])) for i in range(0, texts, 16)]


def some(width: int) -> Channels:
    draw = np.random.default_rng(1)
    return Channels(*(np.sort(draw.permutation(width)[:WIDTH]) for _ in range(2)))


def mask_channels(model: Classifier, channels: Channels, embeddings_too: bool) -> None:
    """Let the full model have zeros where channels are gone, and its norms see the others only."""

    def masked(norm, inputs, _):
        kept = torch.from_numpy(channels.hidden)
        found = torch.zeros_like(inputs[0])
        weight, bias = norm.weight[kept], norm.bias[kept]
        found[..., kept] = functional.layer_norm(inputs[0][..., kept], (len(kept),), weight, bias, norm.eps)
        return found

    norms = [part for layer in model.encoder.layers for part in (layer.attention.norm, layer.ffn.norm)]
    for norm in [*norms, *([model.encoder.embeddings.norm] if embeddings_too else [])]:
        norm.register_forward_hook(masked)
    inner = torch.zeros(model.head.out.in_features)
    inner[channels.head] = 1
    model.head.out.register_forward_pre_hook(lambda _, inputs: (inputs[0] * inner,))
    if not embeddings_too:
        left = torch.zeros(model.architecture.width)
        left[channels.hidden] = 1
        model.encoder.embeddings.register_forward_hook(lambda _, inputs, found: found * left)


@pytest.mark.parametrize("family", ["bert", "mpnet", "distilbert", "electra"])
def test_surgery_equals_the_masked_model(family, tmp_path):
    make_tiny_family(tmp_path, family, **({"embedding_size": 24} if family == "electra" else {}))
    heads, neurons = [np.array([0, 2, 3]), np.array([1])], [np.arange(5, 60), np.arange(0)]
    model = cut_units(load_checkpoint(tmp_path), heads, neurons)
    channels, projected = some(64), family == "electra"
    smaller = narrow(model, channels)
    assert smaller.architecture.width == WIDTH
    batches = batches_of(tmp_path)
    with torch.no_grad():
        found = [smaller(batch)[0] for batch in batches]
        mask_channels(model, channels, embeddings_too=not projected)
        for one, batch in zip(found, batches, strict=True):
            torch.testing.assert_close(one, model(batch)[0], atol=1e-5, rtol=1e-5)


def test_all_channels_are_the_source(folder):
    model = load_checkpoint(folder)
    same = narrow(model, Channels.first(64))
    assert same.architecture == model.architecture
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in same.state_dict().items())


def test_channels_that_are_copies_of_others_go_first_and_nothing_is_lost(folder):
    """The twin of a channel says nothing new: half of a stream of twins goes, and the fit brings everything back."""
    model = load_checkpoint(folder)
    for name, tensor in model.state_dict().items():
        part = name.split(".", 2)[-1]
        if name.startswith("encoder.embeddings.") or part.endswith((".norm.weight", ".norm.bias")):
            tensor[..., WIDTH:] = tensor[..., :WIDTH]
        elif part.endswith((".output.weight", ".fall.weight", ".output.bias", ".fall.bias")):
            tensor[WIDTH:] = tensor[:WIDTH]
    batches = batches_of(folder)
    channels = choose_channels(model, batches, WIDTH)
    assert sorted(channels.hidden % WIDTH) == list(range(WIDTH))
    smaller = narrow(model, Channels(channels.hidden, np.arange(WIDTH)))
    wanted = load_checkpoint(folder)
    wanted.load_state_dict(model.state_dict())
    refit_narrow(smaller, model, model, batches, Channels(channels.hidden, np.arange(WIDTH)))
    hidden = [m.encoder(b.ids, b.mask, b.types)[0][:, 0] for m in (smaller, wanted) for b in batches]
    count = len(batches)
    for found, known in zip(hidden[:count], hidden[count:], strict=True):
        torch.testing.assert_close(found, known[:, channels.hidden], atol=0.05, rtol=0.05)


def test_the_embeddings_norm_is_fitted_as_numpy_fits_a_line(folder):
    model, channels, batches = load_checkpoint(folder), some(64), batches_of(folder)
    smaller = narrow(model, channels)
    before = _embedded(smaller, batches)
    refit_narrow(smaller, model, model, batches, channels)
    after, wanted = _embedded(smaller, batches), _embedded(model, batches)[:, channels.hidden]
    for column in range(WIDTH):
        slope, shift = np.polyfit(before[:, column], wanted[:, column], 1)
        np.testing.assert_allclose(after[:, column], slope * before[:, column] + shift, atol=1e-4)


def _embedded(model: Classifier, batches) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model.encoder.embeddings(b.ids, b.types)[b.mask.bool()].numpy() for b in batches])


def test_a_fit_is_nearer_to_the_teacher_than_none(folder):
    model, batches = load_checkpoint(folder), batches_of(folder)
    channels = choose_channels(model, batches, WIDTH)
    plain, fitted = narrow(model, channels), narrow(model, channels)
    refit_narrow(fitted, model, model, batches, channels)
    with torch.no_grad():
        misses = [sum(float((m(b)[0] - model(b)[0]).pow(2).sum()) for b in batches) for m in (plain, fitted)]
    assert misses[1] < 0.8 * misses[0]


@pytest.mark.parametrize(("width", "told"), [(40, "multiple of 32"), (64, "below 64"), (0, "below 64")])
def test_a_width_that_cannot_be_is_refused(folder, width, told):
    with pytest.raises(InputError, match=told):
        narrowed(load_checkpoint(folder).architecture, width)


def test_a_narrow_bundle_is_healed_saved_and_served(folder, tmp_path):
    training = TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-3, freeze_embeddings=False)
    target = Target(kind="size_mb", value=0.06)
    made = compress_tiny(folder, tmp_path, tiny_config(training, hidden_width=WIDTH), target)
    bundle = Bundle.open(made.path)
    assert bundle.architecture.width == WIDTH
    assert bundle.served_bytes(bundle.info.default["cpu"]) == pytest.approx(target.value * 1e6, rel=0.1)
    assert len(np.load(next(tmp_path.glob("prune-*")) / CHANNELS)) == WIDTH
    healed = next(tmp_path.glob("heal-*"))
    tokenizer = Tokenizer.open(healed, 32)
    wanted = predict(load_checkpoint(healed), tokenizer.encode(tiny_texts(64).rows), tokenizer)
    np.testing.assert_allclose(bundle_logits(made.path, tiny_texts(64).rows), wanted, atol=0.2 * np.ptp(wanted))


def test_transformers_loads_a_narrow_model_whose_heads_fill_its_width(folder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    halves = [np.array([0, 3])] * 2
    model = narrow(cut_units(load_checkpoint(folder), halves, [np.arange(64)] * 2), some(64))
    save_checkpoint(model, Task(kind="single", labels=("a", "b", "c"), max_tokens=32), tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = batches_of(folder)[0]
    with torch.no_grad():
        found = theirs(input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.types).logits
        torch.testing.assert_close(found, model(batch)[0], atol=1e-5, rtol=1e-5)
