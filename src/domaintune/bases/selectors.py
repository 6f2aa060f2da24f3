"""What a recipe calls `attention`, `all-linear` or `encoder.top:2`, as paths of a model's sites and parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from domaintune.bases.parts import Anatomy, Chain, Site, inside
from domaintune.errors import MethodError

SITE_SELECTORS = ("attention", "mlp", "convolution", "all-linear")
PARAMETER_SELECTORS = ("top:K", "attention", "layer-norm", "bias")


def select_sites(anatomy: Anatomy, selectors: Sequence[str]) -> list[Site]:
    """The sites that any of `selectors` names, each once, in the anatomy's order; grouped convolutions never.

    `attention`, `mlp`, `convolution`, or `all-linear`: every linear site, and in convolutional chains the convolutions too.
    "encoder.attention" restricts to one chain.

    Raises:
        MethodError: an unknown selector or chain, or one that matches nothing in this base.
    """
    chosen: dict[str, Site] = {}
    for selector in selectors:
        chain, name = _split(anatomy, selector)
        if name not in SITE_SELECTORS:
            raise _unknown(anatomy, selector, SITE_SELECTORS)
        kinds = {one.name: one.kind for one in anatomy.chains}
        matching = [
            site
            for site in anatomy.sites
            if (chain is None or site.chain == chain.name)
            and site.groups == 1
            and (
                site.role == name
                or (name == "all-linear" and (site.role != "convolution" or kinds[site.chain] == "convolution"))
            )
        ]
        if not matching:
            roles = sorted({f"{site.chain}.{site.role}" for site in anatomy.sites if site.groups == 1})
            raise MethodError(
                "no layer of this base matches.", where=f"selector '{selector}'", remedy=f"It has: {', '.join(roles)}."
            )
        chosen.update((site.path, site) for site in matching)
    return [site for site in anatomy.sites if site.path in chosen]


def select_parameters(model: nn.Module, anatomy: Anatomy, selectors: Sequence[str]) -> list[str]:
    """Names from `named_parameters(remove_duplicate=False)` that any of `selectors` names, each once, in the model's order.

    `top:K`: the top K blocks of the chain nearest the output, with the modules that follow the chain inside the body (final
    norms, pooler); `CHAIN.top:K` the same for another chain. `attention`: attention modules and their output projections.
    `layer-norm`: normalisation layers of every kind. `bias`: the parameters that are registered as biases. The last three
    hold for the whole model, or with "CHAIN." before them for that chain's blocks.

    Raises:
        MethodError: an unknown selector or chain, K below 1 or above the chain's length, or a selector that matches nothing.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    chosen: set[str] = set()
    for selector in selectors:
        chain, name = _split(anatomy, selector)
        if name.startswith("top:"):
            roots = _top(chain or chain_nearest_output(anatomy), name.removeprefix("top:"), selector)
            matching = [one for one in names if any(inside(one, root) for root in roots)]
        else:
            test = _test(anatomy, name)
            if test is None:
                raise _unknown(anatomy, selector, PARAMETER_SELECTORS)
            matching = [one for one in names if test(one) and (chain is None or _in_chain(one, chain))]
        if not matching:
            raise MethodError(
                "no parameter of this base matches.", where=f"selector '{selector}'", remedy=_exists(anatomy)
            )
        chosen.update(matching)
    return [name for name in names if name in chosen]


def _test(anatomy: Anatomy, name: str) -> Callable[[str], bool] | None:
    """What decides whether a parameter's name belongs to a group; None for a name that is no group."""
    if name == "bias":
        return lambda parameter: parameter.rpartition(".")[2] == "bias"
    if name == "layer-norm":
        norms = set(anatomy.norms)
        return lambda parameter: parameter.rpartition(".")[0] in norms
    if name == "attention":
        roots = [*anatomy.attention, *(site.path for site in anatomy.sites if site.role == "attention")]
        return lambda parameter: any(inside(parameter, root) for root in roots)
    return None


def _in_chain(name: str, chain: Chain) -> bool:
    return any(inside(name, block) for block in chain.blocks)


def chain_nearest_output(anatomy: Anatomy) -> Chain:
    """The chain whose last block runs last."""
    names = [chain.name for chain in anatomy.chains]
    last = [cut.name.rpartition(".")[0] for cut in anatomy.cuts if cut.name.rpartition(".")[0] in names][-1]
    return anatomy.chains[names.index(last)]


def _top(chain: Chain, number: str, selector: str) -> list[str]:
    """Roots of the top blocks and of what follows them."""
    count = int(number) if number.isdecimal() else 0
    if not 1 <= count <= len(chain.blocks):
        raise MethodError(
            f"'{number}' is no number of blocks of the {chain.name}, which has {len(chain.blocks)}.",
            where=f"selector '{selector}'",
            remedy=f"Give 1 to {len(chain.blocks)}.",
        )
    return [*chain.blocks[-count:], *chain.after]


def _split(anatomy: Anatomy, selector: str) -> tuple[Chain | None, str]:
    """The chain that stands before the last dot, if any, and the rest."""
    prefix, _, name = selector.rpartition(".")
    if not prefix:
        return None, name
    chain = next((one for one in anatomy.chains if one.name == prefix), None)
    if chain is None:
        raise MethodError(
            f"this base has no chain '{prefix}'.", where=f"selector '{selector}'", remedy=_exists(anatomy)
        )
    return chain, name


def _exists(anatomy: Anatomy) -> str:
    return f"Its chains: {', '.join(f'{one.name} ({len(one.blocks)} blocks)' for one in anatomy.chains)}."


def _unknown(anatomy: Anatomy, selector: str, allowed: Sequence[str]) -> MethodError:
    return MethodError(
        "unknown selector.",
        where=f"selector '{selector}'",
        remedy=f"Allowed: {', '.join(allowed)}, each also with a chain before it ('{anatomy.chains[0].name}.'). {_exists(anatomy)}",
    )
