"""Messages for people: what --quiet, --verbose and --log-json let through, and in which form."""

import json
import logging

import pytest
from pydantic import ValidationError

from models import messages
from models.schema import Record, explain


@pytest.fixture(autouse=True)
def as_before():
    handlers, level = messages.log.handlers, messages.log.level
    yield
    messages.log.handlers = handlers
    messages.log.setLevel(level)


def speak():
    messages.say("reading")
    messages.say("WARNING: few rows")
    messages.detail("stage reused")
    messages.fail("no such file")
    return list(messages.progress(range(3), desc="rows"))


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, ["reading", "WARNING: few rows", "no such file"]),
        ({"quiet": True}, ["WARNING: few rows", "no such file"]),
        ({"verbose": True}, ["reading", "WARNING: few rows", "stage reused", "no such file"]),
    ],
)
def test_levels(capsys, options, lines):
    messages.configure(**options)
    assert speak() == [0, 1, 2]
    out, err = capsys.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if line.startswith("prunella: ")] == [f"prunella: {x}" for x in lines]
    assert ("rows: 100%" in err) == ("quiet" not in options)


def test_json_lines(capsys):
    messages.configure(json_lines=True)
    speak()
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]  # no progress bar among them
    assert [(one["level"], one["message"]) for one in records] == [
        ("info", "reading"), ("warning", "few rows"), ("error", "no such file"),
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"quiet": True}, {"json_lines": True}])
@pytest.mark.parametrize("disable", [False, True])
def test_a_bar_that_its_caller_may_switch_off(capsys, options, disable):
    messages.configure(**options)
    assert list(messages.progress(range(3), desc="rows", disable=disable)) == [0, 1, 2]
    assert ("rows" in capsys.readouterr().err) == (not options and not disable)


def test_a_message_does_not_break_a_bar(capsys):
    messages.configure()
    for _ in messages.progress(range(2), desc="rows", mininterval=0):
        messages.say("between")
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    assert lines.count("prunella: between") == 2


def test_whoever_configured_logging_gets_the_records():
    class Kept(logging.Handler):
        def __init__(self):
            super().__init__()
            self.kept = []

        def emit(self, record):
            self.kept.append(record.getMessage())

    handler = Kept()
    messages.log.handlers = [handler]
    messages.log.setLevel(logging.INFO)
    messages.say("reading")
    assert handler.kept == ["reading"]


def test_an_unknown_key_is_called_that():
    with pytest.raises(ValidationError) as raised:
        Record.model_validate({"speed": 4})
    assert explain(raised.value) == "speed: unknown key"
