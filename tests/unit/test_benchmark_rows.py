"""Benchmark rows: which keys are of the same numbers, and which rows the tables take."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts' modules by their names, some of which the tests' own modules have too."""
    names = [path.stem for path in BENCHMARKS.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in names:
        sys.modules.pop(name, None)


def key(**recipe: Any) -> dict[str, Any]:
    return {"code": "a", "recipe": {"task": {"name": "token-classification", **recipe}, "seed": 0}}


def test_keys_of_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import rows

    monkeypatch.setattr(rows, "equal_code", lambda: {"a": {"later": "b"}, "b": {"later": "c"}})
    assert rows.alike(key(), {**key(), "code": "c"})
    assert rows.alike({**key(), "code": "b"}, {**key(), "code": "c"})
    assert not rows.alike(key(), {**key(), "code": "d"})
    # A setting that did not exist then has its default.
    assert rows.alike(key(), key(text_column="text", spans_column=None))
    assert rows.alike(key(text_column="text", spans_column=None), key()), "of two rows the later may come first"
    assert not rows.alike(key(), key(text_column="body"))
    assert not rows.alike(key(), {**key(), "epochs": 7})
    assert not rows.alike({**key(), "epochs": 7}, key())


def test_a_row_is_measured_once(tmp_path: Path) -> None:
    import rows

    calls: list[int] = []

    def measure() -> dict[str, Any]:
        calls.append(1)
        return {"n": len(calls)}

    for _ in range(2):
        rows.row(tmp_path, "x.0", key(), measure)
    rows.row(tmp_path, "x.0", key(text_column="body"), measure)
    assert len(calls) == 2
    assert json.loads((tmp_path / "x.0.json").read_text())["key"] == key(text_column="body")


def test_links_between_codes_end_and_say_how_they_are_known() -> None:
    import rows

    links = rows.equal_code()
    assert all(link["how"] for link in links.values())
    for code in links:
        steps = [code]
        while steps[-1] in links:
            steps.append(links[steps[-1]]["later"])
            assert len(set(steps)) == len(steps), "a circle"


def test_equally_good_peers_on_dev(tmp_path: Path) -> None:
    """The one that trains least counts, and old rows only where there are no others."""
    import text_tables as tables
    from cells import PEERS

    def peer(kind: str, dev: float, trainable: int, *, code: str | None = None) -> None:
        import rows

        made = {
            "peer": code or rows.peers_hash(),
            "start_code": rows.start_hash(),
            "kind": kind,
            "settings": PEERS[kind].plain(),
            "start": "own",
            "recipe": {"seed": 0},
        }
        row = {"key": made, "rate": 1.0, "dev": {"1.0": dev}, "trainable": trainable, "scores": {}}
        (tmp_path / f"product_reviews.peer-{kind}-own.0.json").write_text(json.dumps(row))

    names = [f"peer-{kind}-own" for kind in ("full", "lora", "frozen")]
    for kind, trainable in (("full", 30), ("lora", 10), ("frozen", 20)):
        peer(kind, 0.9, trainable)
    assert tables.best(tmp_path, "product_reviews", names, [0])[0] == "peer-lora-own"
    peer("full", 0.95, 30, code="older")
    assert tables.best(tmp_path, "product_reviews", names, [0])[0] == "peer-lora-own"
    peer("frozen", 0.95, 20)
    assert tables.best(tmp_path, "product_reviews", names, [0])[0] == "peer-frozen-own"
