"""The command `prunella inspect`: what a folder is, what can be done with it, and what stands in the way."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeVar

import typer

from models.errors import PrunellaError
from models.messages import say
from models.store.folder import refuse_missing
from prunella.cli.bench import is_hugging_face
from prunella.cli.output import need

T = TypeVar("T")
Facts = dict[str, Any]
BUNDLE_USES: tuple[str, ...] = ("serve", "score", "evaluate", "bench", "plan", "publish")
CLASSIFIER_USES = ("compress", "quantize", "export", "evaluate", "finetune --encoder")
ADAPTER_USES = ("compress", "quantize", "export", "evaluate")
WORDS = {  # keys that do not say for people what they are
    "head": "outputs of the head", "head_form": "form of the head", "pair": "takes pairs of texts",
    "variants": "variants, bytes", "default": "variant by device", "report": "measured",
    "speedup": "times as fast as", "ort_fp32": "ort_fp32", "stock_int8": "stock_int8",  # engines keep their names
}  # fmt: skip
ENCODER_USES = ("finetune --encoder", "pretrain --encoder")


class _Problems:
    """The problems of a folder; each message says what was wanted and what to do."""

    def __init__(self) -> None:
        self.all: list[dict[str, str]] = []

    def check(self, part: str, read: Callable[[], T]) -> T | None:
        """Return what `read` returns; None, and a problem of `part`, where it raises."""
        try:
            return read()
        except PrunellaError as error:
            self.all.append({"part": part, "problem": str(error)})
            return None


def inspect(folder: Annotated[Path, typer.Argument(help="any folder of a model, ours or Hugging Face's")]) -> Facts:
    """Say what a folder is (family, head, labels, tokenizer, size), what can be done with it, and what is wrong."""
    from service.model.bundle import FILE

    refuse_missing(folder)
    problems = _Problems()
    uses: tuple[str, ...]
    if (folder / "adapter_config.json").is_file():
        facts, uses = _adapter(folder, problems), ADAPTER_USES
    elif (folder / FILE).is_file():
        facts, uses = _bundle(folder, problems), BUNDLE_USES
    else:
        facts, uses = _checkpoint(folder, problems)
    usable = () if problems.all else uses
    result = {"folder": str(folder), **facts, "can": list(usable), "problems": problems.all}
    _tell(result)
    return result


def _bundle(folder: Path, problems: _Problems) -> Facts:
    from service.model.bundle import Bundle

    bundle = problems.check("bundle", lambda: Bundle.open(folder))
    if bundle is None:
        return {"kind": "bundle"}
    report = bundle.report() or {}
    variants = {name: bundle.served_bytes(name) for name in bundle.info.variants}
    return {
        "kind": "bundle", "id": bundle.id, "name": bundle.info.name, **_task(bundle.task),
        "architecture": bundle.architecture.summary(), "variants": variants, "default": dict(bundle.info.default),
        "report": {name: report[name] for name in ("loss_points", "speedup") if name in report},
    }  # fmt: skip


def _adapter(folder: Path, problems: _Problems) -> Facts:
    need("torch", "train")
    from models.checkpoint import refuse_adapter
    from models.forms.adapter import find_base, is_adapter, read_adapter, resolve_model

    if not is_adapter(folder):  # a model of its own, too
        problems.check("adapter", lambda: refuse_adapter(folder))
        return {"kind": "adapter"}
    config = problems.check("adapter", lambda: read_adapter(folder))
    if config is None:
        return {"kind": "adapter"}
    base = problems.check("base", lambda: find_base(folder, config, None))
    facts: Facts = {"kind": "adapter", "adapter": config["peft_type"], "base": None if base is None else str(base)}
    if base is None:
        return facts
    with TemporaryDirectory(prefix="prunella-") as store:  # the commands merge it in the user's store
        merged = problems.check("adapter", lambda: resolve_model(folder, None, Path(store)))
        if merged is None:
            return facts
        more, _ = _checkpoint(merged, problems)
        problems.all = [
            {key: text.replace(str(merged), str(folder)) for key, text in one.items()} for one in problems.all
        ]
    return more | facts


def _checkpoint(folder: Path, problems: _Problems) -> tuple[Facts, tuple[str, ...]]:
    need("torch", "train")
    from compress.inputs.source import default_max_tokens
    from models.checkpoint import read_architecture
    from models.compatibility import check_tokenizer
    from models.tokenizer import Tokenizer

    facts: Facts = {"kind": _kind_of(folder, problems)}
    shape = problems.check("config", lambda: read_architecture(folder))
    if shape is None:
        return facts, ()
    facts |= {
        "family": shape.family, "architecture": shape.summary(), "vocabulary": shape.vocabulary,
        "positions": shape.positions, "pooling": shape.pooling, "head_form": shape.head,
        "pruned": not shape.is_uniform(),
    }  # fmt: skip
    weights, uses = _weights(folder, problems)
    facts |= weights
    limit = default_max_tokens(folder, shape)
    tokenizer = problems.check("tokenizer", lambda: Tokenizer.open(folder, limit))
    if tokenizer is not None:
        problems.check("tokenizer", lambda: check_tokenizer(folder, tokenizer, shape, facts.get("pair", False)))
        facts |= {"tokenizer": {"segments": tokenizer.segments, "padding_id": tokenizer.pad_id, "max_tokens": limit}}
    return facts, uses


def _weights(folder: Path, problems: _Problems) -> tuple[Facts, tuple[str, ...]]:
    """Return facts of the weights and of the head, and the commands that take such a folder."""
    from models import task as task_file
    from models.checkpoint import load_checkpoint, load_encoder, read_tensors
    from models.forms.head_task import read_head_task
    from models.task import Task

    tensors = problems.check("weights", lambda: read_tensors(folder))
    if tensors is None:
        return {}, ()
    facts: Facts = {"parameters": sum(tensor.numel() for tensor in tensors.values())}
    is_ours, before = (folder / task_file.FILE).is_file(), len(problems.all)
    head = None if is_ours else problems.check("head", lambda: read_head_task(folder))
    if len(problems.all) > before:
        return facts, ()
    if head is None and not is_ours:
        problems.check("weights", lambda: load_encoder(folder))
        return facts | {"head": None}, ENCODER_USES
    model = problems.check("weights", lambda: load_checkpoint(folder))
    if model is None:
        return facts, ()
    if head is None:
        facts |= _task(Task.read(folder / task_file.FILE))
    else:
        labels = [] if head.kind == "regression" else list(head.labels)
        facts |= {"task": head.kind, "labels": labels, "score": head.function}
    return facts | {"head": model.labels}, CLASSIFIER_USES


def _kind_of(folder: Path, problems: _Problems) -> str:
    from models.store.folder import MANIFEST, Manifest

    if is_hugging_face(folder):
        marks = {"config_setfit.json": "SetFit folder", "modules.json": "sentence-transformers folder"}
        return next((kind for name, kind in marks.items() if (folder / name).is_file()), "Hugging Face folder")
    if not (folder / MANIFEST).is_file():
        return "unknown"
    manifest = problems.check("manifest", lambda: Manifest.read(folder / MANIFEST))
    return "result of an unknown stage" if manifest is None else f"result of {manifest.lineage[-1].stage}"


def _task(task: Any) -> Facts:
    return {"task": task.kind, "labels": list(task.labels), "pair": task.pair, "max_tokens": task.max_tokens}


def _tell(facts: Facts) -> None:
    """Say the same for people."""
    for key, value in facts.items():
        if key not in ("can", "problems") and value not in (None, [], {}):
            say(f"{_words(key)}: {_text(value)}")
    for problem in facts["problems"]:
        say(f"WARNING: {problem['part']}: {problem['problem']}")
    if facts["can"]:
        say(f"can: {', '.join(f'prunella {use}' for use in facts['can'])}")


def _words(key: str) -> str:
    return WORDS.get(key) or key.replace("_", " ")


def _text(value: Any) -> str:
    """Return a fact as people read it: a list or an object as one line, a whole number with separators."""
    if isinstance(value, dict):
        parts = {
            _words(key): f"({_text(part)})" if isinstance(part, dict) else _text(part) for key, part in value.items()
        }
        return ", ".join(f"{key} {part}" for key, part in parts.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
