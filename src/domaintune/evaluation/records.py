"""Per-example records on disk: what scores are computed from, with a checksum of each row, so that runs can be paired later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from domaintune.errors import RunError
from domaintune.run import write_file
from domaintune.tasks.base import Record, Task

UNGROUPED = -1


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """The rows that were scored, in order. `checksums` int64 [rows], of input and target; `groups` int64 [rows], checksums of
    the groups' names, -1 for a row of its own."""

    checksums: np.ndarray
    groups: np.ndarray

    def group_names(self) -> list[str | None]:
        return [None if group == UNGROUPED else str(group) for group in self.groups]


def scored_rows(task: Task, examples: Sequence[Any]) -> ScoredRows:
    keys = [task.keys(example) for example in examples]
    checksums = [_checksum(f"{key.input}\0{key.target}") for key in keys]
    groups = [UNGROUPED if example.group is None else _checksum(example.group) for example in examples]
    return ScoredRows(np.array(checksums, dtype=np.int64), np.array(groups, dtype=np.int64))


def _checksum(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")  # 56 bits: never negative


def save_records(path: Path, rows: ScoredRows, records: Mapping[float, Sequence[Record]]) -> None:
    """Safetensors: "rows", "groups", and for each strength and key of a record which examples have it ("STRENGTH/KEY/examples"),
    their arrays, flattened one behind the other (".../values"), and the arrays' shapes (".../shapes", [examples, dimensions])."""
    tensors = {"rows": rows.checksums, "groups": rows.groups}
    for strength, made in records.items():
        for key in dict.fromkeys(key for record in made for key in record):
            having = [place for place, record in enumerate(made) if key in record]
            arrays = [np.asarray(made[place][key]) for place in having]
            shapes = np.array([array.shape for array in arrays], dtype=np.int64)
            name = f"{strength:g}/{key}"
            tensors[f"{name}/examples"] = np.array(having, dtype=np.int64)
            tensors[f"{name}/shapes"] = shapes.reshape(len(arrays), -1)
            tensors[f"{name}/values"] = np.concatenate([array.reshape(-1) for array in arrays])
    write_file(path, lambda temporary: save_file(tensors, temporary))


def load_records(path: Path) -> tuple[ScoredRows, dict[str, list[Record]]]:
    """What `save_records` wrote; strengths as they are written in scores.json ("0", "0.75").

    Raises:
        RunError: no such file, or a damaged one.
    """
    try:
        tensors = load_file(path)
        rows = ScoredRows(tensors.pop("rows"), tensors.pop("groups"))
        made: dict[str, list[dict[str, np.ndarray]]] = {}
        for name in [name.removesuffix("/values") for name in tensors if name.endswith("/values")]:
            strength, key = name.split("/")
            records = made.setdefault(strength, [{} for _ in rows.checksums])
            shapes = tensors[f"{name}/shapes"]
            pieces = np.split(tensors[f"{name}/values"], np.cumsum(shapes.prod(1))[:-1])
            for place, values, shape in zip(tensors[f"{name}/examples"], pieces, shapes, strict=True):
                records[place][key] = values.reshape(shape)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"cannot be read ({type(error).__name__}).",
            where=str(path),
            remedy="Runs of older versions have no such file: give the rows with --data.",
        ) from None
    return rows, {strength: list(records) for strength, records in made.items()}
