"""Which lists of modules are chains of blocks, and which modules attend: read from what a probe forward did."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from domaintune.bases.parts import Chain, inside
from domaintune.bases.probe import Call, Dependence, Recording, reaches

SiteKind = Literal["linear", "conv1d-transposed", "conv1d", "conv2d"]
Kind = Literal["transformer", "convolution"]
LISTS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True, slots=True)
class Found:
    """A chain before it has a name."""

    path: str
    kind: Kind
    blocks: tuple[str, ...]


class Survey:
    """A model and the record of its probe forward, with what several questions need: the sites that ran, and how many lie
    below each path."""

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        from transformers.pytorch_utils import Conv1D

        self.model = model
        self.recording = recording
        self.modules = dict(model.named_modules())
        kinds: tuple[tuple[type[nn.Module], SiteKind], ...] = (
            (nn.Linear, "linear"),
            (Conv1D, "conv1d-transposed"),
            (nn.Conv1d, "conv1d"),
            (nn.Conv2d, "conv2d"),
        )
        self.sites: dict[str, SiteKind] = {}
        for path, module in self.modules.items():
            kind = next((kind for of, kind in kinds if isinstance(module, of)), None)
            if kind is not None and path in recording.calls:  # a layer that never ran is no site
                self.sites[path] = kind
        self.site_count: Counter[str] = Counter()
        for path in self.sites:
            names = path.split(".")
            self.site_count.update(".".join(names[:depth]) for depth in range(len(names) + 1))

    def has_parameters(self, path: str) -> bool:
        return next(self.modules[path].parameters(), None) is not None

    def owns_parameters(self, path: str) -> bool:
        return next(self.modules[path].parameters(recurse=False), None) is not None

    def children(self, path: str) -> list[str]:
        """Paths of the parts of the module at `path`, without those that go by an earlier path elsewhere."""
        prefix = f"{path}." if path else ""
        paths = (f"{prefix}{name}" for name, _ in self.modules[path].named_children())
        return [child for child in paths if child in self.modules]

    def pixel_nodes(self) -> set[Node]:
        """Where the model's floating-point inputs enter the graph; empty for text."""
        return set(self.recording.first("").input_nodes)


def idle_experts(survey: Survey) -> dict[str, str]:
    """Sites of experts that no row of the probe was sent to -> the same layer of one that some were.

    Experts are equal parts of one list of which several ran, or one on fewer rows than what holds the list was given. A single part
    that got all rows is no expert: of adapters for languages the configured one runs, and the others never do.
    """
    found: dict[str, str] = {}
    for path, module in survey.modules.items():
        if not isinstance(module, (*LISTS, nn.ModuleDict)):
            continue
        parts = survey.children(path)
        ran = [part for part in parts if part in survey.recording.calls]
        if not ran or (len(ran) == 1 and not _on_some_rows(survey, ran[0], of=path)):
            continue
        for part in parts:
            if part not in ran and _shapes(survey.modules[part]) == _shapes(survey.modules[ran[0]]):
                found |= {part + site[len(ran[0]) :]: site for site in survey.sites if inside(site, ran[0])}
    return found


def _on_some_rows(survey: Survey, part: str, *, of: str) -> bool:
    """Whether `part` of the list at `of` was given fewer rows [..., width] than the innermost module that ran and holds the list."""
    calls = survey.recording.calls
    while of and of not in calls:
        of = of.rpartition(".")[0]
    given, whole = (
        next((math.prod(t.shape[:-1]) for t in calls[path][0].inputs if t.is_floating_point()), 0)
        for path in (part, of)
    )
    return given < whole


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def find_attention(survey: Survey) -> tuple[str, ...]:
    """The innermost modules that attend, in order of execution.

    Outwards from where a softmax ran: the first module whose output at one position depends on its inputs at others, then the
    first one from there with two matrices below it (queries, keys, values and outputs are among them). A module with parameters
    that takes a softmax and does not look sideways is something else, such as a router of experts.
    """
    found: dict[str, None] = {}
    mixing: dict[str, bool] = {}
    for stack, _ in survey.recording.attending:
        mixes = False
        for path in reversed(stack):
            if not mixes:
                if path not in mixing:
                    mixing[path] = mixes_positions(survey.recording.first(path))
                mixes = mixing[path]
                if not mixes and survey.has_parameters(path):
                    break
            if mixes and sum(parameter.ndim >= 2 for parameter in survey.modules[path].parameters()) >= 2:
                found[path] = None
                break
    return tuple(found)


def mixes_positions(call: Call) -> bool:
    """Whether some row of the output [..., width] depends on an input's other rows, within this call.

    Three rows are asked: the last of the first item, which a causal mask lets see all of it, the very last, and the very first: where a
    model pads the probe to the window of its attention (LED, Longformer) the last ones are padding, which sees nothing.
    """
    output = next((t for t in call.outputs if t.is_floating_point() and t.ndim >= 2 and t.requires_grad), None)
    floating = (t for t in call.inputs if t.is_floating_point() and t.ndim >= 2 and t.requires_grad)
    sources = list({id(tensor): tensor for tensor in floating}.values())
    if output is None or not sources:
        return False
    if all(tensor.shape[-2] == 1 for tensor in (output, *sources)):
        return True  # a single position, the last stage of a small picture: nothing sideways to look at
    rows = output.reshape(-1, output.shape[-1])
    for row in (output.shape[-2] - 1, len(rows) - 1, 0):
        for source in sources:
            others = [tensor for tensor in sources if tensor is not source]
            gradient = partial_gradient(rows[row], source, others)
            if gradient is not None and int((gradient.reshape(-1, gradient.shape[-1]) != 0).any(1).sum()) > 1:
                return True
    return False


def partial_gradient(output: Tensor, source: Tensor, others: list[Tensor]) -> Tensor | None:
    """Gradient of a random projection of `output` (a plain sum has none behind a layer norm) with respect to `source` while
    `others` are held, even where they were computed from it; None where `output` does not depend on it."""
    node = get_gradient_edge(source).node
    held = {get_gradient_edge(tensor).node for tensor in others} - {node}
    if not reaches([get_gradient_edge(output).node], [node], blocked=held):
        return None
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    handles = [tensor.register_hook(torch.zeros_like) for tensor in others]
    try:
        (gradient,) = torch.autograd.grad((output * weights).sum(), [source], retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return gradient


def find_chains(survey: Survey, attention: Collection[str]) -> list[Found]:
    """The outermost lists whose parts are blocks that follow one another, in order of execution."""
    found: list[Found] = []
    for path, module in survey.modules.items():
        if isinstance(module, LISTS) and not any(inside(path, block) for chain in found for block in chain.blocks):
            found.extend(chains_in(survey, path, attention))
    return sorted(found, key=lambda chain: survey.recording.first(chain.blocks[0]).start)


def chains_in(survey: Survey, path: str, attention: Collection[str]) -> list[Found]:
    """The chains among the children of the list at `path`.

    A run of children each linked to the next one. A single child counts where it is the list's only one and attends; it gives
    way to a list inside it that holds all its attention in parts that each attend (ALBERT's groups of layers, RT-DETR's
    encoders of one layer).
    """
    children = survey.children(path)
    runs: list[list[str]] = []
    least = 2 if isinstance(survey.modules[path], nn.Sequential) else 1  # stems are Sequentials of single layers
    for child in children:
        leaf = next(survey.modules[child].children(), None) is None
        if child not in survey.recording.calls or leaf or survey.site_count[child] < least:
            continue
        if runs and linked(survey, runs[-1][-1], child, attention=attention, of=path):
            runs[-1].append(child)
        else:
            runs.append([child])
    found = []
    for run in runs:
        attends = any(inside(one, block) for one in attention for block in run)
        if len(run) == 1 and (len(children) > 1 or not attends or gives_way(survey, run[0], attention)):
            continue
        if attends:
            found.append(Found(path, "transformer", tuple(run)))
        elif is_trunk(survey, run):
            found.append(Found(path, "convolution", tuple(run)))
    return found


def gives_way(survey: Survey, block: str, attention: Collection[str]) -> bool:
    """Whether a list inside `block` is a chain of its own with all of the block's attention in it, some in every part."""
    own = [path for path in attention if inside(path, block)]
    for path, module in survey.modules.items():
        if not isinstance(module, LISTS) or path == block or not inside(path, block):
            continue
        if all(inside(one, path) for one in own):
            chains = chains_in(survey, path, attention)
            if chains and all(any(inside(one, part) for one in own) for chain in chains for part in chain.blocks):
                return True
    return False


def linked(survey: Survey, one: str, other: str, *, attention: Collection[str], of: str) -> bool:
    """Whether block `other` is fed by what block `one` returned.

    Either the very tensor, or something computed from it (YOLOS adds positions between blocks), as long as no layers of another
    list run in between (XLM keeps attention and feed-forward parts in two lists) and, without attention, nothing of the picture
    arrives by another way (feature pyramids). Parts of different classes that hold lists with attention are stacks, not blocks;
    a Sequential is also used for plain composition, so that its blocks must be of one class.
    """
    calls = survey.recording.calls
    before, after = calls[one][0], calls[other][0]
    if before.end > after.start:
        return False
    attends = any(inside(path, block) for path in attention for block in (one, other))
    if type(survey.modules[one]) is not type(survey.modules[other]):
        stacks = any(
            isinstance(survey.modules[of], nn.Sequential) or holds_chain(survey, p, attention) for p in (one, other)
        )
        if stacks:
            return False
    returned = {t.untyped_storage().data_ptr() for t in before.outputs if t.is_floating_point()}
    if any(t.untyped_storage().data_ptr() in returned for t in after.inputs):
        return True
    between = (path for path in survey.sites if any(before.end < call.start < after.start for call in calls[path]))
    if any(in_another_list(survey, path, of=of) for path in between):
        return False
    if not reaches(after.input_nodes, set(before.output_nodes)):
        return False
    return attends or not reaches(after.input_nodes, survey.pixel_nodes(), blocked=set(before.output_nodes))


def holds_chain(survey: Survey, block: str, attention: Collection[str]) -> bool:
    """Whether `block` has a list inside itself that is a chain with attention."""
    return any(
        isinstance(module, LISTS)
        and inside(path, block)
        and any(c.kind == "transformer" for c in chains_in(survey, path, attention))
        for path, module in survey.modules.items()
    )


def in_another_list(survey: Survey, path: str, *, of: str) -> bool:
    """Whether `path` stands in a list that neither is nor holds the list `of`."""
    names = path.split(".")
    above = [".".join(names[:depth]) for depth in range(1, len(names))]
    return any(isinstance(survey.modules[one], nn.ModuleList) and not inside(of, one) for one in above)


def is_trunk(survey: Survey, run: list[str]) -> bool:
    """Whether the run works on maps [batch, channels, height, width] and all that the output knows of the picture goes through
    its first block's input: true of a backbone's stages, never of a branch or of a feature pyramid."""
    calls = [survey.recording.first(block) for block in run]
    pixels = survey.pixel_nodes()
    if not pixels or not all(any(t.ndim == 4 for t in call.outputs) for call in calls):
        return False
    if not any(survey.sites[path] == "conv2d" for path in survey.sites for block in run if inside(path, block)):
        return False
    return not reaches(survey.recording.first("").output_nodes, pixels, blocked=set(calls[0].input_nodes))


def name_chains(survey: Survey, found: list[Found], attention: Collection[str]) -> list[Chain]:
    """The chains with their names by role: "backbone" (convolution), "decoder" (causal, or given another chain's output beside
    the stream), else "encoder"; a number from the second one of a kind on."""
    counts: Counter[str] = Counter()
    chains = []
    for one in found:
        if one.kind == "convolution":
            role = "backbone"
        else:
            role = "decoder" if has_memory(survey, one, found) or is_causal(survey, one, attention) else "encoder"
        counts[role] += 1
        name = role if counts[role] == 1 else f"{role}.{counts[role]}"
        chains.append(Chain(name=name, kind=one.kind, path=one.path, blocks=one.blocks))
    return chains


def is_causal(survey: Survey, chain: Found, attention: Collection[str]) -> bool:
    """Whether the first block that attends ignores, for its output [batch, length, width] at the first position, all later
    positions of its hidden states, while at the last one it does not ignore the earlier ones (as it would where the batch comes
    second)."""
    block = next(block for block in chain.blocks if any(inside(one, block) for one in attention))
    call = survey.recording.first(block)
    hidden = next((t for t in call.inputs if t.is_floating_point() and t.ndim == 3 and t.requires_grad), None)
    output = next((t for t in call.outputs if t.is_floating_point()), None)
    if hidden is None or output is None or output.ndim != 3:
        return False
    first, last = (partial_gradient(output[0, at], hidden, []) for at in (0, -1))
    if first is None or last is None:
        return False
    return not bool((first[0, 1:] != 0).any()) and bool((last[0, :-1] != 0).any())


def has_memory(survey: Survey, chain: Found, found: list[Found]) -> bool:
    """Whether the first block is given, beside the hidden states, something computed from an earlier chain's output that the
    hidden states were not made of (Funnel pools its queries from the keys)."""
    call = survey.recording.first(chain.blocks[0])
    earlier = (survey.recording.first(other.blocks[-1]) for other in found if other is not chain)
    from_earlier = Dependence(node for end in earlier if end.start < call.start for node in end.output_nodes)
    hidden = next((tensor for tensor in call.inputs if tensor.is_floating_point()), None)
    for tensor in call.inputs:
        if tensor is hidden or not tensor.requires_grad:
            continue
        node = get_gradient_edge(tensor).node
        if from_earlier([node]) and not (
            hidden is not None and hidden.requires_grad and reaches([get_gradient_edge(hidden).node], [node])
        ):
            return True
    return False
