"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domaintune.methods.base import Method
from domaintune.methods.freeze import Freeze
from domaintune.methods.full import Full
from domaintune.methods.lora import LoRA
from domaintune.methods.p_tuning import PTuning

# Each is made from its settings model in `domaintune.recipe`, whose `name` is the key here.
METHODS: dict[str, Callable[[Any], Method]] = {"full": Full, "freeze": Freeze, "lora": LoRA, "p-tuning": PTuning}


def method_from(settings: Any) -> Method:
    """The method of one of the recipe's `MethodSettings`."""
    return METHODS[settings.name](settings)


__all__ = ["METHODS", "method_from"]
