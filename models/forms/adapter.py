"""merge_adapter(): a folder with an adapter of peft, such as LoRA → a folder with the merged model.

peft merges: the update of each matrix, and the modules that were trained whole (`modules_to_save`: the head). The
base must be a local folder.
"""

import shutil
from pathlib import Path
from typing import Any

from models.checkpoint import read_config
from models.errors import CheckError, FolderError, InputError, MissingExtraError
from models.families.config_forms import canonical_config
from models.families.fast_tokenizer import VOCABULARIES
from models.forms.config_refusals import refuse_config
from models.forms.foreign_file import refuse_foreign_file
from models.forms.json_file import read_json
from models.messages import say
from models.store.folder import sha256_of
from models.store.stage import Stage, run_stage
from models.weights import weight_files

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL = "model"  # folder of the merged model inside the stage's folder
MERGEABLE = ("LORA", "LOHA", "LOKR", "IA3", "VERA", "OFT", "BOFT", "HRA")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", *VOCABULARIES)
HEAD = ("classifier.out_proj.weight", "classifier.weight", "score.weight")  # ends of the names of last matrices


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own: transformers would load both."""
    return (folder / CONFIG).is_file() and not weight_files(folder)


def resolve_model(folder: Path, base: Path | None, store: Path) -> Path:
    """Return the folder, or the folder of the merged model if it holds an adapter (`merge_adapter`).

    Raises:
        InputError: `base` is given, and the folder has a model of its own; or the adapter cannot be merged.
    """
    if is_adapter(folder):
        return merge_adapter(folder, base, store)
    if base is not None:
        raise InputError(f"--base is for the folder of an adapter: {folder} has no {CONFIG}, or a model of its own")
    return folder


def merge_adapter(folder: Path, base: Path | None, store: Path) -> Path:
    """Return a Hugging Face folder with the merged model, made once in the store.

    Args:
        folder: the folder of the adapter.
        base: the model that it was trained on; None: the one that its config names, if that is a local folder.
        store: folder of finished stages.

    Raises:
        FolderError: a file is missing or does not fit the base.
        InputError: the adapter cannot be merged, or its base is not a local folder.
        MissingExtraError: peft is not installed.
    """
    from models.train.starting_point import load_source_id

    config = read_adapter(folder)
    source = find_base(folder, config, base)
    try:
        from peft import __version__ as version
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"{folder} holds an adapter, and peft, which merges it, is not installed: pip install 'prunella[peft]', "
            f"or where it is installed: {command(folder, source)}"
        ) from None
    files = {name: sha256_of(folder / name) for name in _files(folder)}
    settings = {"adapter": files, "base": load_source_id(source), "peft": version}
    result = run_stage(Stage("merge", 1, settings), [], store, lambda target: _merge(folder, source, target / MODEL))
    return result.folder.path / MODEL


def read_adapter(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json of a folder.

    Raises:
        FolderError: it cannot be read, or there are no weights in safetensors.
        InputError: the adapter is of a kind that has no merged form.
    """
    config: dict[str, Any] = read_json(folder / CONFIG)
    if config.get("peft_type") not in MERGEABLE:
        raise InputError(
            f"{folder} holds an adapter of the type {config.get('peft_type')!r}, which cannot be merged into its "
            f"model: wanted {', '.join(MERGEABLE)}"
        )
    if not (folder / WEIGHTS).is_file():
        raise FolderError(f"{folder} has no {WEIGHTS}: save the adapter with safetensors")
    refuse_foreign_file(folder / WEIGHTS)
    return config


def find_base(folder: Path, config: dict[str, Any], base: Path | None) -> Path:
    """Return the local folder of the model that an adapter was trained on.

    Raises:
        FolderError: `base` has no weights.
        InputError: there is no such folder, or its weights are quantized.
    """
    named = str(config.get("base_model_name_or_path") or "")
    candidates = [base] if base is not None else [folder / named, Path(named)] if named else []
    for candidate in candidates:
        if (candidate / "config.json").is_file() and weight_files(candidate):
            source = str(candidate / "config.json")
            refuse_config(canonical_config(read_config(candidate), source), source)
            return candidate.resolve()
    if base is not None:
        raise FolderError(
            f"--base {base} has no config.json with weights: wanted the Hugging Face folder of {named!r}"
        )
    raise InputError(
        f"{folder} is an adapter of {named!r}, which is not a local folder: give --base FOLDER, or merge it where "
        f"its base is: {command(folder, Path(named))}"
    )


def command(folder: Path, base: Path) -> str:
    """Return the command that merges an adapter and writes the folder `merged`."""
    outputs = _outputs(folder)
    labels = "" if outputs is None else f", num_labels={outputs}"
    lines = (
        "from transformers import AutoModelForSequenceClassification as M", "from peft import PeftModel as P",
        f"m = P.from_pretrained(M.from_pretrained('{base}'{labels}), '{folder}')",
        "m.merge_and_unload().save_pretrained('merged')",
    )  # fmt: skip
    return f'python -c "{"; ".join(lines)}"'


def _merge(folder: Path, base: Path, target: Path) -> None:
    """Write the merged model, with the labels and the tokenizer of the adapter's folder if it has some."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    outputs = _outputs(folder)
    if outputs is not None and outputs != config.num_labels:
        config.num_labels = outputs  # renames the labels to LABEL_0, …
    if (folder / "config.json").is_file():
        named = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if named.num_labels == config.num_labels:
            config.id2label, config.label2id = named.id2label, named.label2id
            config.problem_type = named.problem_type
    model, report = AutoModelForSequenceClassification.from_pretrained(
        base, config=config, local_files_only=True, trust_remote_code=False, ignore_mismatched_sizes=True,
        output_loading_info=True,
    )  # fmt: skip
    mismatched = (key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])  # by version
    fresh = {*report["missing_keys"], *mismatched}
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), local_files_only=True)
        trained = {name for name in _tensor_names(folder) if ".lora_" not in name}
        if lacking := sorted(name for name in fresh if f"base_model.model.{name}" not in trained):
            raise FolderError(
                f"{base} and {folder} both lack {lacking[0]}: wanted the base with this module, or an adapter that "
                "names it in modules_to_save"
            )
        merged = adapted.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{folder} does not fit its base {base}: {' '.join(str(error).split())[:300]}") from None
    try:
        merged.save_pretrained(target)
    except OSError as error:
        raise CheckError(f"cannot write {target} ({error}): make room and run it again") from None
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES if name != "special_tokens_map.json")
    for name in TOKENIZER_FILES:
        if (path := (folder if has_tokenizer else base) / name).is_file():
            shutil.copyfile(path, target / name)
    say(f"{folder}: its adapter is merged into {base}")


def _files(folder: Path) -> list[str]:
    names = (CONFIG, WEIGHTS, "config.json", *TOKENIZER_FILES)
    return [name for name in names if (folder / name).is_file()]


def _outputs(folder: Path) -> int | None:
    """Return the number of outputs of the head that the adapter's folder holds; None: it holds none."""
    from safetensors import safe_open

    for name in _tensor_names(folder):
        if name.endswith(HEAD):
            with safe_open(str(folder / WEIGHTS), "pt") as file:
                return int(file.get_slice(name).get_shape()[0])
    return None


def _tensor_names(folder: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    if not (folder / WEIGHTS).is_file():
        return []
    try:
        with safe_open(str(folder / WEIGHTS), "pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise FolderError(f"{folder / WEIGHTS} cannot be read as weights: {error}") from None
