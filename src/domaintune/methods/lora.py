"""LoRA and DoRA: low-rank updates beside frozen linear and convolution layers, chosen by anatomy."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from domaintune.bases.anatomy import select_sites
from domaintune.bases.base import Base, set_submodule_
from domaintune.bases.probe import probe_inputs, record
from domaintune.errors import MethodError
from domaintune.methods.base import Attached, Form, Method, ParameterGroup
from domaintune.methods.lora_layers import LAYERS, LoRALayer, is_linear, layer_class, low_rank_layer, weight_at
from domaintune.methods.peft_format import read_adapter, write_adapter
from domaintune.methods.weights import (
    ChangedTensors,
    check_state,
    check_strength,
    head_parameters,
    in_place_of_parameters,
    plain_copy,
    split_by_decay,
    trained_fork,
)
from domaintune.settings import LoRASettings

LOG_WEIGHTS = "domain_weights.logarithm"
DOMAIN_SCALE = 5.0
"""Under LoRA's default learning rate of 1e-3 the logarithms of the domains' weights learn at 5e-3: hundreds of steps that agree bring a
weight down, and those that do not leave it alone, which a rate of 2e-2 does not."""


@dataclass(frozen=True)
class LoRA(Method):
    """h = W0 x + scale B A dropout(x), scale = alpha / rank (alpha / sqrt(rank) where rank-stabilised), and the domain's head.

    On convolutions A has the layer's own kernel, stride, dilation and padding and B is 1 x 1. With `dora` each output row gets
    a learned magnitude; see `LowRank`. The dial acts on the effective weight: W(s) = lerp(W0, W', s).

    With `domains` each learns a weight w in [0, 1]; a row of that domain goes through the model at strength w, head included:
    W(w) = lerp(W0, W', w). The weights are exp(a - max a), so that the largest is 1 (the scale of the update itself is free).

    Convolutions in groups are left out: an update of them has no form that can be merged (and a low rank saves nothing on depthwise
    ones). `LoRAAttached.left_out` lists those of the chains whose other convolutions are adapted.
    Source: arXiv 2106.09685; arXiv 2312.03732 (rank-stabilised); arXiv 2402.09353 (DoRA).
    """

    settings: LoRASettings

    def notes(self, base: Base) -> list[str]:
        """Where experts are meant (`all-linear`, `mlp`): those that the base holds together in one tensor, which get no update."""
        meant = {"all-linear", "mlp"} & {selector.rpartition(".")[2] for selector in self.settings.targets}
        stacked = stacked_weights(base.model) if meant else {}
        if not stacked:
            return []
        names = dict.fromkeys(re.sub(r".*\.\d+\.", "", name) for name in stacked)
        share = sum(p.numel() for p in stacked.values()) / sum(p.numel() for p in base.model.parameters())
        return [
            f"LoRA leaves out {', '.join(names)} ({share:.0%} of the base's weights): tensors that hold several matrices each, as "
            "of experts, are no layers that it knows. The methods freeze (in its blocks) and full train them."
        ]

    def attach(self, base: Base, *, generator: torch.Generator, domains: Sequence[str] = ()) -> LoRAAttached:
        sites = select_sites(base.anatomy, self.settings.targets)
        aliases = module_paths(base.model)
        chosen = tuple(dict.fromkeys(aliases[path][0] for path in outside_head(base, [site.path for site in sites])))
        convolutions = {site.chain for site in sites if site.role == "convolution"}
        left_out = tuple(site.path for site in base.anatomy.sites if site.groups > 1 and site.chain in convolutions)
        if not chosen:
            raise MethodError(
                f"'{', '.join(self.settings.targets)}' chooses no layer that can take a low-rank update.",
                where=base.name,
                remedy="Choose other targets, such as all-linear, or the method freeze.",
            )
        check_layers(base, chosen)
        model = trained_fork(base, head_parameters(base))
        rank = self.settings.rank
        scale = self.settings.alpha / (math.sqrt(rank) if self.settings.rank_stabilised else rank)
        for path in chosen:
            layer = low_rank_layer(
                model.get_submodule(path), rank=rank, scale=scale, dropout=self.settings.dropout,
                dora=self.settings.dora, principal=self.settings.initialise == "pissa", generator=generator,
            )  # fmt: skip
            for alias in aliases[path]:
                set_submodule_(model, alias, layer)
        named = tuple(domains) if self.settings.domain_weights and len(domains) > 1 else ()
        return LoRAAttached(base, model, paths=chosen, left_out=left_out, settings=self.settings, domains=named)


def stacked_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name that hold several matrices [count, rows, columns] and are no convolution's."""
    return {
        f"{path}.{name}".removeprefix("."): parameter
        for path, module in model.named_modules()
        if not isinstance(module, nn.modules.conv._ConvNd)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and min(parameter.shape) > 1
    }


def module_paths(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Every path of every module -> all paths of the same module, in order; shared modules have several."""
    by_module: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        by_module.setdefault(id(module), []).append(path)
    return {path: tuple(paths) for paths in by_module.values() for path in paths}


def outside_head(base: Base, paths: Sequence[str]) -> list[str]:
    """The paths that are not part of the domain's head, which is trained whole."""
    head = tuple(f"{path}." for path in base.heads["domain"].modules) if "domain" in base.heads else ()
    return [path for path in paths if not f"{path}.".startswith(head)] if head else list(paths)


def check_layers(base: Base, paths: Sequence[str]) -> None:
    """Raises MethodError for a layer class that we do not know, or a weight tied to another module's; the remedy names the targets that
    are left."""
    sites = [site for site in base.anatomy.sites if site.groups == 1]
    faults = layer_faults(base, [*paths, *(site.path for site in sites)])
    first = next((path for path in paths if path in faults), None)
    if first is None:
        return
    names = dict.fromkeys(name for site in sites for name in (site.role, f"{site.chain}.{site.role}"))
    left = [
        name
        for name in names
        if not any(site.path in faults for site in sites if name in (site.role, f"{site.chain}.{site.role}"))
    ]
    instead = f"Choose targets without it ({', '.join(left)}), or" if left else "Use"
    raise MethodError(faults[first], where=first, remedy=f"{instead} the method freeze.")


def layer_faults(base: Base, paths: Sequence[str]) -> dict[str, str]:
    """Why the layer at a path can have no low-rank update, of those that can have none. What a subclass of `nn.Linear` computes is seen
    in one forward."""
    owners: dict[int, set[int]] = {}
    for module in base.model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    layers = {path: base.model.get_submodule(path) for path in paths}
    derived = [path for path, layer in layers.items() if type(layer) not in LAYERS and isinstance(layer, nn.Linear)]
    with torch.no_grad():
        calls = record(base.fork().eval(), probe_inputs(base.model)).calls if derived else {}
    # Experts that the probe sends no rows to are as those that ran.
    alike = {
        (type(layers[path]), layers[path].weight.shape): calls[path][0].inputs for path in derived if path in calls
    }
    faults = {}
    for path, layer in layers.items():
        seen = calls[path][0].inputs if path in calls else alike.get((type(layer), layer.weight.shape), ())
        if type(layer) not in LAYERS and not (
            isinstance(layer, nn.Linear) and len(seen) == 1 and is_linear(layer, *seen)
        ):
            faults[path] = f"LoRA does not know layers of class {type(layer).__name__}."
        elif len(owners[id(layer.weight)]) > 1:
            faults[path] = "its weight is tied to another module's."
    return faults


class LoRAAttached(Attached):
    """Low-rank updates at `paths` and a trained head. `left_out` are the grouped convolutions beside them."""

    def __init__(
        self,
        base: Base,
        model: nn.Module,
        *,
        paths: tuple[str, ...],
        left_out: tuple[str, ...],
        settings: LoRASettings,
        domains: tuple[str, ...] = (),
    ) -> None:
        self.base = base
        self.model = model
        self.paths = paths
        self.left_out = left_out
        self.settings = settings
        self.domains = domains
        self.starts_at_base = settings.initialise == "zero"
        dtype = torch.promote_types(base.dtype, torch.float32)
        self._log_weights = nn.Parameter(torch.zeros(len(domains), dtype=dtype, device=base.device))
        self._changed = ChangedTensors(base.model, model, tuple(head_parameters(base)))

    def layers(self) -> dict[str, LoRALayer]:
        """The adapted layers by path."""
        layers: dict[str, LoRALayer] = {path: self.model.get_submodule(path) for path in self.paths}  # type: ignore[misc]
        return layers

    def low_rank_parameters(self) -> dict[str, nn.Parameter]:
        """A, B and magnitude of every adapted layer by name."""
        return {
            f"{path}.low_rank.{name}": parameter
            for path, layer in self.layers().items()
            for name, parameter in layer.low_rank.named_parameters()
        }

    def _low_rank_tensors(self) -> dict[str, Tensor]:
        """What a state holds of the updates: the parameters, the principal start, and the domains' weights as logarithms."""
        made: dict[str, Tensor] = dict(self.low_rank_parameters())
        for path, layer in self.layers().items():
            start = {"A0": layer.low_rank.A0, "B0": layer.low_rank.B0}
            made |= {f"{path}.low_rank.{name}": tensor for name, tensor in start.items() if tensor is not None}
        return made | ({LOG_WEIGHTS: self._log_weights} if self.domains else {})

    def parameter_groups(self) -> list[ParameterGroup]:
        weights = [ParameterGroup("domain weights", (self._log_weights,), scale=DOMAIN_SCALE, decay=False)]
        return [
            *split_by_decay(self.model, self.low_rank_parameters(), group="lora"),
            *split_by_decay(self.model, self._changed.names, group="head"),
            *(weights if self.domains else []),
        ]

    def domain_weights(self) -> dict[str, float]:
        weights = self._weights().tolist() if self.domains else []
        return dict(zip(self.domains, weights, strict=True))

    def set_domain_weights_(self, weights: Mapping[str, float]) -> None:
        if set(weights) != set(self.domains):
            super().set_domain_weights_(weights)
        with torch.no_grad():
            for place, name in enumerate(self.domains):
                self._log_weights[place] = math.log(max(weights[name], 1e-30))

    def _weights(self) -> Tensor:
        """exp(a - max a) [domains]."""
        return (self._log_weights - self._log_weights.max()).exp()

    @contextmanager
    def in_domain(self, name: str | None) -> Iterator[nn.Module]:
        if name not in self.domains:
            yield self.model
            return
        weight = self._weights()[self.domains.index(name)]
        start = dict(self.base.model.named_parameters())
        mixed = {key: torch.lerp(start[key], p, weight) for key, p in self._changed.parameters().items()}
        for layer in self.layers().values():
            layer.low_rank.strength = weight
        try:
            with in_place_of_parameters(self.model, mixed):
                yield self.model
        finally:
            for layer in self.layers().values():
                layer.low_rank.strength = 1.0

    def view(self, strength: float, *, head: str = "domain", form: Form = "merged") -> nn.Module:
        check_strength(strength)
        if strength == 0:
            return self.base.fork(head=head)
        changes = self._changed.at(strength)
        if form == "merged":
            changes |= {f"{path}.weight": weight_at(layer, strength) for path, layer in self.layers().items()}
        view = self.base.fork(changes, head=head)
        if form == "terms":
            self._install_terms_(view, strength)
        self._changed.install_statistics_(view, strength)
        return view.eval()

    def _install_terms_(self, view: nn.Module, strength: float) -> None:
        aliases = module_paths(view)
        for path, trained in self.layers().items():
            plain = view.get_submodule(path)
            layer: LoRALayer = layer_class(plain)(plain)  # type: ignore[assignment]
            layer.low_rank = copy.deepcopy(trained.low_rank).requires_grad_(False)
            layer.low_rank.strength = strength
            for alias in aliases[path]:
                set_submodule_(view, alias, layer)

    def state(self) -> dict[str, Tensor]:
        low_rank = {name: tensor.detach().cpu().clone() for name, tensor in self._low_rank_tensors().items()}
        return {**low_rank, **self._changed.state()}

    def load_(self, state: Mapping[str, Tensor]) -> None:
        low_rank = self._low_rank_tensors()
        check_state(state, {**low_rank, **self._changed.parameters()}, self._changed.statistics())
        self._changed.load_({name: tensor for name, tensor in state.items() if name not in low_rank})
        with torch.no_grad():
            for name, tensor in low_rank.items():
                tensor.copy_(state[name])

    def merged(self, strength: float) -> nn.Module:
        return plain_copy(self.view(strength))

    def save(self, folder: Path) -> None:
        write_adapter(folder, base=self.base, layers=self.layers(), changed=self._changed, settings=self.settings)

    def load(self, folder: Path) -> None:
        state = read_adapter(
            folder, base=self.base, layers=self.layers(), changed=self._changed, settings=self.settings
        )
        # The adapter is strength 1; the domains' weights stand in the run.
        self.load_(state | ({LOG_WEIGHTS: self._log_weights.detach()} if self.domains else {}))
