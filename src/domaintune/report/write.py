"""A finished run -> its page and its model card, in the run folder."""

from __future__ import annotations

from pathlib import Path

from domaintune.report.card import render_card
from domaintune.report.page import render_page
from domaintune.report.records import Records
from domaintune.run import PAGE, RunFolder, write_text

CARD = "README.md"


def write_report(run: str | Path) -> Path:
    """Write `report.html` and `README.md` from the run's records alone; the page's path.

    Raises:
        RunError: no finished run there, or one that is damaged.
    """
    records = Records.read(run)
    write_text(records.path / CARD, render_card(records))
    write_text(records.path / PAGE, render_page(records))  # the last: a run with its page is complete
    return RunFolder.existing(run).path / PAGE
