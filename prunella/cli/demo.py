"""The command `prunella demo`."""

import time

from prunella.cli.options import STORE, Store
from prunella.cli.output import need, show
from prunella.cli.serve import run_server


def demo(store: Store = STORE, serve: bool = True, port: int = 3000) -> None:
    """Run all steps on built-in real data: fine-tune, prune, heal, quantize, report, publish, serve."""
    need("torch", "train")
    from prunella.demo import run_demo

    start = time.perf_counter()
    result = run_demo(store)
    show({"verb": "demo", **result, "seconds": round(time.perf_counter() - start, 1)})
    if serve:
        run_server(result["tag"], {"PRUNELLA_DEVICE": "auto"}, port)
