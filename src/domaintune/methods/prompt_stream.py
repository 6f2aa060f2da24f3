"""P-tuning v1's virtual tokens: the prompt encoder, and the stream that carries its tokens through the base's own blocks.

The stream is a forward of the model on a fixed probe whose hidden states, where they enter the first block of a chain, are
replaced by the virtual tokens [1, n, width]; masks, positions and everything else are the model's own. Each attention keeps the
keys and values that it sees, and the main forward receives them as v2 receives its learned ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domaintune.bases.attention import SLOT, AttentionSite, Call, Prefix
from domaintune.bases.base import fork
from domaintune.errors import MethodError

STREAM = "prompt_stream"
ENTRY = "prompt_entry"


class PromptEncoder(nn.Module):
    """A table [n, hidden] of free vectors, mixed by a network, -> virtual tokens [n, width].

    "lstm": two bidirectional layers, then linear, ReLU, linear. "mlp": linear, ReLU, linear, ReLU, linear.
    Source: P-tuning (arXiv 2103.10385, section 3.2); the layers as PEFT's `tuners/p_tuning/model.py` has them.
    """

    def __init__(self, kind: Literal["lstm", "mlp"], num_virtual_tokens: int, hidden_size: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(num_virtual_tokens, hidden_size))
        self.recurrent: nn.LSTM | None = None
        mixed = hidden_size
        if kind == "lstm":
            mixed = 2 * hidden_size
            self.recurrent = nn.LSTM(hidden_size, hidden_size, num_layers=2, bidirectional=True, batch_first=True)
            self.layers = nn.Sequential(nn.Linear(mixed, mixed), nn.ReLU())
        else:
            first, second = nn.Linear(mixed, mixed), nn.Linear(mixed, mixed)
            self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.output = nn.Linear(mixed, width)

    def forward(self) -> Tensor:
        hidden = self.table
        if self.recurrent is not None:
            hidden = self.recurrent(hidden[None])[0][0]
        virtual: Tensor = self.output(self.layers(hidden))
        return virtual

    @torch.no_grad()
    def scale_to_(self, deviation: float) -> None:
        """Give the virtual tokens the standard deviation of the hidden states among which they will stand."""
        factor = deviation / float(self().std(correction=0))
        self.output.weight.mul_(factor)
        self.output.bias.mul_(factor)


class _Streamed:
    """Keys and values of the last stream. They may carry a graph, which a deepcopy must not follow."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys
        self.values = values

    def __deepcopy__(self, memo: dict[int, Any]) -> _Streamed:
        return _Streamed(self.keys.detach().clone(), self.values.detach().clone())


class StreamedPrefix(Prefix):
    """Keys and values that the stream leaves; while the stream itself passes, attention is the base's."""

    def __init__(self, *, gate: nn.Parameter | None = None) -> None:
        super().__init__(gate, 1.0)
        self.recording = False
        self.streamed: _Streamed | None = None

    def learned(self) -> tuple[Tensor, Tensor]:
        assert self.streamed is not None, "the model's hooks run the stream before any attention"
        return self.streamed.keys, self.streamed.values

    def forward(self, call: Call) -> Tensor:
        if not self.recording:
            return super().forward(call)
        if call.key.shape[0] == 1:
            self.streamed = _Streamed(call.key[0], call.value[0])
        return call.unchanged()


class _Entry:
    """Where virtual tokens enter, on the first block of a chain. `hidden` is set only while the stream passes."""

    def __init__(self, stream: PromptStream) -> None:
        self.stream = stream
        self.hidden: Tensor | None = None


class _Seen:
    """What the keys and values of a stream depend on, as it was: every tensor of the model (kept, so that no new one can take its
    place in memory), and how torch computed."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = (*model.parameters(), *model.buffers())
        # `Module.to` gives a parameter other storage without counting that as a change.
        self.states = [(tensor._version, tensor.data_ptr()) for tensor in self.tensors]
        kinds = sorted({tensor.device.type for tensor in self.tensors})
        casts = [torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) for kind in kinds]
        self.computing = (torch.is_grad_enabled(), casts)

    def same(self, other: _Seen | None) -> bool:
        return (
            other is not None
            and (self.states, self.computing) == (other.states, other.computing)
            and all(mine is theirs for mine, theirs in zip(self.tensors, other.tensors, strict=True))
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Nothing is known of a copied model."""


class PromptStream(nn.Module):
    """The prompt encoders (one a chain) and the stream of one model.

    With gradients it is run before every forward of the model, whose backward uses its graph up. Without, before a forward, or a
    first block that is entered in another way (the encoder in `generate`), only where a tensor of the model has changed since: also
    one of the body, which may be trained beside. Strengths and gates act on what it leaves. It cannot see what is changed through
    `tensor.data`.
    """

    def __init__(
        self, model: nn.Module, entries: Sequence[str], encoders: Sequence[nn.Module], inputs: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.entries = tuple(entries)
        self.input_names = tuple(inputs)
        for name, tensor in inputs.items():
            self.register_buffer(f"input_{name}", tensor.clone(), persistent=False)
        self.owner = (model,)  # in a tuple, so that it does not become a submodule of its own submodule
        self.running = False
        self.seen: _Seen | None = None

    def inputs(self) -> dict[str, Tensor]:
        """The probe that it runs on."""
        return {name: self.get_buffer(f"input_{name}") for name in self.input_names}

    def install_(self) -> None:
        """Put the stream and its hooks on its model. The hooks use the module that they are handed alone, so that a deepcopy of
        the model runs its own stream."""
        (model,) = self.owner
        model.add_module(STREAM, self)
        model.register_forward_pre_hook(_before_model)
        for path in self.entries:
            block = model.get_submodule(path)
            vars(block)[ENTRY] = _Entry(self)
            block.register_forward_pre_hook(_before_entry, with_kwargs=True)

    def follow_(self) -> None:
        """Run the stream where its keys and values are not those of the model as it is now."""
        if not _Seen(self.owner[0]).same(self.seen):
            self.run_()

    def run_(self) -> None:
        """Run the stream; every `StreamedPrefix` of the model then holds its keys and values.

        It passes in eval mode: dropout would change what the view holds, and layer drop would leave attentions without keys.
        """
        (model,) = self.owner
        prefixes = [module for module in model.modules() if isinstance(module, StreamedPrefix)]
        places: list[_Entry] = [vars(model.get_submodule(path))[ENTRY] for path in self.entries]
        virtual = [encoder()[None] for encoder in self.encoders]
        training = [module for module in model.modules() if module.training]
        self.running, self.seen = True, None
        try:
            for module in training:  # one flag at a time: some of them may be frozen in eval mode
                module.training = False
            for prefix in prefixes:
                prefix.recording, prefix.streamed = True, None
            for place, hidden in zip(places, virtual, strict=True):
                place.hidden = hidden
            model(**self.inputs())
        finally:
            self.running = False
            for module in training:
                module.training = True
            for prefix in prefixes:
                prefix.recording = False
            for place in places:
                place.hidden = None
        self.seen = _Seen(model)


def _before_model(module: nn.Module, args: Any) -> None:
    stream = module._modules[STREAM]
    assert isinstance(stream, PromptStream)
    if stream.running:
        return
    if torch.is_grad_enabled():
        stream.run_()
    else:
        stream.follow_()


def _before_entry(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    entry: _Entry = vars(module)[ENTRY]
    if entry.hidden is None:
        if not entry.stream.running:
            entry.stream.follow_()
        return None
    if args:
        return (entry.hidden.to(args[0].dtype), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": entry.hidden.to(kwargs["hidden_states"].dtype)}


def entry_blocks(sites: Sequence[AttentionSite]) -> tuple[str, ...]:
    """The first block of every chain that holds attention, in the order of computation."""
    first: dict[str, str] = {}
    for site in sites:
        first.setdefault(site.block.rpartition(".")[0], site.block)
    return tuple(first.values())


def entering_states(model: nn.Module, entries: Sequence[str], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The hidden states that enter the given blocks in one forward."""
    copied = fork(model).eval()
    states: dict[str, Tensor] = {}
    for path in entries:

        def keep(module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            states[path] = args[0] if args else kwargs["hidden_states"]

        copied.get_submodule(path).register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        copied(**inputs)
    return [states[path] for path in entries]


def stream_inputs(config: Any, probe: Mapping[str, Tensor], num_virtual_tokens: int) -> dict[str, Tensor]:
    """The probe under the stream: n tokens, or a picture.

    Under rotary positions the virtual tokens stand at -n .. -1, in front of a text that starts at 0 as in the base. Where
    positions are added to the embeddings they have none: they enter after that.
    """
    if "input_ids" not in probe:
        return {name: tensor[:1] for name, tensor in probe.items()}
    text = config.get_text_config()  # a model of texts and pictures has one of each
    ids = torch.full((1, num_virtual_tokens), 1 if text.pad_token_id == 0 else 0)
    made = text_inputs(config, probe, ids)
    if getattr(text, "rope_parameters", None):
        made["position_ids"] = torch.arange(-num_virtual_tokens, 0, device=made["input_ids"].device)[None]
    return made


def text_inputs(config: Any, probe: Mapping[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """What a text model with this `probe` takes for the tokens `ids` [1, length], without padding; an encoder-decoder gets them
    as the target too, and an end token, which some of their heads read."""
    made: dict[str, Tensor] = {}
    for name in ("input_ids", "decoder_input_ids"):
        if name in probe:
            made[name] = ids.to(probe[name].device, copy=True)
    end = config.get_text_config().eos_token_id
    if "decoder_input_ids" in made and isinstance(end, int):
        made["input_ids"][:, -1] = end
    return made


def check_stream(model: nn.Module, sites: Sequence[AttentionSite], *, where: str, num_virtual_tokens: int) -> None:
    """Run the stream once, back too, and see that each attention got its n keys and every virtual token a gradient that is finite.

    Raises:
        MethodError: the blocks do not take a sequence of another length, rearrange it, or compute no finite gradients at the
            positions before a text (Ministral 3, which scales its queries by the logarithm of the position).
    """
    stream = model.get_submodule(STREAM)
    assert isinstance(stream, PromptStream)
    what, remedy = (
        f"{type(model).__name__} cannot carry virtual tokens through its blocks",
        "Use P-tuning version 2, LoRA or Freeze.",
    )
    try:
        with torch.enable_grad():
            stream.run_()
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MethodError(f"{what} ({reason}).", where=where, remedy=remedy) from error
    made: list[Tensor] = []
    for site in sites:
        prefix = model.get_submodule(site.path)._modules[SLOT]
        assert isinstance(prefix, StreamedPrefix)
        if site.calls > 1 or prefix.streamed is None or prefix.streamed.keys.shape[1] != num_virtual_tokens:
            raise MethodError(f"{what}: at {site.path} they are not one sequence.", where=where, remedy=remedy)
        made += [prefix.streamed.keys, prefix.streamed.values]
        prefix.streamed = None
    stream.seen = None
    tables = [encoder.table for encoder in stream.encoders if isinstance(encoder, PromptEncoder)]
    total = torch.stack([one.float().sum() for one in made]).sum()
    gradients = torch.autograd.grad(total, tables, allow_unused=True)
    if not all(bool(one.isfinite().all()) for one in (*made, *gradients) if one is not None):
        raise MethodError(f"{what}: it computes nothing finite at their positions.", where=where, remedy=remedy)
