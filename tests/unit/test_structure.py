"""The shape of the source: imports point one way, files and functions stay small, light modules stay light, no leftovers."""

from __future__ import annotations

import ast
import functools
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from domaintune.settings import MethodSettings, TaskSettings

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "domaintune"

ORDER = (
    "cli > options > demo | preview > pipeline | terminal | screen > report | serve | export | finished | seeds | tracking > search | labels > trust > confirm > fit > heads > resolve | parts > partition > checks | growth > inputs > predict | own_head > stored > "
    "balance > engine | evaluation > "
    "methods | tasks > bases > data > run > recipe > settings | inheritance > memory | provenance | validation > errors | counting"
)
ENTRIES = {"__init__", "__main__"}
"""Modules above the whole order: they may import anything, nothing may import them."""
RANK = {name: -level for level, names in enumerate(ORDER.split(" > ")) for name in names.split(" | ")}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

HEAVY = {
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "sklearn",
    "scipy",
    "pycocotools",
    "sacrebleu",
    "matplotlib",
    "jinja2",
}

TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".csv", ".jsonl", ".cfg"}
# Written so that no pattern matches its own source.
LEFTOVERS = {
    "machine path": re.compile(r"(?<![\w.~])/(?:work|root|home|Users)/\w|\b[A-Z]:\\\\?Users"),
    "leftover": re.compile(r"\b(?:T[O]DO|F[I]XME|X[X]X|H[A]CK)\b"),
    "breakpoint": re.compile(r"\bbreak[p]oint\(\)|\bpd[b]\.set_trace"),
}


class Import(NamedTuple):
    """An import of one module of the package by another, both as dotted names below the package."""

    importer: str
    imported: str
    line: int


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    """ "tasks/base.py" -> "tasks.base"; a folder's `__init__` has the folder's name, the package's own stays `__init__`."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> frozenset[str]:
    return frozenset(module_name(path) for path in sources())


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def targets(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Absolute dotted names that a statement imports, wherever it stands; `package` is the importer's own package.

    Text such as "domaintune.tasks.base" counts too: it is how `importlib` is called.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
        stem = ".".join(part for part in (start, node.module) if part)
        yield from (f"{stem}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        found = re.fullmatch(r"(domaintune(?:\.\w+)+)(?::\w+)?", node.value)
        if found:
            yield found[1]


def below_package(target: str) -> str | None:
    """The longest module of the package that `target` ("domaintune.tasks.base.Task") lies in; None outside the package."""
    parts = target.split(".")
    if parts[0] != "domaintune":
        return None
    for end in range(len(parts), 1, -1):
        if (name := ".".join(parts[1:end])) in modules():
            return name
    return "__init__"


def imports_of(path: Path) -> Iterator[Import]:
    importer = module_name(path)
    package = ("domaintune", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(tree(path)):
        for target in targets(node, package):
            imported = below_package(target)
            if imported is not None and imported != importer:
                yield Import(importer, imported, getattr(node, "lineno", 0))


@functools.cache
def imports() -> tuple[Import, ...]:
    return tuple(found for path in sources() for found in imports_of(path))


def allowed(importer: str, imported: str) -> bool:
    upper, lower = importer.split(".")[0], imported.split(".")[0]
    if lower in ENTRIES:
        return False
    return upper in ENTRIES or upper == lower or RANK[upper] > RANK[lower]


def strings(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno


def setting_names(union: object) -> set[str]:
    return {member.model_fields["name"].default for member in get_args(get_args(union)[0])}


def text_files() -> Iterator[Path]:
    folders = ("src", "tests", "docs", "examples", "benchmarks", "pretraining", ".ci")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    for path in sorted(found):
        # Files without a suffix are the Makefile, LICENSE and scripts such as .ci/run.
        if path.is_file() and (path.suffix in TEXT_SUFFIXES or not path.suffix) and "egg-info" not in str(path.parent):
            yield path


def test_every_module_has_a_place_in_the_order() -> None:
    first = {name.split(".")[0] for name in modules()}
    assert first - set(RANK) - ENTRIES == set(), "add them to the order here and in docs/design.md"


def test_the_order_is_the_designs() -> None:
    assert ORDER in " ".join((ROOT / "docs" / "design.md").read_text(encoding="utf-8").split())


def test_imports_point_one_way() -> None:
    assert len(imports()) > 10, "the walk found next to nothing"
    wrong = [f"{i.importer}:{i.line} imports {i.imported}" for i in imports() if not allowed(i.importer, i.imported)]
    assert wrong == []


def test_imports_inside_a_folder_make_no_cycle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for found in imports():
        graph[found.importer].add(found.imported)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the cycle


def test_the_engine_knows_only_the_protocols() -> None:
    protocols = {"tasks.base", "methods.base"}
    below = [
        i for i in imports() if i.importer.startswith("engine") and i.imported.split(".")[0] in ("tasks", "methods")
    ]
    assert [f"{i.importer}:{i.line} imports {i.imported}" for i in below if i.imported not in protocols] == []


def test_the_report_sees_only_records() -> None:
    below = [i for i in imports() if i.importer.split(".")[0] == "report" and not i.imported.startswith("report")]
    assert {i.imported for i in below} <= {
        "run",
        "errors",
        "data.pictures",
    }  # pictures that records name, opened the one way


@pytest.mark.parametrize(("folder", "foreign"), [("methods", TaskSettings), ("tasks", MethodSettings)])
def test_methods_name_no_task_and_tasks_no_method(folder: str, foreign: object) -> None:
    names = setting_names(foreign)
    assert len(names) >= 4
    named = [
        f"{path.name}:{line} '{text}'"
        for path in (SOURCE / folder).rglob("*.py")
        for text, line in strings(path)
        if text in names
    ]
    assert named == []


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_are_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES
    long = [
        f"{node.name} (line {node.lineno}): {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("module", ["cli", "recipe", "run", "errors"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, domaintune.{module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_no_leftovers(kind: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if LEFTOVERS[kind].search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("tasks.classification", "bases.base", True),
        ("bases.base", "tasks.base", False),
        ("tasks.base", "methods.lora", False),
        ("methods.lora", "tasks.base", False),
        ("engine.train", "evaluation.score", False),
        ("engine.train", "tasks.base", True),
        ("fit", "predict", True),
        ("predict", "fit", False),
        ("report.page", "serve.app", False),
        ("data.rows", "errors", True),
        ("run", "data.rows", False),
        ("__init__", "pipeline", True),
        ("pipeline", "__init__", False),
        ("bases.load", "bases.base", True),
    ],
)
def test_the_rule_itself(importer: str, imported: str, expected: bool) -> None:
    assert allowed(importer, imported) is expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("from domaintune.bases.base import Base", ["domaintune.bases.base.Base"]),
        ("def f():\n    from domaintune import fit", ["domaintune.fit"]),
        ("if TYPE_CHECKING:\n    import domaintune.cli", ["domaintune.cli"]),
        ("from . import base", ["domaintune.tasks.base"]),
        ("from ..methods.lora import LoRA", ["domaintune.methods.lora.LoRA"]),
        ("import_module('domaintune.engine.train')", ["domaintune.engine.train"]),
        ("table = {'x': 'domaintune.engine.train:train'}", ["domaintune.engine.train"]),
    ],
)
def test_the_walk_sees_every_form_of_import(statement: str, expected: list[str]) -> None:
    found = [name for node in ast.walk(ast.parse(statement)) for name in targets(node, ("domaintune", "tasks"))]
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("machine path", "open('" + "/".join(("", "home", "me", "data.csv")) + "')"),
        ("leftover", "# TO" + "DO: later"),
        ("breakpoint", "break" + "point()"),
    ],
)
def test_leftovers_are_seen(kind: str, line: str) -> None:
    assert LEFTOVERS[kind].search(line)
