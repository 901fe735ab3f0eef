"""The Python steps of container.sh: `make FOLDER` makes a bundle, `check URL BUNDLE` compares a server with it."""

import json
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TEXTS = ["good film", "a dull story of the plot", "so warm and bright " * 40]


def ask(url: str, document: object) -> object:
    body = json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def check(url: str, folder: Path) -> None:
    """Fail unless the server at `url` serves the bundle in `folder` and answers as it does in this process."""
    from service.model.bundle import Bundle
    from service.model.engine import Engine
    from service.model.session import RuntimeSettings
    from service.protocols import Request, predictions

    bundle = Bundle.open(folder)
    engine = Engine.open(bundle, RuntimeSettings(device="cpu"))
    request = Request([(text,) for text in TEXTS], single=False)
    wanted = predictions(bundle.task, engine.logits(request.rows), request)
    native = ask(f"{url}/v1/classify", {"texts": TEXTS})
    assert isinstance(native, dict)
    for found in (native["predictions"], ask(f"{url}/predict", {"inputs": [[text] for text in TEXTS]})):
        assert_same(found, wanted)
    with urllib.request.urlopen(f"{url}/info", timeout=10) as answer:
        info = json.load(answer)
    assert info["id"] == bundle.id, f"{url} serves {info['id']}, wanted {bundle.id}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    assert 'prunella_requests_total{code="200",dialect="native"} 1.0' in metrics, metrics


def assert_same(found: object, wanted: list[list[dict[str, object]]]) -> None:
    assert isinstance(found, list)
    for row, expected in zip(found, wanted, strict=True):
        assert [p["label"] for p in row] == [p["label"] for p in expected], (row, expected)
        for a, b in zip(row, expected, strict=True):
            assert abs(a["score"] - b["score"]) < 1e-6, (row, expected)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        from bundles import make_tiny_bundle

        print(make_tiny_bundle(Path(sys.argv[2])))  # noqa: T201
    else:
        check(sys.argv[2], Path(sys.argv[3]))
