"""Methods whose result is a set of changed weights: which tensors changed, and the model on the line between start and end.

W(s) = W0 + s (W1 - W0), elementwise by `torch.lerp` (exact at both ends), for trained parameters and for batch-norm statistics
that training moved; integer buffers take the value of the nearer end. Source: WiSE-FT, arXiv 2109.01903.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from domaintune.bases.anatomy import select_parameters
from domaintune.bases.base import Base, fork, on_meta
from domaintune.bases.probe import drop_kept_
from domaintune.errors import MethodError
from domaintune.methods.base import Attached, Form, ParameterGroup, batch_norms, lerp_parameters, mend_batch_norm_
from domaintune.run import write_file

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter -> the first name of the same parameter; tied parameters have several."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def head_parameters(base: Base) -> list[str]:
    """Canonical names of the domain head's parameters in the base's model; empty where the task has no head of its own."""
    if "domain" not in base.heads:
        return []
    canonical = canonical_names(base.model)
    names = (canonical[name] for name in base.heads["domain"].state() if name in canonical)
    return list(dict.fromkeys(names))


def constant_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that the class itself never trains (sinusoidal positions)."""
    made = on_meta(model, copy.deepcopy(model.config))
    return {name for name, parameter in made.named_parameters() if not parameter.requires_grad}


def body_parameters(base: Base, selectors: Sequence[str]) -> list[str]:
    """Canonical names of what the selectors choose of the body, each once: not the domain's head, nor what the class itself never
    trains."""
    if not selectors:
        return []
    canonical, excluded = canonical_names(base.model), {*head_parameters(base), *constant_parameters(base.model)}
    chosen = (canonical[name] for name in select_parameters(base.model, base.anatomy, selectors))
    return [name for name in dict.fromkeys(chosen) if name not in excluded]


def trained_fork(base: Base, names: Iterable[str]) -> nn.Module:
    """A fork of the base's model in which the named parameters own their storage and require gradients."""
    parameters = dict(base.model.named_parameters())
    model = fork(base.model, {name: nn.Parameter(parameters[name].detach().clone()) for name in names})
    mend_batch_norm_(model)
    return model


@contextmanager
def in_place_of_parameters(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """While the context lasts the modules of `model` see `tensors` (by canonical parameter name, which need not be leaves) where
    their parameters stood; tied places follow."""
    taken: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for alias, name in canonical_names(model).items():
            if name in tensors:
                path, _, attribute = alias.rpartition(".")
                held: dict[str, Any] = model.get_submodule(path)._parameters
                taken.append((held, attribute, held[attribute]))
                held[attribute] = tensors[name]
        yield
    finally:
        for held, attribute, parameter in taken:
            held[attribute] = parameter


def split_by_decay(model: nn.Module, names: Iterable[str], *, group: str, scale: float = 1.0) -> list[ParameterGroup]:
    """One group with weight decay (matrices and kernels) and one without (biases, norms: one dimension); empty ones left out."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    halves = {True: tuple(p for p in chosen if p.ndim > 1), False: tuple(p for p in chosen if p.ndim <= 1)}
    return [
        ParameterGroup(group if decay else f"{group} (no decay)", half, scale=scale, decay=decay)
        for decay, half in halves.items()
        if half
    ]


@dataclass(frozen=True)
class ChangedTensors:
    """Parameters `names` (canonical) of `model` that were trained, and batch-norm statistics that moved, against `start`.

    Both models hold all of them under the same names.
    """

    start: nn.Module
    model: nn.Module
    names: tuple[str, ...]

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        held = dict(self.model.named_parameters())
        return {name: held[name] for name in self.names}

    def statistics(self) -> dict[str, Tensor]:
        """Every batch-norm buffer of the trained model."""
        return {
            f"{path}.{name}": buffer
            for path, module in batch_norms(self.model).items()
            for name, buffer in module.named_buffers()
        }

    def moved(self) -> dict[str, Tensor]:
        """The batch-norm buffers that differ from the start's."""
        start = dict(self.start.named_buffers())
        return {name: buffer for name, buffer in self.statistics().items() if not torch.equal(buffer, start[name])}

    def at(self, strength: float) -> dict[str, Tensor]:
        """W(s) of the parameters."""
        return lerp_parameters(dict(self.start.named_parameters()), self.parameters(), strength)

    def install_statistics_(self, view: nn.Module, strength: float) -> None:
        """Write the moved buffers at `strength` into `view`, which owns its buffers; those that it has not (of another head)
        are passed over."""
        start, held = dict(self.start.named_buffers()), dict(view.named_buffers())
        for name, end in self.moved().items():
            if name not in held:
                continue
            if end.is_floating_point():
                held[name].copy_(torch.lerp(start[name], end, strength))
            else:
                held[name].copy_(end if strength > 0.5 else start[name])

    def state(self) -> dict[str, Tensor]:
        """Strength 1 as clones on the CPU."""
        learned: dict[str, Tensor] = {**self.parameters(), **self.moved()}
        return {name: tensor.detach().cpu().clone() for name, tensor in learned.items()}

    @torch.no_grad()
    def load_(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; statistics that it does not name go back to the start's."""
        statistics = self.statistics()
        start = dict(self.start.named_buffers())
        check_state(state, self.parameters(), statistics)
        for name, parameter in self.parameters().items():
            parameter.copy_(state[name])
        for name, buffer in statistics.items():
            buffer.copy_(state.get(name, start[name]))
        drop_kept_(self.model)


def check_state(state: Mapping[str, Tensor], needed: Mapping[str, Tensor], allowed: Mapping[str, Tensor]) -> None:
    """A state must hold all of `needed` and nothing beside `allowed`, in their shapes.

    Raises:
        MethodError: names or shapes differ.
    """
    missing = sorted(set(needed) - set(state))
    unknown = sorted(set(state) - set(needed) - set(allowed))
    if missing or unknown:
        lists = (("lacks", missing), ("has unknown", unknown))
        parts = [
            f"{word} {names[0]}" + f" and {len(names) - 1} more" * (len(names) > 1) for word, names in lists if names
        ]
        raise MethodError(f"the state {' and '.join(parts)}.", remedy="It belongs to another method, recipe or base.")
    for name, tensor in state.items():
        expected = needed[name] if name in needed else allowed[name]
        if tensor.shape != expected.shape:
            raise MethodError(
                f"the state's '{name}' has shape {tuple(tensor.shape)}, the model's {tuple(expected.shape)}.",
                remedy="It belongs to another recipe or base.",
            )


def check_strength(strength: float) -> None:
    """Raises MethodError outside [0, 1]."""
    if not 0 <= strength <= 1:
        raise MethodError(f"strength {strength} lies outside 0 to 1.")


def plain_copy(view: nn.Module) -> nn.Module:
    """A copy of a view that shares no storage with anything."""
    return copy.deepcopy(view).eval().requires_grad_(False)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Safetensors."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_file(path, lambda temporary: save_file(plain, temporary))


def write_state(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """`weights.safetensors` and `config.json`."""
    write_tensors(folder / WEIGHTS_FILE, state)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def read_state(folder: Path) -> dict[str, Tensor]:
    """What `write_state` wrote.

    Raises:
        MethodError: the file is missing or damaged.
    """
    return read_tensors(folder / WEIGHTS_FILE)


def read_config(folder: Path) -> dict[str, Any]:
    """The settings that `write_state` wrote.

    Raises:
        MethodError: the file is missing or damaged.
    """
    path = folder / CONFIG_FILE
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MethodError(f"cannot be read ({error}).", where=str(path)) from None
    return held


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        MethodError: the file is missing or damaged.
    """
    from safetensors import SafetensorError

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MethodError(f"cannot be read ({error}).", where=str(path)) from None


class TunedWeights(Attached):
    """Trained parameters in place: what full and Freeze attach. Both forms of a view are the same."""

    def __init__(
        self, base: Base, model: nn.Module, *, groups: Sequence[ParameterGroup], settings: Mapping[str, Any]
    ) -> None:
        self.base = base
        self.model = model
        self._groups = list(groups)
        self._settings = dict(settings)
        trained = {id(p) for group in groups for p in group.parameters}
        names = tuple(name for name, p in model.named_parameters() if id(p) in trained)
        self._changed = ChangedTensors(base.model, model, names)

    def parameter_groups(self) -> list[ParameterGroup]:
        return list(self._groups)

    def view(self, strength: float, *, head: str = "domain", form: Form = "merged") -> nn.Module:
        check_strength(strength)
        if strength == 0:
            return self.base.fork(head=head)
        view = self.base.fork(self._changed.at(strength), head=head)
        self._changed.install_statistics_(view, strength)
        return view.eval()

    def state(self) -> dict[str, Tensor]:
        return self._changed.state()

    def load_(self, state: Mapping[str, Tensor]) -> None:
        self._changed.load_(state)

    def merged(self, strength: float) -> nn.Module:
        return plain_copy(self.view(strength))

    def save(self, folder: Path) -> None:
        write_state(folder, self.state(), self._settings)

    def load(self, folder: Path) -> None:
        self.load_(read_state(folder))
