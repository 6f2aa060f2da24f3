"""What is wrong with rows whatever their task: repeats, conflicts, rows shared between parts, labels that are missing or rare.

Works on the keys that a task gives; says, and changes nothing.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from domaintune.counting import counted, listed
from domaintune.data.labels import folded
from domaintune.data.near_duplicates import near_duplicates
from domaintune.data.pictures import chained_pictures, look_at
from domaintune.data.splits import together, without_signs
from domaintune.tasks.base import Finding, Keys, Task

DOMAIN = ("train", "dev", "test")
SHIFT = 0.2
SHIFT_ROWS = 50
IMBALANCE = 10
FEW_OF_LABEL = 5
NEAR = 0.8
MOST_CHAINS = 5
FEW_UNITS = 10
FEW_OF_DOMAIN = 10


@dataclass(frozen=True, slots=True)
class Part:
    """One part as the checks see it: keys and "file:line" of its rows."""

    name: str
    keys: Sequence[Keys]
    where: Sequence[str]

    def at(self, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.where[place] for place in places)


def inseparable(task: Task, examples: Sequence[Any]) -> list[int]:
    """A number for each example, equal for those that have to stay in one part: duplicates (also those that differ in a sign such as the
    one of -5 or 5 %), near duplicates, and one group.

    Near duplicates link into chains. A chain of more than a fifth of the different inputs (a fold, or the usual test part) is made from
    one pattern, and to keep it together would leave little to part: of it only equal inputs stay together. `parted` counts what that does.
    """
    keys = [task.keys(example) for example in examples]
    inputs, groups = [without_signs(key.input) for key in keys], [key.group for key in keys]
    if not (links := _links(task, examples, keys)):
        return together(inputs, groups)
    chain_of = together(inputs, [None] * len(inputs), links)
    different = Counter(chain_of[place] for place in {text: place for place, text in enumerate(inputs)}.values())
    most = max(2, different.total() // MOST_CHAINS)
    return together(inputs, groups, [link for link in links if different[chain_of[link[0]]] <= most])


def parted(task: Task, part: Sequence[Any], others: Sequence[Any]) -> int:
    """How many examples of `part` are almost equal to one of `others`, and equal to none."""
    examples = [*others, *part]
    keys = [task.keys(example) for example in examples]
    known = {key.input for key in keys[: len(others)]}
    met = {later for one, later in _links(task, examples, keys, first=len(others)) if one < len(others) <= later}
    return sum(keys[place].input not in known for place in met)


def _links(task: Task, examples: Sequence[Any], keys: Sequence[Keys], *, first: int = 0) -> Sequence[tuple[int, int]]:
    """Pairs of near duplicates, of pictures those of `chained_pictures`; `first`: as in `near_duplicates`."""
    pictures = [path for path in map(task.picture, examples) if path is not None]
    if pictures:
        return chained_pictures([look_at(path, where=e.where) for path, e in zip(pictures, examples, strict=True)])
    if any(task.texts(example) for example in examples[:1]):
        return near_duplicates([key.compared for key in keys], threshold=NEAR, first=first)
    return []


def shared_findings(parts: Mapping[str, Part], *, near: bool, one_label: bool) -> Iterator[Finding]:
    """Everything this module knows, part by part. `near`: inputs are texts; `one_label`: every row has just one."""
    for part in parts.values():
        yield from repeats(part, texts=near)
    train = parts["train"]
    yield from many_domains(train)
    for name, part in parts.items():
        if name != "train":
            yield from shared_rows(train, part)
            yield from shared_groups(train, part)
    if "dev" in parts and "test" in parts:
        yield from shared_rows(parts["dev"], parts["test"])
        yield from shared_groups(parts["dev"], parts["test"])
    if near:
        yield from near_findings(parts)
    domain = {name: part for name, part in parts.items() if name in DOMAIN}
    if one_label:
        yield from label_findings(domain)
    yield from unseen_labels(domain, severity="error" if one_label else "warning")
    yield from like_labels(domain)


def many_domains(train: Part) -> Iterator[Finding]:
    """`many-domains`: more than one, of fewer rows each, on average, than say anything about a domain."""
    counts = Counter(key.domain for key in train.keys if key.domain is not None)
    if len(counts) > 1 and counts.total() < FEW_OF_DOMAIN * len(counts):
        yield Finding(
            "many-domains", "warning",
            f"train names {len(counts):,} domains in {counted(counts.total(), '[row|rows]')}.", (),
            "Name a column that says where rows come from (--set data.domain_column=...), not one of ids or texts, or none.",
            "So few rows fix neither a weight of their domain nor a score of it.", len(counts),
        )  # fmt: skip


def few_rows(name: str, groups: Sequence[str | None]) -> Iterator[Finding]:
    """`few-rows`: a part, whose rows have these groups, of so few rows, or groups of rows that hang together, that a score on it says
    little."""
    named = {group for group in groups if group is not None}
    if (units := len(named) + groups.count(None)) < FEW_UNITS:
        yield Finding(
            "few-rows", "warning",
            f"{name} holds {counted(units, '[group|groups] of rows that belong together' if named else '[row|rows]')}.", (),
            "Give more of them.", "A score over so few is mostly chance, and its interval wide.", units,
        )  # fmt: skip


def agreed(key: Keys) -> str:
    """What rows of equal input have to agree on: their targets conflict elsewhere."""
    return key.target if key.agreed is None else key.agreed


def repeats(part: Part, *, texts: bool = True) -> Iterator[Finding]:
    """`repeats`: rows whose input stood before in the part; `conflicts`: inputs that stand there with several targets. `texts`: what
    counts as equal are texts but for case and punctuation, else files."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(part.keys):
        places[key.input].append(place)
    again = sorted(place for rows in places.values() for place in rows[1:])
    conflicting = [rows for rows in places.values() if len({agreed(part.keys[place]) for place in rows}) > 1]
    same = "case and punctuation aside" if texts else "the same file"
    if again:
        yield Finding(
            "repeats",
            "warning",
            counted(len(again), f"[row|rows] of {part.name} [repeats|repeat] an earlier one ({same})."),
            part.at(again),
            "--drop-duplicates keeps one of each." if part.name == "train" else "Drop them from the file.",
            "Repeated rows weigh more than others, and scores on them look surer than they are.",
            len(again),
        )
    if conflicting:
        free = not any(key.labels for key in part.keys)  # texts, of which several may be right
        yield Finding(
            "conflicts", "note" if free else "warning",
            counted(len(conflicting), f"[input|inputs] of {part.name} [stands|stand] there with different targets."),
            part.at(sorted(place for rows in conflicting for place in rows)),
            "Decide which is right" + ("; --drop-duplicates drops all such rows." if part.name == "train" else "."),
            "Several good answers are no fault, but a score knows one." if free
            else "No model can get both right: they set a limit to every score.",
            len(conflicting),
        )  # fmt: skip


def shared_rows(train: Part, other: Part) -> Iterator[Finding]:
    """`leaks`: rows of another part that stand in `train` too."""
    known = {key.input for key in train.keys}
    met = [place for place, key in enumerate(other.keys) if key.input in known]
    if not met:
        return
    domain = other.name in DOMAIN
    yield Finding(
        "leaks" if domain else "shared-rows",
        "error" if domain else "warning",
        counted(len(met), f"[row|rows] of {other.name} also [stands|stand] in {train.name}."),
        other.at(met),
        f"tune removes them from {train.name}; --keep-leaks keeps them." if domain else "tune leaves them out.",
        "A score on rows that were trained on says nothing about new ones.",
        len(met),
    )


def shared_groups(train: Part, other: Part) -> Iterator[Finding]:
    """`shared-groups`: rows of a given part of the domain whose group stands in `train` too. New rows join the part of their group."""
    if train.name not in DOMAIN or other.name not in DOMAIN:
        return
    known = {key.group for key in train.keys} - {None}
    met = [place for place, key in enumerate(other.keys) if key.group in known]
    if met:
        groups = len({other.keys[place].group for place in met})
        yield Finding(
            "shared-groups",
            "error",
            f"{counted(groups, '[group|groups]')} of {other.name} ({counted(len(met), '[row|rows]')}) also in {train.name}.",
            other.at(met),
            f"tune removes their rows from {train.name}; --keep-leaks keeps them.",
            "A score on documents, patients or authors that were trained on says nothing about new ones.",
            len(met),
        )


def near_findings(parts: Mapping[str, Part]) -> Iterator[Finding]:
    """`near-duplicates`: pairs of almost equal inputs within train, and between train and dev or test."""
    rows = [(name, place, key) for name in DOMAIN if name in parts for place, key in enumerate(parts[name].keys)]
    found: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    train = len(parts["train"].keys)
    for left, right in near_duplicates([key.compared for _, _, key in rows], threshold=NEAR, first=train):
        one, other = rows[left], rows[right]
        if one[0] == "train" and one[2].input != other[2].input:
            found[one[0], other[0]].setdefault(other[1], one[1])
    for (one_name, name), partners in found.items():
        places = sorted(partners)
        inside = one_name == name
        pair = (Path(parts[name].where[places[0]]).name, Path(parts[one_name].where[partners[places[0]]]).name)
        yield Finding(
            "near-duplicates",
            "warning",
            counted(
                len(places),
                f"[row|rows] of {name} [is|are] almost equal to {'an earlier row' if inside else 'one of train'}, ",
            )
            + f"such as {pair[0]} to {pair[1]}.",
            parts[name].at(places),
            "Look at them, and drop those that add nothing."
            if inside
            else f"Drop them from train or {name}; parts that tune cuts by itself keep them together, unless over a fifth"
            " of the rows follow one pattern.",
            "They add little to learn, and weigh more than others."
            if inside
            else "They make a score look better than it will be on new rows.",
            len(places),
        )


def label_findings(parts: Mapping[str, Part]) -> Iterator[Finding]:
    """`one-class`, `imbalance`, `prior-shift` and `rare-in-test`, where every row has one label."""
    shares = {name: Counter(name for key in part.keys for name in key.labels) for name, part in parts.items()}
    train = shares["train"]
    if len(train) == 1:
        yield Finding(
            "one-class", "error", f"every row of train is '{next(iter(train))}'.", (), "Give rows of other labels.",
            "There is nothing to tell apart.", len(parts["train"].keys),
        )  # fmt: skip
        return
    (most, many), (least, few) = train.most_common()[0], train.most_common()[-1]
    if many > IMBALANCE * few:
        yield Finding(
            "imbalance", "warning", f"'{most}' has {many:,} rows in train, '{least}' {few:,}.", (),
            "--set task.class_weights=balanced weighs rare labels up.", "Rare labels are hardly learned.", many,
        )  # fmt: skip
    for name, counts in shares.items():
        if name == "train":
            continue
        total, other = sum(train.values()), sum(counts.values())
        distance = 0.5 * sum(abs(train[s] / total - counts[s] / other) for s in {*train, *counts})
        # Small parts differ by chance: about sqrt(labels / rows) of distance are expected.
        if other >= SHIFT_ROWS and distance > SHIFT + (len(train) / other) ** 0.5 / 2:
            yield Finding(
                "prior-shift", "warning", f"labels are spread otherwise in {name} than in train (distance {distance:.2f}).", (),
                "Draw parts alike (tune does where it cuts them), or --set task.class_weights=balanced.",
                "The model learns how frequent each label is, too.", other,
            )  # fmt: skip
    if "test" in shares and (rare := [label for label in train if shares["test"][label] < FEW_OF_LABEL]):
        shown = listed(f"'{label}' ({shares['test'][label]})" for label in rare)
        yield Finding(
            "rare-in-test", "warning", f"fewer than {FEW_OF_LABEL} rows of test: {shown}.", (),
            "Give more test rows of these labels.", "Their scores are chance, and macro_f1 with them.", len(rare),
        )  # fmt: skip


def unseen_labels(parts: Mapping[str, Part], *, severity: Literal["error", "warning"]) -> Iterator[Finding]:
    """`unseen-labels`: labels, entity types or classes of boxes that stand in dev or test, and in no row of train."""
    train = {label for key in parts["train"].keys for label in key.labels}
    for name, part in parts.items():
        places = [place for place, key in enumerate(part.keys) if not train.issuperset(key.labels)]
        if places:
            unseen = sorted({label for place in places for label in part.keys[place].labels} - train)
            yield Finding(
                "unseen-labels", severity,
                counted(len(unseen), f"[label|labels] of {name} [is|are] in no row of train: ") + f"{listed(unseen)}.",
                part.at(places), "Add rows of them to train, or join names: --label-map OLD=NEW.",
                "What is in no training row cannot be learned.", len(unseen),
            )  # fmt: skip


def like_labels(parts: Mapping[str, Part]) -> Iterator[Finding]:
    """`like-labels`: labels that differ in case, in the form of a letter, in characters that nobody sees, or as 1 and 1.0 do."""
    rows = Counter(label for part in parts.values() for key in part.keys for label in key.labels)
    spellings: dict[str, list[str]] = defaultdict(list)
    for label, _ in rows.most_common():
        spellings[folded(label)].append(label)
    for names in spellings.values():
        if len(names) > 1:
            yield Finding(
                "like-labels", "warning", f"{' and '.join(map(_in_quotes, names))} are different labels.", (),
                f"If they mean the same: --label-map {shlex.quote(f'{names[1]}={names[0]}')}.",
                "Rows of one meaning under two names set a limit to every score.", sum(rows[name] for name in names[1:]),
            )  # fmt: skip


def _in_quotes(label: str) -> str:
    """In quotes, with characters that nobody sees told by their numbers."""
    shown = "".join(c if unicodedata.category(c) != "Cf" else f"\\u{ord(c):04x}" for c in label)
    return f"'{shown}'"
