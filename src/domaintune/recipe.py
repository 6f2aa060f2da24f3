"""What one run is: frozen models of every setting. Imports no torch; the command line reads help and checks keys from here.

A recipe file has the same keys. `task` and `method` may be a name alone or a mapping with `name` and its settings:
`method: lora` and `method: {name: lora, rank: 16}` are both valid.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from domaintune.errors import RecipeError
from domaintune.inheritance import PARTS, filled, with_inherited
from domaintune.memory import PATHS, stored_rows
from domaintune.settings import AskedPrecision, Label, Labels, LoRASettings, MethodSettings, Settings, TaskSettings
from domaintune.validation import explain, put_

Paths = str | tuple[str, ...]
FOLDERS = ("base", "output", "grown_from")
FREE = {"output", "track", "device", "evaluation.batch_budget"}
"""Settings that may be others when an unfinished run is gone on with: its scores do not depend on them beyond rounding."""
ALIGNED = "::"
"""Between the paths of two aligned files."""


class TrainingSettings(Settings):
    epochs: int | None = Field(default=None, ge=0)
    """Passes over train; by default 5, and more on small sets: so many that there are 400 optimiser steps, at most 30. Where the base
    brings no head for the labels 800 steps; with P-tuning 800, and at most 60 passes."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimiser step, with all windows of each."""
    learning_rate: float | None = Field(default=None, gt=0)
    """By default the method's own, listed above. Of Freeze and full tuning a head learns at 4 times it; of P-tuning all but learned keys
    and values at a thirtieth, which is everything in version 1 and with `reparameterise`; of LoRA the weights of domains at 5 times."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up: to 0 over all epochs, or not at all."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of all steps."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled (AdamW); not on biases, norms and gates."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Learning-rate factor per block, from the head down to the embeddings."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better dev score before training stops; by default all epochs are trained: the learning rate falls to 0 over
    them, and the last ones are mostly the best. With a patience dev is scored after every epoch, else at most 10 times. Over folds it stops
    nothing."""
    weights: Literal["averaged", "best"] = "averaged"
    """averaged: the mean of the weights after each epoch of the schedule's second half, unless dev shows the best epoch to be better
    beyond chance. best: the best epoch's, of equal ones the latest."""
    micro_batch_budget: int | None = Field(default=None, ge=1)
    """Tokens (text) or pixels (pictures) in one forward; by default 2,048 or 400,000 on a CPU, 4,096 or 4,000,000 on a GPU, and a whole
    step where batch-norm statistics are trained. A run that is resumed keeps its own."""
    precision: AskedPrecision = "auto"
    """bf16: forward and backward in bfloat16 where torch's autocast does, weights in float32, scores of a run in float32. auto: in
    trainings of 200 steps or more the first 6 are timed in both, and where bf16 is 1.3 times as fast training begins again in it;
    the resolved recipe says which."""
    train_batch_norm: bool = False
    """Let batch-norm statistics follow the domain."""
    checkpoint_every_seconds: float = Field(default=60.0, ge=0)
    """Besides a checkpoint after each epoch; 0: after each step."""
    probe: bool = True
    """Start from a head fitted on the frozen body where the base has none for these labels (LP-FT)."""
    consistency: float = Field(default=0.0, ge=0)
    """Above 0 every step is read twice with other dropout, and what its two answers differ by is added to the loss with this weight
    (R-Drop, arXiv 2106.14448): with 4, mostly more is gained and about as much lost, for up to twice the time and memory of a step. Not
    for object-detection, nor where nothing drops out."""


class BalanceSettings(Settings):
    keep: float = Field(default=0.98, gt=0, le=1)
    """Smallest retention at which a strength may be chosen."""
    floor: float = Field(default=0.95, gt=0, le=1)
    """Smallest lower bound of retention for the verdict "deploy"."""
    keep_agreement: float | None = Field(default=None, gt=0, le=1)
    """The same for a general set without labels; by default the task's own."""
    strengths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the frontier is measured."""
    max_rows: int = Field(default=300, ge=10)
    """Rows a side that the frontier is measured on."""
    form: Literal["merged", "terms"] | None = None
    """How views are built; by default merged, and terms where the base is in 16 bits."""

    @field_validator("strengths")
    @classmethod
    def _both_ends(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        if not {0.0, 1.0} <= set(strengths) or any(not 0 <= s <= 1 for s in strengths):
            raise ValueError("strengths must lie in [0, 1] and include both 0 and 1")
        return tuple(sorted(set(strengths)))


class DataSettings(Settings):
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Of what parts are cut and capped with; by default the recipe's `seed`."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of train that becomes test where none is given."""
    dev_fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the rest that becomes dev where none is given."""
    folds: int = Field(default=5, ge=2)
    """For cross-validation."""
    fold_below: int = Field(default=500, ge=0)
    """Without a dev file: cross-validate when fewer rows than this remain outside test."""
    keep_leaks: bool = False
    """Keep train rows that also stand in test or dev, and those whose group does."""
    drop_duplicates: bool = False
    """Keep one of the train rows that say the same; rows that disagree on the target are dropped together."""
    label_map: dict[Label, Label] = Field(default_factory=dict)
    """Other names for labels in the data: `{POS: positive}`; several may get one name."""
    general_labels: Labels | None = None
    """Score only these labels on the general sets (in the domain's names); others are dropped on both sides and counted."""
    encoding: str | None = None
    """Of text files, such as cp1252; by default UTF-8, UTF-16 with its mark, or GB18030 where the text shows it."""
    group_column: str | None = None
    """Rows with the same value (a document, patient or author) stay in one part, and intervals resample whole groups; rows without one
    count together with those that a cut kept in one part with them (near duplicates). Train rows of a group that a given dev or test part
    has are removed. General rows, and rows to be evaluated, that lack the column are groups of their own."""
    domain_column: str | None = None
    """Names each row's domain. General rows, and rows to be evaluated or predicted, may lack it."""
    max_train_rows: int | None = Field(default=None, ge=1)
    """Use a seeded random part of train."""


class EvaluationSettings(Settings):
    draws: int = Field(default=1000, ge=100)
    """Bootstrap draws."""
    batch_budget: int | None = Field(default=None, ge=1)
    """Tokens or pixels in one scoring forward, on a GPU with new tokens and beams where text is decoded; by default 2,048 or 400,000
    on a CPU, 16,384 or 8,000,000 on a GPU. May change on a run that is resumed."""
    robustness: bool | None = None
    """Score test rows with typos, without punctuation, blurred, ...; by default on for classification and entities, off for tasks
    that decode and for detection."""
    robustness_rows: int = Field(default=150, ge=10)
    """Test rows that this is done with."""


DEFAULT_LEARNING_RATES = {"full": 5e-5, "freeze": 2e-4, "lora": 1e-3, "p-tuning": 3e-2}


class Recipe(Settings):
    """One run: what to train on what, how, and where to leave the result. Paths are relative to the working folder; `~` is the home
    folder.

    Raises:
        RecipeError: an unknown key (with the nearest valid one) or a value out of range, from `make` and `read`.
    """

    task: TaskSettings
    base: str
    """Hub name, local folder, an earlier run's folder, or the built-in `minilm` (English, lower-case; text and token classification)."""
    train: Paths
    """Labelled rows of the domain: a file, a folder, a glob or several of them as in docs/formats.md."""
    dev: Paths | None = None
    """Rows to choose on; without it a part of train is cut, or folds stand in for it."""
    test: Paths | None = None
    """Rows to confirm on; without it a part of train is cut."""
    add: Paths | None = None
    """New rows for an earlier run, which is then the base: training starts from that run's own base on old and new rows together;
    its parts stay what they were, and a part of the new rows joins dev and test. What this recipe does not say is as in that run's: task,
    parts, method, training (the learning rate only for the same method), balance, data, evaluation, seed, seeds, threads and
    trust_remote_code."""
    grown_from: str | None = None
    """Written by the tool where `add` is given: the earlier run."""
    general: Paths | None = None
    """Rows of what the base could do before; what is lost is measured on them. Without labels: agreement with the base."""
    general_check: Paths | None = None
    """A second general set, only ever reported."""
    method: MethodSettings = LoRASettings()
    output: str
    """Folder of the run."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Everything random: splits, order, heads, dropout, bootstrap."""
    seeds: int = Field(default=1, ge=1, le=100)
    """With more than one the recipe is run with `seed`, `seed` + 1, ..., on the same parts, and summed up over them."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; by default all cores that the process may use."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`. May change on a run that is resumed."""
    trust_remote_code: bool = False
    """Run Python code that a base brings along. Only for authors whom you trust."""
    track: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Where training is also logged, live: TensorBoard (in the run), MLflow (`mlflow.db` in the working folder, with the report, which shows
    rows of the data, in `mlruns/`; or MLFLOW_TRACKING_URI), Weights & Biases (offline in the run, unless WANDB_MODE says otherwise). May
    change on a run that is resumed."""
    training: TrainingSettings = TrainingSettings()
    balance: BalanceSettings = BalanceSettings()
    data: DataSettings = DataSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="before")
    @classmethod
    def _names_to_settings(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        made = {k: {"name": v} if k in ("task", "method") and isinstance(v, str) else v for k, v in values.items()}
        if isinstance(made.get("method"), Mapping):  # perhaps settings of a method that nothing names
            made["method"] = {"name": LoRASettings().name, **made["method"]}
        return made

    @classmethod
    def make(cls, values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """A recipe from plain values, with errors that name the nearest valid key. A part may also be rows in memory (a
        DataFrame, a `datasets.Dataset`, a list of mappings): they are stored in OUTPUT/data. With `add` what is not given is the
        earlier run's."""
        try:
            values = with_inherited(_with_plain_paths(values))
            return cls.model_validate(stored_rows(values, PARTS))
        except ValidationError as error:
            raise RecipeError(explain(error, cls), where=where, remedy="See docs/recipe.md for every key.") from None

    @classmethod
    def read(
        cls,
        path: Path | None,
        overrides: Iterable[str] = (),
        *,
        nested: Iterable[tuple[str, Any]] = (),
        defaults: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Recipe:
        """A recipe from a YAML file, then `values` that are not None, then `nested` ones by dotted key, then `key.path=value`
        overrides (values are YAML); `defaults` fill what is still missing at the top. A task or method that is named as it is
        already keeps its settings."""
        merged: dict[str, Any] = {}
        if path is not None:
            try:
                loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
            except OSError as error:
                raise RecipeError(f"cannot be read ({error.strerror}).", where=str(path)) from None
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise RecipeError(f"is not valid YAML ({error}).", where=str(path)) from None
            if not isinstance(loaded, dict):
                raise RecipeError("must be a mapping of keys to values.", where=str(path))
            merged.update(loaded)
        for key, value in [*values.items(), *nested]:
            if value is not None:
                _set_(merged, key, value)
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals:
                raise RecipeError(f"got '{override}'.", where="--set", remedy="Write --set key=value.")
            try:
                _set_(merged, key.strip(), yaml.safe_load(value))
            except (yaml.YAMLError, ValueError, RecipeError):
                raise RecipeError(
                    f"got '{override}'.",
                    where="--set",
                    remedy="Write key=value, the value in YAML, the key of a setting.",
                ) from None
        return cls.make(filled(merged, defaults or {}), where=str(path) if path else "arguments")

    @property
    def data_seed(self) -> int:
        """What parts are cut with."""
        return self.seed if self.data.seed is None else self.data.seed

    def plain(self) -> dict[str, Any]:
        """Plain JSON values, every default written out."""
        values: dict[str, Any] = json.loads(self.model_dump_json())
        return values


def changed(before: Mapping[str, Any], now: Mapping[str, Any], *, began_in: str) -> list[str]:
    """What is not as it was, of two recipes by dotted key, but for what may change and how paths are spelled: parts are compared by the
    names of their files, whose checksums stand beside, and folders as bases by where they are, seen from where the run began."""
    return [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in {**before, **now}
        if key not in FREE and not _is_same(key, before.get(key), now.get(key), began_in)
    ]


def _is_same(key: str, before: Any, now: Any, began_in: str) -> bool:
    if before == now or before is None or now is None:
        return bool(before == now)
    if key in FOLDERS:
        return os.path.isdir(now) and os.path.realpath(os.path.join(began_in, before)) == os.path.realpath(now)
    return key in PARTS and _file_names(before) == _file_names(now)


def _file_names(given: str | Sequence[str]) -> list[list[str]]:
    return [
        [Path(side).name for side in path.split(ALIGNED)] for path in ([given] if isinstance(given, str) else given)
    ]


def _set_(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `value` at the dotted key; a name alone changes nothing where the task or method has it already."""
    held = values.get(key)
    if key in ("task", "method") and isinstance(held, dict) and isinstance(value, str):
        name = held.get("name", LoRASettings().name if key == "method" else value)
        value = {**held, "name": name} if name == value else value
    put_(values, key.split("."), value)


def _with_plain_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Paths as text, `~` as the home folder; rows in memory as they are."""
    made = dict(values)
    for key in (*PARTS, *FOLDERS):
        given = made.get(key)
        if isinstance(given, PATHS):
            made[key] = _plain_path(given)
        elif isinstance(given, list | tuple) and all(isinstance(entry, PATHS) for entry in given):
            made[key] = type(given)(_plain_path(entry) for entry in given)
    return made


def _plain_path(given: str | os.PathLike[str]) -> str:
    return ALIGNED.join(map(os.path.expanduser, os.fspath(given).split(ALIGNED)))
