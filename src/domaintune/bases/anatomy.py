"""Where a model's parts are, found by structure and a probe forward, never by names.

Here: embeddings, sites, attention, norms, cuts, and `examine`, which puts them together. Chains are found in `chains`, the
probe lives in `probe`, what is asked of an anatomy in `selectors` and `cuts`; this module hands all of them on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from domaintune.bases.chains import Found, Survey, find_attention, find_chains, idle_experts, name_chains
from domaintune.bases.parts import Anatomy, Chain, Cut, Site, inside
from domaintune.bases.probe import Call, Dependence, probe_inputs, probing, record
from domaintune.bases.selectors import select_parameters, select_sites
from domaintune.errors import BaseError

__all__ = [
    "Anatomy",
    "Chain",
    "Cut",
    "Site",
    "examine",
    "probe_inputs",
    "select_parameters",
    "select_sites",
]

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def examine(model: nn.Module, *, inputs: Mapping[str, Tensor] | None = None) -> Anatomy:
    """Embeddings, chains of blocks, sites, attention modules, norms and cuts of `model`, which is left as it was.

    `inputs` is what the probe forward runs on; by default `probe_inputs(model)`.

    Raises:
        BaseError: the probe fails, no chain of blocks is found, or a block attends in its own forward, so that its attention and
            its other layers cannot be told apart.
    """
    probe = dict(probe_inputs(model) if inputs is None else inputs)
    given = {name: tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for name, tensor in probe.items()}
    before = dict(model.named_modules())
    with probing(model, all_gradients=True):
        survey = Survey(model, record(model, given))
        if survey.modules != before:
            raise BaseError(
                "its forward replaces its own modules on short inputs, so that they cannot be told apart by a probe.",
                where=type(model).__name__,
                remedy="Fix the kind of attention in its configuration (BigBird: attention_type='original_full').",
            )
        attending = find_attention(survey)
        found = find_chains(survey, attending)
        if not found:
            raise BaseError(
                "no chain of blocks was found: no list whose parts hold attention and follow one another, and no list of "
                "convolution blocks that all of the output goes through.",
                where=type(model).__name__,
                remedy="Take a base of a known architecture, such as BERT, ViT, ResNet, Llama, Marian or RT-DETR.",
            )
        attention = attention_modules(survey, found, attending)
        embeddings = embedding_modules(survey, found, given)
        body = common_ancestor([*embeddings, *(path for chain in found for path in chain.blocks)])
        head = find_head(survey, found, body=body)
        chains = with_tops(survey, name_chains(survey, found, attention), body=body, head=head)
        norms = tuple(path for path in survey.recording.calls if is_norm(survey, path))
    return Anatomy(
        embeddings=embeddings,
        chains=chains,
        sites=tuple(sites_of(survey, chains, attention)),
        attention=attention,
        cuts=cuts_of(survey, chains, head=head),
        norms=norms,
        body=body,
        probe=probe,
        blocks_later=blocks_later(survey, chains),
    )


def blocks_later(survey: Survey, chains: tuple[Chain, ...]) -> dict[str, int]:
    """Every path of each module that ran -> how many blocks first ran after it first did."""
    starts = [survey.recording.first(block).start for chain in chains for block in chain.blocks]
    first = {id(survey.modules[path]): calls[0].start for path, calls in survey.recording.calls.items()}
    named = survey.model.named_modules(remove_duplicate=False)
    return {path: sum(s > first[id(module)] for s in starts) for path, module in named if id(module) in first}


def attention_modules(survey: Survey, found: list[Found], attending: tuple[str, ...]) -> tuple[str, ...]:
    """The attention modules inside the blocks.

    Raises:
        BaseError: a block attends in its own forward.
    """
    blocks = [block for chain in found for block in chain.blocks]
    for path in attending:
        if path in blocks:
            raise BaseError(
                f"block '{path}' attends in its own forward, so that its attention and its other layers cannot be told apart.",
                where=type(survey.model).__name__,
            )
    return tuple(path for path in attending if any(inside(path, block) for block in blocks))


def sites_of(survey: Survey, chains: tuple[Chain, ...], attention: tuple[str, ...]) -> list[Site]:
    """Every linear and convolution layer that ran inside a block, or would run on other tokens, in the order of the modules.

    "attention": inside an attention module, or fed by the very tensor that one returned which has no layer of its own behind the
    softmax (the output projection, which BERT keeps beside it).
    """
    returned = {
        tensor.untyped_storage().data_ptr()
        for path in attention
        for call in survey.recording.calls[path]
        if not projects(survey, call)
        for tensor in call.outputs
        if tensor.is_floating_point()
    }
    idle = idle_experts(survey)
    sites = []
    for chain in chains:
        for index, block in enumerate(chain.blocks):
            for path in survey.modules:
                ran = path if path in survey.sites else idle.get(path)
                if ran is None or not inside(path, block):
                    continue
                role: Literal["attention", "mlp", "convolution"]
                module = survey.modules[path]
                groups, depthwise = 1, False
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    role, groups = "convolution", module.groups
                    depthwise = groups > 1 and groups == module.in_channels
                elif any(inside(path, one) for one in attention):
                    role = "attention"
                else:
                    fed = survey.recording.first(ran).inputs
                    role = "attention" if any(t.untyped_storage().data_ptr() in returned for t in fed) else "mlp"
                sites.append(Site(path, survey.sites[ran], role, chain.name, index, groups, depthwise))
    return sites


def projects(survey: Survey, call: Call) -> bool:
    """Whether an attention's own layers work on what it attended to: a layer ran in it behind its last softmax, or it keeps its
    matrices as bare parameters (XLNet)."""
    own = [path for path in survey.sites if inside(path, call.path)]
    ticks = [tick for _, tick in survey.recording.attending if call.start <= tick < call.end]
    return not own or any(max(ticks) < one.start < call.end for path in own for one in survey.recording.calls[path])


def embedding_modules(survey: Survey, found: list[Found], inputs: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Embedding layers that ran outside the blocks, and the layers there that receive the model's inputs
    (padded or reshaped at most); none where the first block itself receives them (Segformer's stages)."""
    worked = {
        node
        for path, calls in survey.recording.calls.items()
        if survey.owns_parameters(path) and next(survey.modules[path].children(), None) is None
        for node in calls[0].output_nodes
    }
    from_pixels = Dependence(survey.pixel_nodes(), blocked=worked)
    blocks = [block for chain in found for block in chain.blocks]
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs.values()}
    paths = []
    for path, calls in survey.recording.calls.items():
        module = survey.modules[path]
        leaf = next(module.children(), None) is None and survey.owns_parameters(path)
        fed = any(tensor.untyped_storage().data_ptr() in given for tensor in calls[0].inputs)
        if leaf and (isinstance(module, nn.Embedding) or fed or from_pixels(calls[0].input_nodes)):
            paths.append(path)
    if not paths:
        raise BaseError("no layer receives the model's input.", where=type(survey.model).__name__)
    return tuple(path for path in paths if not any(inside(path, block) for block in blocks))


def common_ancestor(paths: list[str]) -> str:
    """The deepest module that holds all of `paths` strictly inside itself."""
    parts = [path.split(".")[:-1] for path in paths]
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)


def is_norm(survey: Survey, path: str) -> bool:
    """A normalisation layer: torch's own kinds, or a leaf with nothing but vectors whose output stays when its input doubles."""
    module = survey.modules[path]
    if isinstance(module, NORMS):
        return True
    own = [parameter for _, parameter in module.named_parameters()]
    if not own or next(module.children(), None) is not None or any(parameter.ndim != 1 for parameter in own):
        return False
    call = survey.recording.first(path)
    if not call.args or not isinstance(call.args[0], Tensor) or not isinstance(call.output, Tensor):
        return False
    if not call.args[0].numel():  # LongT5's global tokens, of which a short probe has none
        return False
    with torch.no_grad():  # times 16, since epsilon matters for small values
        once, more = (module(factor * call.args[0], *call.args[1:], **call.kwargs) for factor in (16.0, 32.0))
    return bool(torch.allclose(once, more, rtol=1e-2, atol=1e-3 * float(once.abs().max())))


def with_tops(survey: Survey, chains: list[Chain], *, body: str, head: str) -> tuple[Chain, ...]:
    """The chains with `after`: modules of the body, outside blocks and head and without blocks inside (a detector's decoder keeps
    parameters of its own), that run behind this chain and need what one of its blocks returned, but nothing that a later chain did."""
    first = survey.recording.first
    blocks_of_all = [block for chain in chains for block in chain.blocks]
    apart = blocks_of_all + ([head] if head else [])
    outside = [
        path
        for path in survey.recording.calls
        if inside(path, body)
        and survey.owns_parameters(path)
        and not any(inside(path, one) for one in apart)
        and not any(inside(block, path) for block in blocks_of_all)
    ]
    result = []
    for chain in chains:
        end = first(chain.blocks[-1]).end
        later = (other.blocks for other in chains if first(other.blocks[0]).start > end)
        needs_later = Dependence(node for blocks in later for block in blocks for node in first(block).output_nodes)
        needs_chain = Dependence(node for block in chain.blocks for node in first(block).output_nodes)
        after = [
            path
            for path in outside
            for call in survey.recording.calls[path]
            if call.start > end and needs_chain(call.input_nodes) and not needs_later(call.input_nodes)
        ]
        result.append(replace(chain, after=tuple(dict.fromkeys(after))))
    return tuple(result)


def find_head(survey: Survey, found: list[Found], *, body: str) -> str:
    """The first module that runs behind all blocks and outside the body, or the output embedding of a model that is its own body
    (T5); "" where the head stands inside the body or there is none."""
    from transformers import PreTrainedModel

    end = max(survey.recording.last_end(block) for chain in found for block in chain.blocks)
    later = [path for path, calls in survey.recording.calls.items() if calls[0].start > end]
    output = survey.model.get_output_embeddings() if isinstance(survey.model, PreTrainedModel) else None
    return next((path for path in later if not inside(path, body) or survey.modules[path] is output), "")


def cuts_of(survey: Survey, chains: tuple[Chain, ...], *, head: str) -> tuple[Cut, ...]:
    """ "embeddings", every block by its first call, and "head", or in its place what runs first behind all blocks."""
    first = survey.recording.first
    cuts = [Cut(f"{chain.name}.{index}", path) for chain in chains for index, path in enumerate(chain.blocks)]
    cuts.sort(key=lambda cut: first(cut.path).start)
    end = max(survey.recording.last_end(cut.path) for cut in cuts)
    later = (
        path for path, calls in survey.recording.calls.items() if calls[0].start > end and survey.has_parameters(path)
    )
    head = head or next(later, "")
    return (Cut("embeddings", ""), *cuts, *([Cut("head", head)] if head else []))
