"""payloads(): build request bodies from texts, in one of the server's protocols (dialects) or in a mix of them."""

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


def _vllm(text: str) -> Body:
    return "/classify", json.dumps({"input": text, "truncate_prompt_tokens": -1})


def _infinity(text: str) -> Body:
    return "/classify", json.dumps({"input": [text]})  # the server's PRUNELLA_CLASSIFY_DIALECT chooses the answer


def _vertex(text: str) -> Body:
    return "/invocations", json.dumps({"instances": [text]})


def _score(text: str) -> Body:
    return "/score", json.dumps({"queries": text, "documents": text, "truncate_prompt_tokens": -1})


def _rerank(text: str) -> Body:
    return "/rerank", json.dumps({"query": text, "texts": [text]})


def _bentoml(text: str) -> Body:
    return "/classify", json.dumps({"texts": [text]})


BATCH_TEXTS = 32  # texts per request in the dialect `batch`: the server's default limit (PRUNELLA_MAX_BATCH)
DIALECTS: dict[str, Callable[[str], Body]] = {
    "native": _native, "list": _list, "tei": _tei, "hf": _hf, "oip": _oip, "bentoml": _bentoml, "vllm": _vllm,
    "infinity": _infinity, "vertex": _vertex, "score": _score, "rerank": _rerank,
}  # fmt: skip
MIXED = ("native", "native", "tei", "hf", "oip")  # used in turn


def payloads(texts: Sequence[str], dialect: str) -> list[Body]:
    """Return one body for each text.

    `mix` uses the dialects of MIXED in turn, and every tenth request has eight texts. With `batch` each body has
    BATCH_TEXTS texts: the text itself and the ones after it.
    """
    if dialect == "batch":
        return lists(texts, BATCH_TEXTS)
    if dialect != "mix":
        return [DIALECTS[dialect](text) for text in texts]
    bodies = [DIALECTS[MIXED[i % len(MIXED)]](text) for i, text in enumerate(texts)]
    for i in range(0, len(texts) - 8, 10):
        bodies[i] = ("/v1/classify", json.dumps({"texts": list(texts[i : i + 8])}))
    return bodies


def lists(texts: Sequence[str], size: int) -> list[Body]:
    """Return one body for each text, with `size` texts: the text itself and the ones after it."""
    groups = ([texts[(i + j) % len(texts)] for j in range(size)] for i in range(len(texts)))
    return [("/v1/classify", json.dumps({"texts": group})) for group in groups]
