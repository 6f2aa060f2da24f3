"""Every check of a task over the parts of its data, in one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from domaintune.bases.base import Base
from domaintune.checks.classes import class_findings
from domaintune.checks.lengths import length_findings
from domaintune.checks.pictures import picture_findings
from domaintune.checks.shared import Part, few_rows, shared_findings
from domaintune.checks.texts import text_findings
from domaintune.tasks.base import Finding, Task

ORDER = {"error": 0, "warning": 1, "note": 2}


def report_of(
    task: Task,
    parts: Mapping[str, Sequence[Any]],
    base: Base | None = None,
    *,
    declared: Mapping[int | str, str] = MappingProxyType({}),
) -> list[Finding]:
    """Findings over named parts of examples ("train" among them; "general" ones only where they share the task), worst first.
    Lengths in tokens are looked at where there is a base; `declared` are the classes that the files name, whether used or not."""
    seen = {name: Part(name, [task.keys(e) for e in rows], [e.where for e in rows]) for name, rows in parts.items()}
    texts = {name: [task.texts(example) for example in rows] for name, rows in parts.items()}
    has_text = any(any(row) for rows in texts.values() for row in rows)
    found = list(shared_findings(seen, near=has_text, one_label=task.one_label))
    for name, rows in texts.items():
        found += text_findings(name, rows, seen[name].where)
    files = {
        name: [(path, at, key.input) for path, at, key in zip(map(task.picture, rows), seen[name].where, seen[name].keys, strict=True)
               if path is not None]
        for name, rows in parts.items()
    }  # fmt: skip
    found += picture_findings(files)
    domain = [example for name in ("train", "dev", "test") for example in parts.get(name, ())]
    found += list(task.check(domain))
    found += class_findings(
        declared, sorted({label for part in seen.values() for key in part.keys for label in key.labels})
    )
    if base is not None:
        found += list(length_findings(task, base, parts))
    return worst_first(found)


def with_few_rows(findings: Sequence[Finding], parts: Mapping[str, Sequence[Any] | None]) -> list[Finding]:
    """The findings, and `few-rows` of parts of examples as they are scored, whether given or cut; worst first."""
    used = {name: [example.group for example in part] for name, part in parts.items() if part is not None}
    return worst_first([*findings, *(finding for name, groups in used.items() for finding in few_rows(name, groups))])


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: ORDER[finding.severity])
