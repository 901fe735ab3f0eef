"""The same classifier in the form of other engines, for the report: OpenVINO int8, CTranslate2 int8."""

import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from export import stock
from models import tokens
from models.checkpoint import read_architecture
from models.data.sampling import choose_texts
from models.data.texts import Texts
from models.errors import InputError, MissingExtraError
from models.folder import ModelFolder
from models.stage import Made, Stage, run_stage
from models.tokens import Row, Tokenizer

VERSION = 1
CALIBRATION_ROWS = 256  # as many as calibrate ours
OPENVINO, HEAD = "openvino.xml", "head.npz"


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """What activations are measured on: texts of `train`, drawn at random, as long as those of `served`."""

    train: Texts
    served: Texts  # only their lengths matter
    max_tokens: int

    def settings(self) -> dict[str, str | int]:
        """Return what decides which texts are drawn and what the model reads of them."""
        return {
            "texts": self.train.sha256, "served": self.served.sha256, "rows": CALIBRATION_ROWS,
            "max_tokens": self.max_tokens,
        }  # fmt: skip

    def choose(self, tokenizer: Tokenizer) -> list[Row]:
        """Return the rows: files are often sorted, so that the first of them are of one label or topic."""
        lengths, served = ([len(e.ids) for e in tokenizer.encode(t.rows)] for t in (self.train, self.served))
        return [self.train.rows[i] for i in choose_texts(lengths, served, CALIBRATION_ROWS, seed=0)]


def openvino_int8(source: ModelFolder, exported: ModelFolder, texts: CalibrationTexts, store: Path) -> Made:
    """Return the folder with NNCF's post-training int8 of optimum's export, calibrated on training texts.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
    """
    settings = {"versions": _versions("openvino", "nncf"), **texts.settings()}

    def make(target: Path) -> None:
        import nncf
        import openvino
        from nncf.parameters import ModelType

        tokenizer = Tokenizer.open(source.path, texts.max_tokens)
        model = openvino.Core().read_model(exported.path / stock.FP32)
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
        shutil.copyfile(source.path / tokens.FILE, target / tokens.FILE)

    return run_stage(Stage("openvino", VERSION, settings), [source], store, make)


def ctranslate2_int8(source: ModelFolder, store: Path) -> Made:
    """Return the folder with CTranslate2's int8 encoder and, which it does not have, the classification head.

    Raises:
        InputError: the model is of another family than BERT.
        MissingExtraError: ctranslate2 is not installed.
    """
    family = read_architecture(source.path).family
    if family != "bert":
        raise InputError(f"CTranslate2 is compared on models of the family bert only, this is a {family}")
    settings = {"versions": _versions("ctranslate2")}

    def make(target: Path) -> None:
        from ctranslate2.converters import TransformersConverter
        from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

        model = AutoModelForSequenceClassification.from_pretrained(source.path)
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        bare = target / "bare"
        model.bert.save_pretrained(bare)
        PreTrainedTokenizerFast(tokenizer_file=str(source.path / tokens.FILE), **special).save_pretrained(bare)
        TransformersConverter(str(bare)).convert(str(target / "model"), quantization="int8")
        shutil.rmtree(bare)
        head = model.classifier
        np.savez(target / HEAD, weight=head.weight.detach().numpy(), bias=head.bias.detach().numpy())
        shutil.copyfile(source.path / tokens.FILE, target / tokens.FILE)

    return run_stage(Stage("ctranslate2", VERSION, settings), [source], store, make)


def _versions(*packages: str) -> dict[str, str]:
    try:
        return {name: version(name) for name in packages}
    except PackageNotFoundError as error:
        raise MissingExtraError(f"{error.name} is not installed: pip install 'prunella[peers]'") from None
