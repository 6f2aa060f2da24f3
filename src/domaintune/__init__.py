"""Domain adaptation of a pretrained model, with gain and loss measured. Public names are imported on first use."""

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'domaintune' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
