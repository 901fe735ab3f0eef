"""Dialects: the protocols as the application uses them, and the choice of one by the keys of a request.

Several clients use the same path with different JSON, so the path alone does not say which protocol a request is in.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.protocols import Answer, BadRequest, Request, hf, native, openai, pair_scores, rerank, tei, vertex, vllm
from service.settings import Settings
from service.web.http import Headers


@dataclass(frozen=True, slots=True)
class Dialect:
    """A protocol: how it reads a request and writes an answer and an error."""

    label: str  # in the metrics
    read: Callable[[object], Request]
    write: Callable[[Answer, Request], object]
    error: Callable[[BadRequest], object]
    headers: Callable[[Answer], Headers] | None = None
    statuses: dict[int, int] = field(default_factory=dict)  # status codes of errors that this protocol replaces


Choose = Callable[[Any], Dialect]
HUB_CLIENT = re.compile(rb"\bhf_hub/(\d{1,6})\.(\d{1,6})")
HUB_READS_LISTS = (1, 2)  # version of huggingface_hub
VLLM_KEYS = ("input", "messages")  # only requests of vLLM's and infinity's clients have one of these


def tei_headers(answer: Answer) -> Headers:
    """Return the x-compute-* headers of text-embeddings-inference; times are whole milliseconds."""
    times = {name: b"%d" % round(ms) for name, ms in answer.times_ms.items()}
    return [
        (b"x-compute-type", answer.compute.encode()),
        (b"x-compute-time", times["total"]),
        (b"x-compute-characters", b"%d" % answer.characters),
        (b"x-compute-tokens", b"%d" % answer.tokens),
        (b"x-total-time", times["total"]),
        (b"x-tokenization-time", times["tokenize"]),
        (b"x-queue-time", times["queue"]),
        (b"x-inference-time", times["infer"]),
    ]


NATIVE = Dialect("native", native.read, native.write, native.error)
TEI = Dialect("tei", tei.read, tei.write, tei.error, tei_headers)
HF = Dialect("hf", hf.read, hf.write, hf.error)
HF_LISTS = Dialect("hf", hf.read, hf.write_lists, hf.error)
HF_BY_CLIENT = Dialect("hf", hf.read, hf.write, hf.error)  # HF or HF_LISTS, which hf_for_client() chooses
VERTEX = Dialect("vertex", vertex.read, vertex.write, vertex.error)
VLLM = Dialect("vllm", vllm.read, vllm.write, openai.error, statuses=openai.STATUSES)
INFINITY = Dialect("infinity", vllm.read_infinity, vllm.write_infinity, openai.error, statuses=openai.STATUSES)
SCORE = Dialect("score", pair_scores.read, pair_scores.write, openai.error, statuses=openai.STATUSES)
RERANK = Dialect("rerank", rerank.read, rerank.write, openai.error, statuses=openai.STATUSES)
TEI_RERANK = Dialect("tei", rerank.read_tei, rerank.write_tei, tei.error, tei_headers)


def only(dialect: Dialect) -> Choose:
    """Return the choice for a path with one protocol."""
    return lambda _: dialect


def of_input(settings: Settings) -> Dialect:
    """Return the dialect of classification requests with `input`."""
    return INFINITY if settings.classify_dialect == "infinity" else VLLM


def of_inputs(settings: Settings) -> Dialect:
    """Return the dialect of Hugging Face's requests."""
    return {"list": HF_LISTS, "pipeline": HF, "auto": HF_BY_CLIENT}[settings.zero_shot_answer]


def hf_for_client(user_agent: bytes | None) -> Dialect:
    """Return the dialect of a request to HF_BY_CLIENT by the client that sent it."""
    version = HUB_CLIENT.search(user_agent or b"")
    return HF_LISTS if version and tuple(map(int, version.groups())) >= HUB_READS_LISTS else HF


def is_of_vllm(document: Any) -> bool:
    """Whether a request to a path of several protocols is one of vLLM's or infinity's clients."""
    return type(document) is dict and ("input" in document or "messages" in document)


def native_or(with_input: Dialect) -> Choose:
    """Return the choice for /v1/classify: `with_input` for requests of vLLM's clients."""

    def choose(document: Any) -> Dialect:
        return with_input if is_of_vllm(document) else NATIVE

    return choose


def ranks_or(with_inputs: Dialect) -> Choose:
    """Return the choice for /, where text-embeddings-inference ranks too: `with_inputs`, except for its `texts`."""

    def choose(document: Any) -> Dialect:
        is_ranking = type(document) is dict and "texts" in document and "query" in document
        return TEI_RERANK if is_ranking else with_inputs

    return choose


def of_classify(with_input: Dialect) -> Choose:
    """Return the choice for /classify: `with_input`, and the native form for errors of BentoML's clients."""

    def choose(document: Any) -> Dialect:
        return NATIVE if not is_of_vllm(document) and "texts" in document else with_input

    return choose


def choose_rerank(document: Any) -> Dialect:
    """Return the dialect of a request to /rerank."""
    return TEI_RERANK if type(document) is dict and "texts" in document else RERANK


def is_of_vertex(document: Any) -> bool:
    """Whether a request is in Vertex AI's form."""
    return type(document) is dict and "instances" in document


def instances_or(choose: Choose) -> Choose:
    """Return the choice for Vertex AI's path: its own form for requests that have the key `instances`."""

    def with_instances(document: Any) -> Dialect:
        return VERTEX if is_of_vertex(document) else choose(document)

    return with_instances


def by_keys(with_input: Dialect, with_inputs: Dialect) -> Choose:
    """Return the choice for a path where every protocol is accepted, as SageMaker's /invocations.

    `inputs` is text-embeddings-inference's, and Hugging Face's where `parameters` are beside it.
    """
    by_key = {
        "instances": VERTEX,
        **dict.fromkeys(VLLM_KEYS, with_input),
        **dict.fromkeys(("text", "texts", "pairs"), NATIVE),
        **dict.fromkeys(("queries", "text_1", "data_1"), SCORE),
    }

    def choose(document: Any) -> Dialect:
        if type(document) is not dict:
            return TEI
        if "query" in document:
            return choose_rerank(document)
        if "inputs" in document:
            return with_inputs if "parameters" in document else TEI
        return next((dialect for key, dialect in by_key.items() if key in document), TEI)

    return choose
