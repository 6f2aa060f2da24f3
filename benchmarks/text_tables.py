"""docs/benchmarks.md from the stored rows: a table a cell, paired differences, and one hierarchical interval over all cells.

Rows hold [numerator, denominator] pairs an example; a score is the ratio of their sums. Nothing here is measured.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from cells import CELLS, CONSISTENT, MAIN, OURS, peer_names
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rows import HERE
from stored_rows import (
    Row,
    age_of,
    best_pairs,
    chosen,
    dev_score,
    difference,
    draws_of,
    ends,
    found,
    interval,
    is_old,
    mean_draws,
    missing,
    of_gpu,
    one,
    paired,
    ratio,
    score,
    seed_and_base,
    seed_of,
    word_by_word,
)  # fmt: skip

PAGE = Path("docs/benchmarks.md")
INTRODUCTION = HERE / "introduction.md"
GREEDY = "p-tuning, greedy"
LABEL_SIZE = 7
"""Of a picture's labels, in points."""


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def kept(rows: Sequence[Row], at: Callable[[Row], str], part: str) -> str:
    after, before = score(rows, at, part), score(rows, lambda row: "0", part)
    return "" if after is None or not before else f"{after / before:.3f}"


def line(label: str, name: str, rows: Sequence[Row], seeds: Sequence[int]) -> str:
    if not rows:
        return f"| {label} | missing" + " |" * 12
    if "error" in rows[0]:
        return f"| {label} | {rows[0]['error'].replace('|', '/')}" + " |" * 12
    measured = len(set(map(seed_of, rows)))
    mark = "" if measured == len(seeds) else f" ({measured} of {len(seeds)} seeds)"
    mark += age_of(name, rows)
    scores = np.array([score([row], one, "domain") for row in rows])
    low, high = ends(scores, draws_of(rows, one, "domain", np.random.default_rng(0)))
    cells = [
        label + mark,
        f"{shown(score(rows, one, 'domain'))} [{low:.3f}, {high:.3f}]",
        *(shown(score(rows, one, part)) for part in ("general", "check")),
        kept(rows, one, "general"),
        kept(rows, one, "check") or shown(score(rows, one, "agreement")),
    ]
    if name in OURS:
        cells += [
            shown(score(rows, chosen, "domain")),
            kept(rows, chosen, "general"),
            kept(rows, chosen, "check") or shown(score(rows, chosen, "agreement")),
            ", ".join(f"{r['chosen']:g}" for r in rows),
        ]
    else:
        rates = ", ".join(format(r["rate"], "g") for r in rows)
        cells += ["", "", "", f"rate {rates}"]
    cells += [f"{rows[0]['trainable']:,}", *cost(rows)]
    return f"| {' | '.join(cells)} |"


def cost(rows: Sequence[Row]) -> tuple[str, str]:
    """Seconds and MiB of those that a processor alone made: of others many shared one GPU."""
    alone = [row for row in rows if not of_gpu(row)]
    if not alone:
        return "", ""
    return f"{np.mean([row['seconds'] for row in alone]):.0f}", f"{max(row['memory'] for row in alone) / 2**20:,.0f}"


HEAD = f"""| method | domain, s = 1 | general | check | kept | kept (check) | domain, chosen | kept, chosen | kept (check), chosen | chosen s | trained | seconds | MiB |
{"| --- " * 13}|"""


def cell_table(results: Path, cell: str, seeds: Sequence[int]) -> list[str]:
    lines = [f"\n## {cell}\n"]
    simple = found(results, cell, "simple", seeds)
    for name in ("majority", "probe"):
        values = [float(ratio(np.asarray(row[name]).sum(0))) for row in simple]
        lines.append(f"{name}: {shown(float(np.mean(values))) if values else 'missing'}  ")
    name, rows = next(((n, rows) for n in OURS if (rows := found(results, cell, n, seeds))), ("", []))
    if rows:
        base = [f"{part} {shown(score(rows, lambda row: '0', part))}" for part in ("domain", "general", "check")]
        lines.append(f"before (strength 0, with the starting head): {', '.join(base)}{age_of(name, rows)}")
    picture = plot(results, cell, seeds)
    if picture is not None:
        lines += ["", f"![Gain and loss on {cell}]({picture})", ""]
        lines += [
            f"Filled: strength 1; hollow: the chosen strength; squares: peers; in brackets how many seeds, where not {len(seeds)}. Rows of older code are in the table alone."
        ]
    lines += [*decoding_gain(results, cell, seeds), "", HEAD]
    lines += [line(name, name, found(results, cell, name, seeds), seeds) for name in OURS]
    for start in ("same", "own"):
        for name in peer_names(start):
            label = (
                f"Trainer: {name.removesuffix(f'-{start}')}, {'same start' if start == 'same' else 'its own defaults'}"
            )
            lines.append(line(label, f"peer-{name}", found(results, cell, f"peer-{name}", seeds), seeds))
    return lines


def decoding_gain(results: Path, cell: str, seeds: Sequence[int]) -> list[str]:
    """What decoding a text as one sequence gives, of the rows that say so."""
    told = []
    for name in OURS:
        rows = [row for row in found(results, cell, name, seeds) if "greedy" in row]
        if rows:
            each, draws = difference(rows, list(map(word_by_word, rows)))
            told.append(f"{name} {each.mean():+.3f} {interval(each, draws)}")
    if not told:
        return []
    return ["", f"One valid sequence of tags minus each word's likeliest tag, strength 1: {', '.join(told)}."]


def overall(results: Path, seeds: Sequence[int]) -> list[str]:
    """Our best method, and our default (LoRA), minus the best peer of each start, each chosen on dev; by cell and over cells: cells,
    seeds and examples are drawn."""
    lines = [
        "\n## Ours minus the best peer\n",
        "Ours is one of our four methods, the peer one of theirs, each the best on dev at strength 1 of those that are measured with that seed:",
        "where seeds differ in it, all are named. Ours have one learning rate, the default, where nothing else is said. Ours at",
        "strength 1, fully tuned as the peers are, and at the strength that is chosen, which gives domain score away to keep 98 % of the general one. Where there is one seed, intervals of a cell are of examples alone.",
    ]
    for start, label in (("same", "from the same start"), ("own", "with its own defaults")):
        two, three = (
            [f"{name}{mark}" for mark in marks for name in MAIN] for marks in (("", "-high"), ("", "-high", CONSISTENT))
        )
        ways = (
            (MAIN, "Our best method", False),
            (("lora",), "LoRA, our default,", False),
            (two, "Our best method with the better of two learning rates", False),
            (
                three,
                "Our best method with the best of three tries (the third: twice the rate, steps read twice)",
                False,
            ),
            (MAIN, "Our best method, each word's likeliest tag as peers have it (kept: with ours decoded),", True),
            (three, "The same with the best of three tries", True),
        )
        for names, title, alone in ways if start == "same" else (ways[0], ways[1], ways[3]):
            lines += [f"\n{title} minus the best peer {label}:\n"]
            lines += [
                "| cell | ours | peer | seeds | at 1 | interval | kept: ours, peer | at the chosen | interval | kept |",
                "|" + " --- |" * 10,
            ]
            lines += _differences(results, names, [f"peer-{name}" for name in peer_names(start)], seeds, alone)
    return lines


def _differences(
    results: Path, names: Sequence[str], peers: Sequence[str], seeds: Sequence[int], alone: bool
) -> list[str]:
    """`alone`: ours with each word's likeliest tag, at strength 1 alone."""
    lines: list[str] = []
    values: dict[str, list[float]] = {"one": [], "chosen": []}
    draws: dict[str, list[np.ndarray]] = {"one": [], "chosen": []}
    for cell in CELLS:
        sides = best_pairs(results, cell, names, peers, seeds)
        if not sides[0]:
            lines.append(f"| {cell} | missing" + " |" * 9)
            continue
        cells = [cell, *map(_names, sides), str(len(sides[0]))]
        for place, (tried, side) in enumerate(zip((names, peers), sides, strict=True), 1):
            cells[place] += missing(results, cell, tried, [row for _, row in side])
        old = any(is_old(name, [row]) for side in sides for name, row in side)
        pair = [row for _, row in sides[0]], [row for _, row in sides[1]]
        pair = (list(map(word_by_word, pair[0])), pair[1]) if alone else pair
        for name, at in (("one", one), ("chosen", chosen)):
            if alone and at is chosen:
                cells += ["", "", ""]
                continue
            each, drawn = difference(*pair, at)
            if not old:
                values[name].append(float(each.mean()))
                draws[name].append(drawn)
            retained = [_retained(pair[0], at), *([_retained(pair[1], one)] if at is one else [])]
            cells += [f"{each.mean():+.3f}", interval(each, drawn), ", ".join(retained)]
        lines.append(f"| {' | '.join(cells)} |")
    if draws["one"]:
        means = []
        for name in ("one",) if alone else ("one", "chosen"):
            each, drawn = np.array(values[name]), mean_draws(np.stack(draws[name], axis=1), seed=1)
            means.append(f"{each.mean():+.3f} | {interval(each, drawn)} |")
        lines.append(
            f"| **{len(values['one'])} of {len(CELLS)} cells, without older rows** | | | | {' | '.join(means)} |"
        )
    return lines


def _names(side: Sequence[tuple[str, Row]]) -> str:
    """Of each seed in turn, one for all where they are the same; peers without their start."""
    told = [re.sub("^peer-(.*)-(same|own)$", r"\1", name) + age_of(name, [row]) for name, row in side]
    return ", ".join(told if len(set(told)) > 1 else told[:1])


def _retained(rows: Sequence[Row], at: Callable[[Row], str]) -> str:
    """Kept on rows that nothing was chosen on, where there are such."""
    return kept(rows, at, "check") or kept(rows, at, "general")


def plot(results: Path, cell: str, seeds: Sequence[int]) -> str | None:
    """A picture of gain against loss: domain and general score of every measured row of today's code, at strength 1 and at the chosen one. Returns
    its place beside the page; None without rows that have a general score."""
    peers = {
        f"peer-{name}": f"{name.removesuffix(f'-{start}')} ({start})"
        for start in ("same", "own")
        for name in peer_names(start)
    }
    points = []
    for name in (*OURS, *peers):
        rows = found(results, cell, name, seeds)
        if not rows or "error" in rows[0] or is_old(name, rows) or score(rows, one, "general") is None:
            continue
        at = [
            (score(rows, s, "general"), score(rows, s, "domain")) for s in ((one, chosen) if name in OURS else (one,))
        ]
        measured = len(set(map(seed_of, rows)))
        label = peers.get(name, name)
        label += "" if measured == len(seeds) else f" [{measured}]"
        points.append((label, name in OURS, at, rows))
    if not points:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    base = [score(points[0][3], lambda row: "0", part) for part in ("general", "domain")]
    axes.plot(*base, "k*", markersize=11)
    for _, ours, at, _ in points:
        colour = "tab:blue" if ours else "tab:orange"
        axes.plot(*zip(*at, strict=True), "o-" if ours else "s", color=colour, markersize=5, linewidth=0.8)
        axes.plot(
            *at[-1],
            "o" if ours else "s",
            color=colour,
            markerfacecolor="white" if ours and len(at) > 1 else colour,
            markersize=5,
        )
    axes.set(xlabel="general score", ylabel="domain score (test)", title=cell)
    axes.grid(alpha=0.3)
    axes.margins(x=0.15, y=0.1)
    label_points(axes, [("base", base), *((label, at[0]) for label, _, at, _ in points)])
    place = PAGE.with_suffix("") / f"{cell}.svg"
    place.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": cell, "svg.fonttype": "none"}):
        figure.savefig(place, metadata={"Date": None})
    return str(place.relative_to(PAGE.parent))


def label_points(axes: Axes, labels: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Each label right of its point, or where another stands there as near below as there is room, with a thin line to the point."""
    axes.figure.draw_without_rendering()  # settles where the axes lie
    scale = 72 / axes.figure.dpi
    lowest, highest = axes.bbox.y0 * scale + LABEL_SIZE, axes.bbox.y1 * scale - LABEL_SIZE
    taken: list[tuple[float, float, float]] = []
    for label, point in sorted(labels, key=lambda entry: -entry[1][1]):
        left, middle = axes.transData.transform(point) * scale
        right = left + 5 + LABEL_SIZE * 0.6 * len(label)
        tried = [middle + steps * LABEL_SIZE / 2 for steps in (*range(0, -80, -1), *range(1, 80))]
        inside = [y for y in tried if lowest < y < highest]
        free = (y for y in inside if all(b < left or a > right or abs(y - at) > LABEL_SIZE for a, b, at in taken))
        y = next(free, middle)
        taken.append((left, right, y))
        shift = y - middle
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": "grey", "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            label, point, xytext=(5 if not shift else 12, shift), textcoords="offset points", fontsize=LABEL_SIZE,
            verticalalignment="center", arrowprops=line if shift else None,
        )  # fmt: skip


def read_twice(results: Path, seeds: Sequence[int]) -> list[str]:
    """What a third try gives beside the first and the second one."""
    lines = [
        "\n## Steps read twice\n",
        "At strength 1: twice the learning rate with every step read twice, minus the default and minus twice the rate alone. Kept: of the general score, or of the check's "
        "where there is one, by the three. Where there is one seed intervals are of examples alone.\n",
        "| cell | method | seeds | minus the default | interval | minus twice the rate | interval | kept: default, twice, read twice |",
        "|" + " --- |" * 8,
    ]
    for cell, method in itertools.product(CELLS, MAIN):
        names = (method, f"{method}-high", f"{method}{CONSISTENT}")
        *others, third = (found(results, cell, name, seeds) for name in names)
        if not third:
            continue
        pairs = [paired(third, other) for other in others]
        told = [difference(*pair) for pair in pairs if pair[0]]
        if len(told) < len(others):
            continue
        shares = [_retained(rows, one) for rows in (pairs[0][1], pairs[1][1], third)]
        marked = method + age_of(names[-1], third)
        gains = " | ".join(f"{each.mean():+.3f} | {interval(each, draws)}" for each, draws in told)
        lines.append(f"| {cell} | {marked} | {len(third)} | {gains} | {', '.join(shares)} |")
    return lines


def p_tuning(results: Path, seeds: Sequence[int]) -> list[str]:
    lines = [
        "\n## P-tuning v2 against head only, PEFT's prefix and LoRA\n",
        "`p-tuning-norms` and `p-tuning-biases` are its variants with layer norms, or these and all biases, tuned beside it; `two rates`: the better on dev of the default learning rate and "
        "twice that, seed by seed; `up to three`: and of four times that where twice was the better. Prefix tuning has the better of two or, "
        "by the same rule, three. `greedy`: both sides with each word's likeliest tag, as prefix tuning always has it.\n",
        "| cell | ours | against | pairs | difference | interval |",
        "|" + " --- |" * 6,
    ]
    others = ("head-only", "peer-prefix-same", "lora")
    ways = {
        "p-tuning": ("p-tuning",),
        GREEDY: ("p-tuning",),
        "p-tuning, two rates": ("p-tuning", "p-tuning-high"),
        "p-tuning-norms": ("p-tuning-norms",),
        "p-tuning-biases": ("p-tuning-biases",),
        "p-tuning-biases, two rates": ("p-tuning-biases", "p-tuning-biases-high"),
        "p-tuning-biases, up to three rates": ("p-tuning-biases", "p-tuning-biases-high", "p-tuning-biases-higher"),
    }
    for cell, mine, other in itertools.product(CELLS, ways, others):
        theirs = found(results, cell, other, seeds)
        pair = paired(_better(results, cell, ways[mine], seeds), [row for row in theirs if "error" not in row])
        if not pair[0]:
            lines.append(f"| {cell} | {mine} | {other} | missing | | |")
            continue
        if mine == GREEDY:
            if "greedy" not in pair[0][0]:
                continue
            pair = (list(map(word_by_word, pair[0])), list(map(word_by_word, pair[1])))
        each, draws = difference(*pair)
        age = next(filter(None, (age_of(name, found(results, cell, name, seeds)) for name in ways[mine])), "")
        label = f"{cell} | {mine}{age} | {other}{age_of(other, pair[1])}"
        lines.append(f"| {label} | {len(pair[0])} | {each.mean():+.3f} | {interval(each, draws)} |")
    return lines


def _better(results: Path, cell: str, names: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Of each seed that has them all the row that is best on dev; a third one is asked for where the second was better than the first."""
    held = [{seed_and_base(row): row for row in found(results, cell, name, seeds)} for name in names]
    made = []
    for key in sorted(set.intersection(*map(set, held[:2]))):
        rows = [by_key[key] for by_key in held if key in by_key]
        if len(rows) == len(held) or dev_score(rows[0]) >= dev_score(rows[1]):
            made.append(max(rows, key=dev_score))
    return made


def machines(results: Path) -> list[str]:
    """Where the rows were made: how many on each machine, with the versions there."""
    counts: dict[str, int] = {}
    for path in results.rglob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        machine, versions = facts["machine"], facts["versions"]
        with_gpu = f", one {machine['gpu']}" if machine.get("gpu") else ""
        told = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "domaintune")
        place = f"{machine['processor']}, {machine['cores']} cores{with_gpu}; {told}"
        counts[place] = counts.get(place, 0) + 1
    return [f"- {count} rows: {place}." for place, count in sorted(counts.items(), key=lambda entry: -entry[1])]


def write_tables(results: Path, *, seeds: Sequence[int]) -> None:
    lines = [
        "# Benchmarks",
        "",
        "Written by `python benchmarks/text.py table` from the rows in benchmarks/results/text; never edited by hand.",
        "",
        *INTRODUCTION.read_text(encoding="utf-8").splitlines(),
    ]
    lines += ["", *machines(results)]
    lines += overall(results, seeds) + read_twice(results, seeds) + p_tuning(results, seeds)
    for cell in CELLS:
        lines += cell_table(results, cell, seeds)
    from defaults import table as tried  # these take their arithmetic from here
    from domains import table

    lines += table()
    lines += ["", "## Other settings than the defaults", "", *tried()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
