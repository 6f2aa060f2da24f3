"""What a GPU is asked to hold when it decodes, and what is said where a device's memory is full."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import base_and_task, rows
from small_runs import recipe, save_base

from domaintune import DomainTuneError, Recipe, tune
from domaintune.bases.device_memory import within_memory
from domaintune.engine.gradient import StepGradient
from domaintune.errors import DeviceMemoryError, RunError
from domaintune.evaluation.score import scoring_costs
from domaintune.methods.lora import LoRA, LoRAAttached
from domaintune.preview import plan
from domaintune.tasks.base import Task, dataset
from domaintune.tasks.text_classification import TextClassification

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB.\nMore."
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "settings", "decoded"),
    [
        ("translation", {"num_beams": 3, "max_target_length": 20}, {"chrf", "bleu", "exact_match", "output"}),
        ("generation", {"num_beams": 2, "max_new_tokens": 12}, {"exact_match", "output"}),
    ],
)
def test_a_gpu_counts_new_tokens_and_beams(name: str, settings: dict[str, Any], decoded: set[str]) -> None:
    base, task = base_and_task(name, {"translation": "marian", "generation": "qwen3"}[name])
    old = task.settings  # type: ignore[attr-defined]
    task = task.model_copy(update={"settings": old.model_copy(update=settings)})
    if name == "translation":
        task = task.model_copy(update={"max_target_length": 20})
    items = dataset(task, base, list(task.read(rows(name)))).items
    plain = [task.cost(item) for item in items]
    key = "input_ids" if name == "translation" else "decode_ids"
    beams, new = settings["num_beams"], 20 if name == "translation" else 12
    for score in (*task.scores, "output"):
        wanted = frozenset({score})
        assert scoring_costs(task, items, CPU, wanted) == plain
        expected = [beams * (len(item.inputs[key]) + new) for item in items] if score in decoded else plain
        assert scoring_costs(task, items, GPU, wanted) == expected


def test_other_tasks_cost_the_same_everywhere() -> None:
    base, task = base_and_task("text-classification", "bert")
    items = dataset(task, base, list(task.read(rows(task.name)))).items
    assert scoring_costs(task, items, GPU, frozenset({"output"})) == [task.cost(item) for item in items]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError(FULL), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes.")],
)
def test_full_memory_names_the_key_to_lower(error: RuntimeError) -> None:
    with (
        pytest.raises(DeviceMemoryError, match=r"does not hold 4,096 tokens or pixels") as told,
        within_memory("a.b", 4096),
    ):
        raise error
    assert told.value.where == "a.b"
    assert "--set a.b=2048" in told.value.remedy
    assert "GPU 0" not in str(told.value)
    with pytest.raises(RuntimeError, match="shape"), within_memory("a.b", None):
        raise RuntimeError("shape mismatch")


@pytest.fixture
def given(tmp_path: Path) -> Recipe:
    save_base(tmp_path)
    return recipe(tmp_path, general=None)


def full(*arguments: Any, **more: Any) -> Any:
    raise torch.cuda.OutOfMemoryError(FULL)


def test_a_step_too_large_is_told(given: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepGradient, "_backward", full)
    for call in (tune, plan):
        with pytest.raises(DomainTuneError, match=r"^training\.micro_batch_budget: .* 2,048 tokens"):
            call(given)


@pytest.mark.parametrize(("kind", "act", "calls"), [(LoRA, "attach", (tune, plan)), (LoRAAttached, "view", (tune,))])
def test_weights_too_many_are_told(
    given: Recipe, monkeypatch: pytest.MonkeyPatch, kind: type, act: str, calls: tuple[Callable[[Recipe], object], ...]
) -> None:
    monkeypatch.setattr(kind, act, full)
    for call in calls:
        with pytest.raises(DeviceMemoryError, match=r"^device: the memory does not hold the base .*device=cpu"):
            call(given)


def test_scoring_too_large_is_told_and_goes_on_with_a_lower_budget(
    given: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of training; the run then ends in what it would have come to."""
    whole = tune(given)
    given = given.model_copy(update={"output": str(tmp_path / "runs" / "y")})
    predict, calls = TextClassification.predict, []

    def once(self: Task, *arguments: Any) -> Any:
        calls.append(1)
        return full() if len(calls) == 4 else predict(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TextClassification, "predict", once)
        with pytest.raises(DomainTuneError, match=r"^evaluation\.batch_budget: .* 2,048 tokens"):
            tune(given)
    assert (tmp_path / "runs" / "y" / "checkpoint").exists()
    lower = given.evaluation.model_copy(update={"batch_budget": 1024})
    with pytest.raises(RunError, match=r"draws: 200 -> 201") as refused:
        tune(given.model_copy(update={"evaluation": lower.model_copy(update={"draws": 201})}))
    assert "batch_budget" not in str(refused.value)
    again = tune(given.model_copy(update={"evaluation": lower}))
    resolved = json.loads((again.path / "resolved.json").read_text())
    assert resolved["evaluation"]["batch_budget"] == 1024
    name = "adapter/adapter_model.safetensors"
    assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
