"""builtin:mpnet-base, from tiny packages that each hold one piece of a zip."""

import hashlib
import io
import shutil
import zipfile

import pytest
from tiny import make_tiny_family, tiny_texts
from verbs import run

from models.builtin import mpnet_base
from models.builtin.mpnet_base import INSIDE, MPNET, mpnet_folder
from models.errors import InputError, MissingExtraError
from models.store.folder import MANIFEST, ModelFolder
from models.store.inventory import list_store
from models.train.starting_point import resolve_encoder


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Five packages on the path, whose pieces are a zip of a tiny MPNet; returns their folder."""
    make_tiny_family(tmp_path / "model", "mpnet").base_model.save_pretrained(tmp_path / "model")
    members = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, "README.md": b"not taken"}.items():
            archive.writestr(INSIDE + name, content)
    whole, names, pieces = buffer.getvalue(), [f"mpnet-piece_{n}" for n in range(1, 6)], {}
    size = len(whole) // 4
    for number, name in enumerate(names):
        piece = whole[number * size : (number + 1) * size]
        folder = tmp_path / "site" / name / "input"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise ImportError('a package is never imported')")
        (folder / f"all-mpnet-base-v2.zip.{number + 1:03}").write_bytes(piece)
        pieces[name] = sha256(piece)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(mpnet_base, "PIECES", pieces)
    monkeypatch.setattr(mpnet_base, "MEMBERS", {name: sha256(content) for name, content in members.items()})
    return tmp_path / "site"


def test_the_pieces_are_joined_once(packages, tmp_path, capsys):
    folder = resolve_encoder(MPNET, tmp_path / "store")
    assert {path.name for path in folder.iterdir()} == {*mpnet_base.MEMBERS, MANIFEST}
    assert ModelFolder.open(folder).manifest.lineage[-1].stage == "builtin"
    assert "5 packages are joined" in capsys.readouterr().err
    assert [entry.stage for entry in list_store(tmp_path / "store")] == ["builtin"]
    shutil.rmtree(packages)  # no longer needed
    assert mpnet_folder(tmp_path / "store") == folder
    assert "joined" not in capsys.readouterr().err


def test_a_classifier_is_trained_from_it(packages, tmp_path, capsys, monkeypatch):
    path = tmp_path / "rows.csv"
    texts = tiny_texts(40)
    rows = [f"{text},{label}" for (text,), label in zip(texts.rows, texts.labels, strict=True)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    code, result, error = run(
        capsys, monkeypatch, "finetune", "--encoder", MPNET, "--train", path, "--store", tmp_path / "store",
        "--epochs", 1, "--max-tokens", 32,
    )  # fmt: skip
    assert code == 0, error
    assert ModelFolder.open(result["folder"]).manifest.lineage[-1].stage == "finetune"


@pytest.mark.parametrize("gone", [[2], [0, 3]])
def test_missing_packages_are_named_with_the_command(packages, tmp_path, gone):
    names = list(mpnet_base.PIECES)
    for number in gone:
        shutil.rmtree(packages / names[number])
    with pytest.raises(MissingExtraError, match=r"pip install .*prunella\[base\]") as error:
        mpnet_folder(tmp_path / "store")
    assert all((name in str(error.value)) == (number in gone) for number, name in enumerate(names))
    assert not list((tmp_path / "store").glob("builtin-*"))


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_piece_is_refused_and_nothing_is_left(packages, tmp_path, damage):
    piece = packages / "mpnet-piece_3" / "input" / "all-mpnet-base-v2.zip.003"
    content = piece.read_bytes()
    if damage == "gone":
        piece.unlink()
    else:
        piece.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"zip\.003 (has SHA-256|is missing)"):
        mpnet_folder(tmp_path / "store")
    assert not list((tmp_path / "store").glob("builtin-*"))
    piece.write_bytes(content)
    assert (mpnet_folder(tmp_path / "store") / "model.safetensors").is_file()


def test_a_file_with_another_hash_is_refused(packages, tmp_path, monkeypatch):
    monkeypatch.setitem(mpnet_base.MEMBERS, "config.json", "0" * 64)
    with pytest.raises(InputError, match=r"config\.json has SHA-256"):
        mpnet_folder(tmp_path / "store")


def test_other_built_in_names_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"builtin:bert is not a built-in encoder: .*minilm-l6, builtin:mpnet"):
        resolve_encoder("builtin:bert", tmp_path)
