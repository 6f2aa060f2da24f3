"""Writes docs/recipe.md from the settings models, so that the page cannot disagree with the program."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from domaintune.recipe import DEFAULT_LEARNING_RATES, Recipe

HEADER = """# The recipe

Every key of a run, with its default. A recipe is YAML; any key can be given on the command line with `--set key=value`
(`--set method.rank=16`, `--set training.epochs=3`), and the frequent ones have options of their own (`domaintune tune --help`).
`task` and `method` may be a name alone (`method: lora`) or a mapping with `name` and its settings; without `method` it is LoRA.
Options go over the file; a task or method that they name as the file does keeps its settings. Paths are relative to the working
folder; `~` is the home folder. Values of `--set` are YAML: signs and numbers that are meant as text are quoted
(`--set "task.label_separator=','"`, `--set "data.general_labels=['yes','no']"`).

```yaml
task: text-classification
base: minilm
train: reviews.csv
general: everyday.csv
method: {name: lora, rank: 16}
output: runs/reviews
```

Default learning rates: %s.
"""


def table(title: str, model: type[BaseModel], prefix: str) -> str:
    meanings = meanings_of(model)
    lines = [f"\n## {title}\n", "| key | default | meaning |", "| --- | --- | --- |"]
    for name, field in model.model_fields.items():
        nested = [
            m
            for m in (field.annotation, *get_args(field.annotation))
            if isinstance(m, type) and issubclass(m, BaseModel)
        ]
        if nested or name == "name":
            continue
        default = "required" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        meaning = " ".join(meanings.get(name, "").split()).replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """What stands below each field of the class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: below.value.value
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def _plain(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def page() -> str:
    rates = ", ".join(f"{name} {rate:g}" for name, rate in DEFAULT_LEARNING_RATES.items())
    parts = [HEADER % rates, table("Top level", Recipe, "")]
    for key in ("training", "balance", "data", "evaluation"):
        parts.append(table(f"`{key}`", Recipe.model_fields[key].annotation, f"{key}."))  # type: ignore[arg-type]
    for key in ("method", "task"):
        for model in get_args(Recipe.model_fields[key].annotation):
            parts.append(table(f"`{key}: {model.model_fields['name'].default}`", model, f"{key}."))
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(page(), encoding="utf-8")
