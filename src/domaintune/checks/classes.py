"""Classes that a file declares and no row has, and numbers that leave classes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from domaintune.counting import counted, listed
from domaintune.tasks.base import Finding


def class_findings(declared: Mapping[int | str, str], used: Sequence[str]) -> Iterator[Finding]:
    """`unused-classes` and `class-number-gaps`, of the classes that data files declare (number or key -> name) and the label names
    that the rows of any part have."""
    unused = [name for name in dict.fromkeys(declared.values()) if name not in set(used)]
    if unused:
        yield Finding(
            "unused-classes", "note",
            counted(len(unused), f"of {len(set(declared.values()))} classes that the files declare [is|are] in no row: ")
            + f"{listed(unused)}.", (),
            "Label some, or take them out of the file; --set task.labels=[...] makes outputs for them all the same.",
            "The model gets no output for them.", len(unused),
        )  # fmt: skip
    numbers = {key for key in declared if isinstance(key, int)} or _numbers_of(used)
    gaps = sorted(set(range(min(numbers), max(numbers) + 1)) - numbers) if len(numbers) > 1 else []
    if gaps:
        yield Finding(
            "class-number-gaps", "note",
            f"classes are numbered from {min(numbers)} to {max(numbers)} without {listed(map(str, gaps))}.", (),
            "If rows of these classes were lost, export them again; else nothing needs to be done: names count here, not numbers.",
            "Programs that count classes take a gap for one more class, or refuse the file.", len(gaps),
        )  # fmt: skip


def _numbers_of(names: Sequence[str]) -> set[int]:
    """The names as numbers where all are whole ones that lie so close that they seem to count something."""
    if not names or not all(name.isascii() and name.isdecimal() for name in names):
        return set()
    numbers = set(map(int, names))
    return numbers if max(numbers) - min(numbers) + 1 <= 2 * len(numbers) else set()
