"""Where the frozen prefix of a model ends: asked of autograd, on a model that a method may have changed."""

from __future__ import annotations

from torch import nn

from domaintune.bases.parts import Anatomy, Cut, inside
from domaintune.bases.probe import Recording, probing, record
from domaintune.errors import BaseError


def train_behind_prefix_(model: nn.Module, anatomy: Anatomy) -> Cut:
    """Training mode for everything behind the clean cut, eval mode for all before it; returns the cut.

    Modules that are open at the cut and applied a functional dropout before it (Marian's encoder, on its embeddings) have
    their own flag off, so that what reaches the cut is the same at every step.
    """
    recording = _recorded(model, anatomy)
    cut = _clean_cut(model, anatomy, recording)
    model.train()
    for path in _prefix(recording, cut):
        model.get_submodule(path).eval()
    start = recording.first(cut.path).start if cut.path else 0
    for stack, tick in recording.dropping:
        if tick < start and stack:
            model.get_submodule(stack[-1]).training = False
    return cut


def _recorded(model: nn.Module, anatomy: Anatomy) -> Recording:
    """A record of the model on the inputs that it was examined with, on its present device and dtype."""
    like = next(model.parameters())
    inputs = {
        name: tensor.to(device=like.device, dtype=like.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in anatomy.probe.items()
    }
    with probing(model, all_gradients=False):
        return record(model, inputs)


def _clean_cut(model: nn.Module, anatomy: Anatomy, recording: Recording) -> Cut:
    """The last cut that no trained tensor reaches: none of its input tensors (in keywords and tuples too) requires a gradient,
    and no module with trained parameters of its own has finished before it.

    The second condition covers trained layers that act without a gradient, such as scores that choose detection queries. At the
    latest the "embeddings" are clean.
    """
    trained_end = min(
        (
            recording.first(path).end
            for path in recording.calls
            if any(p.requires_grad for p in model.get_submodule(path).parameters(recurse=False))
        ),
        default=None,
    )
    clean = anatomy.cuts[0]
    for cut in anatomy.cuts[1:]:
        if cut.path not in recording.calls:
            raise BaseError(f"block '{cut.path}' did not run in the probe.", where=type(model).__name__)
        first = recording.first(cut.path)
        if any(tensor.requires_grad for tensor in first.inputs):
            break
        if trained_end is not None and trained_end < first.start:
            break
        clean = cut
    return clean


def _prefix(recording: Recording, cut: Cut) -> tuple[str, ...]:
    """The outermost modules whose last call ended before the cut's first one, none of their parts' calls later. Before the whole
    model's input lies nothing, even where a method computes something ahead of its forward."""
    if not cut.path:
        return ()
    start = recording.first(cut.path).start
    late = [path for path in recording.calls if recording.last_end(path) > start]
    done = [path for path in recording.calls if not any(inside(other, path) for other in late)]
    return tuple(path for path in done if not any(other != path and inside(path, other) for other in done))
