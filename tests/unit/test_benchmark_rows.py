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
    with rows.stored_alone():
        assert rows.row(tmp_path, "x.0", key(text_column="body"), measure)["n"] == 2
        with pytest.raises(rows.NotStoredError):
            rows.row(tmp_path, "x.0", key(), measure)
    assert len(calls) == 2
    rows.row(tmp_path, "x.0", key(), measure)
    assert len(calls) == 3


def test_links_between_codes_end_and_say_how_they_are_known() -> None:
    import rows

    links = rows.equal_code()
    assert all(link["how"] for link in links.values())
    for code in links:
        steps = [code]
        while steps[-1] in links:
            steps.append(links[steps[-1]]["later"])
            assert len(set(steps)) == len(steps), "a circle"


def store_peer(
    folder: Path,
    kind: str,
    dev: float,
    trainable: int,
    *,
    seed: int = 0,
    gpu: str | None = None,
    code: str | None = None,
) -> None:
    import rows
    from cells import PEERS

    made = {
        "peer": code or rows.peers_hash(),
        "start_code": rows.start_hash(),
        "kind": kind,
        "settings": PEERS[kind].plain(),
        "start": "own",
        "recipe": {"seed": seed},
    }
    place = {"machine": {"gpu": gpu}}
    row = {"key": made, "rate": 1.0, "dev": {"1.0": dev}, "trainable": trainable, "scores": {}, "provenance": place}
    folder = folder / "gpu" if gpu else folder
    folder.mkdir(exist_ok=True)
    (folder / f"product_reviews.peer-{kind}-own.{seed}.json").write_text(json.dumps(row))


def test_equally_good_peers_on_dev(tmp_path: Path) -> None:
    """The one that trains least counts, and old rows only where there are no others."""
    import stored_rows

    names = [f"peer-{kind}-own" for kind in ("full", "lora", "frozen")]

    def best() -> str:
        mine, theirs = stored_rows.best_pairs(tmp_path, "product_reviews", names, names, [0])
        assert mine == theirs
        return str(mine[0][0])

    for kind, trainable in (("full", 30), ("lora", 10), ("frozen", 20)):
        store_peer(tmp_path, kind, 0.9, trainable)
    assert best() == "peer-lora-own"
    store_peer(tmp_path, "full", 0.95, 30, code="older")
    assert best() == "peer-lora-own"
    store_peer(tmp_path, "frozen", 0.95, 20)
    assert best() == "peer-frozen-own"


def test_rows_are_paired_from_one_base_and_the_best_is_each_seeds_own(tmp_path: Path) -> None:
    import stored_rows

    mine, theirs = (["peer-lora-own", "peer-frozen-own"], ["peer-full-own", "peer-prefix-own"])
    for seed, devs in ((0, (0.9, 0.8, 0.7, 0.6)), (1, (0.8, 0.9, 0.6, 0.7))):
        for kind, dev in zip(("lora", "frozen", "full", "prefix"), devs, strict=True):
            store_peer(tmp_path, kind, dev, 1, seed=seed)
    sides = stored_rows.best_pairs(tmp_path, "product_reviews", mine, theirs, [0, 1, 2])
    assert [[name for name, _ in side] for side in sides] == [mine, theirs]
    assert [[stored_rows.seed_of(row) for _, row in side] for side in sides] == [[0, 1], [0, 1]]

    def lacking(names: list[str]) -> str:
        return stored_rows.missing(tmp_path, "product_reviews", names, [row for _, row in sides[0]])

    assert lacking(mine) == ""
    assert lacking([*mine, "peer-lora-all-same"]) == " (2 of 6 rows missing)"

    # A row that was the best is from another base than most of that seed: it does not count, nor is it paired with rows from there.
    for kind, dev in (("lora", 0.8), ("full", 0.6), ("prefix", 0.7)):
        store_peer(tmp_path, kind, dev, 1, seed=1, gpu="G")
    for kind in ("lora", "prefix"):
        (tmp_path / f"product_reviews.peer-{kind}-own.1.json").unlink()
    sides = stored_rows.best_pairs(tmp_path, "product_reviews", mine, theirs, [0, 1, 2])
    assert [name for name, _ in sides[0]] == ["peer-lora-own", "peer-lora-own"]
    assert lacking(mine) == " (1 of 4 rows missing)"
    frozen, full, prefix = (stored_rows.found(tmp_path, "product_reviews", name, [0, 1]) for name in (mine[1], *theirs))
    assert [len(side) for side in stored_rows.paired(frozen, full)] == [2, 2]
    assert [len(side) for side in stored_rows.paired(frozen, prefix)] == [1, 1]
