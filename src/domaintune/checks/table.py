"""Findings for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import HEAVY_HEAD
from rich.table import Table
from rich.text import Text

from domaintune.tasks.base import Finding

FIRST_ROWS = 5
COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row a finding: what, where first, why it matters, what to do."""
    table = Table(
        title="Data check" if findings else "Data check: nothing found", show_lines=True, show_header=bool(findings),
        box=HEAVY_HEAD if findings else None,
    )  # fmt: skip
    table.add_column("finding", overflow="fold")
    table.add_column("what, why, what to do", overflow="fold", ratio=1)
    for finding in findings:
        name = Text(f"{finding.severity}\n", style=COLOURS[finding.severity]) + Text(finding.name, style="bold")
        told = [
            finding.message,
            *([f"first: {', '.join(Path(row).name for row in finding.rows[:2])}"] if finding.rows else []),
        ]
        table.add_row(name, Text("\n".join([*told, finding.why, f"-> {finding.remedy}"])))
    return table


def plain(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Name, severity, count, first rows, message, why and remedy of each."""
    return [
        {
            "name": finding.name,
            "severity": finding.severity,
            "count": finding.count or len(finding.rows),
            "rows": list(finding.rows[:FIRST_ROWS]),
            "message": finding.message,
            "why": finding.why,
            "remedy": finding.remedy,
        }
        for finding in findings
    ]
