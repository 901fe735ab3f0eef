"""Measure the ONNX Runtime session without a server: python -m loadtests.baselines.bare --bundle FOLDER --texts FILE.

One text at a time, in one thread. Texts are tokenized before the measurement. The overhead of a server is the
difference to these times. The last line of stdout is JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from loadtests.baselines.model import BaselineModel
from loadtests.sample_texts import made_up_texts, read_texts


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.baselines.bare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    model = BaselineModel(options.bundle)
    texts = read_texts(options.texts) if options.texts else made_up_texts()
    feeds = [model.feed([text]) for text in texts]
    for feed in feeds[:200]:
        model.run(feed)
    times: list[float] = []
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end:
        for feed in feeds:
            start = time.perf_counter()
            model.run(feed)
            times.append(time.perf_counter() - start)
    p50, p99 = (np.percentile(times, (50, 99)) * 1e3).round(3).tolist()
    result = {"verb": "bare", "runs": len(times), "texts_per_second": round(len(times) / sum(times), 1)}
    sys.stdout.write(json.dumps({**result, "p50_ms": p50, "p99_ms": p99}) + "\n")


if __name__ == "__main__":
    main()
