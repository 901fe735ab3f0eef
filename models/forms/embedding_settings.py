"""What the JSON files of a sentence-transformers folder say beside its modules: lengths, prompts, arguments.

Layouts: those that sentence-transformers 0 to 5 write. This module does without torch, as the tokenizer needs it.
"""

from pathlib import Path
from typing import Any

from models.errors import FolderError, InputError
from models.forms.json_file import read_json

MODULES = "modules.json"
GENERAL = "config_sentence_transformers.json"
CROSS_ENCODER = "CrossEncoder"  # model_type in GENERAL
ENCODER_SETTINGS = tuple(  # the first of them counts; those of other kinds than bert are of version 0
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# arguments of the classes of transformers that change no answer: of the tokenizer, and of the model's config
HARMLESS = {
    "processor_kwargs": {"model_max_length", "use_fast", "padding_side", "trust_remote_code", "token", "revision"},
    "config_kwargs": {
        "trust_remote_code", "token", "revision", "use_cache", "return_dict", "output_attentions",
        "output_hidden_states",
    },
}  # fmt: skip
OLD_KEYS = {"processor_kwargs": "tokenizer_args", "config_kwargs": "config_args"}
# of version 5: what feeds a Pooling, and what is the output of a cross-encoder
OUTPUTS = {
    "Pooling": ("feature-extraction", "token_embeddings", "last_hidden_state"),
    CROSS_ENCODER: ("sequence-classification", "scores", "logits"),
}


def list_modules(folder: Path) -> list[tuple[str, str]]:
    """Return the name of the class and the path of each module that modules.json lists.

    Raises:
        FolderError: it cannot be read, or holds something else.
    """
    entries = read_json(folder / MODULES, list)
    if not entries or not all(isinstance(one, dict) for one in entries):
        raise FolderError(
            f"{folder / MODULES} holds {str(entries)[:80]}: wanted a list of objects with type and path"
        )
    return [(str(one.get("type", "")).rpartition(".")[2], str(one.get("path", ""))) for one in entries]


def refuse_own_modules(folder: Path) -> None:
    """Refuse modules that are not of sentence-transformers: their code is in the folder.

    Raises:
        InputError: there is one.
    """
    types = [str(one.get("type", "")) for one in read_json(folder / MODULES, list)]
    if own := [one for one in types if not one.startswith("sentence_transformers.")]:
        raise InputError(
            f"{folder / MODULES} names Python code of its own ({own[0]!r}), which is never run: wanted modules of "
            "sentence_transformers"
        )


def nested_hint(folder: Path) -> str:
    """Return the end of a message for a folder whose encoder is in a folder inside it; nothing for others."""
    if not (folder / MODULES).is_file():
        return ""
    place = next((path for name, path in list_modules(folder) if name == "Transformer"), "")
    if not place or not (folder / place / "config.json").is_file():
        return ""
    return f"; {MODULES} says that the encoder is in {place}: {flatten(folder)}"


def flatten(folder: Path) -> str:
    """Return what to do with a folder whose encoder is in a folder inside it."""
    return (
        'write all into one folder with python -c "from sentence_transformers import SentenceTransformer as S; '
        f"S('{folder}').save('flat')\", and copy model_head.* and config_setfit.json to it, if there are any"
    )


def settings_files(folder: Path) -> list[str]:
    """Return the names of modules.json and of the files of settings beside it, as far as they are there."""
    return [name for name in (MODULES, *ENCODER_SETTINGS, GENERAL) if (folder / name).is_file()]


def general_settings(folder: Path) -> dict[str, Any]:
    """Return what config_sentence_transformers.json holds; an empty object if there is none."""
    settings: dict[str, Any] = read_json(folder / GENERAL, dict) if (folder / GENERAL).is_file() else {}
    return settings


def max_seq_length(folder: Path) -> Any:
    """Return the maximum input length in tokens that sentence-transformers sets in place of the tokenizer's."""
    settings = _encoder_settings(folder)[1] if (folder / MODULES).is_file() else {}
    named = _arguments(settings, "processor_kwargs").get("model_max_length")
    return settings.get("max_seq_length") if named is None else named


def check_outputs(folder: Path, reader: str) -> None:
    """Refuse an encoder with other outputs than those that a Pooling reads, or than a cross-encoder's.

    Args:
        folder: the folder with modules.json.
        reader: a key of OUTPUTS.

    Raises:
        FolderError: a file cannot be read.
        InputError: version 5 of sentence-transformers would take other outputs.
    """
    path, settings = _encoder_settings(folder)
    task, output, states = OUTPUTS[reader]
    modalities = settings.get("modality_config") or {}
    text = modalities.get("text", {}) if isinstance(modalities, dict) else {}
    outputs = [("transformer_task", settings.get("transformer_task", task), task)]
    outputs += [("module_output_name", settings.get("module_output_name", output), output)]
    if modalities:
        name = text.get("method_output_name", states) if isinstance(text, dict) and text else None
        outputs += [("method_output_name of text", name, states)]
    for key, value, wanted in outputs:
        if value != wanted:
            raise InputError(f"{path} has {key} = {value!r}: only {wanted!r} is supported here; train without it")


def check_settings(folder: Path) -> None:
    """Refuse settings that change the text before it is tokenized, the tokenizer, or the embedding.

    Raises:
        FolderError: a file cannot be read.
        InputError: there is such a setting.
    """
    path, settings = _encoder_settings(folder)
    general = general_settings(folder)
    if settings.get("do_lower_case") and not _lowercases(folder):
        raise InputError(
            f"{path} lowercases texts, and the tokenizer does not: set do_lower_case to false there, "
            "and in its place give the tokenizer a Lowercase normalizer"
        )
    for key, harmless in HARMLESS.items():
        if other := sorted(_arguments(settings, key).keys() - harmless):
            raise InputError(
                f"{path} gives transformers the arguments {', '.join(other)} ({key}), which are not supported: save "
                "the tokenizer and the config with what they say, and remove them"
            )
    if general.get("truncate_dim") is not None:
        raise InputError(
            f"{folder / GENERAL} has truncate_dim = {general['truncate_dim']}, and shorter embeddings are not "
            "supported: set it to null, and train the head on whole embeddings"
        )
    prompt = general.get("default_prompt_name")
    prompts = general.get("prompts") or {}
    if prompt is not None and (not isinstance(prompts, dict) or prompts.get(prompt)):
        raise InputError(
            f"{folder / GENERAL} puts the prompt {prompt!r} before every text, which is not supported: set "
            "default_prompt_name to null, and put it before the texts yourself"
        )


def _encoder_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file of the encoder's settings that counts, and what it holds."""
    name = next((name for name in ENCODER_SETTINGS if (folder / name).is_file()), None)
    return folder / (name or ENCODER_SETTINGS[0]), {} if name is None else read_json(folder / name, dict)


def _arguments(settings: dict[str, Any], key: str) -> dict[str, Any]:
    arguments = settings.get(OLD_KEYS[key]) or settings.get(key) or {}
    return arguments if isinstance(arguments, dict) else {}


def _lowercases(folder: Path) -> bool:
    from models.tokenizer import read_backend

    backend, text = read_backend(folder), "A GOOD Film, ÀÉ ΑΒΓ"
    return list(backend.encode(text).ids) == list(backend.encode(text.lower()).ids)
