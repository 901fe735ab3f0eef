"""merge_adapter(): a folder with an adapter of peft, such as LoRA → a folder with the merged model.

peft merges: the update of each matrix, and the modules that were trained whole (`modules_to_save`: the head). The
base must be a local folder.
"""

import shutil
from pathlib import Path
from typing import Any

from models.checkpoint import read_config
from models.errors import CheckError, FolderError, InputError, MissingExtraError, PrunellaError
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
VERSION = 2  # 1 took an adapter whose tensors found no place in the base
MODEL = "model"  # folder of the merged model inside the stage's folder
MERGEABLE = ("LORA", "LOHA", "LOKR", "IA3", "VERA", "OFT", "BOFT", "HRA")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", *VOCABULARIES)
OTHER_TASKS = ("TOKEN_CLS", "QUESTION_ANS", "CAUSAL_LM", "SEQ_2_SEQ_LM")  # whose head does not tell labels of texts
PICKLED = "adapter_model.bin"
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
    result = run_stage(
        Stage("merge", VERSION, settings), [], store, lambda target: _merge(folder, source, target / MODEL)
    )
    return result.folder.path / MODEL


def read_adapter(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json of a folder.

    Raises:
        FolderError: it cannot be read, or there are no weights in safetensors.
        InputError: the adapter is of a kind that has no merged form, or of another task.
    """
    config: dict[str, Any] = read_json(folder / CONFIG)
    if config.get("peft_type") not in MERGEABLE:
        raise InputError(
            f"{folder} holds an adapter of the type {config.get('peft_type')!r}, which cannot be merged into its "
            f"model: wanted {', '.join(MERGEABLE)}: train one of them, or the model itself"
        )
    if (task := config.get("task_type")) in OTHER_TASKS:
        raise InputError(
            f"{folder} holds an adapter of the task {task}: wanted one of a classifier of texts (task_type SEQ_CLS)"
        )
    if not (folder / WEIGHTS).is_file():
        instead = f", only {PICKLED}" if (folder / PICKLED).is_file() else ""
        raise FolderError(
            f"{folder} has no {WEIGHTS}{instead}: save the adapter with safetensors (peft: save_pretrained)"
        )
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
    if not named:
        raise InputError(f"{folder / CONFIG} names no base_model_name_or_path: give --base FOLDER")
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
    try:
        merged = _merged(folder, base)
    except PrunellaError:
        raise
    except Exception as error:  # peft and transformers raise many kinds, by what does not fit
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        raise FolderError(f"{folder} does not fit its base {base}: {reason}: {WANTED_BASE}") from None
    try:
        merged.save_pretrained(target)
    except OSError as error:
        raise CheckError(f"cannot write {target} ({error}): make room and run it again") from None
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES if name != "special_tokens_map.json")
    for name in TOKENIZER_FILES:
        if (path := (folder if has_tokenizer else base) / name).is_file():
            shutil.copyfile(path, target / name)
    say(f"{folder}: its adapter is merged into {base}")


def _merged(folder: Path, base: Path) -> Any:
    """Return the merged model of transformers."""
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
    shapes = _shapes(folder)
    _resize(model, shapes)
    adapted = PeftModel.from_pretrained(model, str(folder), local_files_only=True)
    _check_loaded(folder, base, adapted, set(shapes))
    trained = {name for name in shapes if ".lora_" not in name}
    if lacking := sorted(name for name in fresh if f"{WRAPPED}{name}" not in trained):
        raise FolderError(
            f"{base} and {folder} both lack {lacking[0]}: wanted the base with this module, or an adapter that "
            "names it in modules_to_save"
        )
    return adapted.merge_and_unload(safe_merge=True)


def _resize(model: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Give the model as many tokens as the adapter's folder, which then holds the whole table."""
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    rows = shapes.get(f"{WRAPPED}{name}.weight", (table.num_embeddings,))[0]
    if rows != table.num_embeddings:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _check_loaded(folder: Path, base: Path, adapted: Any, stored: set[str]) -> None:
    """Check that each tensor of the adapter found its place, and each place its tensor: peft only warns.

    Raises:
        FolderError: one did not, as where the adapter was trained on a model without a head, or on another family.
    """
    from peft import get_peft_model_state_dict

    wanted = {_plain(name) for name in get_peft_model_state_dict(adapted, save_embedding_layers=False)}
    names = {_plain(name) for name in stored}
    named = dict(adapted.named_parameters())
    unread = sorted(name for name in names - wanted if name not in named)
    if missing := sorted(wanted - names):
        also = f", and holds {unread[0]}, which has no place in it" if unread else ""
        raise FolderError(f"{folder} lacks {missing[0]} of its base {base}{also}: {WANTED_BASE}")
    if unread:
        raise FolderError(f"{folder} holds {unread[0]}, which has no place in its base {base}: {WANTED_BASE}")


WRAPPED = "base_model.model."  # first part of the names in an adapter's file
WANTED_BASE = "wanted the model that the adapter was trained on, as a classifier of texts"


def _plain(name: str) -> str:
    """Return the name of a tensor without that of the adapter, which some files have."""
    return name.replace(".default.", ".").removesuffix(".default")


def _files(folder: Path) -> list[str]:
    names = (CONFIG, WEIGHTS, "config.json", *TOKENIZER_FILES)
    return [name for name in names if (folder / name).is_file()]


def _outputs(folder: Path) -> int | None:
    """Return the number of outputs of the head that the adapter's folder holds; None: it holds none."""
    return next((shape[0] for name, shape in _shapes(folder).items() if name.endswith(HEAD)), None)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the adapter's tensors by their names; none where there is no file."""
    from safetensors import SafetensorError, safe_open

    if not (folder / WEIGHTS).is_file():
        return {}
    try:
        with safe_open(str(folder / WEIGHTS), "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FolderError(f"{folder / WEIGHTS} cannot be read as weights: {error}") from None
