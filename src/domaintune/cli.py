"""Arguments -> the same calls a Python user makes. No logic; starts without importing torch."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

from domaintune.errors import DataError, DomainTuneError
from domaintune.options import recipe_from, with_recipe

app = typer.Typer(
    help="Tune a pretrained model to your domain, see what was gained and what was lost, and choose where to stand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Option = typer.Option
INTERRUPTED = 130


@app.command("tune")
@with_recipe
def tune_command(
    given: dict[str, Any],
    overwrite: Annotated[bool, Option("--overwrite", help="Remove a run that stands in the output folder.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would happen, and stop.")] = False,
) -> None:
    """Train a base on your domain. The same command resumes an unfinished run."""
    made = recipe_from(given)
    console = Console()
    if dry_run:
        from domaintune.pipeline import plan

        console.print(_plan_table(plan(made)))
        return
    from domaintune.pipeline import tune
    from domaintune.terminal import ProgressBar

    with ProgressBar(Console(stderr=True)) as bar:
        run = tune(made, overwrite=overwrite, report=bar)
    show(console, run.path)


@app.command("check")
@with_recipe
def check_command(
    given: dict[str, Any],
    as_json: Annotated[bool, Option("--json", help="One JSON object on standard output.")] = False,
    show_tokens: Annotated[
        int, Option("--show-tokens", help="Print so many train rows as the model sees them, supervised tokens marked.")
    ] = 0,
) -> None:
    """Look for what would make training dishonest or impossible. Exit code 1 where something is."""
    from domaintune.checks.table import findings_table, plain
    from domaintune.pipeline import check

    made = check(recipe_from(given, base="minilm", output="runs/unused"), show_tokens=show_tokens)
    if as_json:
        facts = {"rows": made.rows, "labels": made.labels, "notes": made.notes, "findings": plain(made.findings)}
        sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
    else:
        console = Console()
        for name, count in made.rows.items():
            console.print(f"{name}: {count:,} rows", highlight=False, markup=False)
        for line in [*made.notes, *made.shown]:
            console.print(line, highlight=False, markup=False)
        console.print(findings_table(made.findings))
    if any(finding.severity == "error" for finding in made.findings):
        raise typer.Exit(1)


@app.command("predict")
def predict_command(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    data: Annotated[str, typer.Argument(help="A file as in training (targets not needed), or - for one input a line.")],
    strength: Annotated[
        float | None, Option(help="0 = the base, 1 = fully tuned; by default the run's choice.")
    ] = None,
    output: Annotated[Path | None, Option(help="JSON lines; by default standard output.")] = None,
) -> None:
    """Predict with a run; JSON lines with your columns and the model's answer."""
    from domaintune.data.columns import wanted_of
    from domaintune.data.formats import read_part
    from domaintune.predict import load
    from domaintune.run import write_lines

    loaded = load(run)
    if data == "-":
        lines = _lines_of(sys.stdin)
        rows: list[dict[str, Any]] = [dict(loaded.task.from_bare(line)) for line in lines]
        made = loaded.predict(lines, strength=strength)
    else:
        read = read_part(data, wanted_of(loaded.recipe), part="test").rows
        rows = [dict(row.values) for row in read]
        made = loaded.predict_rows(read, strength=strength)
    joined = [
        {**row, **{f"predicted_{key}" if key in row else key: value for key, value in answer.items()}}
        for row, answer in zip(rows, made, strict=True)
    ]
    if output is not None:
        write_lines(output, joined)
    else:
        for row in joined:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


def _lines_of(stream: TextIO) -> list[str]:
    try:
        return [line.rstrip("\r\n") for line in stream if line.strip()]
    except UnicodeDecodeError:
        raise DataError("is not UTF-8.", where="standard input", remedy="Convert it to UTF-8.") from None


@app.command("show")
def show_command(run: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Print a finished run's scores and verdict again."""
    from domaintune.run import RunFolder

    show(Console(), RunFolder.existing(run).path)


@app.command("report")
def report_command(run: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Write a finished run's page (report.html) and model card (README.md) again, from its records."""
    from domaintune.report.write import write_report

    sys.stdout.write(f"{write_report(run)}\n")


@app.command("demo")
def demo_command(
    output: Annotated[Path, Option(help="Folder for the demonstration's runs.")] = Path("runs/demo"),
) -> None:
    """Tune a small sentence encoder from everyday opinions to hotel feedback with all three methods, and compare."""
    from domaintune.demo import demo

    demo(output, Console())


def _plan_table(plan: Any) -> Table:
    table = Table(title="What would happen", show_header=False)
    for name, count in plan.rows.items():
        table.add_row(f"rows: {name}", f"{count:,}")
    table.add_row("labels", ", ".join(plan.labels) or "none")
    table.add_row("trained parameters", f"{plan.trainable:,} of {plan.parameters:,}")
    for name, count in plan.cut.items():
        table.add_row(f"longer than the limit: {name}", f"{count:,} rows, {plan.long_inputs}")
    for note in [*plan.notes, *plan.findings]:
        table.add_row("note", note)
    return table


def show(console: Console, path: Path) -> None:
    """The result table of a run."""
    from domaintune.run import RunFolder, findings_of
    from domaintune.terminal import beside, scores_table

    folder = RunFolder.existing(path)
    scores = folder.read("scores.json")
    for note in [*scores["notes"], *(found["message"] for found in findings_of(scores))]:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(scores_table(scores))
    console.print(beside(scores), highlight=False, markup=False)
    console.print(scores["verdict"]["sentence"], highlight=False, markup=False)
    console.print(f"The run is in {path}. Use it: domaintune predict {path} FILE", highlight=False, markup=False)
    if (page := path / "report.html").is_file():
        console.print(f"All of it on one page: {page}", highlight=False, markup=False)


def main() -> None:
    """The command's entry: errors of the user's making print one line and exit with 2; Ctrl-C exits with 130."""
    # Threads that spin while they wait make a shared machine several times slower; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except DomainTuneError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:  # a full disk, no permission
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # Typer's answer to Ctrl-C
            Console(stderr=True).print("stopped; the same command resumes.", highlight=False)
        raise
