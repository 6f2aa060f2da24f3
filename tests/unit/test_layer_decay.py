"""Learning rates by height: every trained parameter once, lower blocks slower, head and top block at the full rate."""

from __future__ import annotations

import pytest
import torch
from cells import CELLS, Cell, attach, rows
from tuned import fresh_base

from domaintune.bases.parts import inside
from domaintune.engine.layer_decay import decayed_groups, depth_of
from domaintune.engine.train import train
from domaintune.methods import method_from
from domaintune.recipe import TrainingSettings
from domaintune.settings import FullSettings
from domaintune.tasks.base import dataset


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_parameter_once_and_in_its_own_kind_of_group(cell: Cell) -> None:
    _, _, attached = attach(cell)
    plain = {id(p): group for group in attached.parameter_groups() for p in group.parameters}
    made = [(p, group) for group in decayed_groups(attached, 0.5) for p in group.parameters]
    assert sorted(id(p) for p, _ in made) == sorted(plain)
    for p, group in made:
        assert (group.name, group.decay) == (plain[id(p)].name, plain[id(p)].decay)
    assert decayed_groups(attached, 1.0) == attached.parameter_groups()


def factors(cell: Cell, decay: float) -> dict[str, float]:
    """Parameter name -> what multiplies the scale that it has without layer decay."""
    _, _, attached = attach(cell)
    plain = {id(p): group.scale for group in attached.parameter_groups() for p in group.parameters}
    names = {id(parameter): name for name, parameter in attached.model.named_parameters()}
    return {
        names[id(p)]: group.scale / plain[id(p)] for group in decayed_groups(attached, decay) for p in group.parameters
    }


BEHIND = {
    "llama": ("lm_head", "model.norm"),
    "yolos": ("bbox_predictor", "class_labels_classifier", "vit.layernorm"),
    "rt-detr-v2": ("class_embed", "model.decoder.class_embed", "model.decoder.bbox_embed.1"),
    "d-fine": ("class_embed", "model.decoder.class_embed", "model.decoder.bbox_embed.1"),
    "vit": ("classifier", "vit.layernorm"),
}
"""Roots of what first runs behind all blocks, or is the head."""


@pytest.mark.parametrize("family", BEHIND)
def test_only_what_runs_before_the_blocks_is_below_them(family: str) -> None:
    """Full tuning of bases whose output stands outside of blocks, body and labelled head."""
    base = fresh_base(family)
    attached = method_from(FullSettings()).attach(base, generator=torch.Generator())
    plain = {id(p): group.scale for group in attached.parameter_groups() for p in group.parameters}
    found = {id(p): group.scale / plain[id(p)] for group in decayed_groups(attached, 0.5) for p in group.parameters}
    blocks = [path for chain in base.anatomy.chains for path in chain.blocks]
    for name, p in attached.model.named_parameters():
        if id(p) not in found:
            continue
        places = [path for path in blocks if inside(name, path)]
        if places:
            assert found[id(p)] == 0.5 ** (len(blocks) - blocks.index(places[0])), name
        elif name.startswith(BEHIND[family]):
            assert found[id(p)] == 1.0, name
        elif "embedding" in name or "embed_tokens" in name or "embedder" in name:
            assert found[id(p)] == 0.5 ** (len(blocks) + 1), name
        else:
            assert found[id(p)] > 0.5 ** (len(blocks) + 1), name
    refined = [
        found[id(p)]
        for n, p in attached.model.named_parameters()
        if "decoder.bbox_embed." in n or n.startswith("bbox_embed.")
    ]
    if refined:  # boxes are refined behind each of the decoder's two blocks
        assert set(refined) == {0.5, 1.0}


def test_the_formula_on_an_encoder() -> None:
    made = factors(Cell("text-classification", "bert", "full"), 0.5)
    layers = 1 + max(int(name.split(".layer.")[1].split(".")[0]) for name in made if ".layer." in name)
    assert layers > 1
    for name, factor in made.items():
        if ".layer." in name:
            assert factor == 0.5 ** (layers - int(name.split(".layer.")[1].split(".")[0])), name
        else:
            assert factor == (0.5 ** (layers + 1) if "embeddings" in name else 1.0), name


def test_an_update_is_as_deep_as_what_it_updates() -> None:
    made = factors(Cell("text-classification", "bert", "lora"), 0.5)
    layers = 1 + max(int(name.split(".layer.")[1].split(".")[0]) for name in made if ".layer." in name)
    assert any(name.endswith(".A") for name in made)
    for name, factor in made.items():
        number = int(name.split(".layer.")[1].split(".")[0]) if ".layer." in name else layers
        assert factor == 0.5 ** (layers - number), name


def test_a_decoder_lies_above_its_encoder() -> None:
    made = factors(Cell("translation", "marian", "full"), 0.5)
    parts = {
        kind: [factor for name, factor in made.items() if f".{kind}.layers." in name] for kind in ("encoder", "decoder")
    }
    assert max(parts["decoder"]) == 0.5
    assert max(parts["encoder"]) == min(parts["decoder"]) / 2
    embeddings = [factor for name, factor in made.items() if "shared" in name or "embed_tokens" in name]
    assert embeddings == [min(parts["encoder"]) / 2]  # tied to the output layer, and as deep as the input's


def test_lower_blocks_move_less() -> None:
    """Adam's first update has the size of the learning rate, whatever the gradient's."""
    cell = Cell("text-classification", "bert", "full")
    base, task, attached = attach(cell)
    before = {name: p.detach().clone() for name, p in attached.model.named_parameters()}
    data = dataset(task, base, list(task.read(rows(cell.task))))
    settings = TrainingSettings(epochs=1, batch_size=len(data.items), layer_decay=0.1, weight_decay=0.0, warmup=0.0)
    train(attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=None, folder=None)
    total = sum(len(chain.blocks) for chain in base.anatomy.chains)
    seen = set()
    for name, p in attached.model.named_parameters():
        if name.endswith("dense.weight") and ".layer." in name:
            depth = depth_of(base, name)
            seen.add(depth)
            moved = (p.detach() - before[name]).abs().max()
            torch.testing.assert_close(moved, torch.tensor(1e-3 * 0.1**depth), rtol=0.05, atol=0)
    assert seen == set(range(1, total + 1))
