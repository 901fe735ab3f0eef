"""`prunella evaluate`: the form that is served on a processor is scored, unless another is asked for by name."""

import json

import pytest
from serving import make_tiny_bundle
from tiny import tiny_texts
from verbs import run

from bench.engines.reference import find_reference
from bench.measure.accuracy import evaluate as module
from bench.measure.accuracy.evaluate import evaluate, evaluate_on
from models.errors import InputError
from service.model.bundle import Bundle
from service.model.engine import Engine


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    data = tiny_texts(20)
    lines = [json.dumps({"text": r[0], "label": n}) for r, n in zip(data.rows, data.labels, strict=True)]
    (store / "data.jsonl").write_text("\n".join(lines))
    return store, Bundle.open(make_tiny_bundle(store))


@pytest.fixture
def asked(monkeypatch):
    """Note for which device an engine is opened, on a machine that is said to have a GPU."""
    devices, opened = [], Engine.open

    def note(bundle, settings=None, available=None):
        devices.append(settings.device if settings else None)
        return opened(bundle, settings, available)

    monkeypatch.setattr(module.Engine, "open", staticmethod(note))
    return devices


def test_the_processors_form_is_scored_and_named(made, capsys, monkeypatch, asked):
    store, bundle = made
    code, told, err = run(capsys, monkeypatch, "evaluate", bundle.folder.path, "--data", store / "data.jsonl")
    assert code == 0, err
    assert (told["device"], told["variant"]) == ("cpu", bundle.info.default["cpu"])
    assert told["accuracy"] == evaluate(bundle.folder.path, tiny_texts(20)).accuracy
    assert set(asked) == {"cpu"}


@pytest.mark.parametrize("windows", [0, 65])
def test_a_number_of_windows_that_no_model_has_is_refused_by_its_name(made, windows):
    store, bundle = made
    for folder in (bundle.folder.path, find_reference(bundle, store).path):
        with pytest.raises(InputError, match=f"--windows is {windows}: wanted 1 to 64"):
            evaluate_on(folder, tiny_texts(20), windows=windows)


def test_the_best_device_is_taken_when_asked_for(made, capsys, monkeypatch, asked):
    store, bundle = made
    flags = ("--data", store / "data.jsonl", "--device", "auto")
    code, told, err = run(capsys, monkeypatch, "evaluate", bundle.folder.path, *flags)
    assert code == 0, err
    assert asked == ["auto"]
    assert told["device"]


def test_a_device_that_is_not_there_is_no_silent_other_score(made):
    folder = made[1].folder.path
    with pytest.raises(InputError, match="cuda:7"):
        evaluate_on(folder, tiny_texts(4), "cuda:7")
    with pytest.raises(InputError, match="wanted cpu, cuda"):
        evaluate_on(folder, tiny_texts(4), "quantum")


def test_a_classifier_folder_says_that_it_was_computed_in_fp32(made):
    store, bundle = made
    classifier = find_reference(bundle, store).path
    found = evaluate_on(classifier, tiny_texts(20))
    assert (found.device, found.variant) == ("cpu", "pytorch-fp32")
    with pytest.raises(InputError, match="evaluated on cpu"):
        evaluate_on(classifier, tiny_texts(4), "cuda")
