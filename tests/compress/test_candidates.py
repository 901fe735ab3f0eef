"""Points of a family: how sure it is that a loss is inside, which one is picked, and what happens to the others."""

import json
from xml.etree import ElementTree

import pytest

from bench.measure.accuracy.difference import Difference
from compress.candidate_report import write_candidates
from compress.candidates import Candidate, select_best
from compress.modes import make_config
from compress.pipeline import compress_all, compress_with_fp32_retry
from compress.search.latency_meter import Measured
from compress.search.search_to_target import Target
from models.errors import CheckError, DisagreementError, FallBackError, TargetError
from models.store.folder import REPORT


def point(folder, asked: float, loss: float, spread: float = 0.5) -> Candidate:
    path = folder / f"bundle-{asked:g}"
    path.mkdir(exist_ok=True)
    interval = (loss - spread, loss + spread)
    return Candidate(
        target=Target(kind="speedup", value=asked),
        folder=str(path),
        id=f"{asked:g}",
        architecture="2 layers, width 64, heads/ffn 2/288 1/96",
        measured=Measured(ours_ms=8 / asked, reference_ms=8.0, speedup=asked, bytes=1_000_000),
        score=0.9 - loss / 100,
        reference_score=0.9,
        difference=Difference(
            rows=1000, loss_points=loss, loss_interval=interval, mcnemar_p=0.5, flips=9, lost=5, won=4
        ),
    )


@pytest.mark.parametrize(
    ("loss", "word"), [(0.3, "sure"), (0.5, "sure"), (0.8, "likely"), (1.2, "doubtful"), (1.6, "outside")]
)
def test_the_interval_says_how_sure_it_is(tmp_path, loss, word):
    assert point(tmp_path, 4, loss).verdict(1.0) == word


def test_the_fastest_inside_the_loss_is_picked(tmp_path):
    points = [point(tmp_path, 2, 0.1), point(tmp_path, 4, 0.9), point(tmp_path, 8, 1.1)]
    assert select_best(points, 1.0) is points[1]
    assert select_best(points, 1.5) is points[2]
    with pytest.raises(TargetError, match=r"at most 0 points of accuracy: 2x loses 0\.10 .* 4x loses 0\.90"):
        select_best(points, 0.0)


def test_one_target_out_of_reach_does_not_take_the_others_with_it(capsys):
    def make(target: Target) -> float:
        if target.value > 4:
            raise TargetError(f"{target.describe()}: too fast")
        return target.value

    targets = [Target(kind="speedup", value=v) for v in (2, 8, 4, 12)]
    assert compress_all(targets, make) == ([2, 4], {"8x": "8x: too fast", "12x": "12x: too fast"})
    assert "8x is left out" in capsys.readouterr().err
    with pytest.raises(TargetError, match="none of 8x, 12x can be reached"):
        compress_all(targets[1::2], make)
    with pytest.raises(TargetError, match=r"^8x: too fast$"):  # alone, it is the answer
        compress_all(targets[1:2], make)


def test_what_fell_back_is_cut_again_in_fp32_from_the_start(tmp_path, capsys):
    asked: list[frozenset[str]] = []
    fallen = [("1.ffn",), ("0.attention",), ()]

    def build(keep_fp32):
        asked.append(keep_fp32)
        return keep_fp32

    def judge(made):
        if gone := fallen[len(asked) - 1]:
            raise FallBackError("slow", gone)
        return point(tmp_path, 4, 0.1)

    made, _ = compress_with_fp32_retry(build, judge)
    assert asked == [frozenset(), {"1.ffn"}, {"1.ffn", "0.attention"}]
    assert made == asked[-1]
    assert "slow: cut again, with 0.attention, 1.ffn in fp32 from the start" in capsys.readouterr().err
    asked.clear()
    fallen[2] = ("2.ffn",)
    with pytest.raises(FallBackError):
        compress_with_fp32_retry(build, judge)


def test_a_point_whose_int8_disagrees_does_not_take_the_others_with_it(capsys):
    def make(target: Target) -> float:
        if target.value == 8:
            raise DisagreementError("logits differ by 9")
        return target.value

    assert compress_all([Target(kind="speedup", value=v) for v in (4, 8)], make) == (
        [4],
        {"8x": "logits differ by 9"},
    )
    assert "8x is left out: logits differ by 9" in capsys.readouterr().err


def test_a_family_is_written_as_table_figure_and_each_bundles_report(tmp_path):
    points = [point(tmp_path, 2, 0.1), point(tmp_path, 4, 0.9)]
    write_candidates(points, points[1], 1.0, tmp_path / "report")
    told = json.loads((tmp_path / "report" / "family.json").read_text())
    assert told["picked"] == "4"
    assert [Candidate.model_validate(p) for p in told["points"]] == points
    table = (tmp_path / "report" / "family.md").read_text()
    assert "| **4x** | 4.00x | 2.00 | 1.0 | 89.10% | +0.90 [+0.40, +1.40] | likely | 2/288 1/96 |" in table
    root = ElementTree.parse(tmp_path / "report" / "pareto.svg").getroot()
    assert root.tag.endswith("svg")
    for one in points:
        summary = json.loads((tmp_path / one.folder / REPORT).read_text())
        assert summary["loss_points"] == one.difference.loss_points
        assert summary["speedup"] == {"ort_fp32": one.measured.speedup}
    (tmp_path / "bundle-4" / REPORT).unlink()
    (tmp_path / "bundle-4").rmdir()
    with pytest.raises(CheckError, match="is gone"):
        write_candidates(points, points[1], 1.0, tmp_path / "report")


@pytest.mark.parametrize(("points", "minutes"), [(1, 40), (3, 40), (7, 120 / 7)])
def test_a_family_shares_its_time(points, minutes):
    def heal(mode="standard", **given):
        return make_config(mode, given, {"seed": 0}, points).heal

    assert heal().minutes == pytest.approx(minutes)
    assert heal(minutes=50.0).minutes == 50
    assert heal("max").minutes is None
