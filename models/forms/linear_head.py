"""read_linear_head(): the logistic regression on sentence embeddings of a SetFit or sentence-transformers folder.

It is read from `model_head.safetensors` (this project's names), an ONNX file (skl2onnx), or a skops file. SetFit
writes a pickle, `model_head.pkl`, which can run code when it is read: it is refused with the lines that convert it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import FolderError, InputError, MissingExtraError
from models.forms.foreign_file import refuse_foreign_file
from models.forms.json_file import read_json

SETFIT = "config_setfit.json"
SEARCHED = 1_000_000  # bytes of a pickle that are searched for a name; it is near the beginning
PICKLE = "model_head.pkl"
SAFETENSORS, ONNX, SKOPS = "model_head.safetensors", "model_head.onnx", "model_head.skops"
FILES = (SAFETENSORS, ONNX, SKOPS)  # in the order of preference
REGRESSIONS = ("LogisticRegression", "LogisticRegressionCV")
ONE_VS_REST = "OneVsRestClassifier"
MULTI_LABEL = (ONE_VS_REST, "MultiOutputClassifier")  # SetFit's strategies for several labels of a text
CONVERT = (
    'import joblib, json, numpy; from safetensors.numpy import save_file; head = joblib.load("model_head.pkl"); '
    'parts = getattr(head, "estimators_", [head])',
    'save_file({"coef": numpy.ascontiguousarray(numpy.vstack([p.coef_ for p in parts])), "intercept": '
    'numpy.hstack([p.intercept_ for p in parts])}, "model_head.safetensors", metadata={"type": type(head).__name__, '
    '"classes": json.dumps([numpy.asarray(one).tolist() for one in head.classes_]), "parts": '
    'json.dumps(sorted({type(p).__name__ for p in parts})), "multilabel": json.dumps(getattr(head, "multilabel_", '
    'None)), "rule": json.dumps([getattr(head, "multi_class", None), getattr(head, "solver", None)])})',
)
DIFFERENTIABLE = b"SetFitHead"  # the class of SetFit's head in torch, by its name in the pickle
CONVERT_TORCH = (
    'import joblib, json; from safetensors.torch import save_file; head = joblib.load("model_head.pkl").cpu(); '
    "weight = head.linear.weight.detach(); bias = head.linear.bias; scale = head.temperature + head.eps",
    'save_file({"coef": weight / scale, "intercept": (weight.new_zeros(len(weight)) if bias is None else '
    'bias.detach()) / scale}, "model_head.safetensors", metadata={"type": "MultiOutputClassifier" if '
    'head.multitarget else "LogisticRegression", "classes": json.dumps(list(range(len(weight))))})',
)


@dataclass(frozen=True, slots=True)
class LinearHead:
    """Logits = embedding · coefᵀ + intercept, (labels,)."""

    kind: Literal["single", "multi"]
    labels: tuple[str, ...]
    coef: NDArray[np.float32]  # (labels, width)
    intercept: NDArray[np.float32]  # (labels,)


def head_file(folder: Path) -> Path | None:
    """Return the file of the linear head that would be read; None: there is none."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def normalizes(folder: Path) -> bool:
    """Return whether a SetFit folder divides embeddings by their L2 norm."""
    value = _setfit(folder).get("normalize_embeddings")
    if value not in (None, True, False):
        raise FolderError(f"{folder / SETFIT} has normalize_embeddings = {value!r}: wanted true or false")
    return bool(value)


def read_linear_head(folder: Path) -> LinearHead | None:
    """Return the linear head of a folder; None: it has none.

    Raises:
        FolderError: the file is not such a head, or there is a pickle only.
        InputError: the head computes something that is not supported.
        MissingExtraError: the package that reads the file is not installed.
    """
    path = head_file(folder)
    if path is None:
        if (folder / PICKLE).is_file():
            lines = "\n".join(CONVERT_TORCH if _is_differentiable(folder / PICKLE) else CONVERT)
            raise FolderError(
                f"{folder / PICKLE} is a pickle, which can run any code when it is read: it is not read. If you "
                f"trust it, convert it in its folder with these two lines of Python:\n{lines}"
            )
        return None
    refuse_foreign_file(path)
    read = {SAFETENSORS: _read_safetensors, ONNX: _read_onnx, SKOPS: _read_skops}[path.name]
    coef, intercept, classes, is_multi = read(path)
    return _make(path, np.atleast_2d(coef), np.ravel(intercept), _names(folder, classes, is_multi), is_multi)


def _make(path: Path, coef: Any, intercept: Any, labels: tuple[str, ...], is_multi: bool) -> LinearHead:
    if not is_multi and len(coef) == 1 and len(labels) == 2:
        # a binary logistic regression has one row: softmax of (0, z) is (1 - sigmoid(z), sigmoid(z))
        coef, intercept = (np.concatenate([np.zeros_like(part), part]) for part in (coef, intercept))
    if not len(coef) == len(intercept) == len(labels) or coef.ndim != 2:
        raise FolderError(
            f"{path} has coefficients of the shape {coef.shape}, {len(intercept)} intercepts and {len(labels)} "
            f"labels ({', '.join(labels[:5])}): wanted one row, one intercept and one label for each output"
        )
    if len(set(labels)) < len(labels):
        raise FolderError(f"{path} has two labels with the same name: write different names as `labels` of {SETFIT}")
    if not np.isfinite(coef).all() or not np.isfinite(intercept).all():
        raise FolderError(f"{path} has coefficients that are not finite")
    kind: Literal["single", "multi"] = "multi" if is_multi else "single"
    return LinearHead(kind, labels, coef.astype(np.float32), intercept.astype(np.float32))


WANTED = f"supported are {REGRESSIONS[0]}, and {' or '.join(MULTI_LABEL)} of such regressions: train one of them"


@dataclass(frozen=True, slots=True)
class _Told:
    """What a head of scikit-learn is; None: its file does not say it."""

    name: str  # its class
    parts: list[str]  # the classes of its regressions
    classes: list[Any]  # its labels
    multilabel: bool | None = None  # of a OneVsRestClassifier
    multi_class: str | None = None  # of a regression: how it treats several labels
    solver: str | None = None  # of a regression

    def is_multi(self, path: Path) -> bool:
        """Return whether it gives several labels to a text; refuse what a linear layer is not.

        Raises:
            InputError: it is of another class, or makes one score of several logistic ones; `path` is its file.
        """
        if self.name not in (*REGRESSIONS, *MULTI_LABEL):
            raise InputError(f"{path} is of a {self.name}: {WANTED}")
        if other := sorted(set(self.parts) - set(REGRESSIONS)):
            why = " (a label that no training text had)" if other == ["_ConstantPredictor"] else ""
            raise InputError(f"{path} is a {self.name} of {', '.join(other)}{why}: {WANTED}")
        count, several = len(self.classes), self.name in MULTI_LABEL
        if self.name == ONE_VS_REST:  # without a word on it: 0, 1, 2, … are its labels where a text may have several
            several = self.classes == list(range(count)) if self.multilabel is None else self.multilabel
        if several and (lists := [one for one in self.classes if isinstance(one, list) and len(one) != 2]):
            raise InputError(f"{path} has an output with the labels {lists[0]}: wanted two for each, such as 0 and 1")
        binary = self.multi_class == "ovr" or (self.solver == "liblinear" and self.multi_class != "multinomial")
        if not several and count > 2 and (binary or self.name == ONE_VS_REST):
            raise InputError(
                f"{path} normalizes one logistic score for each of {count} labels (one-vs-rest): train the head as "
                "one multinomial logistic regression"
            )
        return several


_Parts = tuple[NDArray[Any], NDArray[Any], list[Any], bool]


def _read_safetensors(path: Path) -> _Parts:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "np") as file:
            metadata = file.metadata() or {}
            coef, intercept = file.get_tensor("coef"), file.get_tensor("intercept")
        entries = {key: json.loads(metadata.get(key, "null")) for key in ("classes", "parts", "multilabel", "rule")}
        classes = entries["classes"]
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise FolderError(f"{path}: wanted the tensors coef and intercept: {error}") from None
    if not isinstance(classes, list):
        raise FolderError(f"{path} has no list of labels: wanted metadata `classes`, a list as JSON")
    rule = entries["rule"] if isinstance(entries["rule"], list) and len(entries["rule"]) == 2 else (None, None)
    head = _Told(
        metadata.get("type", REGRESSIONS[0]),
        entries["parts"] or [REGRESSIONS[0]],
        classes,
        entries["multilabel"],
        *rule,
    )
    return coef, intercept, classes, head.is_multi(path)


def _read_onnx(path: Path) -> _Parts:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, OSError, ValueError) as error:
        raise FolderError(f"{path} is not an ONNX file: {error}") from None
    nodes = [node for node in graph.node if node.op_type not in ("Cast", "Normalizer", "ZipMap", "Identity")]
    if [node.op_type for node in nodes] != ["LinearClassifier"]:
        operators = ", ".join(node.op_type for node in nodes)
        raise InputError(f"{path} computes {operators}: wanted one LinearClassifier, as skl2onnx writes it")
    values = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
    strings = [name.decode() for name in values.get("classlabels_strings", [])]
    classes = strings or list(values.get("classlabels_ints", []))
    try:
        intercept = np.array(values["intercepts"])
        coef = np.array(values["coefficients"]).reshape(len(intercept), -1)
    except (KeyError, ValueError) as error:
        raise FolderError(f"{path} has a LinearClassifier without whole coefficients: {error!r}") from None
    post = values.get("post_transform", b"NONE").decode()
    if post == "LOGISTIC" and len(coef) == 2:  # rows of -w and w
        coef, intercept = coef[1:], intercept[1:]
    elif post == "LOGISTIC":
        raise InputError(
            f"{path} normalizes one logistic score for each of {len(coef)} labels (one-vs-rest): train the head as "
            "one multinomial logistic regression"
        )
    elif post != "SOFTMAX":
        raise InputError(f"{path} has post_transform {post}: wanted SOFTMAX or LOGISTIC")
    return coef, intercept, classes, False


def _read_skops(path: Path) -> _Parts:
    try:
        from skops import io
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"{path} is read with skops, which is not installed: pip install 'prunella[skops]', or "
            f"convert it to {SAFETENSORS}"
        ) from None
    try:
        untrusted = io.get_untrusted_types(file=path)
        if untrusted:
            raise InputError(f"{path} has types that are not trusted: {', '.join(sorted(untrusted)[:5])}")
        head = io.load(path, trusted=[])
    except InputError:
        raise
    except Exception as error:  # skops raises many kinds for a broken file
        raise FolderError(f"{path} cannot be read by skops: {error}") from None
    parts = getattr(head, "estimators_", [head])
    if not hasattr(head, "classes_"):
        raise InputError(f"{path} holds a {type(head).__name__} that was not trained to tell labels: {WANTED}")
    classes, kinds = [np.asarray(one).tolist() for one in head.classes_], [type(part).__name__ for part in parts]
    rule = (getattr(head, key, None) for key in ("multilabel_", "multi_class", "solver"))
    is_multi = _Told(type(head).__name__, kinds, classes, *rule).is_multi(path)
    coef, intercept = np.vstack([p.coef_ for p in parts]), np.hstack([p.intercept_ for p in parts])
    return coef, intercept, classes, is_multi


def _is_differentiable(path: Path) -> bool:
    """Whether a pickle names SetFit's head in torch; the file is searched, not unpickled."""
    try:
        with path.open("rb") as file:
            return DIFFERENTIABLE in file.read(SEARCHED)
    except OSError:
        return False


def _names(folder: Path, classes: list[Any], is_multi: bool) -> tuple[str, ...]:
    """Return the names of the outputs: SetFit's `labels` for whole numbers, else the classes as text."""
    names = _setfit(folder).get("labels")
    if not names:
        has_lists = is_multi and any(isinstance(one, list) for one in classes)
        return tuple(map(str, range(len(classes)) if has_lists else classes))
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise FolderError(f"{folder / SETFIT} has labels = {str(names)[:80]}: wanted a list of names")
    if not all(isinstance(one, int) for one in classes):  # of several labels of a text, the classes are lists of 0, 1
        if all(isinstance(one, str) for one in classes):
            return tuple(classes)
        return tuple(map(str, names))
    if not all(0 <= one < len(names) for one in classes):
        raise FolderError(f"{folder / SETFIT} has {len(names)} labels, and the head the classes {classes[:5]}")
    return tuple(str(names[one]) for one in classes)


def _setfit(folder: Path) -> dict[str, Any]:
    path = folder / SETFIT
    if not path.is_file():
        return {}
    document: dict[str, Any] = read_json(path)
    return document
