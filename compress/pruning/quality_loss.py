"""measure_costs(): the quality loss of each width of each sublayer, measured by running the model with it.

A sum of local scores (Fisher information, matrix errors) ranks sublayers in the wrong order (docs/log.md). Therefore
each pruned sublayer is inserted into the full model alone, and its cost is the divergence from the full model's
answers. Of one sublayer, however, the local error tells the shape of the curve: in a large model, widths between
measured ones are interpolated where a measurement shows that this is accurate.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compress.pruning.obs import SublayerWidths
from compress.pruning.surgery import cut
from compress.quantization.replaced_sublayer import at_each_sublayer
from models.classifier import Classifier, TensorBatch
from models.messages import progress
from models.sublayer import SublayerId
from models.task import Kind

Costs = dict[str, dict[int, float]]  # sublayer → width → mean divergence over the texts
# Difference of a measured cost from the interpolated one, as a share of the larger of the two, up to which the widths
# beside it are interpolated. The costs of 128 texts vary by as much from one sample of texts to another.
TOLERANCE = 0.5
LARGE = 40_000_000  # weights of the layers; of a smaller model every width is measured, which takes a minute or two
NEGLIGIBLE = 0.05  # difference that is always allowed, as a share of the cost of the smallest width but 0
LEAST = 1e-9  # cost, and local error, below which a logarithm is not taken


def measure_costs(
    model: Classifier, sublayer_widths: Mapping[str, SublayerWidths], batches: Sequence[TensorBatch], kind: Kind
) -> Costs:
    """Return the cost of each width of each sublayer; the full width costs 0."""
    costs: Costs = {name: {} for name in sublayer_widths}
    weights = sum(parameter.numel() for parameter in model.encoder.layers.parameters())
    total = 2 * len(model.architecture.layers)
    sublayers = at_each_sublayer(model, batches, kind)
    for name, divergence_with in progress(sublayers, total=total, desc="quality loss", unit="sublayer"):
        if name not in sublayer_widths:  # dropped already
            continue
        by_width, module = sublayer_widths[name], SublayerId.parse(name).module

        def measure(width: int, name: str = name, module: str = module) -> float:
            smaller = cut(model, {name: sublayer_widths[name][width]}, shared=True)
            return divergence_with(smaller.get_submodule(module))  # noqa: B023 (called before the next is yielded)

        errors = {width: pruned.error for width, pruned in by_width.items()}
        if weights < LARGE:
            costs[name] = {width: measure(width) if error else 0.0 for width, error in errors.items()}
        else:
            costs[name] = cost_curve(errors, measure)
    return costs


def cost_curve(errors: Mapping[int, float], measure: Callable[[int], float]) -> dict[int, float]:
    """Return the cost of each width of one sublayer, with few measurements.

    Between two widths the logarithm of the cost is taken as linear in that of the local error. The ends and the
    middle of the curve are measured. If the middle is as expected from the ends (TOLERANCE, NEGLIGIBLE), the widths
    between are interpolated between the three; otherwise both halves are treated as the whole was. Width 0 is
    measured, and no end of the curve: to drop a sublayer costs far more than the curve says.

    Args:
        errors: width → share of the sublayer's output that is lost; 0 costs nothing.
        measure: returns the cost of a width.
    """
    costs = {width: measure(width) for width, error in errors.items() if width == 0 and error != 0.0}
    curve = sorted(width for width, error in errors.items() if width and error != 0.0)
    costs |= {width: measure(width) for width in {*curve[:1], *curve[-1:]}}
    gaps = [curve]
    while gaps:
        gap = gaps.pop()
        if len(gap) < 3:
            continue
        middle = len(gap) // 2
        costs[gap[middle]] = measured = measure(gap[middle])
        expected = _interpolated(gap[middle], (gap[0], gap[-1]), errors, costs)
        halves = [gap[: middle + 1], gap[middle:]]
        if abs(expected - measured) > TOLERANCE * max(expected, measured) + NEGLIGIBLE * costs[curve[0]]:
            gaps += halves
            continue
        for half in halves:
            costs |= {width: _interpolated(width, (half[0], half[-1]), errors, costs) for width in half[1:-1]}
    return {width: costs.get(width, 0.0) for width in errors}


def _interpolated(
    width: int, ends: tuple[int, int], errors: Mapping[int, float], costs: Mapping[int, float]
) -> float:
    """Return the cost of a width between two others whose costs are known."""
    low, high = sorted(ends, key=lambda end: errors[end])  # np.interp wants rising places
    places = [np.log(max(errors[end], LEAST)) for end in (low, high)]
    values = [np.log(max(costs[end], LEAST)) for end in (low, high)]
    return float(np.exp(np.interp(np.log(max(errors[width], LEAST)), places, values)))
