"""docs/benchmarks.md from the stored rows: a table a cell, paired differences, and one hierarchical interval over all cells.

Rows hold [numerator, denominator] pairs an example; a score is the ratio of their sums. Nothing here is measured.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cells import CELLS, MAIN, OURS, PEERS, peer_names, plain_recipe
from matplotlib.figure import Figure
from rows import HERE, alike, code_hash, peers_hash, settings_of, start_hash, today, wants_third_rate

from domaintune.evaluation.intervals import Estimate
from domaintune.evaluation.over_seeds import seed_weights, widened

PAGE = Path("docs/benchmarks.md")
INTRODUCTION = HERE / "introduction.md"
DRAWS = 2000
GREEDY = "p-tuning, greedy"
MANY = 1000
"""Examples behind an interval are hundreds: how many does not matter to it."""

Row = dict[str, Any]


def stored(results: Path, name: str, seed: int) -> Row | None:
    path = results / f"{name}.{seed}.json"
    if not path.exists():
        return None
    made: Row = json.loads(path.read_text(encoding="utf-8"))
    made["cell"] = name.partition(".")[0]
    higher = stored(results, f"{name}-high", seed) if name.endswith("-same") else None
    if higher is None or "error" in higher or not alike(_of_start(higher), _of_start(made)):
        return made
    best = higher if dev_score(higher) > dev_score(made) else made  # type: ignore[operator]
    return {**best, "dev": {**made["dev"], **higher["dev"]}}


def _of_start(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row["key"].items() if key not in ("start", "rate")}


def ratio(sums: np.ndarray) -> np.ndarray:
    """[..., examples summed, 2] -> numerator / denominator."""
    made: np.ndarray = sums[..., 0] / np.maximum(sums[..., 1], 1e-12)
    return made


def score(rows: Sequence[Row], at: Callable[[Row], str], part: str) -> float | None:
    """Mean over seeds of the score of one set at one strength; None where the set is missing."""
    values = [np.asarray(row["scores"][at(row)].get(part, [])) for row in rows]
    if any(not len(value) for value in values):
        return None
    return float(np.mean([ratio(value.sum(0)) for value in values]))


def seed_of(row: Row) -> int:
    return int(row["key"]["recipe"]["seed"])


def of_gpu(row: Row) -> bool:
    """Rows of a GPU start from bases that were made there."""
    return row["provenance"]["machine"].get("gpu") is not None


def paired(mine: Sequence[Row], theirs: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of the seeds that both have, from the same base, in the same order."""
    held = [{(seed_of(row), of_gpu(row)): row for row in rows} for rows in (mine, theirs)]
    both = sorted(held[0].keys() & held[1].keys())
    return [held[0][key] for key in both], [held[1][key] for key in both]


def draws_of(rows: Sequence[Row], at: Callable[[Row], str], part: str, generator: np.random.Generator) -> np.ndarray:
    """Bootstrap draws of the mean over seeds: seeds are drawn, and examples, the same for every seed; of one seed examples alone."""
    values = np.stack([np.asarray(row["scores"][at(row)][part]) for row in rows])  # [seeds, examples, 2]
    count = values.shape[1]
    weights = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    each = ratio(np.einsum("dn,snk->dsk", weights, values))
    return mean_draws(each, seed=int(generator.integers(1 << 31)))


def mean_draws(values: np.ndarray, *, seed: int) -> np.ndarray:
    """[draws, n] -> draws of the mean of n drawn ones, whose spread is not too small where n is."""
    count = values.shape[1]
    weights = seed_weights(count, draws=DRAWS, seed=seed) if count > 1 else np.ones((DRAWS, 1))
    made: np.ndarray = (weights * values).sum(1)
    return made


def one(row: Row) -> str:
    return "1"


def chosen(row: Row) -> str:
    """The strength that a row of ours chose; peers have none but 1."""
    return f"{row.get('chosen', 1):g}"


def difference(
    mine: Sequence[Row], theirs: Sequence[Row], at: Callable[[Row], str] = one, part: str = "domain"
) -> tuple[np.ndarray, np.ndarray]:
    """Difference between ours at a strength and theirs by seed, and draws of its mean: the same seeds and examples for both."""
    a, b = draws_of(mine, at, part, np.random.default_rng(0)), draws_of(theirs, one, part, np.random.default_rng(0))
    each = [(score([m], at, part) or 0.0) - (score([t], one, part) or 0.0) for m, t in zip(mine, theirs, strict=True)]
    return np.array(each), a - b


def ends(each: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of few (seeds, or cells), from its draws: wider, as Student's t is than the normal distribution."""
    low, high = np.quantile(draws, [0.025, 0.975])
    made = widened(Estimate(float(each.mean()), low, high, low), draws, each, rows=MANY)
    return made.low, made.high


def interval(each: np.ndarray, draws: np.ndarray) -> str:
    low, high = ends(each, draws)
    return f"[{low:+.3f}, {high:+.3f}]"


def found(results: Path, cell: str, name: str, seeds: Sequence[int]) -> list[Row]:
    """The rows of one name that differ in the seed alone: today's; where there are none, those like the first seed's, which is the one
    that is measured anew first."""
    rows = [row for seed in seeds if (row := stored(results, f"{cell}.{name}", seed)) is not None]
    if now := [row for row in rows if not is_old(name, [row])]:
        return now
    return [row for row in rows if alike(_without_seed(row), _without_seed(rows[0]))]


def _without_seed(row: Row) -> dict[str, Any]:
    key = _of_start(row)
    return {**key, "recipe": {k: v for k, v in key["recipe"].items() if k != "seed"}}


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def kept(rows: Sequence[Row], at: Callable[[Row], str], part: str) -> str:
    after, before = score(rows, at, part), score(rows, lambda row: "0", part)
    return "" if after is None or not before else f"{after / before:.3f}"


def is_old(name: str, rows: Sequence[Row]) -> bool:
    """Whether other code than today's, or other settings of this method, made one of the rows; of peers, whether other code or settings of
    theirs or another number of epochs did."""
    if name.startswith("peer-"):
        kind = re.sub("-(same|own)$", "", name.removeprefix("peer-"))
        return any(_is_old_peer(row, kind) for row in rows)
    if any(_is_of_other_code(row["key"]) for row in rows):
        return True
    if name not in OURS:
        return False
    return has_other_settings(rows, name, ("method", "training", "learning_rate", "epochs", "balance"))


def _is_of_other_code(key: dict[str, Any]) -> bool:
    """A key without a recipe is older than that it holds one."""
    return "recipe" not in key or today(key["code"]) != today(code_hash(key["recipe"]["task"]["name"]))


def has_other_settings(rows: Sequence[Row], method: str, names: Sequence[str]) -> bool:
    """Whether one of the rows was made with other values of these settings than the method has today."""
    settings = settings_of(plain_recipe(method))
    now = {"recipe": {name: settings[name] for name in names}}
    return not all(alike({"recipe": {name: row["key"]["recipe"].get(name) for name in names}}, now) for row in rows)


def _is_old_peer(row: Row, kind: str) -> bool:
    """As far as it can be told: without the data no number of epochs is known."""
    key, epochs = row["key"], epochs_of(row["cell"], kind)
    return (
        today(key["peer"]) != peers_hash()
        or today(key.get("start_code")) != today(start_hash())
        or key.get("settings") != PEERS[kind].plain()
        or (key.get("epochs") is not None and epochs is not None and key["epochs"] != epochs)
    )


@functools.cache
def epochs_of(cell: str, kind: str) -> int | None:
    return CELLS[cell].epochs(kind)


def age_of(name: str, rows: Sequence[Row]) -> str:
    """A mark for old rows, and for peers' that lack the third rate."""
    if not is_old(name, rows):
        lacking = name.endswith("-same") and any(map(wants_third_rate, rows))
        return " (third rate missing)" if lacking else ""
    epochs = rows[0]["key"].get("epochs")
    return f" (older: {epochs} epochs)" if epochs is not None else " (older code)"


def line(label: str, name: str, rows: Sequence[Row], seeds: Sequence[int]) -> str:
    if not rows:
        return f"| {label} | missing" + " |" * 12
    if "error" in rows[0]:
        return f"| {label} | {rows[0]['error'].replace('|', '/')}" + " |" * 12
    mark = "" if len(rows) == len(seeds) else f" ({len(rows)} of {len(seeds)} seeds)"
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
        lines += ["Filled: strength 1; hollow: the chosen strength; squares: peers."]
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


def dev_score(row: Row) -> float | None:
    """What the row reached on dev at strength 1; of a peer, at the better of its rates."""
    dev = row.get("dev")
    return max(dev.values()) if isinstance(dev, dict) else dev


def best_pairs(
    results: Path, cell: str, mine: Sequence[str], theirs: Sequence[str], seeds: Sequence[int]
) -> tuple[list[tuple[str, Row]], list[tuple[str, Row]]]:
    """Of each seed our row and the peers' that are the best on dev, with their names, from one base: that of most rows. Of equally good ones
    the one that trains least; old rows count where there are no others."""
    sides: list[dict[tuple[int, bool], list[tuple[str, Row]]]] = [
        _by_seed_and_base(results, cell, names, seeds) for names in (mine, theirs)
    ]
    chosen_keys = {}
    for key in sorted(sides[0].keys() & sides[1].keys(), key=lambda key: sum(len(side[key]) for side in sides)):
        chosen_keys[key[0]] = key
    made = [[max(side[key], key=_dev_then_few) for _, key in sorted(chosen_keys.items())] for side in sides]
    return made[0], made[1]


def _by_seed_and_base(
    results: Path, cell: str, names: Sequence[str], seeds: Sequence[int]
) -> dict[tuple[int, bool], list[tuple[str, Row]]]:
    rows = [(name, row) for name in names for row in found(results, cell, name, seeds) if dev_score(row) is not None]
    made: dict[tuple[int, bool], list[tuple[str, Row]]] = {}
    for name, row in [entry for entry in rows if not is_old(entry[0], [entry[1]])] or rows:
        made.setdefault((seed_of(row), of_gpu(row)), []).append((name, row))
    return made


def _dev_then_few(entry: tuple[str, Row]) -> tuple[float, int]:
    return dev_score(entry[1]) or 0.0, -entry[1]["trainable"]


def overall(results: Path, seeds: Sequence[int]) -> list[str]:
    """Our best method, and our default (LoRA), minus the best peer of each start, each chosen on dev; by cell and over cells: cells,
    seeds and examples are drawn."""
    lines = [
        "\n## Ours minus the best peer\n",
        "Ours is one of our four methods, the peer one of theirs, each the best on dev at strength 1 of those that are measured with that seed",
        "(the tables of the cells say which are missing): where seeds differ in it, all are named. Ours have one learning rate, the default, where nothing else is said. Ours at",
        "strength 1, fully tuned as the peers are, and at the strength that is chosen, which gives domain score away to keep 98 % of the general one. Where there is one seed, intervals of a cell are of examples alone.",
    ]
    for start, label in (("same", "from the same start"), ("own", "with its own defaults")):
        two = (*MAIN, *(f"{name}-high" for name in MAIN))
        ways = (
            (MAIN, "Our best method", False),
            (("lora",), "LoRA, our default,", False),
            (two, "Our best method with the better of two learning rates", False),
            (MAIN, "Our best method, each word's likeliest tag as peers have it (kept: with ours decoded),", True),
            (two, "The same with the better of two learning rates", True),
        )
        for names, title, alone in ways if start == "same" else (ways[0], ways[1], ways[3]):
            lines += [f"\n{title} minus the best peer {label}:\n"]
            lines += [
                "| cell | ours | peer | seeds | at 1 | interval | kept: ours, peer | at the chosen | interval | kept |",
                "|" + " --- |" * 10,
            ]
            lines += _differences(results, names, [f"peer-{name}" for name in peer_names(start)], seeds, alone)
    return lines


def word_by_word(row: Row) -> Row:
    """A row of entities with each word's likeliest tag at strength 1; another row as it is."""
    if "greedy" not in row:
        return row
    return {**row, "scores": {**row["scores"], "1": {**row["scores"]["1"], "domain": row["greedy"]}}}


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
    """A picture of gain against loss: domain and general score of every measured row, at strength 1 and at the chosen one. Returns
    its place beside the page; None without rows that have a general score."""
    peers = {
        f"peer-{name}": f"{name.removesuffix(f'-{start}')} ({start})"
        for start in ("same", "own")
        for name in peer_names(start)
    }
    points = []
    for name in (*OURS, *peers):
        rows = found(results, cell, name, seeds)
        if not rows or "error" in rows[0] or score(rows, one, "general") is None:
            continue
        at = [
            (score(rows, s, "general"), score(rows, s, "domain")) for s in ((one, chosen) if name in OURS else (one,))
        ]
        label = peers.get(name, name) + (" (older)" if is_old(name, rows) else "")
        points.append((label, name in OURS, at, rows))
    if not points:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    base = [score(points[0][3], lambda row: "0", part) for part in ("general", "domain")]
    axes.plot(*base, "k*", markersize=11)
    axes.annotate("base", base, xytext=(5, 5), textcoords="offset points", fontsize=8)
    for label, ours, at, _ in points:
        colour = "tab:blue" if ours else "tab:orange"
        axes.plot(*zip(*at, strict=True), "o-" if ours else "s", color=colour, markersize=5, linewidth=0.8)
        axes.plot(
            *at[-1],
            "o" if ours else "s",
            color=colour,
            markerfacecolor="white" if ours and len(at) > 1 else colour,
            markersize=5,
        )
        axes.annotate(label, at[0], xytext=(5, -3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="general score", ylabel="domain score (test)", title=cell)
    axes.grid(alpha=0.3)
    place = PAGE.with_suffix("") / f"{cell}.svg"
    place.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": cell, "svg.fonttype": "none"}):
        figure.savefig(place, metadata={"Date": None})
    return str(place.relative_to(PAGE.parent))


def p_tuning(results: Path, seeds: Sequence[int]) -> list[str]:
    lines = [
        "\n## P-tuning v2 against head only, PEFT's prefix and LoRA\n",
        "`p-tuning-norms` and `p-tuning-biases` are its variants with layer norms, or these and all biases, tuned beside it; `two rates`: the better on dev of the default learning rate and "
        "twice that, seed by seed; `up to three`: and of four times that where twice was the better. Prefix tuning has the better of two or, "
        "by the same rule, three. `greedy`: both sides with each word's likeliest tag, as prefix tuning always has it.\n",
        "| cell | ours | against | seeds | difference | interval |",
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
    held = [{seed_of(row): row for row in found(results, cell, name, seeds)} for name in names]
    made = []
    for seed in sorted(set.intersection(*map(set, held[:2]))):
        rows = [by_seed[seed] for by_seed in held if seed in by_seed]
        if len(rows) == len(held) or dev_score(rows[0]) >= dev_score(rows[1]):
            made.append(max(rows, key=dev_score))
    return made


def write_tables(results: Path, *, seeds: Sequence[int]) -> None:
    any_row = next(iter(sorted(results.glob("*.json"))), None)
    lines = [
        "# Benchmarks",
        "",
        "Written by `python benchmarks/text.py table` from the rows in benchmarks/results/text; never edited by hand.",
        "",
        *INTRODUCTION.read_text(encoding="utf-8").splitlines(),
    ]
    if any_row is not None:
        facts = json.loads(any_row.read_text(encoding="utf-8"))["provenance"]
        versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        lines += ["", f"{facts['machine']['processor']}, {facts['machine']['cores']} cores; {versions}."]
    lines += overall(results, seeds) + p_tuning(results, seeds)
    for cell in CELLS:
        lines += cell_table(results, cell, seeds)
    from defaults import table as tried  # these take their arithmetic from here
    from domains import table

    lines += table()
    lines += ["", "## Other settings than the defaults", "", *tried()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
