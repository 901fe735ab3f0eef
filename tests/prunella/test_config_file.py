"""--config and --print-config of `prunella compress`."""

import json

import pytest
from verbs import run


@pytest.fixture
def options(monkeypatch):
    """What the verb was called with; nothing is compressed."""
    called = {}

    def compress(model, train, validation, test, **options):
        called.update(options, model=model, train=train)
        raise SystemExit(0)

    monkeypatch.setattr("compress.run.compress", compress)
    return called


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.toml", 'train = "texts.csv"\nspeedup = 6\nlearning-rate = 3e-5\nfamily = [2, 4]\nany_text = true\n'),
        (
            "run.json",
            '{"train": "texts.csv", "speedup": 6, "learning_rate": 3e-5, "family": "2,4", "any_text": true}',
        ),
    ],
)
def test_a_file_gives_the_options_and_flags_override_it(capsys, monkeypatch, tmp_path, options, name, text):
    (tmp_path / name).write_text(text)
    run(capsys, monkeypatch, "compress", "model", "--config", tmp_path / name, "--speedup", "3")
    assert (options["train"], options["speedup"], options["learning_rate"]) == ("texts.csv", 3.0, 3e-5)
    assert (options["family"], options["any_text"], options["tolerance"]) == ("2,4", True, 0.05)


def test_what_is_printed_is_what_a_file_may_hold(capsys, monkeypatch, tmp_path, options):
    flags = ["--train", "texts.csv", "--size-mb", "8", "--no-trim-vocabulary", "--store", tmp_path]
    code, printed, _ = run(capsys, monkeypatch, "compress", "model", *flags, "--print-config")
    assert (code, printed["size_mb"], printed["trim_vocabulary"]) == (0, 8.0, False)
    assert "seconds" not in printed
    assert not options
    (tmp_path / "run.json").write_text(json.dumps(printed))
    run(capsys, monkeypatch, "compress", "model", "--config", tmp_path / "run.json")
    assert (options["size_mb"], options["trim_vocabulary"], options["store"]) == (8.0, False, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed_up = 3", "unknown option 'speed_up': wanted some of"), ("= 3", "cannot be read"),
        ("[speedup]\nvalue = 3", "speedup is a table, wanted a value"), ("config = 'x'", "unknown option 'config'"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_exit_code_2(capsys, monkeypatch, tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text)
    code, _, error = run(capsys, monkeypatch, "compress", "model", "--config", tmp_path / "run.toml")
    assert code == 2
    assert message in error


def test_a_file_that_is_not_there_is_exit_code_2(capsys, monkeypatch, tmp_path):
    code, _, error = run(capsys, monkeypatch, "compress", "model", "--config", tmp_path / "none.toml")
    assert code == 2
    assert "cannot be read" in error


def test_the_help_fits_one_screen(capsys, monkeypatch):
    from verbs import run_plain

    code, out, _ = run_plain(capsys, monkeypatch, "compress", "--help")
    assert code == 0
    assert len(out.splitlines()) <= 50
    assert "--speedup" in out
    assert "--hidden-width" not in out
