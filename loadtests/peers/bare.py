"""python -m loadtests.peers.bare --bundle FOLDER --texts FILE: the session alone, one text at a time, one thread.

What a server adds is counted from here: token ids are ready before the clock starts. The last line is JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from loadtests.peers.model import PeerModel
from loadtests.texts import made_up_texts, read_texts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers.bare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    model = PeerModel(options.bundle)
    texts = read_texts(options.texts) if options.texts else made_up_texts()
    feeds = [model.feed([text]) for text in texts]
    for feed in feeds[:200]:
        model.run(feed)
    times: list[float] = []
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end:
        for feed in feeds:
            begun = time.perf_counter()
            model.run(feed)
            times.append(time.perf_counter() - begun)
    p50, p99 = (np.percentile(times, (50, 99)) * 1e3).round(3).tolist()
    told = {"verb": "bare", "runs": len(times), "texts_per_second": round(len(times) / sum(times), 1)}
    sys.stdout.write(json.dumps({**told, "p50_ms": p50, "p99_ms": p99}) + "\n")


if __name__ == "__main__":
    main()
