"""python -m loadtests.baselines NAME --bundle FOLDER --port N: run a baseline server until Ctrl-C."""

import argparse
import os
import sys
from pathlib import Path

COMMANDS = {
    "fastapi": [
        "-m",
        "uvicorn",
        "loadtests.baselines.fastapi_app:app",
        "--host",
        "127.0.0.1",
        "--no-access-log",
        "--port",
    ],
    "mlserver": ["-m", "loadtests.baselines.mlserver_app"],
    "litserve": ["-m", "loadtests.baselines.litserve_app"],
    "bentoml": [
        "-m",
        "bentoml",
        "serve",
        "loadtests.baselines.bentoml_app:Classifier",
        "--host",
        "127.0.0.1",
        "--port",
    ],
}


def main() -> None:
    """Replace this process with the server."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.baselines", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("name", choices=sorted(COMMANDS))
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    variables = {**os.environ, "PEER_BUNDLE": str(options.bundle.resolve()), "BENTOML_DO_NOT_TRACK": "True"}
    os.execve(sys.executable, [sys.executable, *COMMANDS[options.name], str(options.port)], variables)


if __name__ == "__main__":
    main()
