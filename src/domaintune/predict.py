"""A finished run as a model again: its views and predictions, and the run as the base of another."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from domaintune.bases.base import Base
from domaintune.bases.load import load_base, torch_device
from domaintune.counting import counted
from domaintune.data.rows import Row, name_of
from domaintune.errors import BaseError, DomainTuneError, MethodError, RunError
from domaintune.evaluation.score import predict_by_domain
from domaintune.memory import given_inputs
from domaintune.methods import method_from
from domaintune.methods.base import Attached, Form
from domaintune.recipe import Recipe
from domaintune.run import SEEDS, RunFolder, check_strengths, is_run
from domaintune.stored import (
    FILES,
    HEADS,
    damage_told,
    learned_checksum,
    saved_tasks,
    weights_changed,
    with_saved_heads,
)  # fmt: skip
from domaintune.tasks import TASKS
from domaintune.tasks.answering import answering
from domaintune.tasks.bare_texts import given_rows, placed, with_words
from domaintune.tasks.base import Mode, Prediction, Task, dataset

KEPT_VIEWS = 8
Strength = float | Mapping[str, float]
Shortened = Callable[[str, str], None]
"""Receives "cut" for an input that is longer than the model reads, "unfinished" for an output that ended at the limit, and where it stands."""


def open_base(recipe: Recipe, *, revision: str | None = None) -> Base:
    """The base that a recipe names: an earlier run, a built-in name, a folder or a Hub name, there at `revision`; without heads."""
    if recipe.grown_from is not None:
        earlier = RunFolder.existing(recipe.grown_from)
        made = Recipe.make(earlier.read("resolved.json"), where=recipe.grown_from)
        own = {"device": recipe.device, "trust_remote_code": recipe.trust_remote_code}
        made = made.model_copy(update=own)
        return _origin(made, earlier)
    if is_run(Path(recipe.base)):
        return run_as_base(recipe.base, task_name=recipe.task.name, device=torch_device(recipe.device))
    return load_base(
        recipe.base,
        auto_class=TASKS[recipe.task.name].auto_class,
        device=torch_device(recipe.device),
        trust_remote_code=recipe.trust_remote_code,
        revision=revision,
    )


def run_as_base(
    path: str,
    *,
    task_name: str,
    device: torch.device,
    strength: float | None = None,
    made_on: Mapping[str, Any] | None = None,
) -> Base:
    """A run's merged weights at its strength (`strength`: as it was when another run was made on it), its head, its labels.

    Raises:
        MethodError: the run's method cannot be merged.
        BaseError: another task, or weights that changed since another run was made on them, which has `made_on` as its provenance.
    """
    run = load(path, device="cpu")  # devices round differently, and the weights are merged
    if run.task.name != task_name:
        raise BaseError(
            f"is a run of {run.task.name}, not of {task_name}.", where=path, remedy="Give a base for this task."
        )
    chosen = run.strength if strength is None else strength
    if run.recipe.method.name == "p-tuning":
        raise MethodError(
            "is a P-tuning run, whose learned vectors cannot be merged into weights, so it cannot be a base.",
            where=path,
            remedy="Use a run of lora, freeze or full as the base.",
        )
    if run.domains:
        raise MethodError(
            "has a strength per domain, which one set of merged weights cannot have, so it cannot be a base.",
            where=path,
            remedy="Use a run without domain weights (--set method.domain_weights=false) as the base.",
        )
    model = run.attached.view(chosen, form="merged").requires_grad_(False)
    spec = run.task.head()
    digest = learned_checksum(run.path, strength=chosen, base=run.base.checksum)
    if made_on is not None and weights_changed(made_on, digest, model):
        raise BaseError("its weights changed since this run was made.", where=path, remedy="Restore that run.")
    return Base(
        name=path,
        model=model.to(device),
        processor=run.base.processor,
        own_labels=spec.labels,
        own_problem_type=spec.problem_type,
        own_transitions=getattr(run.task.at(chosen), "transitions", None),
        pooling=run.base.pooling,
        provenance={
            "run": str(Path(path).resolve()),
            "strength": chosen,
            "weights_sha256": digest,
            "checksum_of": FILES,
            "hub": run.base.provenance.get("hub"),
        },
    )


@dataclass
class Run:
    """A finished run, ready to predict. Safe to share between threads: each view is a module tree of its own and each thread
    has its own processor; nothing is mutated but the cache of views."""

    path: Path
    recipe: Recipe
    task: Task
    general_task: Task | None
    base: Base
    attached: Attached
    strength: float
    form: Form
    domains: Mapping[str, float] = field(default_factory=dict)
    """Learned weight of each domain that has one; it multiplies the strength of rows that name it."""
    own_strengths: Mapping[str, float] = field(default_factory=dict)
    """Strengths that were set for single domains, in place of the run's times the weight."""
    _views: dict[tuple[float, str], nn.Module] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _local: threading.local = field(default_factory=threading.local)

    def checked_strength(self, strength: float | None) -> float:
        """The strength itself; the run's own where None.

        Raises:
            RunError: a strength outside [0, 1].
        """
        chosen = self.strength if strength is None else float(strength)
        check_strengths({"": chosen}, ())
        return chosen

    def view(self, strength: float | None = None, *, head: str = "domain") -> nn.Module:
        """The model at a strength in [0, 1] (by default the run's), with the domain's or the general head; the last few are kept.

        Raises:
            RunError: a strength outside [0, 1].
        """
        chosen = self.checked_strength(strength)
        with self._lock:
            view = self._views.pop((chosen, head), None)
            if view is None:
                view = self.attached.view(chosen, head=head, form=self.form)
            self._views[chosen, head] = view  # the latest used stands last
            while len(self._views) > KEPT_VIEWS:
                self._views.pop(next(iter(self._views)))
            return view

    def _own_base(self) -> Base:
        if not hasattr(self._local, "base"):  # a fast tokenizer shared by threads mixes up their settings
            with self._lock:
                self._local.base = replace(self.base, processor=copy.deepcopy(self.base.processor))
        base: Base = self._local.base
        return base

    def strengths(self, strength: Strength | None = None) -> dict[str, float]:
        """The strength of each domain that has one of its own, by learned weight or by name in `strength`; "" is all others'.

        Raises:
            RunError: a name that the run does not know.
        """
        given = dict(strength) if isinstance(strength, Mapping) else {} if strength is None else {"": strength}
        whole = self.checked_strength(given.get(""))
        given = {name: float(value) for name, value in given.items()}
        check_strengths(given, self.domains)
        own = {} if "" in given else self.own_strengths
        return {
            "": whole,
            **{name: given.get(name, own.get(name, whole * weight)) for name, weight in self.domains.items()},
        }

    def answering(self, changes: Mapping[str, Any]) -> Run:
        """The run with other settings of how answers are made: of generation `max_new_tokens`, `num_beams`, `sample`, `temperature`, `top_p`
        and `stop`, of translation `num_beams` and `length_penalty`, of object detection `threshold`. Nothing is stored.

        Raises:
            RecipeError: another key, a bad value, or one that has no meaning beside the others.
        """
        task, general = (t and answering(t, self.recipe.task, changes) for t in (self.task, self.general_task))
        assert task is not None
        return replace(self, task=task, general_task=general)

    def predict(
        self, inputs: Sequence[str | Mapping[str, Any]], *, strength: Strength | None = None
    ) -> list[dict[str, Any]]:
        """One plain dictionary an input (a text, a path, or a row as in the training file), in order; a text's entities say at which
        characters they stand, its tags beside which words. `inputs` may also be a DataFrame or a `datasets.Dataset`, read as to train on.

        `strength`: one number, or one for each domain by name ("": the others); rows name theirs in the recipe's domain column,
        unknown ones have weight 1. Where the general set had other labels, the general head's answer stands beside under "base_..." names.

        Raises:
            DataError: a bad input, with its number; or one text or row where a list is wanted.
        """
        with given_inputs(inputs) as given:
            rows = given_rows(self.task, self.recipe, given)
            answers = zip(given, rows, self.predict_rows(rows, strength=strength), strict=True)
            return [with_words(value, row.values, made) for value, row, made in answers]

    def predict_rows(
        self, rows: Sequence[Row], *, strength: Strength | None = None, told: Shortened | None = None
    ) -> list[dict[str, Any]]:
        """As `predict`, for rows read from a file."""
        at = self.strengths(strength)
        made = self._rendered(self.task, rows, at, head="domain", told=told)
        if self.general_task is not None and "general" in self.base.heads:
            others = self._rendered(self.general_task, rows, at, head="general")
            for own, other in zip(made, others, strict=True):
                own.update({f"base_{key}": value for key, value in other.items()})
        return [placed(row.values, answer) for row, answer in zip(rows, made, strict=True)]

    def _rendered(
        self, task: Task, rows: Sequence[Row], at: Mapping[str, float], *, head: str, told: Shortened | None = None
    ) -> list[dict[str, Any]]:
        examples = list(task.read(rows, labelled=False))
        column = self.recipe.data.domain_column
        if self.domains and column is not None and len(examples) == len(rows):
            examples = [replace(e, domain=_domain(row, column)) for e, row in zip(examples, rows, strict=True)]
        made = self.predictions(task, examples, at, head=head, wanted=frozenset({"output"}), mode="predict")
        for example, prediction in zip(examples, made, strict=True) if told else ():
            for kind in ("cut", "unfinished"):
                if told is not None and prediction.get(kind):
                    told(kind, example.where)
        # Temperatures belong to the dial as it was before a domain's weight multiplied it.
        dial = {"": at[""], **{name: min(1.0, at[name] / max(weight, 1e-9)) for name, weight in self.domains.items()}}
        return [
            task.render(task.calibrated(prediction, dial.get(example.domain or "", at[""])))
            for prediction, example in zip(made, examples, strict=True)
        ]

    def predictions(
        self,
        task: Task,
        examples: Sequence[Any],
        at: Mapping[str, float],
        *,
        head: str = "domain",
        wanted: frozenset[str],
        mode: Mode = "score",
        budget: int | None = None,
    ) -> list[Prediction]:
        """One prediction an example, each at its domain's strength in `at` (see `strengths`); scores need `wanted` to name them.
        `budget`: tokens or pixels of a forward, by default what the run was made with."""
        base = self._own_base()
        return predict_by_domain(
            task,
            base,
            lambda name: (at[name or ""], nullcontext(self.view(at[name or ""], head=head))),
            dataset(task, base, examples),
            domains=self.domains,
            wanted=wanted,
            mode=mode,
            budget=budget or self.recipe.evaluation.batch_budget,
        )

    def unknown_domains(self, rows: Sequence[Row]) -> int:
        """How many rows name no domain that has a weight of its own, where the run has learned such weights: theirs is 1."""
        column = self.recipe.data.domain_column
        if not self.domains or column is None:
            return 0
        return sum(_domain(row, column) not in self.domains for row in rows)


def unknown_told(count: int) -> list[str]:
    """A note on so many rows of no domain that the run knows; none of none."""
    told = "[row names|rows name] no domain that the run has learned a weight for: [its|theirs] is 1."
    return [counted(count, told)] if count else []


def _domain(row: Row, column: str) -> str | None:
    """What a row to be predicted says of its domain, if anything; spelled as where the run was trained."""
    value = row.values.get(column)
    name = name_of(value)
    return (str(value) if name is None and value is not None else name) or None


def load(path: str | Path, *, device: str | None = None) -> Run:
    """A finished run from its folder, with its base. `device` as in recipes; by default the run's recipe's.

    Raises:
        RunError: no finished run there, or its base is gone or changed.
        RecipeError: the device is not here.
    """
    folder = RunFolder.existing(path)
    with damage_told(path):
        return _load(folder, device)


def _load(folder: RunFolder, device: str | None) -> Run:
    recipe = Recipe.make(folder.read("resolved.json"), where=str(folder.path / "resolved.json"))
    if device is not None:
        recipe = recipe.model_copy(update={"device": device})
    tasks = saved_tasks(folder)
    base = _origin(recipe, folder)
    base = with_saved_heads(base, tasks, folder.path / HEADS)
    strength = folder.read("strength.json")
    weights = strength.get("domains", {})
    adapter = folder.path / "adapter"
    attached = (
        method_from(recipe.method)
        .as_saved(base, adapter)
        .attach(base, generator=torch.Generator().manual_seed(recipe.seed), domains=list(weights))
    )
    attached.load(adapter)
    attached.set_domain_weights_(weights)
    attached.model.eval()
    form: Form = strength["form"]
    return Run(
        folder.path, recipe, tasks["domain"], tasks.get("general"), base, attached, strength["chosen"], form,
        weights, strength.get("own", {}),
    )  # fmt: skip


def _origin(recipe: Recipe, run: RunFolder) -> Base:
    """The base that the run of this recipe was made on, as it was then: a run or a folder where it stood, where the recipe names it
    from here, or beside the run, the first that has the weights of then.

    Raises:
        RunError: it is at none of these places.
        BaseError: it is another one now.
    """
    made_on = run.read("provenance.json")
    origin = made_on["base"]
    recipe = recipe.model_copy(update={"grown_from": None})  # its base is written out
    recorded = origin.get("run") or origin.get("folder")
    if recorded is None:
        return _as_then(recipe, recipe.base, made_on)
    around = run.path.parents[2] if run.path.parent.name == SEEDS else run.path.parent
    places: dict[str, str] = {}
    for place in (recorded, recipe.base, str(around / Path(recorded).name)):
        places.setdefault(os.path.realpath(place), place)
    named = list(places.values())
    there = [place for place in named if _is_there(place, run="run" in origin)]
    if not there:
        what = "the run" if "run" in origin else "the folder"
        raise RunError(
            f"was made on {what} '{recipe.base}', which is not there.",
            where=str(run.path),
            remedy=f"Put it to one of these places: {', '.join(named)}.",
        )
    failed = []
    for place in there:
        try:
            return _as_then(recipe, place, made_on)
        except (DomainTuneError, OSError) as error:
            failed.append(error)  # another one of that name
    raise failed[0]


def _is_there(place: str, *, run: bool) -> bool:
    try:
        return is_run(Path(place)) if run else Path(place).is_dir()
    except OSError:  # a folder that may not be read
        return False


def _as_then(recipe: Recipe, place: str, made_on: Mapping[str, Any]) -> Base:
    origin = made_on["base"]
    if "run" in origin:
        return run_as_base(
            place,
            task_name=recipe.task.name,
            device=torch_device(recipe.device),
            strength=origin["strength"],
            made_on=made_on,
        )
    base = open_base(recipe.model_copy(update={"base": place}), revision=origin.get("revision"))
    for key in ("weights_sha256", "revision"):  # a folder's, the Hub's
        expected = origin.get(key)
        if expected is not None and base.provenance.get(key) != expected:
            raise RunError(
                f"its base's weights changed since the run was made ({key} was {expected}).",
                where=place,
                remedy="Restore the base.",
            )
    return replace(base, name=recipe.base, provenance={**base.provenance, "source": recipe.base})
