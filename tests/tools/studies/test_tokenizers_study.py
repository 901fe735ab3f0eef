"""The study of other tokenizers counts what differs from the one that serves, and what fails."""

from tools.studies.tokenizers import BLOCKS, REFERENCE, count_differences, random_texts, time_tokenizers


def test_random_texts_have_every_script_and_are_the_same_for_a_seed():
    texts = list(random_texts(400, seed=1))
    assert texts == list(random_texts(400, seed=1))
    assert texts != list(random_texts(400, seed=2))
    characters = {ord(character) for text in texts for character in text}
    assert all(any(low <= one <= high for one in characters) for low, high in BLOCKS.values())


def test_other_ids_and_errors_are_counted_and_quoted():
    def fails(text):
        if text == "b":
            raise ValueError(text)
        return [len(text)]

    encoders = {REFERENCE: lambda text: [len(text)], "same": lambda text: (len(text),), "other": lambda _: [1]}
    counts = count_differences(encoders | {"failing": fails}, iter(["a", "b", "cc"]), 3)
    assert counts == {
        "same": {"differ": 0, "raise": 0, "examples": []},
        "other": {"differ": 1, "raise": 0, "examples": ["cc"]},
        "failing": {"differ": 0, "raise": 1, "examples": ["ValueError: b"]},
    }


def test_each_tokenizer_is_timed_in_each_round():
    times = time_tokenizers({"one": len, "two": len}, ["a", "b"], rounds=3)
    assert {name: len(values) for name, values in times.items()} == {"one": 3, "two": 3}
