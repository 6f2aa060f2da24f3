"""Plots of a run's records as SVG text to stand inside a page: words stay words, colours are the page's own variables.

No text from the data is drawn: only numbers and names of this program.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from domaintune.report.wording import known

# Colours that no plot has by chance; each becomes the page's CSS variable of that name.
INK, MUTED, LINE, PAPER = "#010203", "#010204", "#010205", "#010206"
BASE, TUNED, CHOSEN = "#010207", "#010208", "#010209"
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", BASE: "base", TUNED: "tuned", CHOSEN: "chosen"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}
WIDTH, HEIGHT = 4.5, 3.1
"""Inches; small, so that words are still readable on a phone."""
Point = Mapping[str, Any]


@contextmanager
def _styled(name: str) -> Any:
    """The user's own matplotlib settings have no say."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name})
        yield


def _axes(height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure without what only a file of its own needs; `name` makes its ids unique in the page."""
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace("'DejaVu Sans'", "inherit")
    text = re.sub(r"font: ?([\d.]+)px inherit", r"font-size: \1px", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def frontier(points: Sequence[Point], *, chosen: float, primary: str, general: str, better: str = "") -> str:
    """The domain's score over the general one from strength 0 to 1, or over the strength without general data; `better`: which way is,
    where that is to be said."""
    two = all(point["general"] is not None for point in points)
    across = [p["general"] if two else p["strength"] for p in points]
    up = [p["domain"] for p in points]
    with _styled("frontier"):
        figure, axes = _axes()
        axes.plot(across, up, color=MUTED, linewidth=1.2, zorder=2)
        for x, y, point in zip(across, up, points, strict=True):
            colour, marker = {0.0: (BASE, "s"), 1.0: (TUNED, "o")}.get(point["strength"], (MUTED, "."))
            axes.plot([x], [y], marker, color=colour, markersize=8 if marker != "." else 7, zorder=4)
            if point["strength"] == chosen:
                axes.plot([x], [y], "o", markersize=16, color=CHOSEN, fillstyle="none", markeredgewidth=2, zorder=5)
        axes.margins(0.16, 0.18)
        axes.autoscale_view()
        for (x, y), names in _labels(axes, list(zip(across, up, strict=True)), points, chosen, all_of_them=two):
            right = x > (min(across) + max(across)) / 2
            axes.annotate(
                ", ".join(names),
                (x, y),
                xytext=(-10 if right else 10, 9),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=9,
                zorder=3,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},
            )
        axes.set_xlabel(f"{general}, general\n{better}".rstrip() if two else "strength")
        axes.set_ylabel(f"{primary}, domain\n{better}".rstrip())
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return _svg(figure, "frontier", "Domain score against general score over the strengths")


def _labels(
    axes: Axes, places: Sequence[tuple[float, float]], points: Sequence[Point], chosen: float, *, all_of_them: bool
) -> list[tuple[tuple[float, float], list[str]]]:
    """Where a label stands and the strengths it names: those at one place share it. Without `all_of_them` the ends and the chosen
    one alone, since the axis names the others."""
    made: list[tuple[tuple[float, float], list[str]]] = []
    for place, point in zip(places, points, strict=True):
        strength = point["strength"]
        name = {0.0: "base", 1.0: "tuned"}.get(strength, f"{strength:g}") + (" (chosen)" if strength == chosen else "")
        if not all_of_them and strength not in (0.0, chosen, 1.0):
            continue
        near = [names for other, names in made if _near(axes, place, other)]
        if near:
            near[0].append(name)
        else:
            made.append((place, [name]))
    return made


def _near(axes: Axes, one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether labels at two points would cover each other."""
    (x, y), (u, v) = axes.transData.transform([one, other])
    return bool(abs(x - u) < 32 and abs(y - v) < 14)


def curves(
    losses: Sequence[float], dev: Sequence[float | None], *, best: int | None, primary: str, better: str = ""
) -> str:
    """Train loss and dev score by epoch (from 1), each with an axis of its own; `best` counts from 0, `better` as in `frontier`."""
    shown = [(epoch, score) for epoch, score in enumerate(dev, 1) if score is not None]
    with _styled("curves"):
        figure, axes = _axes()
        axes.plot(range(1, len(losses) + 1), losses, "s--", color=BASE, markersize=4, label="train loss")
        axes.set_xlabel("epoch")
        axes.set_ylabel("train loss")
        axes.set_xlim(0.5, len(losses) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        handles = axes.get_lines()[:1]
        if shown:
            other = axes.twinx()
            other.grid(visible=False)
            other.spines["right"].set_visible(True)
            other.plot(*zip(*shown, strict=True), "o-", color=TUNED, markersize=4, label=f"dev {primary}")
            other.set_ylabel(f"dev {primary}\n{better}".rstrip())
            handles += other.get_lines()[:1]
            kept = [(epoch, score) for epoch, score in shown if best is not None and epoch == best + 1]
            if kept:
                other.plot(
                    *zip(*kept, strict=True), "o", markersize=13, color=CHOSEN, fillstyle="none", markeredgewidth=2
                )
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return _svg(figure, "curves", "Train loss and dev score by epoch")


def intervals(rows: Sequence[tuple[str, str, Point]], *, name: str, label: str) -> str:
    """Values with their 95 % intervals, one below the other: (text, colour, estimate)."""
    with _styled(name):
        figure, axes = _axes(0.75 + 0.34 * len(rows))
        for place, (_, colour, found) in enumerate(rows):
            _draw_interval(axes, found, place, color=colour, linewidth=2.4)
            axes.plot([found["value"]], [place], {BASE: "s", TUNED: "o"}.get(colour, "D"), color=colour, markersize=7)
        axes.set_yticks(range(len(rows)), [text for text, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(label)
        return _svg(figure, name, f"{label} with 95 % intervals")


def _draw_interval(axes: Axes, found: Point, place: float, *, color: str, linewidth: float) -> None:
    """None where it has no bounds."""
    if known(found["low"]) and known(found["high"]):
        axes.plot([found["low"], found["high"]], [place, place], color=color, linewidth=linewidth)


def reliability(bins: Sequence[Point]) -> str:
    """How often answers given with a confidence were right, before and after the probabilities were calibrated; a point a bin."""
    filled = [b for b in bins if b["count"]]
    with _styled("reliability"):
        figure, axes = _axes(3.4)
        axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1.2)
        for key, colour, marker, text in (
            ("accuracy_before", BASE, "s--", "as trained"),
            ("accuracy", TUNED, "o-", "calibrated"),
        ):
            place = key.replace("accuracy", "confidence")
            known = [(b.get(place, b["confidence"]), b[key]) for b in filled if b.get(key) is not None]
            if known:
                axes.plot(*zip(*known, strict=True), marker, color=colour, markersize=5, label=text)
        least = min([min(b["low"], b.get("confidence_before", 1.0)) for b in filled], default=0)
        axes.set(xlim=(least - 0.02, 1.02), ylim=(0, 1.04))
        axes.set_xlabel("stated probability")
        axes.set_ylabel("share that was right")
        axes.legend(loc="upper left")
        return _svg(figure, "reliability", "Share of right answers by confidence")


def robustness(kinds: Mapping[str, Mapping[str, Point]], clean: Mapping[str, Point], *, primary: str) -> str:
    """Base and tuned on clean and on changed inputs, with intervals."""
    rows = {"clean": clean, **kinds}
    with _styled("robustness"):
        figure, axes = _axes(0.9 + 0.42 * len(rows))
        for side, colour, marker, shift in (("base", BASE, "s", -0.13), ("tuned", TUNED, "o", 0.13)):
            for place, found in enumerate(rows.values()):
                if (e := found.get(side)) is None:
                    continue
                _draw_interval(axes, e, place + shift, color=colour, linewidth=2)
                axes.plot([e["value"]], [place + shift], marker, color=colour, markersize=6)
            axes.plot([], [], marker, color=colour, label=side)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(primary)
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure, "robustness", f"{primary} on changed inputs")
