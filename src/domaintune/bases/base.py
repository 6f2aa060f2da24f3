"""The base model: what was loaded, frozen and never touched, and the two ways to get a model from it: forks and heads.

No labels' meaning lives here (a head only knows their names), no method, no data.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from domaintune.bases.anatomy import Anatomy, examine
from domaintune.bases.padding import ignores_left_padding
from domaintune.bases.parts import inside
from domaintune.bases.probe import kept_tensors
from domaintune.errors import BaseError


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Which output layer a task needs.

    `auto_class` names the transformers class (such as "AutoModelForTokenClassification"); `labels` are in the order of the
    output units, and empty where the labels size nothing (text generation). `problem_type` is transformers' own field.
    `whole` says that every module outside the body belongs to the head (classifiers with a dense layer before the last);
    where it is false only the modules that the number of labels sizes do (detectors, whose box layers stay).
    """

    auto_class: str
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Head:
    """Every module and configuration field that a set of labels sizes. `modules` maps the path in the model to the module."""

    spec: HeadSpec
    modules: Mapping[str, nn.Module]
    config: Mapping[str, Any]

    def state(self) -> dict[str, Tensor]:
        """The head's tensors by their name in the whole model."""
        return {
            f"{path}.{name}": tensor
            for path, module in self.modules.items()
            for name, tensor in module.state_dict(keep_vars=True).items()
        }


@dataclass(frozen=True, kw_only=True)
class Base:
    """A pretrained model with its processor. `model` is in eval mode, none of its parameters requires a gradient.

    `heads` holds "domain" once the domain's task is known, and "general" where the general set has other labels; the "domain"
    head is the one installed in `model`. `own_labels` are the labels that the weights came with (empty: a body without a head).
    `pooling` is "mean", "cls" or "max" where the base records one of its own. `provenance` says where the weights came from.
    """

    name: str
    model: nn.Module
    processor: Any
    own_labels: tuple[str, ...] = ()
    own_transitions: tuple[tuple[float, float, float], ...] | None = None
    """Of a run: what its own head decodes with (see `tasks.tag_chains.Transitions`)."""
    unnamed_labels: tuple[str, ...] = ()
    """Of a head whose labels nobody named: transformers' placeholders (LABEL_0, ...). `own_labels` is empty then."""
    own_problem_type: str | None = None
    pooling: str | None = None
    heads: Mapping[str, Head] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    """Paths of the modules that the weights lack and an output depends on: made anew at the load."""
    original: nn.Module | None = None
    """The model as it was loaded, with its own head, once another head was installed in `model`."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    """The day (ISO) that is today to chat templates which print one."""

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def checksum(self) -> str | None:
        """What its weights are known by: a checksum, or the Hub's revision."""
        known: str | None = self.provenance.get("weights_sha256") or self.provenance.get("revision")
        return known

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def loaded(self) -> nn.Module:
        """The model as it was loaded, with its own head."""
        return self.model if self.original is None else self.original

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of floating inputs."""
        return next(self.model.parameters()).dtype

    @cached_property
    def anatomy(self) -> Anatomy:
        """Embeddings, chains of blocks, sites and cuts, found once by structure and by a probe forward."""
        return examine(self.model)

    @cached_property
    def ignores_left_padding(self) -> bool:
        """Of a causal model: whether rows of unequal length can be decoded together, found once by two short forwards."""
        return ignores_left_padding(self.model, self.processor.pad_token_id or 0)

    def with_head(self, name: str, spec: HeadSpec, *, generator: torch.Generator) -> Base:
        """This base with one more head, freshly initialised, or its own where its own labels are the same set; modules that the
        weights lack are part of it.

        The head "domain" is installed in the returned base's model (a fork; this base stays as it is).

        Raises:
            BaseError: the model has no module that the number of labels sizes.
        """
        if not spec.labels:
            return self
        head = own_head(self, spec) if self.owns(spec) else fresh_head(self, spec, generator=generator)
        beside = {path: fork(self.loaded.get_submodule(path)) for path in self.lacking_beside(spec)}
        return self.with_given_head(name, replace(head, modules={**head.modules, **beside}))

    def lacking_beside(self, spec: HeadSpec) -> tuple[str, ...]:
        """The modules that the weights lack beside those of a head for `spec`: parts of every head, trained and stored with it."""
        if not self.lacking:
            return ()
        head = head_paths(self.loaded, whole=spec.whole) if spec.labels else ()
        return tuple(path for path in self.lacking if not any(inside(path, own) for own in head))

    def owns(self, spec: HeadSpec) -> bool:
        """Whether the weights came with a head for just these labels, in any order."""
        own = self.own_labels or (self.unnamed_labels if spec.labels else ())
        return set(spec.labels) == set(own) and spec.problem_type == self.own_problem_type

    def with_given_head(self, name: str, head: Head) -> Base:
        """This base with `head` under `name`; "domain" is installed in the model of the returned base."""
        heads = {**self.heads, name: head}
        if name != "domain":
            return replace(self, heads=heads)
        model = fork(self.model)
        install_head_(model, head)
        return replace(self, model=model.requires_grad_(False), heads=heads, original=self.loaded)

    def fork(self, replacing: Mapping[str, Tensor] | None = None, *, head: str = "domain") -> nn.Module:
        """A module tree of its own over the same storage, with the named head; see `fork`."""
        model = fork(self.model, replacing)
        if head != "domain":
            if head not in self.heads:
                raise BaseError(
                    f"no head '{head}' (heads: {', '.join(self.heads) or 'none'}).",
                    where=self.name,
                )
            install_head_(model, self.heads[head])
        return model


def fork(model: nn.Module, replacing: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy of the module tree whose parameters share the original's storage, or stand on the tensors of `replacing`.

    `replacing` maps names from `named_parameters(remove_duplicate=False)` to tensors of the same shape, which are used as they
    are (not cloned); a `Parameter` stays the very object, gradient flag included. Tied parameters stay tied. Buffers are
    cloned, so that batch-norm statistics of the copy never reach the original; what forwards kept is dropped. Every shared parameter
    is a new `Parameter` object without a gradient: `.half()`, `requires_grad_` and `.to()` on the copy leave the original alone;
    writes in place do not, and are forbidden.

    Raises:
        KeyError: a name of `replacing` is no parameter of the model.
    """
    replacing = dict(replacing or {})
    memo: dict[int, Any] = {id(kept): {} for kept in kept_tensors(model)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in replacing:
            tensor = replacing.pop(name)
            memo[id(parameter)] = (
                tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
            )
        elif id(parameter) not in memo:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    if replacing:
        raise KeyError(f"no such parameters: {', '.join(replacing)}")
    return copy.deepcopy(model, memo)


def set_submodule_(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at the dotted `path`; the path may lead through ModuleLists and Sequentials."""
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, module) if not child.isdigit() else model.get_submodule(
        parent
    ).__setitem__(int(child), module)  # type: ignore[operator]


def install_head_(model: nn.Module, head: Head) -> None:
    """Put a fork of the head's modules and its configuration fields into `model`, in place; shared modules stay shared, and
    parameters that `model` ties (detectors hold their class layers twice) stay tied."""
    forks: dict[int, nn.Module] = {}
    tied: dict[int, nn.Parameter] = {}
    old = dict(model.named_parameters(remove_duplicate=False))
    for path, module in head.modules.items():
        if id(module) not in forks:
            inner = {
                name: tied.setdefault(id(old[f"{path}.{name}"]), nn.Parameter(parameter.detach(), requires_grad=False))
                for name, parameter in module.named_parameters()
            }
            forks[id(module)] = fork(module, inner)
        set_submodule_(model, path, forks[id(module)])
    config: Any = model.config
    for key, value in head.config.items():
        setattr(config, key, copy.deepcopy(value))
    part: Any
    for part in model.modules():  # transformers' classifiers also read the number from an attribute
        if isinstance(getattr(part, "num_labels", None), int) and "num_labels" in vars(part):
            part.num_labels = len(head.spec.labels)


def head_config(spec: HeadSpec) -> dict[str, Any]:
    """The configuration fields that a head's labels size."""
    return {
        "id2label": dict(enumerate(spec.labels)),
        "label2id": {label: index for index, label in enumerate(spec.labels)},
        "num_labels": len(spec.labels),
        "problem_type": spec.problem_type,
    }


def label_sized_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters whose shape depends on the number of labels, found by building the class with one label more."""
    config = copy.deepcopy(model.config)
    shapes = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
    config.num_labels = len(config.id2label) + 1  # type: ignore[union-attr, arg-type]
    larger = on_meta(model, config)
    return [name for name, p in larger.named_parameters(remove_duplicate=False) if shapes.get(name) != p.shape]


def on_meta(model: nn.Module, config: Any) -> nn.Module:
    """A model of the same class without storage, from `config`."""
    rebuild = getattr(model, "rebuild", None)  # our own classifier takes more than a configuration
    with torch.device("meta"):
        made: nn.Module = rebuild(config) if rebuild is not None else type(model)(config)
    return made


def head_paths(model: nn.Module, *, whole: bool) -> tuple[str, ...]:
    """Paths of the modules that make up the head.

    Owners of label-sized parameters; with `whole`, where such an owner stands outside the body, every parametrised module
    outside the body (RoBERTa's dense layer, DistilBERT's pre-classifier).

    Raises:
        BaseError: the number of labels sizes nothing in this class.
    """
    sized = label_sized_parameters(model)
    if not sized:
        raise BaseError(f"{type(model).__name__} has no layer that the number of labels sizes.")
    body = getattr(model, "base_model_prefix", "")
    owners = {name.rpartition(".")[0] for name in sized}
    outside = {path for path in owners if path.split(".")[0] != body}
    if whole and outside:
        children = list(model.named_children())
        # CLIP's classifiers hold the parts of the body itself: what follows its blocks is the head.
        if not hasattr(model, body):
            blocks = [i for i, (_, child) in enumerate(children) if _holds_blocks(child)]
            children = children[max(blocks, default=-1) + 1 :]
        parametrised = {n for n, child in children if n != body and any(True for _ in child.parameters())}
        owners = (owners - outside) | parametrised
    return tuple(sorted(owners))


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a list in it has several parts with parameters (HGNetV2 lists what pools and flattens)."""
    lists = (inner for inner in module.modules() if isinstance(inner, nn.ModuleList))
    return any(sum(next(part.parameters(), None) is not None for part in inner) > 1 for inner in lists)


def _tie_(model: nn.Module, ties: Mapping[str, str]) -> None:
    """Make each parameter of `ties` the very object that stands under the name it maps to."""
    for name, source in ties.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, model.get_parameter(source))


def own_head(base: Base, spec: HeadSpec) -> Head:
    """The head that the weights came with, its output units put into the order of `spec.labels`."""
    order = [(base.own_labels or base.unnamed_labels).index(label) for label in spec.labels]
    sized = set(label_sized_parameters(base.loaded))
    modules: dict[str, nn.Module] = {}
    made: dict[int, nn.Module] = {}
    for path in head_paths(base.loaded, whole=spec.whole):
        module = base.loaded.get_submodule(path)
        if id(module) not in made:
            permuted = {}
            for name, parameter in module.named_parameters():
                if f"{path}.{name}" in sized:
                    rest = list(range(len(order), parameter.shape[0]))  # background class, padding row
                    permuted[name] = parameter.detach()[[*order, *rest]].clone()
            made[id(module)] = fork(module, permuted)
        modules[path] = made[id(module)]
    return Head(spec=spec, modules=modules, config=head_config(spec))


def fresh_head(base: Base, spec: HeadSpec, *, generator: torch.Generator) -> Head:
    """A head for `spec.labels` with the class's own initialisation; parts that the labels do not size keep the base's values
    where the base has a head of its own (they were pretrained with it)."""
    config = copy.deepcopy(base.loaded.config)
    for key, value in head_config(spec).items():
        setattr(config, key, copy.deepcopy(value))
    model: Any = on_meta(base.loaded, config)
    paths = head_paths(base.loaded, whole=spec.whole)
    first: dict[int, str] = {}
    ties = {n: first.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)}
    for path in paths:
        model.get_submodule(path).to_empty(device="cpu")
    _tie_(
        model, {n: source for n, source in ties.items() if n != source and n.startswith(tuple(f"{p}." for p in paths))}
    )
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Children first, as transformers does: a detector gives its class layers their prior as their parent. On the parts
        # without storage this does nothing.
        for module in reversed(list(model.modules())):
            model._init_weights(module)
    made: dict[int, nn.Module] = {}
    modules: dict[str, nn.Module] = {}
    for path in paths:
        module = model.get_submodule(path)
        if id(module) not in made:
            if base.own_labels:
                held = base.loaded.get_submodule(path)
                old = dict([*held.named_parameters(), *held.named_buffers()])
                with torch.no_grad():
                    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                        if old[name].shape == tensor.shape:
                            tensor.copy_(old[name])
            made[id(module)] = module.to(device=base.device, dtype=base.dtype).eval().requires_grad_(False)
        modules[path] = made[id(module)]
    return Head(spec=spec, modules=modules, config=head_config(spec))
