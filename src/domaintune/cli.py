"""Arguments -> the same calls a Python user makes. No logic; starts without importing torch."""

from __future__ import annotations

import gc
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domaintune.errors import DomainTuneError
from domaintune.options import answering_from, recipe_from, strengths_from, with_recipe
from domaintune.screen import Screen, say

app = typer.Typer(
    help="Tune a pretrained model to your domain, see what was gained and what was lost, and choose where to stand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Option = typer.Option
FinishedRun = Annotated[Path, typer.Argument(help="A finished run.")]
Strengths = Annotated[
    list[str] | None,
    Option(
        "--strength",
        help="0 = the base, 1 = fully tuned; by default the run's choice. NAME=S for one domain; repeatable.",
    ),
]
Device = Annotated[
    str | None, Option(help="auto, cpu, cuda, cuda:1; by default the recipe's (auto: a GPU where there is one).")
]
Answering = Annotated[
    list[str] | None,
    Option("--set", help="task.max_new_tokens=500: other settings of how answers are made. Repeatable."),
]
AsJson = Annotated[bool, Option("--json", help="JSON on standard output.")]
Encoding = Annotated[str | None, Option(help="Of text files, such as latin-1; by default recognised.")]
INTERRUPTED = 130


@contextmanager
def importing() -> Iterator[None]:
    """Without looking for garbage, which takes a third of the time; nor is what was imported looked at again later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("domaintune"))
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Say which, and stop.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command("tune")
@with_recipe
def tune_command(
    given: dict[str, Any],
    overwrite: Annotated[
        bool, Option("--overwrite", help="Remove a run in the output folder, unless this command resumes it.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would happen, and stop.")] = False,
) -> None:
    """Train a base on your domain. The same command resumes an unfinished run."""
    made = recipe_from(given)
    console = Screen()
    if dry_run:
        with importing():
            from domaintune.preview import plan
        console.print(_plan_table(plan(made, overwrite=overwrite)))
        return
    with importing():
        from domaintune.pipeline import tune
        from domaintune.terminal import ProgressBar
    with ProgressBar(Screen(stderr=True)) as bar:
        tune(made, overwrite=overwrite, report=bar, say=bar.say)
    show(console, Path(made.output), notes=False)


@app.command("check")
@with_recipe
def check_command(
    given: dict[str, Any],
    as_json: AsJson = False,
    show_tokens: Annotated[
        int, Option("--show-tokens", help="Print so many train rows as the model sees them, supervised tokens marked.")
    ] = 0,
) -> None:
    """Look for what would make training dishonest or impossible. Exit code 1 where something is. Tokens are those of --base, of texts and
    entities by default minilm's."""
    with importing():
        from domaintune.checks.table import findings_table, plain
        from domaintune.preview import check
    made = check(recipe_from(given, base="minilm", output="runs/unused"), show_tokens=show_tokens)
    if as_json:
        facts = {"rows": made.rows, "labels": made.labels, "notes": made.notes, "findings": plain(made.findings)}
        facts |= {"shown": made.shown} if made.shown else {}
        print_json(facts)
    else:
        console = Screen()
        say(console, *(f"{name}: {count:,} rows" for name, count in made.rows.items()), *made.notes, *made.shown)
        console.print(findings_table(made.findings))
    if any(finding.severity == "error" for finding in made.findings):
        raise typer.Exit(1)


@app.command("predict")
def predict_command(
    run: FinishedRun,
    data: Annotated[str, typer.Argument(help="A file as in training (targets not needed), or - for one input a line.")],
    strength: Strengths = None,
    output: Annotated[
        Path | None, Option(help="A .jsonl, .csv or .tsv file; by default JSON lines on standard output.")
    ] = None,
    settings: Answering = None,
    encoding: Encoding = None,
    device: Device = None,
) -> None:
    """Predict with a run, rows of any number: your columns and the model's answer."""
    with importing():
        from domaintune.finished.predictions import checked_output, line_total, predict_file
        from domaintune.predict import load
        from domaintune.terminal import row_progress
    checked_output(output, data)
    errors = Screen(stderr=True)
    loaded = load(run, device=device).answering(answering_from(settings))
    shown = output is not None and errors.is_terminal
    with row_progress(errors, total=line_total(data) if shown else None, shown=shown) as told:
        notes = predict_file(
            loaded, data, output=output, strength=strengths_from(strength), encoding=encoding, told=told
        )
    say(errors, *(f"note: {note}" for note in notes), soft_wrap=True)


@app.command("evaluate")
def evaluate_command(
    run: FinishedRun,
    data: Annotated[str, typer.Argument(help="Labelled rows, a file as in training.")],
    strength: Strengths = None,
    general: Annotated[
        bool, Option("--general", help="The rows are of what the base could do before: measure what was kept.")
    ] = False,
    settings: Answering = None,
    encoding: Encoding = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score a run on labelled rows, beside its base, with intervals and the paired gain."""
    with importing():
        from domaintune.finished.evaluate import evaluate
        from domaintune.predict import load
        from domaintune.terminal import evaluation_table
    at, loaded = strengths_from(strength), load(run, device=device).answering(answering_from(settings))
    made = evaluate(loaded, data, strength=at, general=general, encoding=encoding).plain()
    if as_json:
        print_json(made)
        return
    console = Screen()
    say(console, *(f"note: {note}" for note in made["notes"]))
    console.print(evaluation_table(made))


@app.command("compare")
def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Two or more finished runs of one task.")],
    data: Annotated[
        str | None, Option(help="Labelled rows to score all on; by default their test part, which has to be the same.")
    ] = None,
    encoding: Encoding = None,
    as_json: AsJson = False,
) -> None:
    """Runs side by side, with paired tests between them."""
    from domaintune.finished.compare import compare
    from domaintune.terminal import comparison_notes, comparison_table, pairs_table

    made = compare(runs, data=data, encoding=encoding)
    if as_json:
        print_json(made)
        return
    console = Screen()
    say(console, *(f"note: {note}" for note in comparison_notes(made)))
    console.print(comparison_table(made))
    console.print(pairs_table(made))


@app.command("list")
def list_command(
    folder: Annotated[Path, typer.Argument(help="Where your runs lie.")] = Path("runs"), as_json: AsJson = False
) -> None:
    """The runs below a folder, finished or not."""
    from domaintune.finished.listing import list_runs
    from domaintune.terminal import runs_table

    made = list_runs(folder)
    if as_json:
        print_json(made)
    else:
        Screen().print(runs_table(made))


@app.command("balance")
def balance_command(
    run: FinishedRun,
    strength: Strengths = None,
    set_strength: Annotated[bool, Option("--set-strength", help="Make --strength what the run predicts with.")] = False,
) -> None:
    """Show what a run gains and keeps at every strength, and choose another one."""
    from domaintune.finished import strength as dial
    from domaintune.run import RunFolder
    from domaintune.terminal import frontier_table

    folder, console = RunFolder.existing(run), Screen()
    told = dial.told(run, strengths_from(strength), keep=set_strength)
    console.print(frontier_table(folder.read("scores.json"), folder.read("strength.json")["chosen"]))
    say(console, *told)


@app.command("show")
def show_command(run: FinishedRun) -> None:
    """Print a finished run's scores and verdict again."""
    show(Screen(), run)


@app.command("report")
def report_command(run: FinishedRun) -> None:
    """Write a finished run's page (report.html) and model card (README.md) again, from its records."""
    from domaintune.report.write import write_report

    sys.stdout.write(f"{write_report(run)}\n")


@app.command("demo")
def demo_command(
    output: Annotated[Path, Option(help="Folder for the demonstration's runs.")] = Path("runs/demo"),
) -> None:
    """Tune a small sentence encoder from everyday opinions to hotel feedback with all three methods, and compare."""
    with importing():
        from domaintune.demo import demo
    demo(output, Screen())


def print_json(values: Any) -> None:
    from domaintune.memory import jsonable

    sys.stdout.write(json.dumps(jsonable(values), ensure_ascii=False) + "\n")


def _plan_table(plan: Any) -> Table:
    table = Table(title="What would happen", show_header=False)
    for name, count in plan.rows.items():
        table.add_row(f"rows: {name}", f"{count:,}")
    table.add_row("labels", Text(_named(plan.labels)))
    table.add_row("trained parameters", f"{plan.trainable:,} of {plan.parameters:,}")
    table.add_row("time to train", f"about {plan.minutes:.1f} minutes here, scoring apart")
    table.add_row("peak memory", f"about {plan.memory / 2**20:,.0f} MiB")
    for note in [*plan.notes, *plan.findings]:
        table.add_row("note", Text(note))
    return table


def _named(labels: Sequence[str], most: int = 40) -> str:
    """The labels in words; of very many the first."""
    return (", ".join(labels[:most]) or "none") + (f", ... ({len(labels):,} labels)" if len(labels) > most else "")


def show(console: Console, path: Path, *, notes: bool = True) -> None:
    """The result table of a run; `notes`: what was done with its data and found in it, too."""
    from domaintune.finished.strength import moved
    from domaintune.report.wording import decisions, further, silence_told
    from domaintune.run import PAGE, SEEDS_SUMMARY, RunFolder, findings_of, read_json
    from domaintune.terminal import beside, growth_lines, scores_table, seeds_table, trust_lines

    folder = RunFolder.existing(path)
    if (path / SEEDS_SUMMARY).is_file():
        summary = read_json(path / SEEDS_SUMMARY)
        console.print(seeds_table(summary))
        used = summary["runs"][summary["used_seed"]]["folder"]
        say(console, f"Over seeds: {summary['verdict']['sentence']}", f"What follows is {used}.")
    scores = folder.read("scores.json")
    if notes:
        found = [*scores["notes"], *(finding["message"] for finding in findings_of(scores))]
        say(console, *(f"note: {note}" for note in found))
    console.print(scores_table(scores))
    more = further(scores, run=str(path))
    of = decisions(folder.read("run.json")["task"], folder.read("tasks.json")["domain"])
    lines = [
        *growth_lines(scores),
        beside(scores),
        *trust_lines(scores, of=of),
        *silence_told(scores),
        scores["verdict"]["sentence"],
    ]
    if more is not None:
        lines.append(f"{more} `domaintune balance {shlex.quote(str(path))}` sets the dial.")
    say(console, *lines, *moved(path))
    told = [f"The run is in {path}. Use it: domaintune predict {shlex.quote(str(path))} FILE"]
    if (page := folder.path / PAGE).is_file():
        told.append(f"All of it on one page: {page}")
    say(console, *told, soft_wrap=True)


def _refuse(what: str) -> None:
    say(Screen(stderr=True), f"error: {what}", soft_wrap=True)
    sys.exit(2)


def main() -> None:
    """The command's entry: errors of the user's making print one line and exit with 2; Ctrl-C exits with 130."""
    # Threads that spin while they wait make a shared machine several times slower; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (DomainTuneError, OSError) as error:  # OSError: a full disk, no permission
        _refuse(str(error))
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # a full disk again; its library is not imported for --help
            raise
        _refuse(f"weights cannot be written or read ({error}).")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # Typer's answer to Ctrl-C
            resumes = "; the same command resumes" if sys.argv[1:2] in (["tune"], ["demo"]) else ""
            say(Screen(stderr=True), f"stopped{resumes}.")
        raise
