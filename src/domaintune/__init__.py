"""Domain adaptation of a pretrained model, with gain and loss measured. Public names are imported on first use."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domaintune.errors import DomainTuneError
    from domaintune.pipeline import tune
    from domaintune.predict import Run, load
    from domaintune.recipe import Recipe

__all__ = ["DomainTuneError", "Recipe", "Run", "load", "tune"]

_HOMES = {
    "DomainTuneError": "domaintune.errors",
    "Recipe": "domaintune.recipe",
    "Run": "domaintune.predict",
    "load": "domaintune.predict",
    "tune": "domaintune.pipeline",
}


def _same_sums_wherever_numbers_lie() -> None:
    """Ask MKL, before its first call, for sums that do not depend on where in memory a matrix lies: without it, equal weights
    give other last bits in another copy of a model. Of Intel's processors alone; it costs nothing there."""
    try:
        intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        intel = "Intel" in platform.processor()
    if intel:
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


_same_sums_wherever_numbers_lie()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'domaintune' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
