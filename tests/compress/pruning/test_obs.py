"""Ladders, surgery, costs and refit against brute force and numpy."""

import numpy as np
import pytest
import torch
from cutting import plain_rung, tiny_batches

from compress.inputs.length_matching import draw_texts
from compress.pruning.fisher import fisher, fisher_order, open_gates
from compress.pruning.gram import collect_grams, output_matrix
from compress.pruning.obs import CHUNK, damped, least_squares, prune_to_each_width, removal_order
from compress.pruning.quality_loss import measure_costs
from compress.pruning.refit import refit
from compress.pruning.surgery import choose_pruned_sublayers, cut
from models.data.sampling import choose_texts
from models.errors import NoEffectError
from models.sublayer import SublayerId
from models.train.divergence import divergence

KEEP = {"0.attention": [0, 2], "0.ffn": [], "1.attention": [], "1.ffn": list(range(0, 96, 3))}


@pytest.fixture(params=[False, True], ids=["single", "pair"])
def tiny(request, tmp_path):
    return tiny_batches(tmp_path, request.param)


def correlated(inputs: int, tokens: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix (5, inputs), its inputs (inputs + 1, tokens) with a constant, and their Gram matrix."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    x = mixing @ torch.randn(inputs, tokens, generator=generator, dtype=torch.float64) + 1.0
    x = torch.cat([x, torch.ones(1, tokens, dtype=torch.float64)])
    return torch.randn(5, inputs + 1, generator=generator, dtype=torch.float64), x, x @ x.T


def loss_without(full: torch.Tensor, x: torch.Tensor, kept: list[int]) -> float:
    """The least |WX - W'X|² of a matrix that has the inputs `kept` and the constant only."""
    left = x[[*kept, len(x) - 1]].numpy()
    solution, *_ = np.linalg.lstsq(left.T, (full @ x).T.numpy(), rcond=None)
    return float(((full @ x).T.numpy() - left.T @ solution).__pow__(2).sum())


def test_the_unit_that_costs_least_goes_first_and_again_after_each():
    full, x, gram = correlated(8)
    order = removal_order(full[:, :-1], gram, 2).tolist()
    kept = list(range(4))
    for gone in order[:-1]:
        losses = {u: loss_without(full, x, [i for k in kept if k != u for i in (2 * k, 2 * k + 1)]) for u in kept}
        assert gone == min(losses, key=losses.get)
        kept.remove(gone)


def test_of_two_neurons_that_do_the_same_one_stays():
    full, x, _ = correlated(6)
    x[1] = x[0]
    order = removal_order(full[:, :-1], x @ x.T, 1).tolist()
    assert set(order[:1]) <= {0, 1}
    assert sorted(order) == list(range(6))


def test_what_stays_is_the_least_squares_solution():
    full, x, gram = correlated(12)
    order = np.random.default_rng(0).permutation(12)
    pruned_sublayer = prune_to_each_width(full, gram, order, [5])[5]
    assert pruned_sublayer.kept.tolist() == sorted(order[-5:].tolist())
    left = x[[*pruned_sublayer.kept.tolist(), 12]].numpy()
    wanted = np.linalg.lstsq(left.T, (full @ x).T.numpy(), rcond=None)[0].T
    found = torch.cat([pruned_sublayer.weight, pruned_sublayer.bias[:, None]], dim=1).numpy()
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())  # a ridge keeps it invertible
    total = float((full @ x).pow(2).sum())
    assert pruned_sublayer.error == pytest.approx(
        loss_without(full, x, pruned_sublayer.kept.tolist()) / total, rel=0.02
    )


def test_least_squares_equals_numpys():
    full, x, gram = correlated(7, seed=3)
    wanted = np.linalg.lstsq(x.T.numpy(), (full @ x).T.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(least_squares(gram, full @ gram).numpy(), wanted, rtol=0.02, atol=0.02)


def test_grams_are_those_of_the_tokens_that_matter(tiny):
    model, batches = tiny
    grams = collect_grams(model, batches)
    assert list(grams) == SublayerId.keys(2)
    tokens = sum(int(batch.mask.sum()) for batch in batches)
    texts = sum(len(batch.ids) for batch in batches)
    assert [round(float(grams[name][-1, -1])) for name in grams] == [tokens, tokens, texts, texts]
    seen = []
    handle = model.encoder.layers[0].ffn.fall.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    rows = torch.cat([x[batch.mask.bool()] for x, batch in zip(seen, batches, strict=True)]).double()
    torch.testing.assert_close(grams["0.ffn"][:-1, :-1], rows.T @ rows, rtol=1e-4, atol=1e-3)


def test_surgery_equals_the_gated_full_model(tiny):
    model, batches = tiny
    gates = open_gates(model, 1)
    for name, kept in KEEP.items():
        index, kind = name.split(".")
        gate = (gates.heads if kind == "attention" else gates.neurons)[int(index)]
        gate.zero_()
        gate[:, torch.tensor(kept, dtype=torch.long)] = 1
    smaller = cut(model, {name: plain_rung(model, name, np.array(kept, dtype=int)) for name, kept in KEEP.items()})
    with torch.no_grad():
        for batch in batches:
            torch.testing.assert_close(smaller(batch)[0], model(batch, gates)[0], atol=1e-5, rtol=0)


def test_keeping_everything_is_refused(tiny):
    model, _ = tiny
    with pytest.raises(NoEffectError, match="nothing to cut"):
        cut(model, {"0.attention": plain_rung(model, "0.attention", np.arange(4))})


def ladders_of(model, batches, correct=True):
    grams, sublayer_widths = collect_grams(model, batches), {}
    for name in SublayerId.keys(2):
        matrix = output_matrix(model, name)
        size, steps = (16, range(5)) if name.endswith("attention") else (1, (0, 32, 64, 96))
        order = removal_order(matrix.weight.detach(), grams[name], size)
        full = torch.cat([matrix.weight.detach(), matrix.bias.detach()[:, None]], dim=1)
        sublayer_widths[name] = prune_to_each_width(full, grams[name], order, list(steps), correct)
    return sublayer_widths


def test_costs_are_the_divergence_of_the_model_with_that_rung(tiny):
    model, batches = tiny
    sublayer_widths = ladders_of(model, batches)
    costs = measure_costs(model, sublayer_widths, batches, "single")
    assert [costs[name][max(costs[name])] for name in costs] == [0.0] * 4
    for name, width in (("0.attention", 2), ("0.ffn", 0), ("1.ffn", 32)):
        smaller, total = cut(model, {name: sublayer_widths[name][width]}), 0.0
        with torch.no_grad():
            for batch in batches:
                total += float(divergence("single", smaller(batch)[0], model(batch)[0]).sum())
        assert costs[name][width] == pytest.approx(total / 64, rel=1e-3, abs=1e-6)
        assert costs[name][width] > 0


def test_correction_and_refit_bring_the_answers_nearer(tiny):
    model, batches = tiny
    shape = model.architecture.with_layers([(2, 32), (2, 32)])

    def distance(student) -> float:
        with torch.no_grad():
            return sum(float(divergence("single", student(b)[0], model(b)[0]).sum()) for b in batches)

    plain = cut(model, choose_pruned_sublayers(ladders_of(model, batches, correct=False), shape))
    corrected = cut(model, choose_pruned_sublayers(ladders_of(model, batches), shape))
    refitted = cut(model, choose_pruned_sublayers(ladders_of(model, batches), shape))
    refit(refitted, model, batches)
    assert distance(corrected) < 0.5 * distance(plain)
    assert distance(refitted) < distance(corrected)


def test_refit_of_an_uncut_copy_changes_nothing(tiny):
    model, batches = tiny
    copy = type(model)(model.architecture, model.labels).eval()
    copy.load_state_dict(model.state_dict())
    refit(copy, model, batches)
    with torch.no_grad():
        for batch in batches:
            torch.testing.assert_close(copy(batch)[0], model(batch)[0], atol=0.05, rtol=0)


def test_fisher_information_of_a_dead_unit_is_zero(tiny):
    model, batches = tiny
    with torch.no_grad():
        model.encoder.layers[0].ffn.fall.weight[:, 5] = 0
        model.encoder.layers[1].attention.output.weight[:, 16:32] = 0  # head 1
    information = fisher(model, batches)
    assert float(information["0.ffn"][5]) == 0
    assert fisher_order(information["0.ffn"])[0] == 5
    assert fisher_order(information["1.attention"])[0] == 1
    assert (information["0.attention"] > 0).all()


@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_divergence_is_zero_for_equals_and_has_no_slope_there(kind):
    wanted = torch.tensor([[0.3, -1.0, 2.0], [5.0, 0.0, -3.0]])
    found = wanted.clone().requires_grad_()
    apart = divergence(kind, found, wanted, 2.0)
    assert apart.shape == (2,)
    assert apart.abs().max() < 1e-5
    apart.sum().backward()
    assert found.grad.abs().max() < 1e-5
    assert (divergence(kind, wanted + torch.tensor([1.0, 0.0, -1.0]), wanted, 2.0) > 0.05).all()


def test_chosen_texts_have_the_served_lengths():
    generator = np.random.default_rng(0)
    lengths, served = generator.integers(3, 60, 5000).tolist(), generator.integers(20, 40, 300).tolist()
    chosen = choose_texts(lengths, served, 500, seed=1)
    assert len(set(chosen)) == 500
    assert chosen == choose_texts(lengths, served, 500, seed=1)
    found = sorted(lengths[i] for i in chosen)
    assert found[0] >= 19
    assert found[-1] <= 40
    assert np.mean(found) == pytest.approx(np.mean(served), abs=0.7)
    assert sorted(choose_texts(lengths[:40], served, 500, seed=0)) == list(range(40))  # all, when there are no more


def test_drawn_texts_are_the_nearest_to_each_served_length_and_all_of_one_length_are_drawn():
    lengths, served = [3, 3, 3, 10, 40, 40], [1, 3, 9, 26, 90]  # nearest: 3, 3, 10, 40, 40
    drawn = draw_texts(lengths, served, 4000, seed=1)
    assert drawn == draw_texts(lengths, served, 4000, seed=1) != draw_texts(lengths, served, 4000, seed=2)
    shares = np.bincount(drawn, minlength=6) / 4000
    np.testing.assert_allclose(shares, [2 / 15] * 3 + [1 / 5] * 3, atol=0.03)


def test_calibration_batches_hold_the_rows(tiny):
    _, batches = tiny
    assert sum(len(batch.ids) for batch in batches) == 64


def test_many_neurons_go_in_the_order_that_a_new_inverse_at_each_step_gives():
    inputs = 150
    full, _, gram = correlated(inputs, tokens=600)
    wanted: list[int] = []
    kept = np.arange(inputs)
    whole = damped(gram)
    while len(kept):
        places = torch.tensor([*kept.tolist(), inputs])
        own = whole[places][:, places]
        weight = torch.linalg.solve(own, (full[:, :-1] @ whole[:-1])[:, places].T).T[:, :-1]
        losses = (weight.pow(2).sum(0) / torch.linalg.inv(own).diagonal()[:-1]).numpy()
        ranked = np.argsort(losses, kind="stable")
        count = CHUNK if len(kept) > 8 * CHUNK else 1
        wanted += kept[ranked[:count]].tolist()
        kept = np.sort(kept[ranked[count:]])
    assert removal_order(full[:, :-1], gram, 1).tolist() == wanted


@pytest.mark.parametrize("corrected", [True, False])
def test_the_lost_share_is_that_of_the_outputs(corrected: bool):
    full, x, gram = correlated(24)
    order = np.random.default_rng(1).permutation(12)
    for pruned in prune_to_each_width(full, gram, order, [0, 3, 9, 12], corrected).values():
        columns = [2 * unit + end for unit in pruned.kept for end in (0, 1)]
        output = pruned.weight.double() @ x[columns] + pruned.bias.double()[:, None]
        lost = float((full @ x - output).pow(2).sum() / (full @ x).pow(2).sum())
        assert pruned.error == pytest.approx(lost, rel=1e-4, abs=1e-9)
