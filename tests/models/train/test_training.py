"""The training loop: what is random depends on the seed and the step only, however the work is cut or interrupted."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from processes import run_two
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint, tiny_texts

from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.distributed import leave, rank
from models.errors import CheckError, InputError
from models.finetuning.text_objective import TextObjective
from models.store.folder import LOG, PLOT
from models.tokenizer import Tokenizer
from models.train.batches import length_batches, training_batches
from models.train.history import read_log
from models.train.loop import Run, TrainingConfig, fit
from models.train.optimizer import make_optimizer, warm_hold_linear, warm_then_linear
from models.train.precision import AUTO, choose_precision
from models.train.snapshot import load_snapshot

CONFIG = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-3, snapshot_minutes=0)

IN_BF16 = choose_precision(CONFIG) == "bf16"
# of one course computed in another order: bf16 rounds by 2^-9, and after some steps Adam has made more of that
TOLERANCE, STEPS = (2e-2, 2) if IN_BF16 else (2e-3, None)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("encoder")
    make_tiny_checkpoint(found)
    return found


def tiny_objective(folder: Path, rows: int = 64) -> TextObjective:
    texts = tiny_texts(rows)
    tokenizer = Tokenizer.open(folder, 32)
    truth = torch.tensor([texts.label_names().index(label) for label in texts.require_labels()])

    def loss_of(model, batch, numbers):
        return functional.cross_entropy(model(batch)[0], truth[numbers], reduction="sum")

    return TextObjective(tokenizer.encode(texts.rows), tokenizer, loss_of)


def trained(
    folder: Path, config: TrainingConfig = CONFIG, run: Run | None = None, dropout: float = 0.1, rows: int = 64
):
    model = load_checkpoint(folder, labels=2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    history = fit(model, tiny_objective(folder, rows), config, run)
    return model, history


def distance(one, other) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def change(**settings) -> TrainingConfig:
    return CONFIG.model_copy(update=settings)


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own():
    lengths = np.random.default_rng(0).integers(3, 60, 500).tolist()
    first, second = (training_batches(lengths, 16, seed=1, epoch=epoch) for epoch in (0, 1))
    for plan in (first, second):
        assert sorted(row for batch in plan for row in batch) == list(range(500))
    assert {tuple(sorted(b)) for b in first} != {
        tuple(sorted(b)) for b in second
    }  # other mates, not only another order
    assert first == training_batches(lengths, 16, seed=1, epoch=0)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in first)
    assert padded < 1.1 * sum(lengths)


def test_inference_batches_hold_every_row_once(folder):
    encoded = tiny_objective(folder).encoded
    assert sorted(row for batch in length_batches(encoded, 7, seed=0) for row in batch) == list(range(64))


def test_learning_rate_rises_then_falls_to_zero():
    factors = [warm_then_linear(step, 100, 0.1) for step in range(101)]
    assert factors[9] == 1.0
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == 0.0


def test_learning_rate_stays_until_the_decay_begins():
    held = [warm_hold_linear(step, 100, 0.1, None) for step in range(50)]
    assert held[:10] == [warm_then_linear(step, 100, 0.1) for step in range(10)]
    assert set(held[9:]) == {1.0}
    falling = [warm_hold_linear(step, 100, 0.1, 40) for step in range(40, 101)]
    assert falling[0] == 1.0
    assert falling == sorted(falling, reverse=True)
    assert falling[60] == 0.0


def test_layers_further_from_the_head_learn_more_slowly_and_norms_are_not_decayed(folder):
    model = load_checkpoint(folder, labels=2)
    optimizer = make_optimizer(model, TrainingConfig(layer_decay=0.5, learning_rate=1.0, weight_decay=0.1))
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rate = {name: found[id(p)]["peak"] for name, p in model.named_parameters()}
    assert rate["head.out.weight"] == 1.0
    assert rate["encoder.layers.1.ffn.rise.weight"] == 0.5
    assert rate["encoder.layers.0.attention.qkv.bias"] == 0.25
    assert rate["encoder.embeddings.tokens.weight"] == 0.125
    for name, parameter in model.named_parameters():
        assert found[id(parameter)]["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_same_seed_same_weights_other_seed_others(folder):
    one, history = trained(folder)
    again, _ = trained(folder)
    other, _ = trained(folder, change(seed=1))
    assert distance(one, again) == 0.0
    assert distance(one, other) > 1e-4
    assert (history.steps, history.texts) == (16, 128)
    _, longer = trained(folder, change(epochs=6))
    assert longer.losses[-1] < 0.7 * longer.losses[0]


def test_frozen_embeddings_stay_and_others_move(folder):
    start = load_checkpoint(folder, labels=2)
    model, _ = trained(folder)
    assert torch.equal(model.encoder.embeddings.tokens.weight, start.encoder.embeddings.tokens.weight)
    free, _ = trained(folder, change(freeze_embeddings=False))
    assert not torch.equal(free.encoder.embeddings.tokens.weight, start.encoder.embeddings.tokens.weight)


def assert_same_course(one: Path, other: Path) -> None:
    """Weights say little: Adam moves a key bias, whose gradient is rounding only, by a full step. The gradient's norm
    says what Adam hides: a loss that is scaled wrongly."""
    first, second = read_log(one)[-1], read_log(other)[-1]
    assert first["step"] == second["step"]
    for name in ("loss", "gradient_norm"):
        assert first[name] == pytest.approx(second[name], rel=TOLERANCE)


def test_pieces_of_a_step_learn_what_the_whole_step_learns(folder, tmp_path):
    config = change(steps=STEPS)
    whole, _ = trained(folder, config, Run(tmp_path / "whole"), dropout=0.0, rows=60)  # the last batch has 4 rows
    pieces, _ = trained(
        folder, config.model_copy(update={"accumulate": 3}), Run(tmp_path / "pieces"), dropout=0.0, rows=60
    )
    assert_same_course(tmp_path / "whole", tmp_path / "pieces")
    if IN_BF16:
        return
    batch = TensorBatch(Tokenizer.open(folder, 32).batch(tiny_texts(60).rows))
    assert torch.allclose(whole(batch)[0], pieces(batch)[0], atol=1e-3)


def test_steps_may_end_within_an_epoch(folder):
    _, history = trained(folder, change(steps=11))
    assert history.steps == 11
    assert len(history.losses) == 2


def test_best_weights_are_kept_and_no_progress_stops(folder):
    values = iter([0.5, 0.9, 0.7, 0.8, 0.6])
    seen = []

    def evaluate(model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"accuracy": next(values)}

    model, history = trained(folder, change(epochs=9, metric="accuracy", patience=2), Run(evaluate=evaluate))
    assert [e.metrics["accuracy"] for e in history.evaluations] == [0.5, 0.9, 0.7, 0.8]
    assert history.stopped_early
    assert history.best_step == history.evaluations[1].step == 16
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in seen[1].items())


@pytest.mark.parametrize(
    ("values", "steps", "best"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], 80, 80),  # it helps: all of the 10 epochs
        ([0.5, 0.4, 0.5, 0.6, 0.6, 0.6], 48, 48),  # no better for two epochs: as many steps again, the last of equals
        ([0.5, 0.4, 0.5, 0.4, 0.4, 0.3], 48, 24),
        ([0.1, 0.9, 0.8, 0.9, 0.7, 0.7, 0.7, 0.7], 64, 32),
    ],
)
def test_training_goes_on_while_it_helps(folder, tmp_path, values, steps, best):
    left = iter(values)
    run = Run(tmp_path, evaluate=lambda model: {"accuracy": next(left)}, while_it_helps=True)
    _, history = trained(folder, change(epochs=10, metric="accuracy"), run)
    assert (history.steps, history.best_step) == (steps, best)
    assert len(history.evaluations) == len(values)
    assert not history.stopped_early
    rates = {line["step"]: line["learning_rate"] for line in read_log(tmp_path) if "loss" in line}
    assert rates[steps] == pytest.approx(1e-3 / (steps / 2))  # the last step of a rate that falls to 0


@pytest.mark.parametrize(("error", "best"), [(0.0, 32), (0.1, 32), (0.2, 56), (0.3, 64)])
def test_steps_that_are_worse_by_chance_only_give_way_to_the_last(folder, error, best):
    left = iter([0.1, 0.8, 0.7, 0.9, 0.5, 0.7, 0.75, 0.65])
    errors = []

    def error_of(value):
        errors.append(value)
        return error

    run = Run(evaluate=lambda model: {"accuracy": next(left)}, while_it_helps=True, error_of=error_of)
    _, history = trained(folder, change(epochs=8, metric="accuracy"), run)
    assert (history.steps, history.best_step) == (64, best)
    assert errors == [0.1, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9]  # of the best value so far


def test_the_rate_does_not_fall_before_it_has_risen(folder):
    config = change(epochs=10, metric="accuracy", warmup=0.4, evaluate_every=4)
    run = Run(evaluate=lambda model: {"accuracy": 0.5}, while_it_helps=True)
    assert trained(folder, config, run)[1].steps == 2 * 32


def test_minutes_cap_a_training_that_helps(folder):
    values = itertools.count()
    run = Run(evaluate=lambda model: {"accuracy": next(values)}, while_it_helps=True, minutes=0.01)
    history = trained(folder, change(epochs=10_000, metric="accuracy", evaluate_every=5), run)[1]
    assert 1 <= history.steps < 80_000
    assert history.seconds < 60 * 0.01 * 20


def test_an_unknown_metric_is_told_with_the_known_ones(folder):
    with pytest.raises(InputError, match="'glory' is not measured here; choose from accuracy"):
        trained(folder, change(metric="glory"), Run(evaluate=lambda model: {"accuracy": 0.5}))


def test_a_loss_that_is_no_number_stops_with_step_and_rows(folder):
    objective = tiny_objective(folder)
    broken = dataclasses.replace(
        objective, loss_of=lambda model, batch, rows: model(batch)[0].sum() * (float("nan") if 5 in rows else 0.0)
    )
    with pytest.raises(CheckError, match=r"the loss is nan at step \d+, rows \[.*\b5\b.*\]"):
        fit(load_checkpoint(folder, labels=2), broken, CONFIG)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    ("metric", "frozen", "while_it_helps"), [(None, True, False), ("turn", False, False), ("turn", False, True)]
)
def test_an_interrupted_run_ends_as_the_uninterrupted_one(folder, tmp_path, metric, frozen, while_it_helps):
    config = change(metric=metric, evaluate_every=3, freeze_embeddings=frozen, sparse_embeddings=True)

    def run_in(scratch: Path, break_at: int | None) -> Run:
        def evaluate(model):
            step = round(float(model.head.out.weight.detach().sum()) * 1e6) % 1000  # some function of the weights
            if break_at is not None and evaluate.calls == break_at:
                raise Interrupted
            evaluate.calls += 1
            return {"turn": float(step)}

        evaluate.calls = 0
        return Run(scratch=scratch, evaluate=evaluate, while_it_helps=while_it_helps)

    straight, wanted = trained(folder, config, run_in(tmp_path / "straight", None))
    with pytest.raises(Interrupted):
        trained(folder, config, run_in(tmp_path / "broken", 2))
    assert load_snapshot(tmp_path / "broken").counters.step == 8
    resumed, found = trained(folder, config, run_in(tmp_path / "broken", None))
    assert distance(straight, resumed) == 0.0
    assert found.model_dump(exclude={"seconds"}) == wanted.model_dump(exclude={"seconds"})
    steps = [line["step"] for line in read_log(tmp_path / "broken")]
    assert steps == [line["step"] for line in read_log(tmp_path / "straight")]
    assert (tmp_path / "broken" / PLOT).stat().st_size > 1000


def test_a_run_that_goes_on_keeps_the_precision_that_it_began_with(folder, tmp_path, monkeypatch):
    config = change(precision="auto")

    def breaking(model):
        raise Interrupted

    monkeypatch.setenv(AUTO, "bf16")
    straight, _ = trained(folder, config)
    with pytest.raises(Interrupted):
        trained(folder, config.model_copy(update={"evaluate_every": 5}), Run(tmp_path, evaluate=breaking))
    assert load_snapshot(tmp_path).counters.precision == "bf16"
    monkeypatch.setenv(AUTO, "fp32")
    resumed, _ = trained(folder, config, Run(tmp_path))
    fresh, _ = trained(folder, config)
    assert distance(straight, resumed) == 0.0
    assert distance(straight, fresh) > 0.0


def course(folder: Path, out: Path, batch: int) -> None:
    """Train with and without frozen embeddings; without dropout, which differs from process to process."""
    for frozen in (True, False):
        config = change(epochs=1, steps=STEPS, batch_size=batch, freeze_embeddings=frozen, sparse_embeddings=True)
        model, _ = trained(folder, config, Run(scratch=out / str(frozen)), dropout=0.0)
        if rank() == 0:
            state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(state, out / f"{frozen}.safetensors")


def test_two_processes_learn_what_one_learns_from_the_doubled_batch(folder, tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    course(folder, places[0], 8)
    done = run_two([__file__, str(folder), str(places[1]), "4"])
    assert [d.returncode for d in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    for frozen in (True, False):
        assert_same_course(*(place / str(frozen) for place in places))
        if IN_BF16:
            continue
        one, two = (load_file(place / f"{frozen}.safetensors") for place in places)
        for name in (
            "head.out.weight",
            "encoder.layers.0.ffn.rise.weight",
            "encoder.layers.1.attention.output.weight",
        ):
            assert torch.allclose(one[name], two[name], atol=1e-4), name


def threads(folder: Path) -> None:
    """Train, and say which threads of the process are gloo's, before and after the group is left."""
    trained(folder, change(steps=2))

    def named() -> list[str]:
        return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]

    before = [name for name in named() if "gloo" in name]
    leave()
    sys.stdout.write(json.dumps([before, [name for name in named() if "gloo" in name], named()]))


def test_no_thread_of_the_group_outlives_it(folder):
    """A thread that frees a tensor while the interpreter shuts down causes a segmentation fault, now and then."""
    for done in run_two([__file__, "threads", str(folder)]):
        assert done.returncode == 0, done.stderr[-2000:]
        before, after, _ = json.loads(done.stdout)
        assert before
        assert not after


def test_a_launcher_that_starts_one_of_several_processes_is_told(folder, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # all that `accelerate launch --cpu --num_processes 2` does
    with pytest.raises(InputError, match="ACCELERATE_USE_CPU=true accelerate launch --multi_gpu"):
        trained(folder)


def test_a_full_disk_keeps_the_last_good_snapshot(folder, tmp_path):
    code = """
    import resource, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_training import change, trained
    from models.errors import CheckError
    from models.train.snapshot import load_snapshot
    from models.train.loop import Run
    out = Path(sys.argv[2])
    trained(Path(sys.argv[1]), change(steps=3), Run(scratch=out))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))  # a file cannot grow any more
    try:
        trained(Path(sys.argv[1]), change(steps=9), Run(scratch=out))
    except CheckError as error:
        print(error)
    print(load_snapshot(out).counters.step, sorted(p.name for p in out.iterdir()))
    """
    path = tmp_path / "full.py"
    path.write_text(textwrap.dedent(code).format(tests=str(Path(__file__).parent)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, path, folder, tmp_path / "out"], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))},
    )  # fmt: skip
    told, kept = done.stdout.splitlines()
    assert "cannot write a snapshot" in told
    assert "the snapshot before it is kept" in told
    assert kept.startswith("3 ")
    assert ".new" not in kept


def test_the_log_has_loss_rate_and_speed(folder, tmp_path):
    _, history = trained(folder, change(epochs=3), Run(scratch=tmp_path, evaluate=lambda model: {"accuracy": 0.5}))
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text(encoding="utf-8").splitlines()]
    assert {"step", "loss", "learning_rate", "gradient_norm", "texts_per_second", "tokens_per_second"} <= lines[
        -2
    ].keys()
    assert sum("accuracy" in line for line in lines) == 3
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert history.tokens == 3 * sum(len(e.ids) for e in tiny_objective(folder).encoded)


if __name__ == "__main__":
    if sys.argv[1] == "threads":
        threads(Path(sys.argv[2]))
    else:
        course(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
