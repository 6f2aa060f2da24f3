"""What a terminal says of a run's records."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domaintune.report.wording import base_told
from domaintune.screen import Screen
from domaintune.terminal import ProgressBar, beside, comparison_table, growth_lines, pairs_table, trust_lines


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def scores(**more: Any) -> dict[str, Any]:
    return {
        "primary": "accuracy", "start": "the base's own head", "domain_probe": 0.742, "folds": [], "majority": None,
        "chosen_strength": 1.0, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ("the base's own head", "Base (0) is the base as it came, with its own head."),
        ("the base's output layer", "Base (0) is the base as it came, with its output layer."),
        (
            "a head fitted on the domain's train part",
            "Base (0) is the base with a head fitted on the domain's train part and the body as it came: gains are over that.",
        ),
    ],
)
def test_what_the_base_is(start: str, told: str) -> None:
    assert base_told(scores(start=start)) == told
    assert beside(scores(start=start)).startswith(told)


def test_where_a_head_alone_was_scored() -> None:
    assert "0.742 on dev." in beside(scores())
    assert "0.742 out of fold." in beside(scores(folds=[{"scores": [0.7], "rows": 4}]))


def test_what_growing_did() -> None:
    old = {"rows": 30, "before": estimate(0.81), "after": estimate(0.83), "change": estimate(0.02)}
    growth = {"from": "runs/v1", "strength_then": 0.75, "old": old}
    told = "On 30 old test rows accuracy goes from 0.810 (runs/v1 at strength 0.75) to 0.830, a gain of +0.020 [-0.08, +0.12]."
    assert growth_lines(scores(growth=growth)) == [told]
    new = {"rows": 1, "before": None, "after": estimate(0.7), "change": None}
    assert growth_lines(scores(growth={**growth, "new": new})) == [
        told,
        "On 1 new test row accuracy is 0.700; runs/v1 did not know their labels.",
    ]
    assert growth_lines(scores(growth=None)) == growth_lines(scores()) == []


def test_damage_that_moves_nothing() -> None:
    same = {"base": estimate(0.9), "tuned": estimate(0.958)}
    robustness = {"clean": same, "kinds": {"typos": same, "case": {**same, "base": estimate(0.8)}}, "rows": 24}
    assert trust_lines(scores(robustness=robustness)) == ["No damage to the inputs moves accuracy (24 rows)."]
    robustness["kinds"]["case"] = {"base": estimate(0.8), "tuned": estimate(0.9)}
    assert trust_lines(scores(robustness=robustness)) == [
        "Damaged inputs move accuracy most by case: 0.958 to 0.900 (base: 0.900 to 0.800; 24 rows)."
    ]


def test_text_of_data_neither_steers_the_terminal_nor_becomes_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = "label ok\x1b[2J\x1b[31mRED\r\x9b31m :smile: \u202eend"
    table = Table("cell", title=odd)
    table.add_row(odd)
    table.add_row(Text(odd, style="bold"))
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    screen = Screen(stderr=True)
    ProgressBar(screen).say([odd])
    screen.print(table)
    screen.print(odd, markup=False, soft_wrap=True)
    told = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())  # the program's own colours and slants
    assert "\x1b[1m" in stream.getvalue()
    assert not set(told) & set("\x1b\x9b\r\u202e")
    assert not re.search(r"\x1b\[(?:2J|31m)", stream.getvalue())
    assert " ".join(told.replace("┃", " ").replace("│", " ").split()).count("label ok⟨U+001B⟩[2J⟨U+001B⟩[31mRED") == 5
    assert told.count(":smile:") == 5


@pytest.mark.parametrize("primary", ["accuracy", "cross_entropy"])
def test_a_comparison_says_which_run_is_better(primary: str) -> None:
    run = {"seeds": 1, "compared_seeds": 1, "method": "lora", "strengths": [1.0], "retention": None, "verdict": None}
    scored = {key: estimate(1.0) for key in ("base_score", "score", "gain")}
    facts = scored | {"trainable_parameters": 1, "training_seconds": 1.0}
    compared = {
        "primary": primary, "rows": 9, "data": "test",
        "runs": [{"run": f"runs/{name}", **run, **facts} for name in ("one", "two")],
        "pairs": [{"first": "runs/one", "second": "runs/two", "difference": estimate(0.5), "p": 0.01, "p_corrected": 0.01}],
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=120)
    console.print(comparison_table(compared), pairs_table(compared))
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("lower is better" in told) == (primary == "cross_entropy")
    assert re.search(r"better by .*\n.*\n *two over one +\+0\.500 ", told)
