"""refuse_foreign_file(): files that are not what their names say, such as a git-lfs pointer in place of weights."""

from pathlib import Path

from models.errors import FolderError

POINTER = b"version https://git-lfs.github.com/spec/"
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch's zip, and pickles
PAGES = (b"<!doctype", b"<html", b"<?xml")


def refuse_foreign_file(path: Path) -> None:
    """Refuse a file whose first bytes show that it is something else; a file that is not there passes.

    Raises:
        FolderError: it is a git-lfs pointer, a web page, or in a `.safetensors` file, a pickle.
    """
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            start = file.read(len(POINTER))
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error}") from None
    if start == POINTER:
        raise FolderError(
            f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in {path.parent}, or download the "
            "file"
        )
    if start.lstrip().lower().startswith(PAGES):
        raise FolderError(f"{path} is a web page, not the file itself: download the file again")
    if path.suffix == ".safetensors" and start.startswith(PICKLES) and start[8:9] != b"{":  # else a length of 640, …
        raise FolderError(
            f"{path} is a file of torch.save, not of safetensors: save the model again (transformers: "
            "model.save_pretrained)"
        )
