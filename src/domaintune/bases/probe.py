"""A tiny input that a model itself implies, and a record of what ran on it: which module, when, on which tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from domaintune.errors import BaseError

TOKENS = 8
CODE_POINTS = 256  # taken where ids are no rows of a table
SIZES = (64, 128, 256, 512)  # sides in pixels that are tried where the configuration names none
SINGLE_PIXELS = 128 * 128  # pictures above this area are probed one at a time
LARGE_PIXELS = 256 * 256  # above this area a smaller picture is tried first
ATTENDING: frozenset[Any] = frozenset(
    (
        functional.softmax,
        torch.softmax,
        Tensor.softmax,
        functional.scaled_dot_product_attention,
        functional.multi_head_attention_forward,
    )
)
DROPPING: frozenset[Any] = frozenset(
    (functional.dropout, functional.alpha_dropout, functional.feature_alpha_dropout, torch.dropout)
)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)


def _nodes(tensors: Iterable[Tensor]) -> tuple[Node, ...]:
    return tuple(get_gradient_edge(tensor).node for tensor in tensors if tensor.requires_grad)


@dataclass(slots=True)
class Call:
    """One call of a module. `start` and `end` are ticks of a clock that every start and end advances.

    `input_nodes` and `output_nodes` are the tensors' places in the autograd graph, taken at once: a later operation in place
    would move the tensors on.
    """

    path: str
    start: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    end: int = -1
    output: Any = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    input_nodes: tuple[Node, ...] = ()
    output_nodes: tuple[Node, ...] = ()


@dataclass(slots=True)
class Recording:
    """What ran: `calls` by path, in order; `attending` and `dropping` are the stacks of open modules (outermost first) and the
    tick at which an attention's softmax and a functional dropout ran."""

    calls: dict[str, list[Call]] = field(default_factory=dict)
    attending: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    dropping: list[tuple[tuple[str, ...], int]] = field(default_factory=list)

    def first(self, path: str) -> Call:
        return self.calls[path][0]

    def last_end(self, path: str) -> int:
        return max(call.end for call in self.calls[path])


class _Recorder(TorchFunctionMode):
    """Fills a `Recording` through hooks on every module and by watching torch's functions."""

    def __init__(self, paths: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.paths = paths
        self.recording = Recording()
        self.stack: list[Call] = []
        self.clock = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        watched = (
            self.recording.attending if func in ATTENDING else self.recording.dropping if func in DROPPING else None
        )
        if watched is not None:
            watched.append((tuple(call.path for call in self.stack), self.clock))
        return func(*args, **(kwargs or {}))

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.clock += 1
        call = Call(path=self.paths[module], start=self.clock, args=args, kwargs=kwargs)
        call.inputs = tuple(tensors_in((args, kwargs)))
        call.input_nodes = _nodes(call.inputs)
        self.recording.calls.setdefault(call.path, []).append(call)
        self.stack.append(call)

    def finish(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.clock += 1
        call = self.stack.pop()
        call.end, call.output = self.clock, output
        call.outputs = tuple(tensors_in(output))
        call.output_nodes = _nodes(call.outputs)


def record(model: nn.Module, inputs: Mapping[str, Tensor]) -> Recording:
    """Run `model(**inputs)` and record every module's calls. Modules that stand at several places go by their first path.

    Raises:
        BaseError: the model does not accept these inputs.
    """
    recorder = _Recorder({module: path for path, module in model.named_modules()})
    handles = [
        handle
        for module in recorder.paths
        for handle in (
            module.register_forward_pre_hook(recorder.begin, with_kwargs=True),
            module.register_forward_hook(recorder.finish, with_kwargs=True),
        )
    ]
    try:
        with recorder:
            model(**inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        raise BaseError(
            f"a probe forward with {shapes} failed: {str(error).strip().splitlines()[0] if str(error) else repr(error)}",
            where=type(model).__name__,
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return recorder.recording


@contextmanager
def probing(model: nn.Module, *, all_gradients: bool) -> Iterator[None]:
    """Eval mode with gradients enabled (of all parameters, or as the flags say).

    Modes, flags, the modules' plain attributes and the random state are restored, and what a forward kept is dropped.
    """
    states = _plain_attributes(model)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    devices = sorted({parameter.device.index for parameter, _ in flags if parameter.device.type == "cuda"})
    try:
        for module, _ in states:
            module.training = False
        for parameter, _ in flags:
            if all_gradients and parameter.is_floating_point():
                parameter.requires_grad_(True)
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            yield
    finally:
        for module, state in states:
            vars(module).update(state)
        drop_kept_(model)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _plain_attributes(model: nn.Module) -> list[tuple[nn.Module, dict[str, Any]]]:
    """The attributes of every module that are no objects: `training`, and what some forwards write (Swin its window size)."""
    plain = (int, float, str, tuple, type(None))
    return [(m, {key: value for key, value in vars(m).items() if isinstance(value, plain)}) for m in model.modules()]


def kept_tensors(model: nn.Module) -> Iterator[dict[Any, Any]]:
    """The modules' plain dictionaries in which forwards keep tensors that they computed from weights (LeViT its attention biases)."""
    for module in model.modules():
        for name, value in vars(module).items():
            if (
                type(value) is dict
                and not name.startswith("_")
                and any(isinstance(one, Tensor) for one in value.values())
            ):
                yield value


def drop_kept_(model: nn.Module) -> None:
    """Let the next forward compute anew what earlier ones kept: other weights have other values."""
    for kept in kept_tensors(model):
        kept.clear()


class Dependence:
    """Whether something computed at given nodes depends on what `targets` produced, by a path round all of `blocked`.

    Remembers what it has walked, so that many questions cost one walk through the graph.
    """

    def __init__(self, targets: Iterable[Node], *, blocked: Iterable[Node] = ()) -> None:
        self.known: dict[Node, bool] = {**dict.fromkeys(blocked, False), **dict.fromkeys(targets, True)}

    def __call__(self, nodes: Iterable[Node]) -> bool:
        return any(self._walk(node) for node in nodes)

    def _walk(self, start: Node) -> bool:
        """Post-order over the graph's edges without recursion, since graphs are deeper than Python's stack."""
        stack = [start]
        while stack:
            node = stack[-1]
            if node in self.known:
                stack.pop()
                continue
            following = [one for one, _ in node.next_functions if one is not None]
            unknown = [one for one in following if one not in self.known]
            if unknown:
                stack.extend(unknown)
            else:
                self.known[node] = any(self.known[one] for one in following)
                stack.pop()
        return self.known[start]


def reaches(start: Iterable[Node], targets: Iterable[Node], *, blocked: Iterable[Node] = ()) -> bool:
    """One question to `Dependence`."""
    return Dependence(targets, blocked=blocked)(start)


def probe_inputs(model: nn.Module) -> dict[str, Tensor]:
    """A tiny valid input on the model's device: two different rows of ids of its vocabulary (the second one padded where a
    padding id is configured; a single row where none is), or pictures of the configured size.

    Ids are no special ones, but for the end of an encoder-decoder's source, which some of their heads read, and the start of
    its target. Where no picture size is configured, or one above 256 pixels, the smallest of 64, 128, 256, 512 pixels that the
    model accepts is taken.
    The global random state is left alone.

    Raises:
        BaseError: the model takes neither `input_ids` nor `pixel_values`, or accepts no size of picture.
    """
    names, main, settings = _signature(model)
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    if main == "input_ids":
        inputs = _text_inputs(_vocabulary_size(model), settings, generator=generator)
        return {name: tensor.to(parameter.device) for name, tensor in inputs.items() if name in names}
    if main != "pixel_values":
        raise BaseError(
            f"its main input is '{main}'; it takes neither input_ids nor pixel_values.",
            where=type(model).__name__,
            remedy="Give a text or picture model.",
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    failure: Exception | None = None
    sizes = _picture_sizes(settings)
    for sides in sizes:
        rows = 1 if sides[0] * sides[1] > SINGLE_PIXELS else 2
        shape = (rows, _picture_channels(model, settings), *sides)
        inputs = {"pixel_values": torch.randn(shape, generator=generator).to(device=parameter.device, dtype=dtype)}
        if len(sizes) == 1:
            return inputs
        failure = _refusal(model, inputs)
        if failure is None:
            return inputs
    raise BaseError(f"it accepts no probe picture: {failure}", where=type(model).__name__) from failure


def _refusal(model: nn.Module, inputs: Mapping[str, Tensor]) -> Exception | None:
    """Why `model` does not accept these inputs: its error, or that it would change itself for them (Swin's windows on pictures
    smaller than its own)."""
    try:
        with probing(model, all_gradients=False), torch.no_grad():
            before = _plain_attributes(model)
            model(**inputs)
            if any(vars(module)[key] != value for module, state in before for key, value in state.items()):
                return ValueError("its forward changes its own settings")
    except (RuntimeError, ValueError, IndexError) as error:
        return error
    return None


def _signature(model: nn.Module) -> tuple[set[str], str, dict[str, Any]]:
    """The names of the forward's arguments, that of its main input, and the configuration as a dict (empty without one)."""
    from transformers import PreTrainedModel

    parameters = inspect.signature(model.forward).parameters
    names = set(parameters)
    stock = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if stock is not None and stock is not model and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        names |= set(inspect.signature(stock.forward).parameters)  # a wrapper that hands its arguments on
    if stock is not None:
        return names, stock.main_input_name, stock.config.to_dict()
    main = next((name for name in ("input_ids", "pixel_values") if name in names), next(iter(parameters), ""))
    return names, main, {}


def _settings_under(settings: Mapping[str, Any], suffix: str) -> Iterator[Any]:
    """Values of keys that end in `suffix`, outermost first, nested configurations included."""
    yield from (value for key, value in settings.items() if key.endswith(suffix) and value is not None)
    for value in settings.values():
        if isinstance(value, Mapping):
            yield from _settings_under({str(key): part for key, part in value.items()}, suffix)


def _vocabulary_size(model: nn.Module) -> int:
    from transformers import PreTrainedModel

    stock = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    try:
        embedding = (
            stock.get_input_embeddings()
            if stock is not None
            else next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
        )
    except NotImplementedError:  # CANINE hashes code points into several tables
        return CODE_POINTS
    if embedding is None:
        raise BaseError("no token embedding found, so that no input can be made.", where=type(model).__name__)
    return int(embedding.weight.shape[0])


def _text_inputs(vocabulary: int, settings: Mapping[str, Any], *, generator: torch.Generator) -> dict[str, Tensor]:
    """ids, mask and decoder ids [rows, 8]."""
    special = {
        int(one)
        for value in _settings_under(settings, "_token_id")
        for one in (value if isinstance(value, list) else [value])
    }
    plain = torch.tensor([index for index in range(vocabulary) if index not in special] or [0])
    padding = next(_settings_under(settings, "pad_token_id"), None)
    rows = 1 if padding is None else 2

    def draw() -> Tensor:
        return plain[torch.randint(len(plain), (rows, TOKENS), generator=generator)]

    ids, mask = draw(), torch.ones(rows, TOKENS, dtype=torch.long)
    ends = [TOKENS, TOKENS - 2][:rows]
    if settings.get("is_encoder_decoder") and isinstance(settings.get("eos_token_id"), int):
        for row, end in enumerate(ends):
            ids[row, end - 1] = settings["eos_token_id"]
    for row, end in enumerate(ends):
        mask[row, end:] = 0
        if padding is not None:
            ids[row, end:] = padding
    inputs = {"input_ids": ids, "attention_mask": mask}
    if settings.get("is_encoder_decoder"):
        target = draw()  # as long as the source, since some heads read it at the source's end token
        start = settings.get("decoder_start_token_id")
        if start is not None:
            target[:, 0] = start
        inputs["decoder_input_ids"] = target
    return inputs


def _picture_sizes(settings: Mapping[str, Any]) -> list[tuple[int, int]]:
    configured = next(_settings_under(settings, "image_size"), None) if "image_size" in settings else None
    if configured is None:
        configured = next((size for size in _settings_under(settings, "image_size") if isinstance(size, int)), None)
    if configured is None:
        return [(side, side) for side in SIZES]
    own = (configured, configured) if isinstance(configured, int) else (int(configured[0]), int(configured[-1]))
    smaller = [(side, side) for side in SIZES if side * side < own[0] * own[1]]
    return [*smaller, own] if own[0] * own[1] > LARGE_PIXELS else [own]


def _picture_channels(model: nn.Module, settings: Mapping[str, Any]) -> int:
    configured = next(_settings_under(settings, "num_channels"), None)
    if configured is not None:
        return int(configured)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise BaseError("no convolution takes its pictures, so that no input can be made.", where=type(model).__name__)
    return first.in_channels
