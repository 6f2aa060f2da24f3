"""The table at the end of a run, from its records alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def result_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row for each run and each confirmed strength; `runs` maps a name to its scores.json."""
    first = next(iter(runs.values()))
    table = Table(title=f"Scores: {first['primary']} with 95 % intervals")
    for column in (
        "run",
        "strength",
        "domain: base",
        "domain: tuned",
        "gain",
        "general: base",
        "general: tuned",
        "kept",
        "verdict",
    ):
        table.add_column(column, no_wrap=column in ("strength",))
    for name, scores in runs.items():
        chosen = scores["chosen_strength"]
        for strength in sorted({1.0, chosen} - ({0.0} if chosen > 0 else set())):
            table.add_row(*_row(name, scores, strength, strength == chosen))
    return table


def _row(name: str, scores: Mapping[str, Any], strength: float, chosen: bool) -> list[str]:
    domain, general, key = scores["domain"], scores["general"], f"{strength:g}"
    primary = scores["primary"]
    cells = [
        name if chosen else "",
        f"{key} (chosen)" if chosen else key,
        _interval(domain["scores"]["0"][primary]),
        _interval(domain["scores"][key][primary]),
        _interval(domain["change"][key], sign=True),
    ]
    if general is None:
        cells += ["-", "-", "unknown"]
    else:
        cells += [_interval(general["scores"]["0"][primary]), _interval(general["scores"][key][primary])]
        cells += [_percent(general["change"][key])]
    return [*cells, scores["verdict"]["kind"] if chosen else ""]


def _interval(estimate: Mapping[str, Any], *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def _percent(estimate: Mapping[str, Any]) -> str:
    return f"{100 * estimate['value']:.1f} % [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"
