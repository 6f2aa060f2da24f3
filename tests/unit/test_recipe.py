"""Recipes: defaults, overrides, errors with remedies, and the page that documents them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from domaintune.errors import RecipeError
from domaintune.recipe import Recipe
from domaintune.settings import FreezeSettings, LoRASettings, PTuningSettings

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"task": "text-classification", "base": "minilm", "train": "t.csv", "output": "runs/x"}


def test_the_page_says_what_the_program_does() -> None:
    path = ROOT / "docs" / "make_recipe_page.py"
    spec = importlib.util.spec_from_file_location("make_recipe_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert path.with_name("recipe.md").read_text(encoding="utf-8") == module.page(), (
        "run: python docs/make_recipe_page.py"
    )


def test_a_name_is_short_for_its_settings() -> None:
    recipe = Recipe.make({**LEAST, "method": "p-tuning"})
    assert recipe.method == PTuningSettings()
    assert Recipe.make(LEAST).method == LoRASettings()
    assert Recipe.make(recipe.plain()) == recipe


def test_overrides_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: text-classification\nbase: minilm\ntrain: t.csv\noutput: runs/x\nmethod: lora\n")
    recipe = Recipe.read(path, ["method.rank=16", "training.epochs=3", "task.multi_label=true"], seed=7, dev=None)
    assert isinstance(recipe.method, LoRASettings)
    assert recipe.method.rank == 16
    assert recipe.training.epochs == 3
    assert recipe.task.multi_label is True  # type: ignore[union-attr]
    assert recipe.seed == 7
    assert recipe.dev is None
    full = Recipe.read(path, ["training.layer_decay=0.9"], method="full")
    assert full.method.name == "full"


def test_naming_what_is_named_already_keeps_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    task = {"name": "text-classification", "text_column": "review"}
    path.write_text(yaml.safe_dump({**LEAST, "task": task, "method": {"name": "lora", "rank": 32, "dora": True}}))
    given = Recipe.read(path)
    assert Recipe.read(path, task="text-classification", method="lora") == given
    assert Recipe.read(path, ["method=lora", "task=text-classification"]) == given
    assert (
        Recipe.read(path, nested=[("task.label_column", "stars")], task="text-classification").task.text_column
        == "review"
    )  # type: ignore[union-attr]
    assert Recipe.read(path, ["method=freeze"]).method == FreezeSettings()
    assert Recipe.read(path, ["method={name: lora, alpha: 8}"]).method == LoRASettings(alpha=8)
    path.write_text(yaml.safe_dump({**LEAST, "task": {"text_column": "review"}, "method": {"rank": 4}}))
    made = Recipe.read(path, task="text-classification", method="lora")
    assert (made.task.text_column, made.method) == ("review", LoRASettings(rank=4))  # type: ignore[union-attr]
    assert Recipe.read(path, task="text-classification", method="freeze").method == FreezeSettings()


def test_python_says_what_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    parts = {"train": [Path("~/a.csv"), "b.csv"], "dev": Path("~/d.csv"), "test": "~/x.en::~/x.de"}
    made = Recipe.make({**LEAST, **parts, "base": Path("~/base"), "output": Path("~/o"), "method": {"rank": 4}})
    assert made.method == LoRASettings(rank=4)
    home = str(tmp_path)
    assert (made.base, made.output, made.dev) == (f"{home}/base", f"{home}/o", f"{home}/d.csv")
    assert (made.train, made.test) == ((f"{home}/a.csv", "b.csv"), f"{home}/x.en::{home}/x.de")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**LEAST, "base": "~/base", "output": "~/o", "train": "~/a.csv"}))
    read = Recipe.read(tmp_path / "r.yaml", output="~/p")
    assert (read.base, read.output, read.train) == (f"{home}/base", f"{home}/p", f"{home}/a.csv")
    rows = Recipe.make({**LEAST, "output": Path("~/o"), "train": [{"text": "a", "label": "b"}]})
    assert Path(str(rows.train)).parent == tmp_path / "o/data"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": {"name": "lora", "rnk": 3}}, r"'method.lora.rnk': did you mean 'rank'"),
        ({"method": "lroa"}, r"'method': unknown name 'lroa': did you mean 'lora'"),
        (
            {"task": "text-clasification"},
            r"'task': unknown name 'text-clasification': did you mean 'text-classification'",
        ),
        ({"method": {"name": "xxx", "rank": 2}}, r"unknown name 'xxx': valid: full, freeze, lora, p-tuning"),
        ({"trian": "x"}, r"'trian': did you mean 'train'"),
        ({"training": {"epochs": -1}}, r"training.epochs.*greater than or equal to 0"),
        ({"balance": {"strengths": [0.5]}}, r"include both 0 and 1"),
        ({"training": {"learning_rate": float("nan")}}, r"learning_rate"),
    ],
)
def test_faults_are_named(change: dict, text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        Recipe.make({**LEAST, **change})


@pytest.mark.parametrize("content", ["a: [1", "- a\n- b\n", "task: \x00"])
def test_files_that_are_no_recipe(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        Recipe.read(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.read(tmp_path / "missing.yaml")
    with pytest.raises(RecipeError, match="--set"):
        Recipe.read(None, ["rank"])


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    made = Recipe.make(
        {**LEAST, "task": {"name": "text-classification", "labels": [1, 2]}, "data": {"general_labels": [1]}}
    )
    assert made.task.labels == ("1", "2")
    assert made.data.general_labels == ("1",)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**LEAST, "data": {"label_map": {1: "negative", 5: 2}}}))
    assert Recipe.read(tmp_path / "recipe.yaml").data.label_map == {"1": "negative", "5": "2"}
    assert Recipe.read(None, ["data.label_map={1: 2}"], **LEAST).data.label_map == {"1": "2"}
    with pytest.raises(RecipeError, match="label_map"):
        Recipe.make({**LEAST, "data": {"label_map": {True: "yes"}}})
    for wrong in ({"labels": [True, False]}, {"label_separator": ""}):
        with pytest.raises(RecipeError):
            Recipe.make({**LEAST, "task": {"name": "text-classification", **wrong}})


def test_settings_of_a_method_that_nothing_names_are_loras(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("task: text-classification\nbase: minilm\ntrain: t.csv\noutput: o\nmethod: {rank: 4}\n")
    for overrides, alpha in (((), None), (("method.alpha=8",), 8)):
        made = Recipe.read(path, overrides)
        assert isinstance(made.method, LoRASettings)
        assert made.method.rank == 4
        assert alpha is None or made.method.alpha == alpha
