"""The table of latencies: what is timed where a layer has little to choose from."""

import warnings

from compress.search.latency_table import measure_latency
from models.architecture import Architecture


def test_one_head_and_one_width_are_timed_without_a_warning():
    shape = Architecture(
        vocabulary=50, positions=20, token_types=2, width=16, head_size=16, layers=({"heads": 1, "ffn": 32},)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = measure_latency(shape, [4], rounds=1)
    assert table.fixed > 0
    assert (set(table.int8.attention), set(table.int8.ffn)) == ({0, 1}, {0, 32})
