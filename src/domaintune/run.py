"""The run folder: its layout, atomic writes, the rules of resuming and refusing, reading back. Imports no torch.

The layout is documented in docs/run-folder.md. A folder is a finished run exactly when `run.json` says so; that file is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from domaintune.errors import DomainTuneError, RunError
from domaintune.memory import FOLDER as ROWS
from domaintune.memory import jsonable
from domaintune.recipe import Recipe, changed

FORMAT = 1
PAGE = "report.html"
SEEDS, SEEDS_SUMMARY = "seeds", "seeds.json"
"""Where a run over several seeds keeps one run for each, and what they have in common."""
Fate = Literal["begin", "take up", "remove"]


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour that at the end of the block is flushed to disk, then renamed over the target; removed where the block fails.
    Who may read it is up to the umask, also of files of tensors, which safetensors makes its user's own."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a file whole or not at all: `fill` writes the path that it is given."""
    with _replacing(path) as temporary:
        fill(temporary)


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """What is written in the block becomes the file at its end, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with writing(path) as stream:
        stream.write(text)


def write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(jsonable(values), ensure_ascii=False, indent=2) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    write_text(path, "".join(json.dumps(jsonable(row), ensure_ascii=False) + "\n" for row in rows))


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all: `fill` writes into a temporary neighbour, flushed to disk, which is then renamed; removed where
    that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        fill(temporary)
        for entry in (*temporary.rglob("*"), temporary):
            sync(entry)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path) -> Any:
    """
    Raises:
        RunError: the file is missing or is not JSON.
    """
    return _read(path, json.loads, "JSON")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines.

    Raises:
        RunError: the file is missing, or a line is not JSON.
    """
    made: list[dict[str, Any]] = _read(
        path, lambda text: [json.loads(line) for line in text.split("\n") if line], "JSON lines"
    )
    return made


def _read(path: Path, parse: Callable[[str], Any], kind: str) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError:
        raise RunError("is missing.", where=str(path), remedy="The folder is no finished run of domaintune.") from None
    except ValueError:
        raise RunError(
            f"is not valid {kind}.", where=str(path), remedy="Restore the file, or make the run again."
        ) from None


def findings_of(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The data check's findings in a run's scores; older runs hold their messages alone."""
    return [{"message": found} if isinstance(found, str) else dict(found) for found in scores.get("findings", [])]


def _bases(base: str) -> Iterator[str]:
    """The base, and where it is a run the base that it was made from, and so on: folders and names."""
    while base:
        yield base
        if not is_run(Path(base)) or not RunFolder(Path(base)).finished:
            return
        held = RunFolder.existing(base).read("provenance.json").get("base", {})
        base = held.get("run") or held.get("folder") or ""


def is_run(folder: Path) -> bool:
    """Whether the folder is a run, finished or not."""
    return (folder / "run.json").is_file()


@dataclass(frozen=True)
class RunFolder:
    """One output folder while its run is being made, or a finished one."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Where training keeps what it needs to go on; gone when the run is finished."""
        return self.path / "checkpoint"

    @property
    def finished(self) -> bool:
        return is_run(self.path) and bool(read_json(self.path / "run.json").get("finished"))

    def read(self, name: str) -> Any:
        return read_json(self.path / name)

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """A finished run; of a run over several seeds the one of them that stands for it.

        Raises:
            RunError: no run there, one of a newer format, or an unfinished one.
        """
        folder = cls(Path(path))
        if not is_run(folder.path):
            raise RunError("is no run folder.", where=str(path), remedy="Give the --output of an earlier `tune`.")
        state = folder.read("run.json")
        if state.get("format", 0) > FORMAT:
            raise RunError("was written by a newer domaintune.", where=str(path), remedy="Upgrade domaintune.")
        if not state.get("finished"):
            raise RunError("is not finished.", where=str(path), remedy="Run the same `tune` command again: it resumes.")
        return folder if "used_seed" not in state else cls.existing(folder.path / SEEDS / str(state["used_seed"]))

    def start(
        self,
        recipe: Recipe,
        fate: Fate,
        *,
        data: Mapping[str, str],
        threads: int | None = None,
        micro_batch_budget: int | None = None,
        revision: str | None = None,
    ) -> None:
        """Begin the run of this recipe and data (name of part -> checksum), or go on with it, as `fate` told; what is to be removed goes
        now. Remembered for whoever resumes: `threads` and `micro_batch_budget`, as sums over other numbers of threads and in other parts
        have other last bits, and the commit of a base of the Hub, so that it has the same weights though there are newer ones."""
        if fate == "remove":
            self._clear()
        facts = {"format": FORMAT, "finished": False, "data": dict(data), "started": time.time()}
        facts |= {"threads": threads, "micro_batch_budget": micro_batch_budget}
        if fate == "take up":
            facts = self.read("run.json")
        facts |= {"folder": os.getcwd()} | ({} if revision is None else {"revision": revision})
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "recipe.json", recipe.plain())
        write_json(self.path / "run.json", facts)

    def _clear(self) -> None:
        """Remove a run, all but the lock that this process holds; `run.json` last, so that it stays a run until it is gone."""
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == "run.json"):
            if entry.name == ROWS:
                continue  # rows that were given in memory, by their checksum
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != ".lock":
                entry.unlink()

    @property
    def reported(self) -> bool:
        """Finished, with its page (or its summary, over seeds)."""
        return self.finished and any((self.path / name).is_file() for name in (PAGE, SEEDS_SUMMARY))

    @property
    def begun(self) -> bool:
        """Whether there is more in it than its beginning, so that there is something to lose."""
        own = any(not _is_beginning(e) and e.name not in ("run.json", SEEDS) for e in self.path.iterdir())
        return own or self.finished or any(RunFolder(entry).begun for entry in self.path.glob(f"{SEEDS}/*"))

    def fate(self, recipe: Recipe, *, data: Mapping[str, str], inputs: Iterable[str], overwrite: bool) -> Fate:
        """What `start` is to do with what the folder holds: take up a run of the same recipe and data that is unfinished or lacks its page;
        begin where there is none, or none in which something was trained; with `overwrite` remove any other, never one to take up.
        `inputs`: the files of the data, none of which is removed.

        Raises:
            RunError: the folder is a finished run, something else, an unfinished run of another recipe or of other data, or
                one to overwrite in which the recipe's own base or data stand.
        """
        if not overwrite or not is_run(self.path) or (self._same(recipe, data) and not self.reported):
            return "take up" if self._takes_up(recipe, data) else "begin"
        here = self.path.resolve()
        for name in (*inputs, *_bases(recipe.base)):
            if Path(name).resolve().is_relative_to(here) and not Path(name).resolve().is_relative_to(here / ROWS):
                raise RunError(
                    f"holds what this run is to be made from ({name}).",
                    where=str(self.path),
                    remedy="Choose another --output.",
                )
        return "remove"

    def _takes_up(self, recipe: Recipe, data: Mapping[str, str]) -> bool:
        """Whether the folder holds the run of this recipe and data, unfinished or without its page; False where it may be begun here.

        Raises:
            RunError: it holds something else.
        """
        path = self.path
        if not is_run(path):
            if path.exists() and (not path.is_dir() or not all(_is_beginning(entry) for entry in path.iterdir())):
                raise RunError(
                    "exists and is no run.", where=str(path), remedy="Choose a new or empty folder for --output."
                )
            return False
        differing = self._changed(recipe, data) if not self.finished or not self.reported else ["finished"]
        if not differing:
            return True
        if self.finished:
            raise RunError(
                "holds a finished run.", where=str(path), remedy="Choose another --output, or add --overwrite."
            )
        if self.begun:
            raise RunError(
                f"holds an unfinished run with other settings or data ({'; '.join(differing)}).",
                where=str(path),
                remedy="Restore them to resume it, choose another --output, or add --overwrite to begin anew.",
            )
        return False

    def _same(self, recipe: Recipe, data: Mapping[str, str]) -> bool:
        """Whether the run can be read and was begun from this recipe and data."""
        try:
            return not self._changed(recipe, data)
        except (DomainTuneError, KeyError):
            return False

    def _changed(self, recipe: Recipe, data: Mapping[str, str]) -> list[str]:
        """What is not as it was when the run began: settings by dotted key, and parts of the data."""
        # Settings that the run's own recipe is too old for have their defaults.
        stored = Recipe.make(self.read("recipe.json"), where=str(self.path / "recipe.json"))
        state = self.read("run.json")
        differing = changed(flatten(stored.plain()), flatten(recipe.plain()), began_in=state.get("folder", ""))
        old = state["data"]
        return differing + [f"data of '{k}'" for k in {**old, **data} if old.get(k) != data.get(k)]

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as finished; the last write. The checkpoint is removed afterwards."""
        for entry in self.path.glob(".*.*"):  # what a killed process was writing
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        state = self.read("run.json")
        sync(
            self.path
        )  # all names of a finished run are on the disk before it is one, and that before the checkpoint goes
        write_json(self.path / "run.json", {**state, "finished": True, "ended": time.time(), **summary})
        sync(self.path)
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of the folder; one that is made for it goes again where nothing else came into it.

        Raises:
            RunError: another process holds it, or nothing can be written there.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise RunError(
                "another process is writing this run.", where=str(self.path), remedy="Wait for it."
            ) from None
        except OSError as error:
            raise RunError(
                f"cannot be written ({error.strerror}).", where=str(self.path), remedy="Choose another --output."
            ) from None
        try:
            yield
        finally:
            lock.release()
            (self.path / ".lock").unlink(missing_ok=True)
            with suppress(OSError):
                if made:
                    self.path.rmdir()  # which refuses a folder that holds anything


def _is_beginning(entry: Path) -> bool:
    """Whether a process killed before it wrote `run.json` leaves this."""
    return entry.name in (".lock", "recipe.json", ROWS) or entry.name.startswith((".recipe.json.", ".run.json."))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_strengths(given: Mapping[str, float], domains: Iterable[str]) -> None:
    """Strengths by domain ("": the others'), of a run that has learned weights for `domains`.

    Raises:
        RunError: one outside [0, 1], or a domain that the run does not know.
    """
    for value in given.values():
        if not 0 <= value <= 1:
            raise RunError(f"strength must lie in [0, 1], got {value:g}.", where="--strength")
    known = list(domains)
    if unknown := set(given) - {"", *known}:
        raise RunError(
            f"the run has learned no weight for '{min(unknown)}'; it has: {', '.join(known) or 'none'}.",
            where="--strength",
            remedy="Give one number, or NAME=NUMBER for a domain that it knows.",
        )


def moved_from(scores: Mapping[str, Any], dial: Mapping[str, Any], *, run: str) -> list[str]:
    """A sentence where the strength of strength.json is no longer the one that the verdict is for, and one for each domain with its own;
    `run`: how commands name the run."""
    lines = [
        f"Rows of {name} are predicted at strength {value:g}, which was set for them alone."
        for name, value in dial.get("own", {}).items()
    ]
    if dial["chosen"] != scores["chosen_strength"]:
        lines.append(
            f'The verdict "{scores["verdict"]["kind"]}" was for strength {scores["chosen_strength"]:g}, not for {dial["chosen"]:g}, at '
            f"which the run now predicts: `domaintune evaluate {shlex.quote(run)} DATA` scores that on labelled rows."
        )
    return lines
