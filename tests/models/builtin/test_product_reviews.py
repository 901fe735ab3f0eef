"""The Chinese reviews: each text once and in one part, from a package whose files are checked."""

import pytest

from models.builtin import product_reviews
from models.builtin.product_reviews import SPLITS, read_product_reviews
from models.data.texts import read_texts
from models.errors import InputError, MissingExtraError
from models.store.folder import sha256_of

POSITIVE = "".join(f"房间 {i} 很好！\n" for i in range(60)) + "房间  1 很好！\n优点：\n\n"
NEGATIVE = "".join(f"房间 {i} 很差。\n" for i in range(60)) + "优点：\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the folder of a package like the real one."""
    folder = tmp_path / "site" / "reviews_of_goods"
    (folder / "sentiment").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('the package is never imported')")
    files = {}
    for name, file, lines in (
        ("positive", "sentiment/pos.txt", POSITIVE),
        ("negative", "sentiment/neg.txt", NEGATIVE),
    ):
        (folder / file).write_text(lines, encoding="utf-8")
        files[name] = (file, sha256_of(folder / file))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(product_reviews, "PACKAGE", folder.name)
    monkeypatch.setattr(product_reviews, "FILES", files)
    return folder


def test_each_text_is_in_one_part_once_with_its_class(package):
    parts = {part: read_product_reviews(part) for part in SPLITS}
    reviews = [review for part in parts.values() for review in part]
    assert len(reviews) == len({text for text, _ in reviews}) == 120
    assert all(label == ("positive" if text.endswith("很好！") else "negative") for text, label in reviews)
    assert "优点：" not in {text for text, _ in reviews}  # it is in both classes
    assert len(parts["train"]) > len(parts["validation"]) + len(parts["test"]) > 0


def test_the_set_is_read_by_its_name(package):
    texts = read_texts("builtin:product-reviews-zh:test")
    assert texts.label_names() == ("negative", "positive")
    with pytest.raises(InputError, match="kind single"):
        read_texts("builtin:product-reviews-zh:test", kind="regression")


def test_a_missing_package_is_named_with_the_command(package, monkeypatch):
    monkeypatch.setattr(product_reviews, "PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"pip install .*prunella\[chinese\]"):
        read_product_reviews("test")


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_file_is_refused(package, damage):
    path = package / "sentiment" / "neg.txt"
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("坏\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"neg\.txt (has SHA-256|is missing)"):
        read_product_reviews("test")
