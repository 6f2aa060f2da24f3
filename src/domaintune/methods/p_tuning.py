"""P-tuning: learned keys and values in every attention (v2), or virtual tokens whose keys and values are used there (v1).

The base's weights do not change, but for what `beside` names; the domain head is trained too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from domaintune.bases.attention import (
    SLOT,
    AttentionSite,
    LearnedPrefix,
    Prefix,
    attention_sites,
    check_unchanged,
    install_prefixes_,
    record_calls,
)
from domaintune.bases.base import Base, fork
from domaintune.bases.limits import token_limit
from domaintune.bases.parts import inside
from domaintune.bases.probe import probe_inputs
from domaintune.errors import MethodError
from domaintune.methods.base import Attached, Form, Method, ParameterGroup
from domaintune.methods.prompt_stream import (
    STREAM,
    PromptEncoder,
    PromptStream,
    StreamedPrefix,
    check_stream,
    entering_states,
    entry_blocks,
    stream_inputs,
    text_inputs,
)
from domaintune.methods.weights import (
    ChangedTensors,
    body_parameters,
    check_state,
    check_strength,
    head_parameters,
    read_tensors,
    split_by_decay,
    trained_fork,
    write_tensors,
)
from domaintune.settings import PTuningSettings

WEIGHTS_FILE = "p_tuning.safetensors"
CONFIG_FILE = "config.json"
CONSTANTS = "constants."

# Learned keys and values want a learning rate far above that of weights: under the default of 3e-2 the head, a prompt encoder
# and what is trained beside learn at 1e-3.
WEIGHT_SCALE = 1 / 30


@dataclass(frozen=True)
class PTuning(Method):
    """In every attention of the model, with learned keys P_k and values P_v and strength s:

    - concatenated: lerp(attention(q, k, v), attention(q, [P_k; k], [P_v; v]), s);
    - gated: attention(q, k, v) + s tanh(gate) attention(q, P_k, P_v), gate zero at the start.

    Version 2 learns P_k and P_v themselves, or, reparameterised, what an MLP adds to their start. Version 1 learns virtual
    tokens by a prompt encoder and takes the keys and values that they have where they run through the same blocks alone.

    Source: P-tuning v2 (arXiv 2110.07602), P-tuning (arXiv 2103.10385); gate: LLaMA-Adapter (arXiv 2303.16199).
    Differs: version 1's virtual tokens do not see the input. For a causal model that is what they do in an ordinary soft prompt
    anyway (equal within rounding); in other models it leaves positions, pooling and windows of the input as they are. The
    virtual tokens enter after the embeddings; with rotary positions they stand before the input at -n to -1, with learned
    positions they have none of their own, and the input's positions are those of the base in every case. An encoder-decoder has
    one prompt for each; the decoder's stream attends to the encoder's.
    """

    settings: PTuningSettings

    def notes(self, base: Base) -> list[str]:
        """Chains whose attention takes no learned keys and values, where others' does."""
        sites = attention_sites(base.model)
        chains = [chain for chain in base.anatomy.chains if chain.kind == "transformer"] if sites else []
        learning = [chain for chain in chains if any(inside(s.path, block) for s in sites for block in chain.blocks)]
        left, named = (
            ", ".join(chain.name for chain in part)
            for part in ([chain for chain in chains if chain not in learning], learning)
        )
        if not left or not named:
            return []
        return [
            f"P-tuning leaves the {left} as it is: its attention does not call transformers' attention interface, so that learned "
            f"keys and values stand in the {named} alone. LoRA, freeze and full reach it."
        ]

    def attach(self, base: Base, *, generator: torch.Generator, domains: Sequence[str] = ()) -> Attached:
        probe = probe_inputs(base.model)
        sites = _sites(base, probe)
        weights = [*body_parameters(base, self.settings.beside), *head_parameters(base)]
        model = trained_fork(base, weights)
        gates = {site.path: _gate(site, self.settings.gated, base) for site in sites}
        n = self.settings.num_virtual_tokens
        if self.settings.version == 2:
            start = _initial_keys_values(base, probe, self.settings, generator)
            install_prefixes_(
                model, {path: _learner(*pair, gates[path], self.settings, generator) for path, pair in start.items()}
            )
        else:
            encoders = _prompt_encoders(base, probe, sites, self.settings, generator)
            _install_stream_(model, sites, gates, encoders, stream_inputs(base.config, probe, n))
            check_stream(model, sites, where=base.name, num_virtual_tokens=n)
        return PTuned(base, model, sites, self.settings, weights)


def _sites(base: Base, probe: Mapping[str, Tensor]) -> tuple[AttentionSite, ...]:
    sites = attention_sites(base.model, probe)
    if not sites:
        raise MethodError(
            f"{type(base.model).__name__} has no attention that calls transformers' attention interface, so there is no place "
            "for learned keys and values.",
            where=base.name,
            remedy="Use LoRA, Freeze or full.",
        )
    check_unchanged(base.model, probe, where=base.name)
    return sites


def _gate(site: AttentionSite, gated: bool, base: Base) -> nn.Parameter | None:
    dtype = torch.promote_types(base.dtype, torch.float32)
    return nn.Parameter(torch.zeros(site.num_heads, device=base.device, dtype=dtype)) if gated else None


def _initial_keys_values(
    base: Base, probe: Mapping[str, Tensor], settings: PTuningSettings, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each site, [key-value heads, n, dim]: a random choice among the keys and values of an input, or noise of their standard
    deviation."""
    wanted = settings.num_virtual_tokens
    result: dict[str, tuple[Tensor, Tensor]] = {}
    for path, calls in record_calls(base.model, _real_inputs(base, probe, wanted, generator)).items():
        keys, values = (
            t.transpose(1, 2).flatten(0, 1) for t in (calls[0].key, calls[0].value)
        )  # windows: one after another
        if settings.initialise == "text":
            order = torch.randperm(len(keys), generator=generator)
            chosen = order.repeat(-(-wanted // len(keys)))[:wanted].to(keys.device)
            pair = (keys[chosen].transpose(0, 1), values[chosen].transpose(0, 1))
        else:
            pair = (_noise_like(keys, wanted, generator), _noise_like(values, wanted, generator))
        keys, values = (t.to(torch.promote_types(t.dtype, torch.float32)).contiguous().clone() for t in pair)
        result[path] = (keys, values)
    return result


def _noise_like(positions: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(positions.shape[1], wanted, positions.shape[2], generator=generator)
    return noise.to(positions) * positions.std(correction=0)


def _real_inputs(base: Base, probe: Mapping[str, Tensor], length: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Tokens of the vocabulary without the special ones, or a picture of noise in the shape of the probe."""
    if "input_ids" not in probe:
        return {name: torch.randn(t[:1].shape, generator=generator).to(t) for name, t in probe.items()}
    length = min(max(length, probe["input_ids"].shape[1]), token_limit(base))
    special = set(base.processor.all_special_ids)
    embeddings: nn.Embedding = base.model.get_input_embeddings()  # type: ignore[operator]
    count = min(len(base.processor), embeddings.num_embeddings)
    words = torch.tensor([index for index in range(count) if index not in special])
    return text_inputs(base.config, probe, words[torch.randint(len(words), (1, length), generator=generator)])


def _prompt_encoders(
    base: Base,
    probe: Mapping[str, Tensor],
    sites: Sequence[AttentionSite],
    settings: PTuningSettings,
    generator: torch.Generator,
) -> list[PromptEncoder]:
    inputs = _real_inputs(base, probe, settings.num_virtual_tokens, generator)
    encoders = []
    for state in entering_states(base.model, entry_blocks(sites), inputs):
        width = state.shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            encoder = PromptEncoder(
                settings.prompt_encoder, settings.num_virtual_tokens, settings.hidden_size or width, width
            )
        encoder.scale_to_(float(state.std(correction=0)))
        encoders.append(encoder.to(device=state.device, dtype=torch.promote_types(state.dtype, torch.float32)))
    return encoders


def _install_stream_(
    model: nn.Module,
    sites: Sequence[AttentionSite],
    gates: Mapping[str, nn.Parameter | None],
    encoders: Sequence[nn.Module],
    inputs: Mapping[str, Tensor],
) -> PromptStream:
    install_prefixes_(model, {site.path: StreamedPrefix(gate=gates[site.path]) for site in sites})
    stream = PromptStream(model, entry_blocks(sites), encoders, inputs)
    stream.install_()
    return stream


def _learner(
    keys: Tensor, values: Tensor, gate: nn.Parameter | None, settings: PTuningSettings, generator: torch.Generator
) -> Prefix:
    if not settings.reparameterise:
        return LearnedPrefix(nn.Parameter(keys), nn.Parameter(values), gate=gate)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        made = ReparameterisedPrefix(keys, values, gate=gate, hidden_size=settings.hidden_size)
    return made.to(keys.device)


class ReparameterisedPrefix(LearnedPrefix):
    """[P_k; P_v] = start + W_2 tanh(W_1 E + b_1) + b_2 with a learned embedding E of each virtual token; W_2 and b_2 are zero at first.

    Source: prefix tuning (arXiv 2101.00190, section 4.3). Differs: there the network makes the whole; here it moves keys and values
    that start from an input's, and each attention has its own.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, gate: nn.Parameter | None, hidden_size: int | None) -> None:
        super().__init__(nn.Parameter(keys, requires_grad=False), nn.Parameter(values, requires_grad=False), gate=gate)
        heads, count, _ = keys.shape
        width = heads * (keys.shape[2] + values.shape[2])
        hidden = hidden_size or width // 2
        self.embedding = nn.Parameter(torch.randn(count, hidden, dtype=keys.dtype))
        last = nn.Linear(hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), last).to(keys.dtype)

    def learned(self) -> tuple[Tensor, Tensor]:
        heads, count, width = self.keys.shape
        moved = self.network(self.embedding).view(count, heads, -1).transpose(0, 1)
        return self.keys + moved[..., :width], self.values + moved[..., width:]


class PTuned(Attached):
    """Prefixes on a fork of the base, and its trained `weights`: the head's, and those of the body that are trained beside. Both forms
    of a view are the same."""

    def __init__(
        self,
        base: Base,
        model: nn.Module,
        sites: Sequence[AttentionSite],
        settings: PTuningSettings,
        weights: Sequence[str],
    ) -> None:
        self.base = base
        self.model = model
        self.sites = tuple(sites)
        self.starts_at_base = settings.gated
        self._settings = settings
        self._changed = ChangedTensors(base.model, model, tuple(weights))

    def parameter_groups(self) -> list[ParameterGroup]:
        by_network = self._settings.version == 1 or self._settings.reparameterise
        name, scale = ("prompt encoder", WEIGHT_SCALE) if by_network else ("prefix", 1.0)
        learned = [name for name, p in self._learned().items() if p.requires_grad]
        groups = split_by_decay(self.model, learned, group=name, scale=scale)  # a gate has one dimension: no decay
        return groups + split_by_decay(self.model, self._changed.names, group="weights", scale=WEIGHT_SCALE)

    def view(self, strength: float, *, head: str = "domain", form: Form = "merged") -> nn.Module:
        check_strength(strength)
        if strength == 0:  # with the base's own attention implementation
            return self.base.fork(head=head)
        view = self.base.fork(self._changed.at(strength), head=head)
        self._changed.install_statistics_(view, strength)
        gates = {site.path: self._prefix(site).gate for site in self.sites}
        prefixes: dict[str, Prefix] = {}
        for path, (keys, values) in self.constants().items():
            gate = gates[path]
            prefixes[path] = LearnedPrefix(
                nn.Parameter(keys, requires_grad=False),
                nn.Parameter(values, requires_grad=False),
                gate=None if gate is None else nn.Parameter(gate.detach().clone(), requires_grad=False),
                strength=strength,
            )
        install_prefixes_(view, prefixes)
        return view.eval()

    @torch.no_grad()
    def constants(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The learned keys and values of every site [key-value heads, n, dim], as clones."""
        source = self.model if self._settings.version == 2 else self._stream_copy()
        return {site.path: _clones(source.get_submodule(f"{site.path}.{SLOT}")) for site in self.sites}

    def _stream_copy(self) -> nn.Module:
        """A model in eval mode through which the stream has passed; the modes of the trained one are the engine's."""
        model = self.base.fork(self._changed.at(1.0))  # the stream passes through what is trained beside it
        trained = self.model.get_submodule(STREAM)
        assert isinstance(trained, PromptStream)
        encoders = [fork(encoder) for encoder in trained.encoders]
        _install_stream_(model, self.sites, {site.path: None for site in self.sites}, encoders, trained.inputs()).run_()
        return model

    def _prefix(self, site: AttentionSite) -> Prefix:
        prefix = self.model.get_submodule(f"{site.path}.{SLOT}")
        assert isinstance(prefix, Prefix)
        return prefix

    def _learned(self) -> dict[str, nn.Parameter]:
        """All that stands beside the base's weights, with the start that a network moves."""
        weights = set(self._changed.names)
        return {
            name: p
            for name, p in self.model.named_parameters()
            if name not in weights and (p.requires_grad or f".{SLOT}." in name)
        }

    def state(self) -> dict[str, Tensor]:
        return {**self._changed.state(), **{name: p.detach().cpu().clone() for name, p in self._learned().items()}}

    @torch.no_grad()
    def load_(self, state: Mapping[str, Tensor]) -> None:
        learned = self._learned()
        check_state(state, {**learned, **self._changed.parameters()}, self._changed.statistics())
        for name, parameter in learned.items():
            parameter.copy_(state[name])
        self._changed.load_({name: tensor for name, tensor in state.items() if name not in learned})

    def merged(self, strength: float) -> nn.Module:
        raise MethodError(
            "P-tuning does not change weights, so there is nothing to merge.",
            where=self.base.name,
            remedy="Use the run as it is (predict, --strength), or tune with LoRA, Freeze or full.",
        )

    def save(self, folder: Path) -> None:
        """`p_tuning.safetensors` holds the state and, under version 1, `constants.PATH.keys` and `.values`: what the prompt
        encoder comes to, for readers without it. `config.json` holds the settings and the sites."""
        tensors = self.state()
        if self._settings.version == 1:
            for path, (keys, values) in self.constants().items():
                tensors[f"{CONSTANTS}{path}.keys"] = keys.cpu()
                tensors[f"{CONSTANTS}{path}.values"] = values.cpu()
        write_tensors(folder / WEIGHTS_FILE, tensors)
        config = {**self._settings.model_dump(mode="json"), "sites": [asdict(site) for site in self.sites]}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        stored = read_tensors(folder / WEIGHTS_FILE)
        self.load_({name: tensor for name, tensor in stored.items() if not name.startswith(CONSTANTS)})


def _clones(prefix: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(prefix, Prefix)
    keys, values = prefix.learned()
    return keys.detach().clone(), values.detach().clone()
