"""Export a classifier for the baseline engines of a benchmark report: OpenVINO int8 and CTranslate2 int8.

ONNX Runtime with optimum's export, the main baseline, is in `export.baseline.stock_export`.
"""

import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from export.baseline import stock_export
from models import tokenizer as tokenizer_file
from models.checkpoint import read_architecture
from models.data.sampling import choose_texts
from models.data.texts import Texts
from models.errors import InputError, MissingExtraError
from models.store.folder import ModelFolder
from models.store.stage import Stage, StageResult, run_stage
from models.tokenizer import Row, Tokenizer

VERSION = 1
CALIBRATION_ROWS = 256  # the same number as for our own int8
OPENVINO, HEAD = "openvino.xml", "head.npz"


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """Texts on which activation ranges are measured: drawn from `train`, with the token lengths of `served`."""

    train: Texts
    served: Texts  # only their lengths are used
    max_tokens: int

    def settings(self) -> dict[str, str | int]:
        """Return the stage settings on which the calibration depends: files, number of rows, truncation."""
        return {
            "texts": self.train.sha256, "served": self.served.sha256, "rows": CALIBRATION_ROWS,
            "max_tokens": self.max_tokens,
        }  # fmt: skip

    def choose(self, tokenizer: Tokenizer) -> list[Row]:
        """Return a random sample: files are often sorted, and their first rows would be of one label or topic."""
        lengths, served = ([len(e.ids) for e in tokenizer.encode(t.rows)] for t in (self.train, self.served))
        return [self.train.rows[i] for i in choose_texts(lengths, served, CALIBRATION_ROWS, seed=0)]


def openvino_int8(source: ModelFolder, exported: ModelFolder, texts: CalibrationTexts, store: Path) -> StageResult:
    """Quantize optimum's ONNX export with NNCF (post-training int8 for OpenVINO), and return the stage's folder.

    Args:
        source: the classifier folder.
        exported: the folder of `export.baseline.stock_export.stock_export`.
        texts: calibration texts.
        store: the store in which the result is cached.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
    """
    settings = {"versions": _versions("openvino", "nncf"), **texts.settings()}

    def make(target: Path) -> None:
        import nncf
        import openvino
        from nncf.parameters import ModelType

        tokenizer = Tokenizer.open(source.path, texts.max_tokens)
        model = openvino.Core().read_model(exported.path / stock_export.FP32)
        names = [i.any_name for i in model.inputs]

        def feed(row: Row) -> dict[str, np.ndarray]:
            batch = tokenizer.batch([row])
            arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
            return {name: arrays[name] for name in names}

        rows = texts.choose(tokenizer)
        quantized = nncf.quantize(
            model, nncf.Dataset(rows, feed), model_type=ModelType.TRANSFORMER, subset_size=len(rows)
        )
        openvino.save_model(quantized, target / OPENVINO, compress_to_fp16=False)
        shutil.copyfile(source.path / tokenizer_file.FILE, target / tokenizer_file.FILE)

    return run_stage(Stage("openvino", VERSION, settings), [source, exported], store, make)


def ctranslate2_int8(source: ModelFolder, store: Path) -> StageResult:
    """Convert the encoder to CTranslate2 int8, and return the stage's folder.

    CTranslate2 has no classification head, so the head's weights are saved beside the encoder.

    Raises:
        InputError: the model is not of the BERT family.
        MissingExtraError: ctranslate2 is not installed.
    """
    family = read_architecture(source.path).family
    if family != "bert":
        raise InputError(f"CTranslate2 is compared on models of the family bert only, this is a {family}")
    settings = {"versions": _versions("ctranslate2")}

    def make(target: Path) -> None:
        from ctranslate2.converters import TransformersConverter
        from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

        model = AutoModelForSequenceClassification.from_pretrained(source.path, trust_remote_code=False)
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        encoder = target / "bare"
        model.bert.save_pretrained(encoder)
        PreTrainedTokenizerFast(tokenizer_file=str(source.path / tokenizer_file.FILE), **special).save_pretrained(
            encoder
        )
        TransformersConverter(str(encoder)).convert(str(target / "model"), quantization="int8")
        shutil.rmtree(encoder)
        head = model.classifier
        np.savez(target / HEAD, weight=head.weight.detach().numpy(), bias=head.bias.detach().numpy())
        shutil.copyfile(source.path / tokenizer_file.FILE, target / tokenizer_file.FILE)

    return run_stage(Stage("ctranslate2", VERSION, settings), [source], store, make)


def _versions(*packages: str) -> dict[str, str]:
    try:
        return {name: version(name) for name in packages}
    except PackageNotFoundError as error:
        raise MissingExtraError(f"{error.name} is not installed: pip install 'prunella[peers]'") from None
