"""payloads(): texts → request bodies of each dialect, and of all of them mixed."""

import json
from collections.abc import Callable, Sequence

MODEL = "prunella"  # the name in the Open Inference Protocol's path
Body = tuple[str, str]  # path and JSON


def _native(text: str) -> Body:
    return "/v1/classify", json.dumps({"text": text})


def _list(text: str) -> Body:
    return "/v1/classify", json.dumps({"texts": [text]})


def _tei(text: str) -> Body:
    return "/predict", json.dumps({"inputs": text})


def _hf(text: str) -> Body:
    return "/", json.dumps({"inputs": text})


def _oip(text: str) -> Body:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    return f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]})


def _bentoml(text: str) -> Body:
    return "/classify", json.dumps({"texts": [text]})


TOGETHER = 32  # texts of a request in the dialect `batch`: as many as a server takes unless told otherwise
DIALECTS: dict[str, Callable[[str], Body]] = {
    "native": _native, "list": _list, "tei": _tei, "hf": _hf, "oip": _oip, "bentoml": _bentoml,
}  # fmt: skip
MIXED = ("native", "native", "tei", "hf", "oip")  # taken in turn


def payloads(texts: Sequence[str], dialect: str) -> list[Body]:
    """Return a body for each text; `mix` takes the dialects in turn, and every tenth request has eight texts.

    Those of `batch` have TOGETHER texts each, that one and those after it.
    """
    if dialect == "batch":
        groups = ([texts[(i + j) % len(texts)] for j in range(TOGETHER)] for i in range(len(texts)))
        return [("/v1/classify", json.dumps({"texts": group})) for group in groups]
    if dialect != "mix":
        return [DIALECTS[dialect](text) for text in texts]
    bodies = [DIALECTS[MIXED[i % len(MIXED)]](text) for i, text in enumerate(texts)]
    for i in range(0, len(texts) - 8, 10):
        bodies[i] = ("/v1/classify", json.dumps({"texts": list(texts[i : i + 8])}))
    return bodies
