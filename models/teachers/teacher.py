"""open_teacher(): open a classifier whose answers a student learns: a folder of Prunella, or any of transformers.

A folder of Prunella, also a pruned one, is read by `models.checkpoint`. Every other folder is read by the
`AutoModelForSequenceClassification` of transformers, so that families which Prunella cannot prune can teach.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import task as task_file
from models.checkpoint import CONFIG, load_checkpoint, read_config
from models.classifier import TensorBatch
from models.distributed import join
from models.errors import FolderError, InputError
from models.forms.head_task import head_task
from models.store.folder import MANIFEST, REPORT, ModelFolder, sha256_of
from models.task import Task
from models.tokenizer import Encoded, Row, Tokenizer
from models.weights import weight_files

LONGEST = 512  # tokens that a teacher of transformers reads at most
TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "tokenizer_config.json")
RESERVED = 2  # positions of such a model that no token may have, if its tokenizer gives no limit (RoBERTa)
SERIES = "series"  # key in the details of a report: the folders of all seeds
Logits = NDArray[np.float32]  # (rows, labels)
Answer = Callable[[Sequence[Encoded]], Logits]


@dataclass(frozen=True, slots=True)
class Teacher:
    """A classifier that is opened but not loaded: its task and the digest of its contents."""

    folder: Path
    task: Task
    digest: str
    is_foreign: bool  # transformers reads the folder

    def load(self, rows: Sequence[Row]) -> tuple[list[Encoded], Answer]:
        """Return the tokenized rows, and the function that computes the logits of some of them in fp32.

        Of a regression it computes the scores: a function of the output such as a cross-encoder's is applied.
        """
        load = _load_foreign if self.is_foreign else _load_own
        encoded, answer = load(self.folder, self.task, rows)
        return encoded, (lambda some: self.task.scores(answer(some))) if self.task.kind == "regression" else answer


def open_teacher(path: Path, pair: bool, learner: str = "the training rows") -> list[Teacher]:
    """Open the classifier in a folder; of the result of `finetune --seeds`, all of its models.

    Args:
        path: the folder.
        pair: whether the rows that it will answer are pairs of texts.
        learner: what has the task that is learned, for messages.

    Raises:
        FolderError: there is no classifier in it, or a model of the series is missing.
        InputError: it reads single texts and the rows are pairs, or the reverse.
    """
    return [_open(member, pair, learner) for member in _members(path)]


def _members(path: Path) -> list[Path]:
    report = path / REPORT
    if not (path / MANIFEST).is_file() or not report.is_file():
        return [path]
    series = json.loads(report.read_text(encoding="utf-8")).get("details", {}).get(SERIES, {})
    for name in series:
        if not (Path(name) / MANIFEST).is_file():
            raise FolderError(
                f"{path} is the best of {len(series)} models of `finetune --seeds`, and {name} is missing: run the "
                f"same finetune again, or remove `{SERIES}` from {report} to learn from the best one only"
            )
    for name, folder_id in series.items():
        if ModelFolder.open(Path(name)).id != folder_id:
            raise FolderError(f"{name} is not the model that {report} names: run the same finetune again")
    return [Path(name) for name in series] or [path]


def _open(path: Path, pair: bool, learner: str) -> Teacher:
    if (path / task_file.FILE).is_file():
        task = Task.read(path / task_file.FILE)
        if task.pair != pair:
            theirs, ours = ("pairs", "single texts") if task.pair else ("single texts", "pairs")
            raise InputError(f"the teacher {path} reads {theirs}, and the task of {learner} is one of {ours}")
        if not weight_files(path):
            raise FolderError(
                f"the teacher {path} has no weights for training (a bundle has none): wanted a classifier folder, "
                "such as one of finetune"
            )
        digest = ModelFolder.open(path).manifest.digest() if (path / MANIFEST).is_file() else _digest(path)
        return Teacher(path, task, digest, is_foreign=False)
    if not path.is_dir():
        raise FolderError(f"the teacher {path} is not a folder: wanted one of finetune, or of transformers")
    if (path / MANIFEST).is_file():
        stage = ModelFolder.open(path).manifest.lineage[-1].stage
        raise FolderError(f"the teacher {path} is the result of '{stage}': wanted a classifier folder")
    config = read_config(path)
    named = config.get("num_labels") or 2
    outputs = len(config.get("id2label") or ()) or (named if isinstance(named, int) else 2)
    task = head_task(config, outputs, str(path / CONFIG)).task(pair, LONGEST)
    return Teacher(path, task, _digest(path), is_foreign=True)


def _digest(path: Path) -> str:
    """Return a hash of all files directly in a folder."""
    files = sorted(file for file in path.iterdir() if file.is_file())
    return sha256(json.dumps({file.name: sha256_of(file) for file in files}).encode()).hexdigest()


def _load_own(folder: Path, task: Task, rows: Sequence[Row]) -> tuple[list[Encoded], Answer]:
    tokenizer = Tokenizer.open(folder, task.max_tokens)
    model = load_checkpoint(folder).to(join().device)

    def answer(encoded: Sequence[Encoded]) -> Logits:
        logits = model(TensorBatch(tokenizer.pad(encoded), join().device))[0]
        return np.asarray(logits.float().cpu().numpy())

    return tokenizer.encode(rows), answer


def _load_foreign(folder: Path, task: Task, rows: Sequence[Row]) -> tuple[list[Encoded], Answer]:
    model, tokenizer = _open_transformers(folder)
    device = join().device
    model.to(device)
    columns = [[row[place] for row in rows] for place in range(len(rows[0]))]
    texts = tokenizer(
        *columns, truncation=True, max_length=_limit(model, tokenizer, task.max_tokens), return_token_type_ids=True,
        return_attention_mask=False,
    )  # fmt: skip
    encoded = [Encoded(ids, types) for ids, types in zip(texts["input_ids"], texts["token_type_ids"], strict=True)]
    _check_ids(folder, model, tokenizer, encoded)
    # many tokenizers make token types for models that take none (T5, BART)
    has_types = "token_type_ids" in tokenizer.model_input_names and (
        "token_type_ids" in signature(model.forward).parameters
    )
    if model.config.pad_token_id is None:  # GPT-2 and similar look for it to find the last token of each text
        model.config.pad_token_id = tokenizer.pad_token_id

    def answer_together(some: Sequence[Encoded]) -> Logits:
        inputs: dict[str, Any] = {"input_ids": [row.ids for row in some]}
        if has_types:
            inputs["token_type_ids"] = [row.types for row in some]
        if tokenizer.pad_token is not None:
            inputs = tokenizer.pad(inputs, return_tensors="pt")
        batch = {name: torch.as_tensor(values, device=device) for name, values in inputs.items()}
        return np.asarray(model(**batch).logits.float().cpu().numpy())

    def answer(some: Sequence[Encoded]) -> Logits:
        # without a padding token each text is answered alone
        parts = [some] if tokenizer.pad_token is not None else [[one] for one in some]
        try:
            return np.concatenate([answer_together(part) for part in parts])
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise FolderError(f"the teacher {folder} cannot answer in transformers: {_reason(error)}") from None

    return encoded, answer


def _check_ids(folder: Path, model: Any, tokenizer: Any, encoded: Sequence[Encoded]) -> None:
    known = model.get_input_embeddings().num_embeddings
    if (largest := max(tokenizer.pad_token_id or 0, *(max(row.ids, default=0) for row in encoded))) >= known:
        raise FolderError(
            f"the teacher {folder} has {known} token embeddings, and its tokenizer gives the token {largest}: they "
            "belong to different models"
        )


def _open_transformers(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    what = "the tokenizer of the teacher"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # its advice to pad while tokenizing is for other programs
        tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        what = "the teacher"
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # transformers raises what its libraries do: of safetensors, of tokenizers, TypeError
        reason = _reason(error)
        if not any(True for pattern in TOKENIZER_FILES for _ in folder.glob(pattern)):
            reason = "it has no tokenizer.json, and no other file of one"
        if "trust_remote_code" in str(error):
            reason = "it is Python code of its own (auto_map), which is never run"
        raise FolderError(f"transformers cannot open {what} {folder}: {reason}") from None
    if info["missing_keys"]:
        raise FolderError(
            f"the teacher {folder} lacks weights ({min(info['missing_keys'])}): wanted a fine-tuned classifier"
        )
    return model.eval().float(), tokenizer


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _limit(model: Any, tokenizer: Any, most: int) -> int:
    """Return the tokens that a model of transformers reads: its tokenizer's limit or its positions, or `most`."""
    limit = tokenizer.model_max_length  # 10^30 of a tokenizer without one
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    if positions > RESERVED and limit > positions:
        limit = positions - RESERVED
    return int(min(most, limit))
