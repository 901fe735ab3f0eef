"""The frontier equals brute force at every budget; meet() corrects what the table predicts wrongly."""

import itertools

import numpy as np
import pytest

from compress.pruning.widths import widths
from compress.search.cost_table import Amounts, CostTable, size_cost_table
from compress.search.knapsack import Frontier, Option, Plan, choose, make_frontier
from compress.search.latency_meter import Measured, Sized
from compress.search.search_to_target import Space, Target, search_to_target
from export.graph_precision import Precision
from models.architecture import Architecture, LayerShape
from models.errors import TargetError

SHAPE = Architecture(
    vocabulary=50, positions=20, token_types=2, width=64, head_size=16, layers=(LayerShape(heads=4, ffn=96),) * 3
)


def table_of(scale: float = 1.0) -> CostTable:
    heads, neurons = widths(SHAPE)
    attention = {h: scale * (h + (h > 0)) * 1e-4 for h in heads}
    ffn = {n: scale * (n / 32 + (n > 0)) * 1e-4 for n in neurons}
    int8 = Amounts(
        attention=attention, ffn=ffn,
        last_attention={h: t / 2 for h, t in attention.items()}, last_ffn={n: t / 4 for n, t in ffn.items()},
    )  # fmt: skip
    fp32 = {part: {w: 3 * t for w, t in getattr(int8, part).items()} for part in Amounts.model_fields}
    return CostTable(fixed=2e-4, int8=int8, fp32=Amounts(**fp32))


def costs_of(seed: int = 0) -> dict[str, dict[int, float]]:
    generator = np.random.default_rng(seed)
    heads, neurons = widths(SHAPE)
    kinds = {f"{i}.{kind}": w for i in range(3) for kind, w in (("attention", heads), ("ffn", neurons))}
    return {n: dict(zip(w, np.sort(generator.random(len(w)))[::-1].tolist(), strict=True)) for n, w in kinds.items()}


def test_frontier_equals_brute_force_at_every_budget():
    generator = np.random.default_rng(3)
    for _ in range(20):
        sublayers = [
            [Option(w, "int8", float(generator.random()), float(generator.integers(0, 9))) for w in range(4)]
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


def test_choice_is_within_the_budget_and_whole_where_it_may_be():
    table = table_of()
    frontier = make_frontier(SHAPE, costs_of(), {}, table)
    for budget in (4e-4, 1e-3, 2e-3):
        plan = choose(SHAPE, frontier, table, budget)
        assert table.total(plan.architecture, plan.precision) <= budget
    assert choose(SHAPE, frontier, table, 1e-4) is None
    free = {name: {w: (0.0 if w == max(c) else v) for w, v in c.items()} for name, c in costs_of().items()}
    assert choose(SHAPE, make_frontier(SHAPE, free, {}, table), table, 1.0).architecture == SHAPE


def test_a_sublayer_that_int8_harms_stays_in_fp32_where_the_budget_allows_it_and_no_other():
    table, free = table_of(), {n: {w: 0.0 if w == max(c) else v for w, v in c.items()} for n, c in costs_of().items()}
    rounding = {"1.ffn": 0.5, "0.attention": 1e-4}  # the second is next to nothing
    frontier = make_frontier(SHAPE, free, rounding, table)
    roomy = choose(SHAPE, frontier, table, 1.0)
    assert roomy.architecture == SHAPE
    assert roomy.summary().endswith(", in fp32: 1.ffn")
    int8 = table.total(SHAPE, Precision.all_int8(SHAPE))
    tight = choose(SHAPE, frontier, table, int8)
    assert table.total(tight.architecture, tight.precision) <= int8


def test_with_two_precisions_the_choice_equals_brute_force():
    shape = SHAPE.with_layers([(4, 96)])  # one layer: every pair of options can be tried
    table = table_of()
    costs = {name: found for name, found in costs_of(5).items() if name.startswith("0.")}
    rounding = {"0.attention": 0.3, "0.ffn": 0.2}
    frontier = make_frontier(shape, costs, rounding, table)

    def cost(pair):
        options = zip(costs, pair, strict=True)
        return sum(costs[n][w] + (rounding[n] if kind == "int8" and w else 0) for n, (w, kind) in options)

    def amount(pair):
        return table.fixed + sum(table.amounts(n, 1, kind)[w] for n, (w, kind) in zip(costs, pair, strict=True))

    every = list(itertools.product(*(itertools.product(costs[name], ("int8", "fp32")) for name in costs)))
    for budget in np.linspace(3e-4, 2.5e-3, 12):
        plan = choose(shape, frontier, table, float(budget))
        layer, kinds = plan.architecture.layers[0], plan.precision.layers[0]
        chosen = ((layer.heads, kinds.attention), (layer.ffn, kinds.ffn))
        assert amount(chosen) <= budget
        assert cost(chosen) <= min(cost(p) for p in every if amount(p) <= budget * (1 - 1e-3)) + 1e-9


def machine(truth: CostTable):
    """What a machine would measure whose sublayers take what `truth` says."""

    def measure(plan: Plan, _) -> Measured:
        ours, reference = truth.total(plan.architecture, plan.precision) * 1e3, 6.0
        return Measured(ours_ms=ours, reference_ms=reference, speedup=reference / ours, bytes=1000)

    return measure


@pytest.mark.parametrize("wrong", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("target", [Target(kind="speedup", value=9.0), Target(kind="latency_ms", value=0.65)])
def test_a_target_is_met_though_the_table_predicts_wrongly(wrong, target):
    table = table_of()
    space = Space(SHAPE, make_frontier(SHAPE, costs_of(), {}, table), table)
    plan, found = search_to_target(target, space, 6.0, machine(table_of(wrong)), 0.08)
    assert abs(target.reached(found) - 1) <= 0.08
    assert found.speedup == pytest.approx(machine(table_of(wrong))(plan, "search").speedup)


def test_a_target_out_of_reach_names_the_nearest():
    table = table_of()
    space = Space(SHAPE, make_frontier(SHAPE, costs_of(), {}, table), table)
    with pytest.raises(TargetError, match=r"no shape is within 5% of 100x: the nearest measured are .*x \(3 layers"):
        search_to_target(Target(kind="speedup", value=100.0), space, 6.0, machine(table), 0.05)


def test_a_target_that_needs_no_cut_gives_the_full_model():
    table = table_of()
    space = Space(SHAPE, make_frontier(SHAPE, costs_of(), {}, table), table)
    plan, found = search_to_target(Target(kind="speedup", value=1.2), space, 6.0, machine(table), 0.05)
    assert plan.architecture == SHAPE
    assert found.speedup > 1.5


def test_the_full_model_reaches_a_target_also_where_pruning_costs_nothing():
    table, nothing = table_of(), {name: dict.fromkeys(by_width, 0.0) for name, by_width in costs_of().items()}
    space = Space(SHAPE, make_frontier(SHAPE, nothing, {}, table), table)
    plan, _ = search_to_target(Target(kind="speedup", value=1.2), space, 6.0, machine(table), 0.05)
    assert plan.architecture == SHAPE


def test_what_was_dropped_before_stays_dropped_and_takes_nothing():
    shape = SHAPE.with_layers([(4, 96), (0, 96), (2, 0)])
    table, costs = table_of(), costs_of()
    left = {name: costs[name] for name in ("0.attention", "0.ffn", "1.ffn")}
    left["2.attention"] = {w: c for w, c in costs["2.attention"].items() if w <= 2}
    frontier = make_frontier(shape, left, {}, table)
    roomy, tight = (choose(shape, frontier, table, budget) for budget in (1.0, 6e-4))
    for plan in (roomy, tight):
        layers = plan.architecture.layers
        assert layers[1].heads == layers[2].ffn == 0
        assert layers[2].heads <= 2
    assert table.total(tight.architecture, tight.precision) <= 6e-4


def test_for_a_size_nothing_is_timed_and_nothing_confirmed():
    table = size_cost_table(SHAPE, 500.0)
    space = Space(SHAPE, make_frontier(SHAPE, costs_of(), {}, table), table)
    purposes = []

    def measure(plan: Plan, purpose) -> Sized:
        purposes.append(purpose)
        return Sized(bytes=int(table.total(plan.architecture, plan.precision)))

    wanted = Target(kind="size_mb", value=table.total(SHAPE, Precision.all_int8(SHAPE)) / 2 / 1e6)
    _, found = search_to_target(wanted, space, 0.0, measure, 0.05)
    assert found.bytes == pytest.approx(wanted.value * 1e6, rel=0.05)
    assert set(purposes) == {"search"}


def test_size_is_that_of_int8_matrices():
    table = size_cost_table(SHAPE, 0.0)
    assert table.int8.attention[4] == 4 * 64 * 64 + 8 * 3 * 64 + 4 * 64
    assert table.int8.ffn[96] == 2 * 96 * 64 + 8 * 96 + 4 * 64
    assert table.int8.attention[0] == table.int8.ffn[0] == 0
    assert table.fp32.ffn[96] == 4 * (2 * 96 * 64 + 96 + 64)
