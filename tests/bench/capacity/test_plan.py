import numpy as np
import pytest
from bundles import copy_with_other_golden_logits
from tiny import tiny_texts
from verbs import run

from bench.capacity.plan import find_knee
from bench.capacity.server_times import ServerTimes, serving
from bench.capacity.service_times import ServiceTimes
from bench.capacity.simulation import Replica, SharedCores, simulate
from models.errors import CheckError, TargetError
from service.inference.scheduler import Rules
from service.model.bundle import Bundle

pytest_plugins = ["serving"]
RULES = Rules(items=4, tokens=1024, bucket=4, age_limit=0.01, max_queue=4096, free_queue=32, max_wait=0.05, runners=1)


def replica(seconds=0.002, cores=1, items=4, request=0.0, gain=1.0, batch=0.0, variation=(1.0,)):
    """A replica whose batch of n texts takes seconds * (1 + gain * (n - 1)), whatever their length."""
    rules = RULES.model_copy(update={"items": items, "runners": cores})
    row = [seconds * (1 + gain * n) for n in range(items)]
    times = ServiceTimes((4, 64), np.array([row, row]), np.array(variation))
    return Replica(times, rules, cores, ServerTimes(request, batch), False)


def test_one_runner_without_batches_waits_as_the_theory_says():
    """M/D/1: with constant service time s and load r, the mean wait is r s / 2 (1 - r) (Pollaczek 1930)."""
    for load in (0.3, 0.6, 0.8):
        result = simulate(replica(items=1), [8], load / 0.002, requests=60_000)
        assert result.mean == pytest.approx(0.002 * (1 + load / (2 * (1 - load))), rel=0.05)
        assert result.busy == pytest.approx(load, rel=0.05)
        assert not result.refused


def test_an_idle_replica_answers_in_the_time_of_loop_and_model():
    result = simulate(replica(request=0.0005), [8], 1.0, requests=2000)
    assert result.p50 == pytest.approx(0.0025, rel=0.01)


def test_too_many_requests_are_refused_as_the_service_does():
    result = simulate(replica(), [8], 1000)
    assert result.refused > 5000
    assert result.p99 < 0.2
    assert not result.keeps_up(10)


def test_the_same_seed_gives_the_same_figures():
    assert simulate(replica(), [4, 60], 300, seed=1) == simulate(replica(), [4, 60], 300, seed=1)
    assert simulate(replica(), [4, 60], 300, seed=1) != simulate(replica(), [4, 60], 300, seed=2)


def test_the_knee_grows_with_cores_with_the_limit_and_with_cheaper_batches(monkeypatch):
    monkeypatch.setattr("bench.capacity.plan.STEPS", 6)
    knee = find_knee(replica(), [8], 0.02).rate
    assert 0.5 * 500 < knee < 500
    assert find_knee(replica(cores=2), [8], 0.02).rate > 1.9 * knee
    assert find_knee(replica(), [8], 0.01).rate < knee < find_knee(replica(), [8], 0.04).rate
    assert find_knee(replica(gain=0.5), [8], 0.02).rate > 1.2 * knee
    assert find_knee(replica(request=0.001), [8], 0.02).rate < 0.8 * knee


def test_the_event_loop_goes_first_on_the_cores_that_it_shares():
    one, two = (SharedCores(np.array([1.0, 1.1, 9.0]), 0.5, cores) for cores in (1, 2))
    assert one.loop_ends.tolist() == [1.5, 2.0, 9.5]
    assert one.end(0.5, 0.25) == 0.75
    assert one.end(0.5, 1.0) == 2.5  # half before the loop's second, half after it
    assert one.end(1.2, 0.1) == pytest.approx(2.1)
    assert two.end(0.5, 1.0) == 2.0  # at half speed while the loop works
    assert one.end(20.0, 1.0) == 21.0


def test_time_of_a_batch_beside_the_model_and_a_machine_that_varies_lower_the_knee(monkeypatch):
    monkeypatch.setattr("bench.capacity.plan.STEPS", 6)
    knee = find_knee(replica(), [8], 0.02).rate
    assert find_knee(replica(batch=0.001), [8], 0.02).rate < 0.85 * knee
    assert find_knee(replica(variation=(0.2, 0.2, 0.2, 3.4)), [8], 0.02).rate < 0.9 * knee


def test_a_limit_below_the_time_of_one_text_is_refused():
    with pytest.raises(TargetError, match="raise --p99-ms"):
        find_knee(replica(), [8], 0.001)


def test_a_server_that_does_not_start_is_an_error_with_its_log(tiny_bundle, tmp_path):
    copy_with_other_golden_logits(tiny_bundle, tmp_path / "other")
    with (
        pytest.raises(CheckError, match="logits of the golden texts differ"),
        serving(Bundle.open(tmp_path / "other"), 1),
    ):
        pass


def test_the_command_plans_for_a_bundle(tiny_bundle, tmp_path, capsys, monkeypatch):
    for name, value in (("plan.STEPS", 4), ("server_times.MOST", 60), ("server_times.BUSY_SECONDS", 0.3)):
        monkeypatch.setattr(f"bench.capacity.{name}", value)
    (tmp_path / "texts.csv").write_text("text\n" + "".join(f"{row[0]}\n" for row in tiny_texts().rows))
    options = ("--rps", 5000, "--p99-ms", 50, "--cores", 1)
    code, last, err = run(capsys, monkeypatch, "plan", tiny_bundle, *options, "--lengths", tmp_path / "texts.csv")
    assert code == 0, err
    assert last["cores"] == last["replicas"] >= 5000 / last["knee_rps_per_replica"]
    assert last["core_hours_per_million"] == pytest.approx(last["cores"] * 1e6 / 5000 / 3600, abs=1e-3)
    assert last["p99_ms"] <= 50
    assert last["request_ms"] > 0
    assert last["batch_ms"] >= 0
    assert all(len(row) == 4 for row in last["service_times_ms"].values())
    code, _, err = run(capsys, monkeypatch, "plan", tiny_bundle, "--rps", 5000, "--p99-ms", 0.0001)
    assert code == 1
    assert "stored in the bundle" in err
    (tmp_path / "pairs.csv").write_text("text,text_pair\ngood,bad\n")
    code, _, err = run(capsys, monkeypatch, "plan", tiny_bundle, *options, "--lengths", tmp_path / "pairs.csv")
    assert code == 2
    assert "pairs" in err


@pytest.mark.parametrize(
    ("rps", "p99"), [("inf", "20"), ("nan", "20"), ("0", "20"), ("10", "inf"), ("10", "-1"), ("10", "nan")]
)
def test_a_load_that_is_none_is_refused_before_anything_is_measured(rps, p99, tmp_path, capsys, monkeypatch):
    code, last, err = run(capsys, monkeypatch, "plan", tmp_path, "--rps", rps, "--p99-ms", p99)
    assert (code, last) == (2, None)
    assert "Input should be" in err
