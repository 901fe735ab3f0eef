"""The frontier equals brute force at every budget; meet() corrects what the table predicts wrongly."""

import itertools

import numpy as np
import pytest

from compress.budget import BudgetTable, size_table, widths
from compress.clock import Measured
from compress.search import Frontier, Option, choose, make_frontier
from compress.target import Space, Target, meet
from models.architecture import Architecture, LayerShape
from models.errors import TargetError

SHAPE = Architecture(
    vocabulary=50, positions=20, token_types=2, width=64, head_size=16, layers=(LayerShape(heads=4, ffn=96),) * 3
)


def table_of(scale: float = 1.0) -> BudgetTable:
    heads, neurons = widths(SHAPE)
    attention = {h: scale * (h + (h > 0)) * 1e-4 for h in heads}
    ffn = {n: scale * (n / 32 + (n > 0)) * 1e-4 for n in neurons}
    return BudgetTable(
        fixed=2e-4, attention=attention, ffn=ffn,
        last_attention={h: t / 2 for h, t in attention.items()}, last_ffn={n: t / 4 for n, t in ffn.items()},
    )  # fmt: skip


def costs_of(seed: int = 0) -> dict[str, dict[int, float]]:
    generator = np.random.default_rng(seed)
    heads, neurons = widths(SHAPE)
    kinds = {f"{i}.{kind}": w for i in range(3) for kind, w in (("attention", heads), ("ffn", neurons))}
    return {n: dict(zip(w, np.sort(generator.random(len(w)))[::-1].tolist(), strict=True)) for n, w in kinds.items()}


def test_frontier_equals_brute_force_at_every_budget():
    generator = np.random.default_rng(3)
    for _ in range(20):
        sublayers = [
            [Option(w, float(generator.random()), float(generator.integers(0, 9))) for w in range(4)]
            for _ in range(6)
        ]  # three small layers
        frontier = Frontier(sublayers, 60.0)
        every = [(sum(o.amount for o in c), sum(o.cost for o in c)) for c in itertools.product(*sublayers)]
        for budget in generator.uniform(0, 60, 5):  # whole amounts: rounding up to buckets of 60 / 8000 costs nothing
            fits = [cost for amount, cost in every if amount + 0.05 <= budget]
            picked = frontier.at(float(budget))
            if picked is None:
                assert not fits
                continue
            assert sum(o.amount for o in picked) <= budget
            if fits:
                assert sum(o.cost for o in picked) <= min(fits) + 1e-9


def test_chosen_architecture_is_within_the_budget_and_whole_where_it_may_be():
    table = table_of()
    frontier = make_frontier(SHAPE, costs_of() | {}, table)
    for budget in (4e-4, 1e-3, 2e-3):
        shape = choose(SHAPE, frontier, table, budget)
        assert table.total(shape) <= budget
    assert choose(SHAPE, frontier, table, 1e-4) is None
    free = {name: {w: (0.0 if w == max(c) else v) for w, v in c.items()} for name, c in costs_of().items()}
    assert choose(SHAPE, make_frontier(SHAPE, free, table), table, 1.0) == SHAPE


def machine(truth: BudgetTable):
    """What a machine would measure whose sublayers take what `truth` says."""

    def measure(shape: Architecture) -> Measured:
        ours, reference = truth.total(shape) * 1e3, 6.0
        return Measured(ours_ms=ours, reference_ms=reference, speedup=reference / ours, bytes=1000)

    return measure


@pytest.mark.parametrize("wrong", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("target", [Target(kind="speedup", value=9.0), Target(kind="latency_ms", value=0.65)])
def test_a_target_is_met_though_the_table_predicts_wrongly(wrong, target):
    table = table_of()
    space = Space(SHAPE, make_frontier(SHAPE, costs_of(), table), table)
    shape, found = meet(target, space, 6.0, machine(table_of(wrong)), 0.08)
    assert abs(target.reached(found) - 1) <= 0.08
    assert found == machine(table_of(wrong))(shape)


def test_a_target_out_of_reach_names_the_nearest():
    table = table_of()
    space = Space(SHAPE, make_frontier(SHAPE, costs_of(), table), table)
    with pytest.raises(TargetError, match=r"no shape is within 5% of 100x: the nearest measured are .*x \(3 layers"):
        meet(Target(kind="speedup", value=100.0), space, 6.0, machine(table), 0.05)


def test_a_target_that_needs_no_cut_gives_the_full_model():
    table = table_of()
    space = Space(SHAPE, make_frontier(SHAPE, costs_of(), table), table)
    shape, found = meet(Target(kind="speedup", value=1.2), space, 6.0, machine(table), 0.05)
    assert shape == SHAPE
    assert found.speedup > 1.5


def test_a_model_that_is_slower_than_its_reference_is_refused():
    table = size_table(SHAPE, 500.0)
    space = Space(SHAPE, make_frontier(SHAPE, costs_of(), table), table)

    def measure(shape: Architecture) -> Measured:
        return Measured(ours_ms=7.0, reference_ms=6.0, speedup=6 / 7, bytes=int(table.total(shape)))

    wanted = Target(kind="size_mb", value=table.total(SHAPE) / 2 / 1e6)
    with pytest.raises(TargetError, match="slower than the model it replaces"):
        meet(wanted, space, 6.0, measure, 0.05)


def test_size_is_that_of_int8_matrices():
    table = size_table(SHAPE, 0.0)
    assert table.attention[4] == 4 * 64 * 64 + 8 * 3 * 64 + 4 * 64
    assert table.ffn[96] == 2 * 96 * 64 + 8 * 96 + 4 * 64
    assert table.attention[0] == table.ffn[0] == 0
