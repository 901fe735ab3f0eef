"""The page /ui: its headers, and in headless Chromium what a person sees and copies."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import CHROMIUM, browser
from bundles import make_failing_model
from test_server_process import PRUNELLA, running

from models.task import Task
from models.tokenizer import Tokenizer
from service.web.pages import playground

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
ROOT = Path(__file__).resolve().parents[3]
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no binary of Chromium is on the PATH")
NASTY = "<img src=x onerror=\"document.title='owned'\">"
ARTICLES = "document.querySelectorAll('article').length"


def served(bundle, folder, **settings):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), **{f"PRUNELLA_{k}": v for k, v in settings.items()}}
    return running([*PRUNELLA, "serve", str(bundle), "--device", "cpu"], environment, folder / "log")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    """A model with a label that is HTML; it has no answer for a text with an unknown word."""
    folder = tmp_path_factory.mktemp("nasty")
    shutil.copytree(tiny_bundle, folder / "task")
    Task(kind="multi", labels=(NASTY, "good", "bad"), max_tokens=32, thresholds=(0, 1, 1)).write(
        folder / "task" / "task.json"
    )
    tokenizer = Tokenizer.open(tiny_bundle, 32)
    unknown = tokenizer.encode([("zzz",)])[0].ids[1]
    bundle = make_failing_model(folder / "task", folder / "bundle", tokenizer.vocabulary, nan=unknown)
    with served(bundle, folder) as (_, url):
        yield url


@pytest.fixture(scope="module")
def pair_server(pair_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    settings = {"API_KEY": "let me'in", "ROOT_PATH": "/nlp", "MAX_BATCH": "4"}
    with served(pair_bundle, folder, **settings) as (_, url):
        yield url


def classify(page, texts, articles):
    page.type("text", texts)
    page.run("at('go').click()")
    page.wait(f"{ARTICLES} === {articles} && at('form').ariaBusy === 'false'")


def test_only_the_script_and_the_style_of_the_page_itself_may_run():
    reply = playground()
    text, headers = reply.body.decode(), dict(reply.headers)
    policy = headers[b"content-security-policy"].decode()
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert len(content) > 500
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert not re.findall(
        r"""\s(?:on\w+|style)\s*=\s*["']""", text.partition("<script>")[0]
    )  # the policy blocks them
    assert "innerHTML" not in text


def test_every_field_of_the_page_has_a_label():
    text = playground().body.decode()
    fields = set(re.findall(r"<(?:textarea|input)[^>]* id=\"(\w+)\"", text))
    labels = set(re.findall(r"<label for=\"(\w+)\"", text)) | set(
        re.findall(r"<label[^>]*><input[^>]* id=\"(\w+)\"", text)
    )
    assert fields == labels


@in_chromium
def test_several_texts_with_scores_times_and_the_card(page, server):
    page.open(f"{server}/ui#text=good+film")  # a link with a text sends it
    page.wait(f"{ARTICLES} === 1")
    classify(page, "good film\n\nan awful film\n", 2)
    for text in (NASTY, "good", "0.", "(assigned)", "Which words mattered?"):
        assert text in page.text("article")
    assert page.run("document.querySelectorAll('article .bar').length") == 6
    assert re.search(r"2 texts\. Server: tokenize .*infer .*total .*Round trip: [\d.]+ ms", page.text("#times"))
    card = page.text("#card")
    for text in (
        NASTY,
        "any of 3 labels",
        "fine-tuned for 1 epoch",
        "quantized (static)",
        "MB",
        "Measured speed-up\nnot measured",
    ):
        assert text in card
    assert page.run("document.title") == "Prunella: playground"
    assert page.run("document.querySelectorAll('img').length") == 0
    page.run("(info = {...info, id: 'an older model'}, 0)")
    classify(page, "good film", 1)
    assert page.run("info.id") != "an older model"  # the card is that of the model that answered


@in_chromium
def test_the_words_that_mattered_come_from_one_request_with_each_word_removed(page, server):
    page.open(f"{server}/ui")
    page.wait("info")
    classify(page, "good film", 1)
    page.events.clear()
    page.run("document.querySelector('article button').click()")
    page.wait("document.querySelector('.words ol')")
    (sent,) = [e["params"]["request"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert json.loads(sent["postData"]) == {"texts": ["good film", "film", "good "]}
    assert page.run("[...document.querySelectorAll('mark')].map(mark => mark.textContent)") == ["good", "film"]
    effects = page.run("[...document.querySelectorAll('.words li')].map(item => item.textContent)")
    scores = page.run(
        "ask('v1/classify', {texts: ['good film', 'film', 'good ']}).then(({answer}) => answer.predictions)"
    )
    best = scores[0][0]
    rest = [next(one["score"] for one in row if one["label"] == best["label"]) for row in scores[1:]]
    wanted = {word: best["score"] - score for word, score in zip(("good", "film"), rest, strict=True)}
    shown = {
        word: float(effect.replace("\N{MINUS SIGN}", "-")) for word, effect in (item.split(": ") for item in effects)
    }
    assert shown == pytest.approx(wanted, abs=1e-4)


@in_chromium
def test_words_are_grouped_where_a_text_has_more_than_a_request_may_hold(page, server):
    page.open(f"{server}/ui")

    def spans(row, most):
        return page.run(f"spansOf({json.dumps(row)}, {most})")

    long = " ".join(f"w{i}" for i in range(100))
    grouped = spans([long], 31)
    assert (grouped["size"], len(grouped["spans"])) == (4, 25)
    covered = " ".join(long[span["start"] : span["end"]] for span in grouped["spans"])
    assert covered == long
    both = spans(["one two three", "four five"], 3)
    assert [(span["side"], span["start"]) for span in both["spans"]] == [(0, 0), (0, 8)]  # never a whole side
    assert [spans([text], most)["spans"] for text, most in (("one", 31), ("?!", 31), ("one two", 0), ("", 31))] == [
        []
    ] * 4
    assert len(spans(["这部电影非常好看"], 31)["spans"]) > 1  # no spaces between the words


@in_chromium
def test_a_regression_has_no_bars_and_of_many_labels_the_best_are_shown(page, server):
    page.open(f"{server}/ui")
    page.wait("info")
    labels = [{"label": f"label {i}", "score": 1 - i / 25} for i in range(25)]
    page.run(f"at('results').append(resultOf(['x'], 0, {{predictions: [{json.dumps(labels)}]}}))")
    assert page.run("document.querySelectorAll('article tr').length") == 20
    assigned = "[...table(%s, ['label 24']).querySelectorAll('tr.best th')].map(cell => cell.textContent)"
    assert page.run(assigned % json.dumps(labels)) == ["label 24 (assigned)"]
    assert "The 20 best of 25 labels." in page.text("article")
    rating = "Object.assign(info.task, {kind: 'regression'}) && table([{label: 'rating', score: -1.5}])"
    assert page.run(f"{rating}.textContent") == "rating\N{MINUS SIGN}1.5000"
    assert page.run(f"{rating}.querySelectorAll('.bar').length") == 0


@in_chromium
def test_the_stage_of_a_cascade_is_shown_and_words_are_compared_by_the_student(page, server):
    page.open(f"{server}/ui")
    page.wait("info")
    row = "[{label: 'good', score: 0.9}, {label: 'bad', score: 0.1}]"
    stages = f"{{predictions: [{row}, {row}], stage: ['gate', 'student']}}"
    shown = page.run(f"['a', 'b'].map((text, i) => resultOf([text], i, {stages}).textContent)")
    assert "Answered by the gate" in shown[0]
    assert "Answered by the student" in shown[1]
    page.run("(info = {...info, cascade: {on: true, share: 0.75}}, 0)")
    assert dict(page.run("cardOf(info)"))["Gate"] == "answers easy texts, 75 % of those it was tested on"
    page.events.clear()
    page.run("explain(['good film'], 'good', at('results'))")
    (sent,) = [e["params"]["request"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert json.loads(sent["postData"]) == {"texts": ["good film", "film", "good "], "cascade": False}


@in_chromium
def test_an_error_is_shown_with_its_text(page, server):
    page.open(f"{server}/ui")
    page.wait("info")
    classify(page, "good film\nzzz", 2)
    assert "zzz" in page.text("article:nth-of-type(2)")
    assert "the model failed on this text" in page.text("article:nth-of-type(2) .problem")
    page.type("text", "\n".join(["good"] * 33))
    page.run("at('go').click()")
    page.wait("at('error').textContent.includes('33 texts in one request, at most 32')")
    page.type("text", " ")
    page.press_enter(ctrl=True)
    page.wait("at('error').textContent.includes('no text')")
    assert page.run("problemOf({error: 'wrong', index: 1}, [['a'], ['b']])") == "Text 2, “b”: wrong"


@in_chromium
def test_pairs_behind_a_key_and_a_path_and_the_lines_to_copy(page, pair_server, tmp_path):
    page.open(f"{pair_server}/nlp/ui")
    page.wait("!at('secret').hidden")
    page.type("key", "wrong")
    page.run("at('key').dispatchEvent(new Event('change'))")
    page.wait("at('error').textContent.includes('API key')")
    page.type("key", "let me'in")
    page.press_enter()  # asks for /info, and then sends the form, which has no text
    page.wait("info && !at('second').hidden && at('error').textContent.includes('no text')")
    text = 'it\'s "good" \\ $HOME `id` film'
    page.type("pair", "a film\na story\nan actor")
    classify(page, text, 3)
    page.run("document.querySelector('article button').click()")
    page.wait("document.querySelector('.words ol')")
    assert "each group of up to 3 words" in page.text(".words")  # because of PRUNELLA_MAX_BATCH=4
    lines = {name: page.run(f"at('{name}').textContent") for name in ("curl", "python")}
    assert "/nlp/v1/classify" in lines["curl"]
    keyed = {**os.environ, "PRUNELLA_API_KEY": "let me'in"}
    done = subprocess.run(["sh", "-c", lines["curl"]], env=keyed, capture_output=True, text=True, check=True)
    wanted = page.run("ask('v1/classify', bodyOf(rowsNow(), true)).then(({answer}) => answer.predictions)")
    assert json.loads(done.stdout)["predictions"] == wanted
    script = tmp_path / "ask.py"
    script.write_text(
        lines["python"].replace("YOUR_API_KEY", "let me'in").replace("print(answer.json())", "print(answer.text)")
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["predictions"] == wanted
    page.type("pair", "a film\na story")
    page.type("text", "one\ntwo\nthree")
    page.run("at('go').click()")
    page.wait("at('error').textContent.includes('3 first texts and 2 second texts')")


@in_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_can_be_read(page, server, scheme):
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=True)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(f"{server}/ui")
    page.wait("info")
    classify(page, "good " + "film" * 60, 1)
    assert page.run("document.documentElement.scrollWidth") <= 360
    colors = page.run(
        "Object.fromEntries(['ink','soft','page','card','bar','on-bar','error','line'].map(name =>"
        " [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"
    )

    def luminance(color):
        digits = color.lstrip("#")
        digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(one, other):
        light, dark = sorted((luminance(colors[one]), luminance(colors[other])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    # WCAG 2.2: 4.5 for text (1.4.3), 3 for the borders of fields (1.4.11)
    for pair in (
        ("ink", "page"),
        ("ink", "card"),
        ("soft", "page"),
        ("soft", "card"),
        ("error", "card"),
        ("on-bar", "bar"),
    ):
        assert contrast(*pair) >= 4.5, (scheme, pair)
    assert contrast("line", "card") >= 3


@in_chromium
def test_the_page_asks_this_server_only_and_its_script_never_fails(page, server):
    page.open(f"{server}/ui#text=good+film")
    page.wait(f"{ARTICLES} === 1")
    urls = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert urls
    assert all(url.startswith(server) for url in urls)
    assert not [e for e in page.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
