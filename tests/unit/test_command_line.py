"""The command line: help that is quick and readable, and for every command bad input as one line and exit code 2."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors import SafetensorError
from small_runs import recipe, save_base, table

from domaintune import cli, tune
from domaintune.cli import main
from domaintune.options import recipe_from

COMMANDS = ("tune", "check", "predict", "evaluate", "compare", "list", "balance", "show", "report", "demo")


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command in this process."""
    before, sys.argv = sys.argv, ["domaintune", *arguments]
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        sys.argv = before
    told = capsys.readouterr()
    return int(stop.value.code or 0), told.out, told.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("commands")
    save_base(made)
    tune(recipe(made))
    tune(recipe(made, method="freeze", output=str(made / "runs" / "y")))
    (made / "bad.csv").write_text("text,label\nfine,positive\n,negative\n")
    table(made / "bare.csv", 4, column="")
    (made / "torn").mkdir()
    (made / "torn" / "run.json").write_text("{")
    return made


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_readable(capsys: pytest.CaptureFixture[str], command: str | None) -> None:
    code, out, _ = called(capsys, *([command] if command else []), "--help")
    assert code == 0
    assert "Usage: " in out
    assert all(len(line) <= 80 for line in out.splitlines())
    if command is None:
        assert all(f"  {name} " in out for name in COMMANDS)
    else:
        # every option and argument says what it is
        section = out.partition("Options:")[2]
        options = [line for line in section.splitlines() if line.startswith("  --")]
        assert options
        assert all(len(line.split(maxsplit=2)) == 3 or "\n" in section for line in options)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "--version")[:2] == (0, f"{version('domaintune')}\n")


def test_the_front_page_imports_little() -> None:
    code = (
        "import sys\nfrom domaintune import cli\nsys.argv = ['domaintune', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted({'torch', 'transformers', 'pydantic', 'numpy', 'scipy', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == ""


BAD = [
    ("tune", "--task", "text-classification", "--base", "base", "--train", "none.csv", "--output", "runs/z"),
    ("tune", "--task", "text-classification", "--base", "base", "--train", "bad.csv", "--output", "runs/z"),
    ("tune", "--task", "text-classification", "--base", "base", "--train", "train.csv"),
    ("tune", "--seeds", "0", "--task", "generation", "--base", "base", "--train", "train.csv", "--output", "runs/z"),
    ("tune", "--track", "paper", "--task", "generation", "--base", "b", "--train", "train.csv", "--output", "runs/z"),
    ("tune", "none.yaml"),
    ("tune", "--set", "training.epoch=3"),
    ("tune", "--seed", "many"),
    ("check", "--task", "text-classification", "--base", "base", "--train", "none.csv"),
    ("predict", "runs/none", "test.csv"),
    ("predict", "torn", "test.csv"),
    ("predict", "runs/x", "none.csv"),
    ("predict", "runs/x", "test.csv", "--strength", "7"),
    ("predict", "runs/x", "test.csv", "--output", "out.xml"),
    ("evaluate", "runs/none", "test.csv"),
    ("evaluate", "runs/x", "none.csv"),
    ("evaluate", "runs/x", "bare.csv"),
    ("evaluate", "runs/x", "bad.csv", "--general"),
    ("evaluate", "runs/x", "test.csv", "--strength", "nan"),
    ("compare", "runs/x"),
    ("compare", "runs/x", "runs/x"),
    ("compare", "runs/x", "runs/none"),
    ("compare", "runs/x", "runs/y", "--data", "bare.csv"),
    ("list", "nowhere"),
    ("list", "base"),
    ("balance", "runs/none"),
    ("balance", "runs/x", "--set-strength"),
    ("balance", "runs/x", "--strength", "2"),
    ("balance", "runs/x", "--strength", "2", "--set-strength"),
    ("show", "runs/none"),
    ("show", "base"),
    ("demo", "--output", "bad.csv"),
    ("nonsense",),
    ("predict", "runs/x", "test.csv", "--nonsense"),
]


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    code, out, told = called(capsys, *arguments)
    assert code == 2, told
    assert "Traceback" not in told
    assert "rror" in told
    assert out == "" or arguments[0] == "demo"  # which says what it begins
    if "bad.csv" in arguments and arguments[0] != "demo":
        assert "bad.csv:3" in told


def test_commands_print_tables_or_json(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for arguments in (
        ("evaluate", "runs/x", "test.csv"),
        ("compare", "runs/x", "runs/y"),
        ("list",),
    ):
        code, out, _ = called(capsys, *arguments, "--json")
        assert code == 0
        assert json.loads(out)
        code, out, _ = called(capsys, *arguments)
        assert code == 0
        assert all(len(line) <= 80 for line in out.splitlines())
    code, out, _ = called(capsys, "balance", "runs/x", "--strength", "0.25", "--set-strength")
    assert code == 0
    assert "now predicts at strength 0.25" in out
    code, out, _ = called(capsys, "predict", "runs/x", "bare.csv", "--output", "made.csv")
    assert (code, out) == (0, "")
    assert (folder / "made.csv").read_text().startswith("text,label,probability\n")
    code, out, _ = called(capsys, "show", "runs/x")
    assert code == 0
    assert "0.25" in out


def test_a_command_that_was_mended_is_taken_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was trained when the first one stopped, so there is nothing to be careful with."""
    data = folder / "reviews.csv"
    data.write_text((folder / "train.csv").read_text().replace("text,label", "review,label"))
    given = ["tune", "--task", "text-classification", "--base", str(folder / "base"), "--train", str(data)]
    given += ["--output", str(folder / "runs/mended"), "--set", "training.epochs=1", "--set", "data.fold_below=8"]
    code, _, told = called(capsys, *given)
    assert code == 2
    assert "Did you mean --text-column review?" in told
    code, _, told = called(capsys, *given, "--text-column", "review", "--encoding", "nonsense")
    assert code == 2
    assert "no known encoding" in told
    code, _, told = called(capsys, *given, "--text-column", "review")
    assert code == 0, told
    code, _, told = called(capsys, *given, "--text-column", "text")
    assert code == 2
    assert "holds a finished run" in told


@pytest.mark.parametrize(
    ("header", "remedy"),
    [
        ("x,z", "Say which: --text-column NAME --label-column NAME."),
        ("review,z", "Did you mean --text-column review --label-column NAME?"),
    ],
)
def test_both_columns_that_are_lacking_are_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], header: str, remedy: str
) -> None:
    (folder / "odd.csv").write_text(f"{header}\ngood,a\nbad,b\n")
    code, _, told = called(capsys, "check", "--task", "text-classification", "--train", str(folder / "odd.csv"))
    assert (code, remedy in told) == (2, True), told


def test_a_column_that_other_files_have_is_to_be_renamed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option for one file would be wrong for the others."""
    (folder / "general.csv").write_text((folder / "test.csv").read_text().replace("text,label", "review,label"))
    given = ["check", "--task", "text-classification", "--base", str(folder / "base")]
    given += ["--train", str(folder / "train.csv"), "--general", str(folder / "general.csv")]
    renamed = "Rename review in this file: one name holds for all files, and others have it."
    code, _, told = called(capsys, *given)
    assert (code, renamed in told, "Did you mean" in told) == (2, True, False)
    (folder / "odd.csv").write_text((folder / "test.csv").read_text().replace("text,label", "zzz,label"))
    code, _, told = called(capsys, *given[:-1], str(folder / "odd.csv"))
    assert "Rename the column in this file: one name" in told
    code, _, told = called(capsys, *given, "--text-column", "review")
    assert (code, "Did you mean --text-column text?" in told) == (2, True)  # of the file that is read first


def test_a_run_of_several_seeds_is_shown_by_its_own_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "runs" / "my [bold] seeds"
    tune(recipe(folder, output=str(run), seeds=2, training={"epochs": 1}, general=None))
    code, out, _ = called(capsys, "show", str(run))
    assert code == 0
    assert "over 2 seeds" in out
    assert f"domaintune predict '{run}' FILE" in out
    code, out, _ = called(capsys, "report", str(run))
    assert Path(out.strip()).is_file()
    assert f"domaintune predict '{run.name}' -" in (Path(out.strip()).parent / "README.md").read_text()
    code, out, _ = called(capsys, "list", str(folder / "runs"))
    assert "[bold]" in "".join(out.split())


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(cli, "app", fails)
    code, _, told = called(capsys, "tune")
    assert code == 2
    assert told == "error: weights cannot be written or read (I/O error: No space left on device).\n"


def test_settings_of_a_method_are_those_of_the_inherited_one(folder: Path) -> None:
    made = {"recipe": None, "add": ["new.csv"], "base": str(folder / "runs/y"), "output": "z"}
    assert recipe_from({**made, "settings": ["method.train=[top:1]"]}).method.name == "freeze"
    other = recipe_from({**made, "method": "lora", "settings": ["method.rank=4"]}).method
    assert (other.name, other.rank) == ("lora", 4)  # type: ignore[union-attr]


def test_help_is_quick() -> None:
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "domaintune", "--help"], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.3  # of the processor: a busy machine says nothing of the program
