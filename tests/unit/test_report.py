"""The page and the card from records written here: what they show, what they leave out, and that no text does them harm."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from rich.console import Console

from domaintune import tracking
from domaintune.data.pictures import open_picture
from domaintune.errors import RunError
from domaintune.evaluation import intervals
from domaintune.finished.listing import list_runs
from domaintune.report import answers, figures, wording
from domaintune.report.card import escaped, render_card
from domaintune.report.page import facts, render_page
from domaintune.report.records import Records
from domaintune.report.thumbnails import thumbnail
from domaintune.report.usage import snippets
from domaintune.report.wording import entities_told, visible
from domaintune.report.write import write_report
from domaintune.run import read_json, write_json, write_lines
from domaintune.terminal import (
    comparison_table,
    evaluation_table,
    frontier_table,
    runs_table,
    scores_table,
    seeds_table,
    trust_lines,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</bdi></p></style></svg><h1>out",
    '" onmouseover="alert(1)" x="',
    "' or 1=1 -- <!--",
    "]]><![CDATA[ &lt;b&gt; &amp;amp; &#60;",
    "\u202eright to left override",
    "\u2067isolate without end",
    "مرحبا بالعالم, English, שלום",
    "w" * 5000,
    "null\x00 bell\x07 escape\x1b[31m delete\x7f next line\x85",
    "non-characters \ufffe \ufdd0 \U0010ffff",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301\u0301\u0301",
    r"$\frac{1}{0}$ \[x\] $$\input{/etc/passwd}$$",
    "| a | b |\n| --- | --- |\n| 1 | 2 |",
    "# heading\n- [link](javascript:alert(1)) ![x](http://x.example/y.png)",
    "```\n~~~ fence `code` **bold** _under_ <details>",
    "---\nlicense: other\n---",
    "{{ 7 * 7 }} {% include 'x' %} {# no #} ${7*7} %s %(x)s {0}",
    "\r\n\t \u200b\ufeff \u2028\u2029 ' \" ; $(rm -rf x) `id` \\",
]


def estimate(value: float, width: float = 0.05, how: str = "bootstrap") -> dict[str, Any]:
    low, high = value - width, value + width
    return {"value": value, "low": low, "high": high, "lower": low, "how": how, "differing": 9}


def side(name: str, kind: str, base: float, tuned: float, strengths: tuple[str, ...] = ("0", "0.5", "1")) -> dict:
    values = [base + (tuned - base) * float(s) for s in strengths]
    change = [v - base if kind == "gain" else v / base for v in values]
    return {
        "rows": 40,
        "name": name,
        "kind": kind,
        "scores": {
            s: {"accuracy": estimate(v), "log_loss": estimate(1 - v)} for s, v in zip(strengths, values, strict=True)
        },
        "change": {s: estimate(v) for s, v in zip(strengths, change, strict=True)},
        "mean_divergence": {},
    }


def label_rows(texts: list[str], labels: list[str]) -> list[dict[str, Any]]:
    """Every third row is answered wrong, with falling confidence."""
    rows = []
    for number, text in enumerate(texts):
        given = labels[number % len(labels)]
        made = labels[(number + (number % 3 == 0)) % len(labels)]
        sure = 0.95 - 0.01 * number
        rows.append(
            {
                "file": "data/test.csv",
                "line": number + 2,
                "input": text,
                "label": made,
                "probability": sure,
                "target": {"label": given, "probability": sure if made == given else 1 - sure},
                "base": {"label": labels[0], "probability": 0.5},
            }
        )
    return rows


LATER = {
    "calibration": {
        "temperature": 1.3,
        "before": {"ece": 0.08, "log_loss": 0.5},
        "after": {"ece": 0.03, "log_loss": 0.45},
        "bins": [
            {"low": 0.5, "high": 0.6, "count": 0, "confidence": 0.0, "accuracy_before": 0.0, "accuracy": 0.0},
            {"low": 0.6, "high": 0.8, "count": 7, "confidence": 0.71, "accuracy_before": 0.6, "accuracy": 0.68},
            {"low": 0.8, "high": 1.0, "count": 30, "confidence": 0.93, "accuracy_before": 0.85, "accuracy": 0.94},
        ],
    },
    "classes": [
        {
            "label": label, "support": 20, "precision": 0.8, "recall": 0.7, "f1": 0.747,
            "base_precision": 0.6, "base_recall": 0.5, "base_f1": 0.546,
        }
        for label in ("negative", "positive")
    ],
    "robustness": {
        "seed": 0,
        "rows": 40,
        "kinds": {
            kind: {"base": estimate(0.6), "tuned": estimate(0.7)}
            for kind in ("typos", "case", "punctuation", "spacing", "homoglyphs", "dropped words")
        },
        "clean": {"base": estimate(0.65), "tuned": estimate(0.8)},
    },
}  # fmt: skip


def make_run(path: Path, *, general: dict | str | None = "labelled", **changes: Any) -> Path:
    """A finished run's records in `path`. `changes` go over scores.json, `test` and `labels` over rows and label names."""
    labels = changes.pop("labels", ["negative", "positive"])
    test = changes.pop("test", None) or label_rows([f"a quiet room on floor {n}" for n in range(40)], labels)
    other = label_rows([f"a general text {n}" for n in range(30)], labels)
    if general == "labelled":
        general = side("general (report part)", "retention (ratio)", 0.8, 0.76)
    elif general == "agreement":
        general = side("general (report part)", "agreement", 1.0, 0.97)
        other = [{k: v for k, v in row.items() if k != "target"} for row in other]
    point = {"general": None, "retention": None} if general is None else {"general": 0.8, "retention": 1.0}
    scores = {
        "primary": "accuracy",
        "start": "a head fitted on the domain's train part",
        "domain_probe": 0.7,
        "rows": {"train": 100, "dev": 20, "test": len(test)},
        "trainable_parameters": 1234,
        "frontier": [{"strength": s, "domain": 0.6 + 0.2 * s, **point} for s in (0.0, 0.25, 0.5, 0.75, 1.0)],
        "chosen_strength": 0.5,
        "epochs": [{"index": i, "train_loss": 1 / (i + 1), "score": 0.6 + i / 20, "seconds": 1.0} for i in range(4)],
        "best_epoch": 3,
        "folds": [],
        "notes": ["2 rows of train were left out."],
        "findings": [
            {
                "name": "repeats", "severity": "warning", "count": 9, "rows": ["data/train.csv:3", "data/train.csv:8"],
                "message": "9 rows of train repeat earlier ones.", "why": "They count twice.", "remedy": "--drop-duplicates",
            }
        ],
        "verdict": {"kind": "deploy", "sentence": "Deploy at strength 0.5: gain +0.100 [+0.050, +0.150]."},
        "domain": side("test", "gain", 0.6, 0.8),
        "general": general,
        "majority": 0.5,
        **changes,
    }  # fmt: skip
    write_json(path / "scores.json", scores)
    write_json(
        path / "resolved.json",
        {
            "task": {"name": "text-classification"},
            "method": {"name": "lora", "rank": 8},
            "training": {"epochs": 4},
            "balance": {"keep": 0.98},
            "data": {"label_map": {}},
            "train": "train.csv",
        },
    )
    write_json(path / "tasks.json", {"domain": {"labels": labels}})
    write_json(
        path / "provenance.json",
        {
            "versions": {"domaintune": "0.1.0"},
            "machine": {"system": "Linux", "processor": "a processor", "cores": 2},
            "base": {"source": "minilm", "hub": "sentence-transformers/all-MiniLM-L6-v2", "folder": None},
            "data": {"train": "0" * 64},
            "seed": 0,
            "seconds": 120.0,
            "training_seconds": 60.0,
            "peak_memory_bytes": 2**30,
        },
    )
    write_json(path / "strength.json", {"chosen": scores["chosen_strength"], "form": "terms", "domains": {}})
    write_lines(path / "predictions" / "test.jsonl", test)
    if general is not None:
        write_lines(path / "predictions" / "general.jsonl", other)
    state = {
        "format": 1,
        "finished": True,
        "started": 1.7e9,
        "ended": 1.7e9,
        "task": "text-classification",
        "method": "lora",
    }
    write_json(path / "run.json", {**state, "base": "minilm", "verdict": "deploy", "chosen_strength": 0.5})
    return path


def page_of(path: Path) -> str:
    """The page, held to the standard's grammar."""
    text = render_page(Records.read(path))
    html5lib.HTMLParser(strict=True).parse(text)
    return text


def sections(page: str) -> set[str]:
    return set(re.findall(r'<section id="(\w+)"', page))


ALWAYS = {"scores", "dial", "training", "data", "use", "provenance"}


def test_domains_growth_and_classes_of_boxes_have_their_tables(tmp_path: Path) -> None:
    strengths = ("0", "0.5", "1")
    part = {
        "rows": 20,
        "scores": {s: estimate(0.61) for s in strengths},
        "gain": {s: estimate(0.07) for s in strengths},
    }
    domain = {**side("test", "gain", 0.6, 0.8), "domains": {"hotels": part, "<b>films": part, "zoos": part}}
    page = page_of(
        run := make_run(
            tmp_path / "x",
            domain=domain,
            domain_weights={"hotels": 1.0, "<b>films": 0.4321},
            domain_frontier={"hotels": [[s, 0.5 + s / 10] for s in (0.0, 0.25, 0.5, 0.75, 1.0)]},
            growth={
                "from": "runs/v1",
                "strength_then": 0.75,
                "old": {"rows": 30, "before": estimate(0.81), "after": estimate(0.83), "change": estimate(0.02)},
                "new": {"rows": 12, "before": None, "after": estimate(0.71), "change": None},
            },
            classes=[{"label": "cell", "support": 9, "ap": 0.456, "base_ap": None}],
        )
    )
    assert {"domains", "growth", "classes"} <= sections(page)
    for told in ("0.432", "&lt;b&gt;films", "Grown from", "it did not know their labels", "+0.020", "0.456", "base ap"):
        assert told in page
    assert "<b>films" not in page
    assert page.count("<td>20</td><td>– (none learned)</td>") == 1
    assert "Base (0) is the base with a head fitted on the domain&#39;s train part" in page
    card = render_card(Records.read(run))
    assert "Base (0) is the base with a head fitted on the domain's train part" in card
    assert "\n| old | 30 | 0.810 [0.760, 0.860] | 0.830 [0.780, 0.880] | +0.020 [-0.030, +0.070] |\n" in card
    assert "\n| new | 12 | it did not know their labels | 0.710 [0.660, 0.760] |  |\n" in card


def test_of_very_many_labels_those_that_no_row_has_are_left_out(tmp_path: Path) -> None:
    entry = LATER["classes"][0]
    for count, left_out in ((50, 0), (60, 58)):
        classes = [{**entry, "label": f"kind {n}.", "support": 7 * (n < 2)} for n in range(count)]
        run = make_run(tmp_path / str(count), **{**LATER, "classes": classes})
        for text in (page_of(run), render_card(Records.read(run)).replace("\\", "")):
            assert "kind 1." in text
            assert ("kind 2." in text) == (not left_out)
            assert ("58 labels that no test row has: left out." in text) == bool(left_out)


def test_the_page_shows_all_that_the_records_hold(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "x", **LATER))
    assert sections(page) == ALWAYS | {"classes", "reliability", "rows", "robustness"}
    assert page.index("Deploy at strength 0.5") < page.index("Gain and loss")
    for told in (
        "0.600 → 0.700",
        "+0.100 [+0.050,",
        "97.5",
        "Temperature 1.300",
        "homoglyphs",
        "9 in all",
        "They count twice.",
    ):
        assert told in page
    assert page.count("<svg viewBox") == 6, "two sides, frontier, curves, reliability, robustness"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", page)) <= set(ids)
    assert not re.search(r"#0102", page), "a colour that no page variable stands for"


@pytest.mark.parametrize("general", [None, "agreement", "labelled"])
def test_older_records_leave_sections_out(tmp_path: Path, general: str | None) -> None:
    run = make_run(tmp_path / "x", general=general, findings=["an older run's finding"])
    scores = json.loads((run / "scores.json").read_text())
    for key in ("best_epoch", "trainable_parameters", "domain_probe", "majority"):
        del scores[key]
    write_json(run / "scores.json", scores)
    page = page_of(run)
    assert sections(page) == ALWAYS | {"classes", "rows"}
    assert "older run&#39;s finding" in page
    assert ("unknown" in page) == (general is None)
    assert ("General rows that the base answers otherwise" in page) == (general == "agreement")
    assert ("General rows that the base had right" in page) == (general == "labelled")
    card = ModelCard((run.parent / "x" / write_report(run).with_name("README.md").name).read_text())
    assert len(card.data.eval_results) == (2 if general is None else 4)
    assert ("is unknown" in card.text) == (general is None)


def test_a_run_of_older_predictions_shows_no_rows(tmp_path: Path) -> None:
    rows = [{"file": "a.csv", "line": 2, "label": "x", "probability": 0.9, "base": {"label": "x", "probability": 0.5}}]
    page = page_of(make_run(tmp_path / "x", general=None, test=rows))
    assert sections(page) == ALWAYS


def test_folds_and_losses(tmp_path: Path) -> None:
    """The score of a loss is recorded with its sign turned; folds of different lengths are averaged over those that are there."""
    folds = [{"scores": [-3.0, -2.0], "rows": 20}, {"scores": [-4.0], "rows": 20}]
    run = make_run(tmp_path / "x", folds=folds, higher_is_better=False, epochs=[])
    assert Records.read(run).dev_scores == [3.5, 2.0]
    page = page_of(run)
    assert "by fold" in page
    assert "Nothing was trained." in page
    assert "<td>2.000</td><td>2.000</td>" in page
    assert "reaches 0.700 out of fold." in page


@pytest.mark.parametrize(
    ("averaged", "told"),
    [(0, "The ring is the epoch that was kept."), (1, "those after the last epoch;"), (3, "after the last 3 epochs;")],
)
def test_which_epochs_weights_are_kept_is_told(tmp_path: Path, averaged: int, told: str) -> None:
    assert told in page_of(make_run(tmp_path / "x", averaged_epochs=averaged, best_epoch=1, dev=0.7))


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_either_end_may_be_chosen(tmp_path: Path, strength: float) -> None:
    ends = ("0", "1")
    run = make_run(
        tmp_path / "x",
        chosen_strength=strength,
        domain=side("test", "gain", 0.6, 0.8, ends),
        general=side("general-check", "retention (ratio)", 0.8, 0.7, ends),
    )
    page = page_of(run)
    assert f"<b>{strength:g}</b>" in page
    assert "on the domain, strength 1</span><b>0.600 → 0.800</b>" in page  # the base against itself tells nothing
    assert ("the base as it is" in page) == ("from the base to strength" not in page) == (strength == 0)
    write_report(run)


def test_the_card_is_the_hubs(tmp_path: Path) -> None:
    write_report(make_run(tmp_path / "x", **LATER))
    card = ModelCard.load(tmp_path / "x" / "README.md")
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert card.data.base_model_relation == "adapter"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.tags == ["domaintune", "lora"]
    assert card.data.language is None
    found = {(r.dataset_type, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found["domain", "accuracy"] == pytest.approx(0.7)
    assert found["general", "accuracy"] == pytest.approx(0.78)
    assert "| typos | 0.600 [0.550, 0.650] | 0.700 [0.650, 0.750] |" in card.text
    assert "quiet room" not in card.text, "rows of the data stay out of what may be published"
    found = {
        "name": "missed-spans",
        "severity": "note",
        "count": 3,
        "rows": ["a:1"],
        "message": "'Maria Huber' (12 tagged)",
    }
    told = {"why": "Maria", "remedy": "Maria"}
    write_report(make_run(tmp_path / "y", findings=[found | told], notes=["train: Maria.csv"]))
    card = ModelCard.load(tmp_path / "y" / "README.md")
    assert "note, missed-spans: 3" in card.text
    assert "Maria" not in card.text


def test_the_card_counts_a_finding_of_several_parts_once(tmp_path: Path) -> None:
    found = {"name": "near-duplicates", "severity": "warning", "rows": [], "message": "", "why": "", "remedy": ""}
    run = make_run(tmp_path / "x", findings=[{**found, "count": 1}, {**found, "count": 2}, "an older run's"])
    card = render_card(Records.read(run))
    assert "- warning, near-duplicates: 3\n" in card
    assert card.count("near-duplicates") == 1


def test_hostile_text_does_no_harm(tmp_path: Path) -> None:
    """As input, label, finding, note, file name and base; nothing of it becomes mark-up, and nothing is lost but by a cut."""
    assert len(HOSTILE) == 20
    names = [f"label {n}" for n in range(20)]
    calm = {**LATER, "classes": [{**LATER["classes"][0], "label": name} for name in names]}
    clean = make_run(tmp_path / "clean", labels=names, **calm)
    labels = [text[:60] + str(n) for n, text in enumerate(HOSTILE)]
    rows = [{**row, "file": f"data/{row['input'][:20]}"} for row in label_rows(HOSTILE * 2, labels)]
    later = {**LATER, "classes": [{**LATER["classes"][0], "label": label} for label in labels]}
    findings = [
        {"name": "x", "severity": "note", "count": 1, "rows": [t], "message": t, "why": t, "remedy": t} for t in HOSTILE
    ]
    verdict = {"kind": "trade", "sentence": " ".join(HOSTILE)}
    run = make_run(
        tmp_path / "x",
        test=rows,
        labels=labels,
        notes=HOSTILE,
        findings=findings,
        verdict=verdict,
        start=HOSTILE[0],
        **later,
    )
    state = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", {**state, "base": HOSTILE[2]})
    page = page_of(run)

    def marks(text: str) -> set[str]:
        tree = html5lib.parse(text, namespaceHTMLElements=False)
        return {f"{node.tag} {sorted(node.attrib)}" for node in tree.iter() if isinstance(node.tag, str)}

    assert marks(page) - marks(page_of(clean)) == set()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "⟨U+0000⟩" in page
    shown = "".join(html5lib.parse(page, namespaceHTMLElements=False).itertext())
    for text in HOSTILE:
        if text.isprintable() and len(text) < 400:
            assert text in shown
    write_report(run)
    card = ModelCard.load(run / "README.md")
    assert card.data.license is None
    body = card.text
    assert not re.search(r"[<>$]|(?<!\d)\]\(|!\[|^#+ heading|\{\{", re.sub("`{3}.*?`{3}", "", body, flags=re.S), re.M)
    plain = (clean / "README.md").read_text() if write_report(clean) else ""
    assert len(re.findall("^```", body, re.M)) == len(re.findall("^```", plain, re.M))
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert len(tables) == len([line for line in plain.splitlines() if line.startswith("|")])
    assert {line.count("|") for line in tables} == {
        line.count("|") for line in plain.splitlines() if line.startswith("|")
    }


def test_markdown_is_shown_as_it_is() -> None:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("gfm-like", {"linkify": False})
    for text in HOSTILE:
        made = reader.render(f"before {escaped(text)} after")
        tree = html5lib.parseFragment(made, namespaceHTMLElements=False)
        assert [node.tag for node in tree.iter()] == ["DOCUMENT_FRAGMENT", "p"], text
        assert "".join(tree.itertext()).split() == f"before {visible(text, 1000)} after".split()


def test_what_is_wrong_with_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        write_report(tmp_path)
    run = make_run(tmp_path / "x")
    (run / "predictions" / "test.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"test\.jsonl.*is not valid JSON lines"):
        write_report(run)


def test_the_report_loads_no_torch_and_no_network(tmp_path: Path) -> None:
    import subprocess

    run = make_run(tmp_path / "x", **LATER)
    code = (
        "import sys; from domaintune.report.write import write_report; write_report(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'requests', 'httpx', 'huggingface_hub', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        env={"PYTHONPATH": source, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    page = (run / "report.html").read_text()
    assert not re.search(r"<(?:script|link|iframe|object)|src=|@import|url\((?!#)|https?://", page)


def test_inputs_that_a_shell_would_change_are_not_shown_to_paste(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "x", test=label_rows(["-n x", "a\\nb", "two\nlines", "w" * 81, "it's $HOME `id`"], ["a", "b"])
    )
    assert snippets(Records.read(run))[0].code.startswith("echo 'it'\"'\"'s $HOME `id`' | domaintune predict ")


def test_the_command_for_a_whole_file_names_its_encoding(tmp_path: Path) -> None:
    run, rows = make_run(tmp_path / "x"), tmp_path / "rows.csv"
    rows.write_text("text\n")
    for encoding, told in ((None, ""), ("cp1252", " --encoding cp1252")):
        recipe = read_json(run / "resolved.json") | {"train": str(rows), "data": {"encoding": encoding}}
        write_json(run / "resolved.json", recipe)
        code = snippets(Records.read(run))[1].code
        assert code == f"domaintune predict {run} {rows}{told} --output answers.jsonl"


def test_intervals_without_bounds(tmp_path: Path) -> None:
    """Null, or what older runs wrote."""
    for number, (low, high) in enumerate([(None, None), (-math.inf, math.inf)]):
        run = make_run(tmp_path / f"{number}", **LATER)
        scores = read_json(run / "scores.json")
        for side in (scores["domain"], scores["general"], scores["robustness"]["kinds"], scores["robustness"]):
            for held in (*side.get("scores", {}).values(), side.get("change"), *side.values()):
                for found in held.values() if isinstance(held, dict) else ():
                    if isinstance(found, dict) and "low" in found:
                        found.update(low=low, high=high, lower=low)
        unknown = None if low is None else math.nan
        scores["robustness"]["kinds"]["case"]["base"]["value"] = unknown
        scores["domain"]["scores"]["0"]["log_loss"]["value"] = unknown
        (run / "scores.json").write_text(json.dumps(scores))
        page, card = page_of(run), render_card(Records.read(run))
        console = Console(file=io.StringIO(), width=120)
        console.print(scores_table(scores), *trust_lines(scores))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        for text in (page, card, shown):
            assert "(no bounds)" in text
            assert not re.search(r"\b(?:inf|nan|None)\b", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))


def test_labels_of_a_frontier_that_does_not_move_are_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x")
    points = [{"strength": s, "domain": 0.5, "general": 0.5, "retention": 1.0} for s in (0.0, 0.5, 1.0)]
    svg = figures.frontier(points, chosen=0.5, primary="accuracy", general="accuracy")
    assert "base, 0.5 (chosen), tuned" in svg
    apart = Records.read(run).scores["frontier"]
    svg = figures.frontier(apart, chosen=0.5, primary="accuracy", general="accuracy")
    assert all(f">{name}</text>" in svg for name in ("base", "0.25", "0.5 (chosen)", "0.75", "tuned"))


# --- rows ---


def test_confident_learning_against_its_formula() -> None:
    rows = label_rows([str(n) for n in range(60)], ["a", "b", "c"])
    mean = {
        label: sum(mine) / len(mine)
        for label in "abc"
        if (mine := [r["target"]["probability"] for r in rows if r["target"]["label"] == label])
    }
    expected = [r for r in rows if r["label"] != r["target"]["label"] and r["probability"] >= mean[r["label"]]]
    assert 0 < len(expected) < 20
    found = answers.suspects(rows, 100)
    assert {case.row["line"] for case in found} == {r["line"] for r in expected}
    assert [c.row["target"]["probability"] for c in found] == sorted(r["target"]["probability"] for r in expected)


def test_mistakes_of_every_shape() -> None:
    place = {"file": "f", "line": 1}
    labels = {
        **place,
        "labels": ["a", "b"],
        "probabilities": [0.9, 0.7],
        "target": {"labels": ["a"], "probabilities": [0.9]},
    }
    missed = {
        **place,
        "labels": ["a"],
        "probabilities": [0.9],
        "target": {"labels": ["a", "c"], "probabilities": [0.9, 0.2]},
    }
    assert [case.confidence for case in answers.mistakes([labels, missed], 9)] == pytest.approx([0.8, 0.7])
    paris = {"type": "LOC", "start": 0, "end": 1, "text": "Paris"}
    wrong = {"type": "PER", "start": 0, "end": 1, "text": "Paris", "score": 0.8}
    (case,) = answers.mistakes([{**place, "entities": [wrong], "target": {"entities": [paris]}}], 9)
    assert (case.confidence, case.lines) == (0.8, {"wrong": "Paris (PER)", "missed": "Paris (LOC)"})
    box = {"label": "cat", "box": [10, 10, 20, 20]}
    made = [{**box, "score": 0.9}, {**box, "score": 0.6}, {"label": "cat", "box": [100, 0, 9, 9], "score": 0.5}]
    crowd = {"label": "cat", "box": [90, 0, 40, 40], "crowd": True}
    (case,) = answers.mistakes([{**place, "objects": made, "target": {"objects": [box, crowd]}}], 9)
    assert case.confidence == 0.6, "the second answer for one box is wrong, one in a crowd region is not counted"
    dog = {"label": "dog", "box": [0, 0, 5, 5]}
    silent = {**place, "objects": [], "target": {"objects": [box, dog, crowd]}}
    first, last = answers.mistakes([silent, {**place, "objects": made, "target": {"objects": [box]}}], 9)
    assert first.confidence == 0.6
    assert (last.confidence, last.lines["missed"]) == (0.0, "1 x cat, 1 x dog")
    assert answers.mistakes([{**silent, "target": {"objects": [crowd]}}], 9) == []
    assert answers.mistakes([{**place, "output": "x", "target": {"output": "y"}}], 9) == []


def test_overlap() -> None:
    assert answers.overlap([0, 0, 2, 2], [1, 1, 2, 2]) == pytest.approx(1 / 7)
    assert answers.overlap([0, 0, 2, 2], [5, 5, 2, 2]) == 0


def test_flips_and_confusion() -> None:
    rows = label_rows([str(n) for n in range(12)], ["a", "b"])
    made = answers.flips(rows)
    right = [(r["label"] == r["target"]["label"], r["base"]["label"] == r["target"]["label"]) for r in rows]
    assert made is not None
    assert (made.won, len(made.lost)) == (right.count((True, False)), right.count((False, True)))
    table = answers.confusion(rows, ["b", "a", "never"])
    assert table is not None
    assert table.labels == ["b", "a"]
    assert table.matrix == [
        [sum(r["target"]["label"] == g and r["label"] == m for r in rows) for m in ("b", "a")] for g in ("b", "a")
    ]
    many = answers.confusion(label_rows([str(n) for n in range(99)], [f"l{n}" for n in range(33)]), [])
    assert many is not None
    assert many.matrix is None
    assert many.pairs


def test_equal_file_names_in_two_folders_are_two_rows() -> None:
    rows = [
        {
            "file": f"{folder}/test.jsonl",
            "line": 3,
            "input": folder,
            "label": "a",
            "probability": 0.9,
            "target": {"label": "b"},
        }
        for folder in ("en", "de")
    ]
    first, second = answers.mistakes(rows, 2)
    assert first.where == second.where
    assert first.place != second.place


def test_rows_of_one_line_are_told_apart(tmp_path: Path) -> None:
    """A JSON array in one line: rows shown as likely label errors hide themselves alone among the mistakes."""
    rows = label_rows([f"room {n}" for n in range(40)], ["a", "b"])
    run = make_run(tmp_path / "apart", test=rows, labels=["a", "b"])
    shared = make_run(tmp_path / "shared", test=[{**row, "line": 1} for row in rows], labels=["a", "b"])
    apart, together = (facts(Records.read(path)) for path in (run, shared))
    for name in ("suspects", "mistakes"):
        assert [case.row["input"] for case in together[name]] == [case.row["input"] for case in apart[name]]
        assert apart[name], name
    first = together["mistakes"][0]
    number = rows.index(next(row for row in rows if row["input"] == first.row["input"])) + 1
    assert first.where == f"test.csv:1, row {number} of predictions/test.jsonl"
    assert apart["mistakes"][0].where == f"test.csv:{number + 1}"


def test_of_general_rows_the_scored_labels_alone_are_right_or_wrong(tmp_path: Path) -> None:
    def entities(*types: str) -> dict[str, Any]:
        return {
            "entities": [{"type": t, "start": n, "end": n + 1, "text": "x", "score": 0.9} for n, t in enumerate(types)]
        }

    def labels(*names: str) -> dict[str, Any]:
        return {"labels": list(names), "probabilities": [0.9 for _ in names]}

    place = {"file": "f", "line": 1, "input": "x"}
    for form in (entities, labels):
        right, more, other = form("PER"), form("PER", "MISC"), form("MISC")
        lost = {**place, **other, "target": right, "base": more}
        same = {**place, **right, "target": right, "base": more}
        for agreement in (False, True):
            rows = [{k: v for k, v in row.items() if k != "target" or not agreement} for row in (lost, same)]
            found = answers.flips(answers.scored(rows, ["PER"]))
            assert found is not None
            assert (len(found.lost), found.won) == (1, 0)
            assert found.lost[0].row["base"] == right
        assert answers.scored([lost], None) == [lost]
    run = make_run(tmp_path / "x")
    write_lines(run / "predictions" / "general.jsonl", [lost, same])
    write_json(
        run / "resolved.json", json.loads((run / "resolved.json").read_text()) | {"data": {"general_labels": ["PER"]}}
    )
    assert "General rows, from the base to strength 0.5: 0 newly right, 1 newly wrong." in page_of(run)


def test_points_before_calibration_are_inside_the_reliability_plot() -> None:
    bins = [
        {
            "low": 0.2,
            "high": 0.5,
            "count": 9,
            "confidence": 0.3,
            "accuracy": 0.3,
            "confidence_before": 0.05,
            "accuracy_before": 0.3,
        },
        {
            "low": 0.5,
            "high": 0.9,
            "count": 9,
            "confidence": 0.7,
            "accuracy": 0.7,
            "confidence_before": 0.1,
            "accuracy_before": 0.7,
        },
    ]
    svg = figures.reliability(bins)
    left = float(re.search(r'<clipPath id="[^"]+">\s*<rect x="([\d.]+)"', svg)[1])
    marks = [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', svg)]
    assert len(marks) > 4
    assert min(marks) >= left


@pytest.mark.parametrize(("strength", "told"), [(0.5, "strength 0.5"), (0.0, "strength 0 (the base)")])
def test_whose_answers_are_shown_is_told(tmp_path: Path, strength: float, told: str) -> None:
    page = page_of(make_run(tmp_path / "x", **{**LATER, "chosen_strength": strength}))
    for about in (
        f"Test rows at {told}: given label down",
        f"Of the answers at {told}. Where the line runs",
        f"Test rows whose given label the model at {told} finds improbable",
        f"the model at {told} got wrong",
    ):
        assert about in " ".join(page.split()), about
    card = render_card(Records.read(tmp_path / "x"))
    assert ("At strength 0, the base, logits are divided" in card) == (strength == 0)


@pytest.mark.parametrize(
    ("task", "labels", "told"),
    [
        ("text-classification", {}, "answers"),
        ("text-classification", {"multi_label": True}, "yes-or-no decisions on each label of each row"),
        ("token-classification", {}, "tags of all words in and outside entities"),
    ],
)
def test_what_probabilities_are_of_is_told(tmp_path: Path, task: str, labels: dict[str, Any], told: str) -> None:
    run = make_run(tmp_path / "x", **LATER)
    write_json(run / "run.json", json.loads((run / "run.json").read_text()) | {"task": task})
    write_json(run / "tasks.json", {"domain": {"labels": ["negative", "positive"], **labels}})
    page = " ".join(page_of(run).split())
    assert f"Of the {told} at strength 0.5. Where the line runs" in page
    assert "A point stands for 7 to 30 of them." in page
    assert f"expected calibration error of the {told} 0.080 and 0.030" in render_card(Records.read(run))
    (line, _) = trust_lines({"primary": "accuracy", "chosen_strength": 0.5, **LATER}, of=told)
    assert line.startswith(f"Stated probabilities of {told} are off by 3.0 points on test (8.0 before")


def test_scores_of_answered_entities_are_told_beside_those_of_all_words(tmp_path: Path) -> None:
    found = {"count": 1200, "confidence": 0.95, "accuracy": 0.6, "ece": 0.35, "by_chance": 0.012}
    calibration = {**LATER["calibration"], "entities": found}
    run = make_run(tmp_path / "x", **{**LATER, "calibration": calibration})
    told = entities_told(found)
    assert "Entities answered on test (1,200) have a mean score of 0.95, and 0.60 of them are right" in told
    assert "calibration error 0.350, where a perfect model would show 0.012" in told
    assert told in page_of(run)
    assert told in render_card(Records.read(run))
    assert trust_lines({"primary": "f1", "chosen_strength": 0.5, "calibration": calibration})[1] == told


def test_the_reliability_plot_has_points_alone() -> None:
    """Bars of bins that hold equally many say nothing of where the answers are."""
    ends = [0.5, 0.9, 0.99, 1.0]
    bins = [
        {"low": low, "high": high, "count": 30, "confidence": high, "accuracy": high} for low, high in pairwise(ends)
    ]
    assert not re.search(
        r'<g id="reliability-patch_\d+">\s*<path [^>]*style="fill: var\(--line\)', figures.reliability(bins)
    )


def test_a_strength_that_was_set_since_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my run")
    write_report(run)
    assert "now predicts" not in (run / "report.html").read_text() + (run / "README.md").read_text()
    write_json(run / "strength.json", {"chosen": 0.25, "domains": {"hotels": 1.0}, "own": {"hotels": 0.5}})
    page, card = page_of(run), html.unescape(render_card(Records.read(run)))
    for text in (html.unescape(page), card):
        assert 'The verdict "deploy" was for strength 0.5, not for 0.25, at which the run now predicts:' in text
        assert "Rows of hotels are predicted at strength 0.5" in text
    assert f"`domaintune evaluate '{run}' DATA`" in html.unescape(page)
    assert "`domaintune evaluate 'my run' DATA`" in card
    assert str(tmp_path) not in card


def test_the_runs_of_several_seeds_say_so(tmp_path: Path) -> None:
    """Before the summary is there, and behind it; of the one that stands for all and of another."""
    whole = tmp_path / "whole"
    runs = [make_run(whole / "seeds" / str(number)) for number in range(2)]
    write_json(whole / "recipe.json", {"seeds": 2})
    write_json(whole / "run.json", {"finished": False})
    for number, run in enumerate(runs):
        for text in (page_of(run), render_card(Records.read(run))):
            assert f"This is seeds/{number}, one of 2 runs over seeds." in text
        assert f'load("whole/seeds/{number}")' in text, "the whole stands for none yet"
    verdict = {"kind": "keep the base", "sentence": "Keep the base: gain -0.010."}
    told = [{"folder": "seeds/0"}, {"folder": "seeds/1"}]
    write_json(whole / "seeds.json", {"used_seed": 1, "runs": told, "verdict": verdict})
    for run, which in zip(runs, ("not seeds/1, which has", "the one with"), strict=True):
        page, card = page_of(run), html.unescape(render_card(Records.read(run)))
        for text in (page, card):
            text = html.unescape(text)
            places = [
                text.index("Over 2 seeds: Keep the base: gain -0.010."),
                text.index(
                    f"What follows is seeds/{run.name} of 2, {which} the median dev score. Of it alone: Deploy at"
                ),
                text.index("base (0)"),
            ]
            assert places == sorted(places)
        assert "<title>whole: keep the base</title>" in page
        assert 'class="verdict bad"' in page
        assert "# whole\n" in card
        named = "whole/seeds/0" if run.name == "0" else "whole"
        assert f'load("{named}")' in card
        assert f"domaintune predict {named} -" in card
        write_json(run / "strength.json", {"chosen": 0.25})
        assert f"`domaintune evaluate {named} DATA`" in html.unescape(render_card(Records.read(run)))
    lone = make_run(tmp_path / "seeds" / "mine")
    assert Records.read(lone).name == "mine", "a folder that happens to have that name holds no runs over seeds"
    assert "runs over seeds" not in page_of(lone)


def test_where_the_bases_general_score_is_near_0_its_change_is_told(tmp_path: Path) -> None:
    """What is recorded as kept is 1 plus the change there; no reader is told that 96 % are kept of nearly nothing."""
    assert intervals.UNDEFINED_BELOW == wording.NEAR_ZERO
    lost = side("general (report part)", "retention (difference)", 0.04, 0.0)
    lost["change"] = {s: estimate(1 - 0.04 * float(s), 0.013) for s in ("0", "0.5", "1")}
    points = [
        {"strength": s, "domain": 0.5 + 0.4 * s, "general": 0.04 - 0.04 * s, "retention": 1 - 0.04 * s}
        for s in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    run = make_run(tmp_path / "runs" / "x", general=lost, frontier=points)
    write_json(run / "recipe.json", {"task": {"name": "text-classification"}, "method": {"name": "lora"}, "base": "b"})
    page, card = page_of(run), html.unescape(render_card(Records.read(run)))
    flat = " ".join(page.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "<span>general score, strength 0.5</span><b>-0.020</b>" in flat
    assert "<span>change of the general score [-0.033, -0.007]</span>" in flat
    assert '<th scope="row">change of the general score</th><td></td><td>-0.020 [-0.033, -0.007]</td>' in flat
    assert '<th scope="col">change</th>' in flat
    assert "<td>0.020</td><td>-0.020</td>" in flat
    assert "| change of the general score |  | -0.020 [-0.033, -0.007] |" in card
    scores = json.loads((run / "scores.json").read_text())
    told = wording.further({**scores, "alternative": {"strength": 0.75}}, run="x")
    assert told is not None
    assert "and change of the general score -0.030 instead of -0.020" in told
    facts = {"run": "x", "method": "lora", "seeds": 1, "compared_seeds": 1, "strengths": [0.5], "verdict": "deploy"}
    facts |= {"base_score": estimate(0.5), "score": estimate(0.7), "gain": estimate(0.2), "trainable_parameters": 1}
    facts |= {"retention": lost["change"]["0.5"], "retention_kind": lost["kind"], "training_seconds": 1.0}
    summary = {
        "primary": "accuracy", "used_seed": 0, "domain": over(scores["domain"]), "general": over(lost),
        "runs": [
            {"seed": 0, "dev": 0.7, "chosen_strength": 0.5, "score": 0.7, "retention": 0.98, "verdict": "deploy"},
        ],
    }  # fmt: skip
    evaluation = {**lost, "strength": 0.5, "domain_strengths": {}, "primary": "accuracy"}
    tables = [
        scores_table(scores), frontier_table(scores, 0.5), evaluation_table(evaluation), runs_table(list_runs(run.parent)),
        seeds_table(summary), comparison_table({"primary": "accuracy", "rows": 4, "data": "test", "runs": [facts]}),
    ]  # fmt: skip
    shown = []
    for table in tables:
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(table)
        shown.append(console.export_text())
        assert "-0.020" in shown[-1], shown[-1]
    for text in (flat, card, told, *shown):
        assert not re.search(r"9[6-9](\.\d)? ?%", text)
    assert all("score -0.020" in text for text in shown[3:])
    assert tracking.final_numbers(scores)["general/score_change"] == pytest.approx(-0.02)


def over(found: dict) -> dict:
    """The same side by the names that the summary over seeds has."""
    names = {"0": "base", "0.5": "chosen", "1": "tuned"}
    return found | {key: {names[s]: v for s, v in found[key].items()} for key in ("scores", "change")}


def of_losses(value: Any) -> Any:
    """The same records with losses for scores."""
    names = {"accuracy": "cross_entropy", "log_loss": "perplexity"}
    if isinstance(value, dict):
        return {names.get(key, key): of_losses(entry) for key, entry in value.items()}
    return value


def test_of_a_loss_page_card_and_plots_say_that_lower_is_better(tmp_path: Path) -> None:
    assert wording.LOSSES.keys() == {*intervals.LOSSES}
    sides = {"domain": side("test", "gain", 3.3, 3.0), "general": side("general", "retention (ratio)", 2.0, 2.1)}
    loss = {"primary": "cross_entropy", "higher_is_better": False, "domain_probe": None, "majority": None}
    loss |= {"robustness": LATER["robustness"]} | {name: of_losses(found) for name, found in sides.items()}
    page = " ".join(page_of(run := make_run(tmp_path / "x", **loss)).split())
    full = "cross entropy (nats per token, lower is better)"
    assert f"{full} on the domain, strength 0.5" in page
    assert page.count(f'<th scope="row">{full}</th>') == 2
    assert page.count('<th scope="row">perplexity (lower is better)</th>') == 2
    assert f"<caption>{full}</caption>" in page
    shown = [svg for svg in re.findall(r"<svg viewBox.*?</svg>", page) if "lower is better" in svg]
    assert len(shown) == page.count("<svg viewBox") == 5
    frontier = next(svg for svg in shown if "over the strengths" in svg)
    assert frontier.count(">(lower is better)<") == 2, "both axes"
    assert f"\n| {full} | 3.300 [3.250, 3.350] |" in html.unescape(render_card(Records.read(run)))
    assert "lower is better" not in page_of(make_run(tmp_path / "y")).replace("log loss (nats, lower is better)", "")
    scores = json.loads((run / "scores.json").read_text())
    evaluation = {**scores["domain"], "strength": 0.5, "domain_strengths": {}, "primary": "cross_entropy"}
    tables = [scores_table(scores), frontier_table(scores, 0.5), evaluation_table(evaluation)]
    for table in tables:
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(table)
        assert "cross_entropy (nats per token, lower is better)" in console.export_text()


def test_caveats_stand_with_the_scores(tmp_path: Path) -> None:
    plain = page_of(make_run(tmp_path / "a"))
    assert "Nothing was chosen on them." in plain
    assert "Caution" not in render_card(Records.read(tmp_path / "a"))
    caveat = "3 rows of test stand in train or dev too: the score there is too good."
    page = page_of(make_run(tmp_path / "b", caveats=[caveat], general=None))
    assert caveat in page
    assert "Nothing was chosen on them." not in page
    card = render_card(Records.read(tmp_path / "b"))
    assert f"**Caution:** {caveat}" in card
    assert "nothing was chosen on" not in card


def test_bounds_of_few_rows_are_told(tmp_path: Path) -> None:
    domain = side("test", "gain", 0.6, 0.7)
    domain["change"]["0.5"] = estimate(0.05, how="exact")
    page = " ".join(page_of(make_run(tmp_path / "x", domain=domain)).split())
    told = "Fewer than 5 domain rows, or groups of rows that belong together, tell base and strength 0.5 apart"
    assert f"{told}: the interval of the gain rests on exact bounds" in page
    assert "Fewer than 5 general rows" not in page


def test_thumbnails_show_what_the_model_sees(tmp_path: Path) -> None:
    """16-bit grey, colours under transparent pixels, and TIFF that says how it is turned."""
    Image.fromarray(np.tile(np.linspace(0, 65535, 80).astype(np.uint16), (40, 1))).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((40, 80, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    halves = np.zeros((40, 80, 3), dtype=np.uint8)
    halves[:, :40] = 255
    Image.fromarray(halves).save(tmp_path / "turned.tif", tiffinfo={0x0112: 6})
    for name in ("grey.png", "clear.png", "turned.tif"):
        made, seen = thumbnail(str(tmp_path / name)), open_picture(str(tmp_path / name))
        assert made is not None
        with Image.open(io.BytesIO(base64.b64decode(made.source.partition(",")[2]))) as shown:
            assert (made.width, made.height) == seen.size == shown.size
            assert np.abs(np.asarray(shown, dtype=int) - np.asarray(seen, dtype=int)).mean() < 3
    assert thumbnail(str(tmp_path / "gone.png")) is None
