"""`prunella serve`: the request that it prints is one that the model can answer."""

import pytest

from models.task import FILE, Task
from prunella.cli.serve import curl_command


@pytest.mark.parametrize(
    ("pair", "body"),
    [(False, '{"text": "a dog"}'), (True, '{"pairs": [["a dog", "Two goals were scored."]]}')],
)
def test_the_printed_request_has_the_form_of_the_rows(tmp_path, pair, body):
    Task(labels=("no", "yes"), pair=pair, max_tokens=32).write(tmp_path / FILE)
    line = curl_command(str(tmp_path), "127.0.0.1", 3000, "a dog")
    assert line == f"curl -s http://127.0.0.1:3000/v1/classify -H 'Content-Type: application/json' -d '{body}'"


def test_a_tag_gets_a_single_text():
    assert curl_command("prunella:latest", "127.0.0.1", 3000, "a dog").endswith("""-d '{"text": "a dog"}'""")
