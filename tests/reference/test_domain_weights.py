"""Domains with learned weights: one update at several strengths, exact in outputs and gradients, and the run that keeps them."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Cell, base_and_task, batch_of, outputs, shake_
from rich.console import Console
from small_runs import save_base
from tuned import generator

from domaintune import Recipe, load, tune
from domaintune.data.batches import plan
from domaintune.data.rows import Row
from domaintune.errors import MethodError, RunError
from domaintune.finished.evaluate import evaluate
from domaintune.finished.predictions import predict_file
from domaintune.finished.strength import set_strength, told
from domaintune.methods import method_from
from domaintune.methods.lora import LoRAAttached
from domaintune.report.card import render_card
from domaintune.report.records import Records
from domaintune.report.usage import snippets
from domaintune.settings import LoRASettings
from domaintune.terminal import evaluation_table

CELLS = [
    Cell("text-classification", "bert", "lora"),
    Cell("generation", "gpt2", "lora"),
    Cell("image-classification", "mobilenet-v2", "lora"),
    Cell("object-detection", "rt-detr-v2", "lora"),
]


def attached_to(cell: Cell, **settings: object) -> LoRAAttached:
    base, _ = base_and_task(cell.task, cell.family, torch.float64)
    method = method_from(LoRASettings(rank=2, **settings))  # type: ignore[arg-type]
    made = method.attach(base, generator=generator(), domains=("hotels", "films", "shops"))
    assert isinstance(made, LoRAAttached)
    shake_(made, scale=0.1)
    made.model.eval()
    return made


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"initialise": "pissa"}], ids=["lora", "dora", "pissa"])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_domain_is_the_model_at_its_weight(cell: Cell, settings: dict[str, object]) -> None:
    base, task = base_and_task(cell.task, cell.family, torch.float64)
    attached = attached_to(cell, **settings)
    weights = attached.domain_weights()
    assert max(weights.values()) == 1
    assert 0 < min(weights.values()) < 1
    batch = batch_of(base, task, range(3), "score")
    before = {name: id(parameter) for name, parameter in attached.model.named_parameters()}
    whole = outputs(attached.model, batch)
    for name, weight in weights.items():
        with attached.in_domain(name) as model:
            made = outputs(model, batch)
        torch.testing.assert_close(made, outputs(attached.view(weight, form="terms"), batch), rtol=0, atol=1e-9)
        torch.testing.assert_close(made, outputs(attached.view(weight, form="merged"), batch), rtol=0, atol=1e-9)
    assert {name: id(parameter) for name, parameter in attached.model.named_parameters()} == before
    with attached.in_domain("somewhere else") as model:
        assert torch.equal(outputs(model, batch), whole)
    assert torch.equal(outputs(attached.model, batch), whole)


def test_gradients_of_weights_and_head_are_those_of_the_line() -> None:
    """Against finite differences, float64: the loss in a domain as a function of the logarithms, and of a head's weight."""
    cell = CELLS[0]
    base, task = base_and_task(cell.task, cell.family, torch.float64)
    attached = attached_to(cell)
    batch = batch_of(base, task, range(4), "score")
    groups = {group.name: group.parameters for group in attached.parameter_groups()}
    names = list(attached.domain_weights())
    smallest = min(names, key=lambda name: attached.domain_weights()[name])

    def loss() -> torch.Tensor:
        with attached.in_domain(smallest) as model:
            return torch.stack(list(task.loss(model, batch).values())).sum()

    loss().backward()
    step = 1e-6
    for parameter in (groups["domain weights"][0], groups["head"][0]):
        assert parameter.grad is not None
        for place in range(min(3, parameter.numel())):
            flat = parameter.detach().view(-1)
            flat[place] += step
            up = loss().item()
            flat[place] -= 2 * step
            down = loss().item()
            flat[place] += step
            assert float(parameter.grad.view(-1)[place]) == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-8)


def test_an_error_inside_leaves_the_parameters_in_place() -> None:
    attached = attached_to(CELLS[0])
    before = attached.state()
    with pytest.raises(ZeroDivisionError), attached.in_domain("hotels"):
        1 / 0  # noqa: B018
    after = attached.state()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(isinstance(p, torch.nn.Parameter) for p in attached.model.parameters())


def test_states_hold_the_weights_and_others_are_refused() -> None:
    attached, other = attached_to(CELLS[0]), attached_to(CELLS[0])
    other.load_(attached.state())
    assert other.domain_weights() == attached.domain_weights()
    base, _ = base_and_task(CELLS[0].task, CELLS[0].family, torch.float64)
    without = method_from(LoRASettings(rank=2)).attach(base, generator=generator(), domains=("hotels",))
    assert without.domain_weights() == {}
    with pytest.raises(MethodError, match="domain_weights"):
        without.load_(attached.state())


def test_micro_batches_hold_one_domain() -> None:
    costs = [5 + i % 7 for i in range(53)]
    groups = ["ab"[i % 2] if i % 5 else None for i in range(53)]
    made = plan(costs, batch_size=8, budget=30, seed=1, epoch=2, groups=groups)
    plain = plan(costs, batch_size=8, budget=30, seed=1, epoch=2)
    assert [sorted(i for part in step for i in part) for step in made] == [
        sorted(i for part in step for i in part) for step in plain
    ]
    assert all(len({groups[i] for i in part}) == 1 for step in made for part in step)
    assert all(max(costs[i] for i in part) * len(part) <= 30 or len(part) == 1 for step in made for part in step)


def write(path: Path, rows: list[tuple[str, str, str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label", "source"), *rows])
    return str(path)


def table(path: Path, count: int, start: int) -> str:
    """Hotels say what the words say; films say the opposite a third of the time: their update is worth less."""
    good, bad = ["lovely", "clean", "kind", "quiet"], ["dirty", "broken", "rude", "noisy"]
    rows = []
    for number in range(start, start + count):
        positive, films = number % 2 == 0, number % 4 > 1
        word = (good if positive else bad)[number // 4 % 4]
        told = positive != (films and number % 3 == 0)
        rows.append(
            (f"{word} thing number {number}", "positive" if told else "negative", "films" if films else "hotels")
        )
    return write(path, rows)


def test_a_run_keeps_its_domains(tmp_path: Path) -> None:
    save_base(tmp_path)
    said: list[str] = []
    test = Path(table(tmp_path / "test.csv", 32, 300))
    test.write_text(test.read_text() + "a kind zoo,positive,zoos\na rude zoo,negative,\n")
    values = {
        "task": "text-classification",
        "base": str(tmp_path / "base"),
        "train": table(tmp_path / "train.csv", 96, 0),
        "dev": table(tmp_path / "dev.csv", 32, 200),
        "test": str(test),
        "method": "lora",
        "output": str(tmp_path / "run"),
        "data": {"domain_column": "source"},
        "training": {"epochs": 6, "learning_rate": 0.01},
        "evaluation": {"draws": 100},
        "threads": 1,
    }
    run = tune(Recipe.make(values), say=said.extend)
    weights = run.domains
    assert set(weights) == {"films", "hotels"}
    assert max(weights.values()) == 1
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["domain_weights"] == weights
    assert set(scores["domain"]["domains"]) == {"films", "hotels", "zoos"}
    assert sum(part["rows"] for part in scores["domain"]["domains"].values()) == 33
    unknown = "test: 2 rows name no domain that the run has learned a weight for: theirs is 1."
    assert unknown in scores["notes"]
    assert f"note: {unknown}" in said
    card = (tmp_path / "run/README.md").read_text()
    assert "| zoos | 1 | – (none learned) |" in card
    assert [point[0] for point in scores["domain_frontier"]["films"]] == [0, 0.25, 0.5, 0.75, 1]
    # What was scored is what is predicted, each row at its own domain's strength.
    with (tmp_path / "test.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    stored = [json.loads(line) for line in (tmp_path / "run/predictions/test.jsonl").read_text().splitlines()]
    again = load(tmp_path / "run")
    made = again.predict(rows)
    assert [m["probability"] for m in made] == pytest.approx([s["probability"] for s in stored], abs=1e-6)
    lesser = min(weights, key=lambda name: weights[name])
    assert weights[lesser] < 0.999
    moved = again.predict(rows, strength={lesser: 0.0})
    for row, one, other, base_row in zip(rows, made, moved, again.predict(rows, strength=0), strict=True):
        if row["source"] == lesser:
            assert other["probability"] == pytest.approx(base_row["probability"], abs=1e-6)
        else:
            assert other["probability"] == pytest.approx(one["probability"], abs=1e-6)
    assert again.strengths(0.5) == {"": 0.5, **{name: 0.5 * weight for name, weight in weights.items()}}
    with pytest.raises(RunError, match=r"no weight for 'zoos'.*films, hotels"):
        again.predict(rows, strength={"zoos": 1.0})
    scored = evaluate(again, str(tmp_path / "test.csv"), strength={"": 1.0, lesser: 0.0}).plain()
    assert scored["domain_strengths"][lesser] == 0
    assert scored["domains"][lesser]["gain"]["1"]["value"] == 0
    expected = np.mean(
        [
            m["label"] == row["label"]
            for m, row in zip(again.predict(rows, strength={"": 1.0, lesser: 0.0}), rows, strict=True)
        ]
    )
    assert scored["scores"]["1"]["accuracy"]["value"] == pytest.approx(expected)
    with pytest.raises(RunError, match="Give them a strength above 0 too"):
        evaluate(again, str(tmp_path / "test.csv"), strength={"": 0.0, lesser: 0.5})
    # A strength that is set for one domain holds until a plain one is set.
    set_strength(again.path, {lesser: 0.0})
    assert load(again.path).predict(rows) == moved
    assert told(again.path, None, keep=False) == [
        f"Rows of {lesser} are predicted at strength 0, which was set for them alone."
    ]
    assert told(again.path, {lesser: 0.4}, keep=False)[0].startswith(f"Strength 0.4 for {lesser} was not measured.")
    with pytest.raises(RunError, match=r"no weight for 'zoos'"):
        set_strength(again.path, {"zoos": 1.0})
    set_strength(again.path, run.strength)
    assert load(again.path).predict(rows) == made
    with pytest.raises(MethodError, match="strength per domain"):
        tune(Recipe.make({**values, "base": str(tmp_path / "run"), "output": str(tmp_path / "next")}))
    pooled = tune(
        Recipe.make({**values, "method": {"name": "lora", "domain_weights": False}, "output": str(tmp_path / "pooled")})
    )
    assert pooled.domains == {}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rows name their domain by a whole number in decimals, which tools make of a column with gaps, and by a truth value."""
    folder = tmp_path_factory.mktemp("numbered")
    save_base(folder)

    def rows(name: str, count: int, start: int) -> str:
        with open(table(folder / f"{name}.csv", count, start), encoding="utf-8") as stream:
            held = [{**row, "source": {"films": 1.0, "hotels": True}[row["source"]]} for row in csv.DictReader(stream)]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in held), encoding="utf-8")
        return str(folder / f"{name}.jsonl")

    values = {
        "task": "text-classification",
        "base": str(folder / "base"),
        "train": rows("train", 96, 0),
        "dev": rows("dev", 32, 200),
        "test": rows("test", 32, 300),
        "general": rows("general", 32, 400),
        "method": "lora",
        "output": str(folder / "run"),
        "data": {"domain_column": "source"},
        "balance": {"keep": 0.01},
        "training": {"epochs": 6, "learning_rate": 0.01},
        "evaluation": {"draws": 100, "robustness": False},
        "threads": 1,
    }
    tune(Recipe.make(values))
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_predicted_rows_name_their_domain_as_trained_ones(numbered: Path) -> None:
    run, rows = load(numbered / "run"), lines(numbered / "test.jsonl")
    assert set(run.domains) == {"1", "true"}
    assert min(run.domains.values()) < 0.999
    stored = [row["probability"] for row in lines(numbered / "run/predictions/test.jsonl")]
    assert [made["probability"] for made in run.predict(rows)] == pytest.approx(stored, abs=1e-6)
    notes = predict_file(run, str(numbered / "test.jsonl"), output=numbered / "answers.csv")
    assert notes == []
    spelled = [{**row, "source": "true" if row["source"] is True else 1} for row in rows]
    assert run.predict(spelled) == run.predict(rows)
    odd = [
        Row({"text": "a clean room", "source": value}, "new.jsonl", 1) for value in (None, " ", 1.5, [1], "1 ", True)
    ]
    assert run.unknown_domains(odd) == 4


def test_a_row_without_a_domain_leaves_the_others_theirs(numbered: Path) -> None:
    run, rows = load(numbered / "run"), lines(numbered / "test.jsonl")
    whole = evaluate(run, str(numbered / "test.jsonl")).plain()
    del rows[2]["source"]
    (numbered / "mixed.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    mixed = evaluate(run, str(numbered / "mixed.jsonl"))
    assert {name: part["rows"] for name, part in mixed.plain()["domains"].items()} == {"1": 15, "true": 16}
    assert mixed.plain()["domains"]["true"] == whole["domains"]["true"]
    assert f"1 row has no column 'source' (first: {numbered}/mixed.jsonl:3); such a row has no domain." in mixed.notes


def test_rows_of_unknown_domains_are_told_where_they_are_scored(numbered: Path) -> None:
    run, rows = load(numbered / "run"), lines(numbered / "test.jsonl")
    assert not any("no domain" in note for note in evaluate(run, str(numbered / "test.jsonl")).notes)
    for row in rows:
        row["source"] = "films"
    (numbered / "unknown.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    told = "32 rows name no domain that the run has learned a weight for: theirs is 1."
    made = evaluate(run, str(numbered / "unknown.jsonl"), strength=1.0)
    assert told in made.notes
    assert predict_file(run, str(numbered / "unknown.jsonl"), output=numbered / "answers.csv") == [told]
    for data, by_domain in (("unknown", False), ("test", True)):
        console = Console(file=io.StringIO(), width=120)
        console.print(evaluation_table(evaluate(run, str(numbered / f"{data}.jsonl"), strength=1.0).plain()))
        assert ("by domain" in console.file.getvalue()) == by_domain  # type: ignore[attr-defined]


def test_page_and_card_lead_to_the_model_that_was_scored(numbered: Path) -> None:
    records = Records.read(numbered / "run")
    assert records.test[0]["domain"] in ("1", "true")
    code = next(snippet.code for snippet in snippets(records) if snippet.language == "python")
    given = {"text": records.test[0]["input"], "source": records.test[0]["domain"]}
    assert json.dumps(given) in code
    made = load(numbered / "run").predict([given])[0]
    assert made["probability"] == pytest.approx(records.test[0]["probability"], abs=1e-6)
    card = html.unescape(render_card(records))
    assert '{"text": "Write your own text here.", "source": "1"}' in card
    assert 'Rows name their domain in the column "source", whose weight multiplies the strength;' in card
    assert re.search(r"^\| true \| 16 \| \d\.\d{3} \| ", card, re.MULTILINE)
