"""--precision auto: bf16 where it is there and faster, and only there; decided once, for all processes and runs."""

from types import SimpleNamespace

import pytest
import torch
from labelled import make_texts
from tiny import make_tiny_checkpoint

from models import processor
from models.errors import InputError
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.store.folder import ModelFolder
from models.train import precision
from models.train.training_config import TrainingConfig

AUTO = TrainingConfig()


@pytest.fixture
def processor_with_bf16(monkeypatch):
    """A processor with the flag, whose products in bf16 take half as long; the environment asks for nothing."""
    precision.bf16_is_faster.cache_clear()
    monkeypatch.delenv(precision.AUTO)
    monkeypatch.setattr(precision, "join", lambda: SimpleNamespace(device=torch.device("cpu")))
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    time_bf16(monkeypatch, 1.0)
    yield
    precision.bf16_is_faster.cache_clear()


def time_bf16(monkeypatch, seconds: float) -> None:
    precision.bf16_is_faster.cache_clear()
    monkeypatch.setattr(
        precision, "product_seconds", lambda dtype: {torch.float32: 2.0, torch.bfloat16: seconds}[dtype]
    )


def time_nothing(monkeypatch) -> None:
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: pytest.fail("was timed"))


@pytest.mark.parametrize(("bf16", "chosen"), [(1.0, "bf16"), (1.95, "fp32"), (4.0, "fp32")])
def test_bf16_is_taken_where_it_is_faster(processor_with_bf16, monkeypatch, tmp_path, bf16, chosen):
    time_bf16(monkeypatch, bf16)
    assert precision.choose_precision(AUTO) == chosen
    assert precision.settle_precision(AUTO, tmp_path) == AUTO.model_copy(update={"precision": chosen})


def test_a_machine_is_measured_once_in_a_store(processor_with_bf16, monkeypatch, tmp_path):
    assert precision.settle_precision(AUTO, tmp_path / "one").precision == "bf16"
    time_bf16(monkeypatch, 4.0)  # it is busy now
    assert precision.settle_precision(AUTO, tmp_path / "one").precision == "bf16"
    assert precision.settle_precision(AUTO, tmp_path / "two").precision == "fp32"
    monkeypatch.setattr(precision, "cpu_name", lambda: "another processor")
    assert precision.settle_precision(AUTO, tmp_path / "one").precision == "fp32"


def test_without_the_flag_nothing_is_timed(processor_with_bf16, monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    time_nothing(monkeypatch)
    assert precision.choose_precision(AUTO) == "fp32"
    assert precision.settle_precision(AUTO, tmp_path).precision == "fp32"
    assert not list(tmp_path.iterdir())


def test_a_gpu_is_asked_and_not_timed_and_one_that_is_not_used_is_not_asked(processor_with_bf16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert precision.choose_precision(AUTO) == "bf16"  # as with ACCELERATE_USE_CPU
    time_nothing(monkeypatch)
    monkeypatch.setattr(precision, "join", lambda: SimpleNamespace(device=torch.device("cuda")))
    assert precision.choose_precision(AUTO) == "fp32"


@pytest.mark.parametrize("name", ["bf16", "fp32"])
def test_who_names_a_precision_gets_it(processor_with_bf16, monkeypatch, tmp_path, name):
    time_nothing(monkeypatch)
    assert precision.choose_precision(TrainingConfig(precision=name)) == name
    monkeypatch.setenv(precision.AUTO, "fp32" if name == "bf16" else "bf16")
    assert precision.settle_precision(TrainingConfig(precision=name), tmp_path).precision == name
    monkeypatch.setenv(precision.AUTO, name)
    assert precision.settle_precision(AUTO, tmp_path).precision == name


def test_the_environment_may_not_ask_for_another_precision(monkeypatch):
    monkeypatch.setenv(precision.AUTO, "fp16")
    with pytest.raises(InputError, match="PRUNELLA_AUTO_PRECISION is 'fp16': wanted fp32 or bf16"):
        precision.choose_precision(AUTO)


def test_a_product_is_timed_in_both_types():
    assert precision.product_seconds(torch.float32) > 0
    assert precision.product_seconds(torch.bfloat16) > 0


def test_hidden_flags_count_as_missing(monkeypatch):
    monkeypatch.setattr(processor, "_cpuinfo", lambda: {"flags": "avx2 avx512_vnni avx512_bf16 avx_vnni"})
    assert (processor.has_vnni(), processor.has_bf16()) == (True, True)
    monkeypatch.setenv(processor.HIDDEN_FLAGS, "avx512_vnni avx512_bf16")
    assert (processor.has_vnni(), processor.has_bf16()) == (True, False)
    monkeypatch.setenv(processor.HIDDEN_FLAGS, "avx512_vnni avx_vnni amx_int8")
    assert (processor.has_vnni(), processor.has_bf16()) == (False, True)


def test_precision_device_and_release_of_torch_are_what_a_training_is_identified_by(tmp_path, monkeypatch):
    make_tiny_checkpoint(tmp_path / "encoder")
    splits = Splits(make_texts(count=16, seed=1), make_texts(count=8, seed=2))
    config = FinetuneConfig(max_tokens=16, training=TrainingConfig(steps=1, batch_size=4))

    def train() -> ModelFolder:
        return finetune(str(tmp_path / "encoder"), splits, config, tmp_path / "store").folder

    monkeypatch.setenv(precision.AUTO, "fp32")
    first = train()
    settings = first.manifest.lineage[-1].config
    release = torch.__version__.partition("+")[0]
    assert settings["training"]["precision"] == "fp32"
    assert settings["computed_on"] == {"device": precision.join().device.type, "torch": release}
    monkeypatch.setenv(precision.AUTO, "bf16")
    second = train()
    assert second.manifest.lineage[-1].config["training"]["precision"] == "bf16"
    monkeypatch.setattr(torch, "__version__", "99.0.0+cpu")
    assert len({first.path, second.path, train().path}) == 3  # contents may be the same
    monkeypatch.undo()
    monkeypatch.setenv(precision.AUTO, "fp32")
    assert train().path == first.path
