"""What a recipe file says, in plain values: keys put in by their dotted path, and pydantic's errors in the user's words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from domaintune.errors import RecipeError


def put_(values: dict[str, Any], path: list[str], value: Any) -> None:
    """Set `value` at the key path; a task or method that is a name alone becomes a mapping with that name."""
    key, *rest = path
    if not rest:
        values[key] = value
        return
    inner = values.get(key, {})
    if not isinstance(inner, str | dict | None):
        raise RecipeError(
            f"holds {inner!r:.60}, so that '{'.'.join(rest)}' cannot be set in it.",
            where=key,
            remedy="Make it a mapping of keys.",
        )
    inner = {"name": inner} if isinstance(inner, str) else dict(inner or {})
    put_(inner, rest, value)
    values[key] = inner


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    fields = model.model_fields
    for key in location:
        if key not in fields:
            for info in fields.values():  # a union's tag in the location: look through its members
                for member in get_args(info.annotation):
                    tag = getattr(member, "model_fields", {}).get("name")
                    if tag is not None and tag.default == key:
                        fields = member.model_fields
            continue
        annotation: Any = fields[key].annotation
        fields = getattr(annotation, "model_fields", fields)
    return list(fields)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence an error; unknown keys with the nearest valid one."""
    lines = []
    for entry in error.errors():
        *parents, last = entry["loc"] or ("recipe",)
        key = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            valid = _fields_at(model, tuple(parents))
            lines.append(f"unknown key '{key}': {_hint(str(last), valid)}")
        elif entry["type"] == "union_tag_invalid":
            given, valid = entry["ctx"]["tag"], re.findall("'([^']*)'", entry["ctx"]["expected_tags"])
            lines.append(f"'{key}': unknown name '{given}': {_hint(given, valid)}")
        elif entry["type"] == "missing":
            lines.append(f"'{key}' is missing")
        else:
            lines.append(f"'{key}': {entry['msg'].removeprefix('Value error, ')} (got {entry['input']!r})")
    return "; ".join(lines) + "."


def _hint(given: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(valid)}"
