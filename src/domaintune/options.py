"""Command-line options that are recipe keys: one table, shared by the commands that take a recipe. No torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from domaintune.errors import RecipeError

if TYPE_CHECKING:
    from domaintune.recipe import Recipe

TASKS = "text-classification, token-classification, translation, generation, image-classification, object-detection"


@dataclass(frozen=True, slots=True)
class RecipeOption:
    """`--name` for the recipe's `key` (dotted; "task.X" is a setting of the task)."""

    name: str
    key: str
    kind: Any
    help: str


PATHS = list[str] | None
OPTIONS = (
    RecipeOption("task", "task", str | None, TASKS),
    RecipeOption("base", "base", str | None, "Hub name, folder, earlier run, or minilm."),
    RecipeOption("train", "train", PATHS, "Labelled rows of your domain: file, folder, glob; repeatable."),
    RecipeOption("dev", "dev", PATHS, "Rows to choose on; by default cut from train, or folds."),
    RecipeOption("test", "test", PATHS, "Rows to confirm on; by default cut from train."),
    RecipeOption("add", "add", PATHS, "New rows for the earlier run that is the base; its parts stay."),
    RecipeOption("general", "general", PATHS, "Rows of what the base could do before."),
    RecipeOption("general_check", "general_check", PATHS, "A second general set, only ever reported."),
    RecipeOption("method", "method", str | None, "freeze, p-tuning, lora or full."),
    RecipeOption("output", "output", str | None, "Folder of the run."),
    RecipeOption("seed", "seed", int | None, "Seed of everything random."),
    RecipeOption("seeds", "seeds", int | None, "So many runs, with seed, seed + 1, ..., summed up over them."),
    RecipeOption("track", "track", PATHS, "tensorboard, mlflow or wandb: log the training there too; repeatable."),
    *(
        RecipeOption(f"{name}_column", f"task.{name}_column", str | None, f"The column that holds the {name}.")
        for name in ("text", "label", "tokens", "tags", "spans", "source", "target", "prompt", "completion", "image")
    ),
    RecipeOption("keep", "balance.keep", float | None, "Smallest retention at which a strength may be chosen: 0.98."),
    RecipeOption(
        "keep_agreement", "balance.keep_agreement", float | None, "The same where the general set has no labels."
    ),
    RecipeOption("floor", "balance.floor", float | None, 'Smallest lower bound of retention for "deploy": 0.95.'),
    RecipeOption("group_column", "data.group_column", str | None, "Rows with the same value stay in one part."),
    RecipeOption("label_map", "data.label_map", PATHS, "OLD=NEW: another name for a label; repeatable."),
    RecipeOption("general_labels", "data.general_labels", str | None, "A,B: score only these on the general sets."),
    RecipeOption("encoding", "data.encoding", str | None, "Of text files, such as latin-1; by default recognised."),
    RecipeOption("keep_leaks", "data.keep_leaks", bool, "Keep train rows that also stand in test or dev."),
    RecipeOption("drop_duplicates", "data.drop_duplicates", bool, "Keep one of the train rows that say the same."),
)

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over any recipe key, e.g. method.rank=16. Repeatable.")
]
File = Annotated[Path | None, typer.Argument(help="A recipe in YAML; options go over it.")]


def with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an argument RECIPE, every option of the table and `--set`; it receives the mapping `given` in their place."""
    hints = get_type_hints(command, include_extras=True)  # resolved where the command stands
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        p.replace(annotation=hints[p.name], kind=keyword)
        for p in inspect.signature(command).parameters.values()
        if p.name != "given"
    ]
    shared = [
        inspect.Parameter("recipe", keyword, default=None, annotation=File),
        *(
            inspect.Parameter(
                option.name,
                keyword,
                default=False if option.kind is bool else None,
                annotation=Annotated[option.kind, typer.Option(f"--{option.name.replace('_', '-')}", help=option.help)],
            )
            for option in OPTIONS
        ),
        inspect.Parameter("settings", keyword, default=None, annotation=Settings),
    ]

    def wrapped(**values: Any) -> None:
        given = {p.name: values.pop(p.name) for p in shared}
        command(given=given, **values)

    wrapped.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [*shared, *own]}  # what Typer reads
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped


def recipe_from(given: Mapping[str, Any], **more: Any) -> Recipe:
    """The recipe that a command line describes: its file, then options, then `--set`; `more` stands in for required keys that a
    command does not need.

    Raises:
        RecipeError: as `Recipe.read`, and a label map that is not OLD=NEW.
    """
    from domaintune.recipe import Recipe  # pydantic would slow `--help` down

    values: dict[str, Any] = {}
    for option in OPTIONS:
        value = given.get(option.name)
        if value is None or value is False or value == []:
            continue
        if option.name == "label_map":
            value = _pairs(value)
        elif option.name == "general_labels":
            value = [part.strip() for part in str(value).split(",") if part.strip()]
        elif option.name != "track" and isinstance(value, list) and len(value) == 1:
            value = value[0]
        values[option.key] = value
    return Recipe.read(given.get("recipe"), given.get("settings") or (), nested=values.items(), defaults=more)


def _pairs(entries: Sequence[str]) -> dict[str, str]:
    made = {}
    for entry in entries:
        old, equals, new = entry.partition("=")
        if not equals or not old or not new:
            raise RecipeError(f"got '{entry}'.", where="--label-map", remedy="Write --label-map OLD=NEW.")
        made[old] = new
    return made


def answering_from(given: Sequence[str] | None) -> dict[str, Any]:
    """`--set task.KEY=VALUE` of a finished run by KEY, values in YAML.

    Raises:
        RecipeError: another form, or a key of something else than the task.
    """
    import yaml

    made: dict[str, Any] = {}
    for entry in given or ():
        key, equals, value = entry.partition("=")
        task, _, name = key.strip().partition(".")
        try:
            if not equals or task != "task" or not name:
                raise ValueError
            made[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            raise RecipeError(
                f"got '{entry}'.",
                where="--set",
                remedy="Of a finished run settings of answers alone can be changed: --set task.KEY=VALUE, the value in YAML.",
            ) from None
    return made


def strengths_from(given: Sequence[str] | None) -> dict[str, float] | None:
    """`--strength S` and `--strength NAME=S` as a mapping, "" for the plain number; None where nothing was given.

    Raises:
        RecipeError: something that is no number.
    """
    made: dict[str, float] = {}
    for entry in given or ():
        name, equals, value = entry.rpartition("=")
        try:
            made[name if equals else ""] = float(value)
        except ValueError:
            raise RecipeError(f"got '{entry}'.", where="--strength", remedy="Write 0.7 or NAME=0.7.") from None
    return made or None
