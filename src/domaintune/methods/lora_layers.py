"""Linear and convolution layers with a low-rank update beside their frozen weight. No models, no settings, no files.

Each layer is a subclass of the layer that it replaces and keeps its `weight` and `bias` under their names: code that reads
`layer.weight` or `layer.stride` from outside (MobileNet's padding does) sees what it saw before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

EXACT_BELOW = 1024


class LowRank(nn.Module):
    """The update of one layer: Delta W = scale B A, and with DoRA a magnitude m per output row.

    Seen as rows [out, in (* kernel)], the effective weight is W' = W0 + scale B A, or with DoRA
    W' = m / |W0 + scale B A| * (W0 + scale B A), the norm taken per row and outside the gradient. Rows whose norm in W0 is zero
    have no direction: there the factor is 1 (plain LoRA). `strength` s gives lerp(W0, W', s).

    A is [rank, in, *kernel], B [out, rank, *ones], magnitude [out]. B starts at zero and m at |W0|, so W' starts at W0.
    A, B and m are float32 where the weight has 16 bits.

    With `principal` (PiSSA) scale B A starts at the best rank-r approximation of W0, scale B0 A0, which is subtracted again:
    W' = W0 + scale (B A - B0 A0), an ordinary update of rank 2r, [B, -B0] [A; A0], whose start is W0 within rounding.

    Source: arXiv 2106.09685; arXiv 2402.09353 equation 5 and section 4.3; arXiv 2404.02948 (PiSSA); the convolution form and the
    names are PEFT's (`tuners/lora/layer.py`). Differs: PEFT's DoRA with dropout also drops the input of the frozen weight; here dropout acts on
    the low-rank path alone, as in LoRA.
    """

    weight_squared: Tensor | None
    A0: Tensor | None
    B0: Tensor | None

    def __init__(
        self,
        rows: Tensor,
        *,
        shape_a: tuple[int, ...],
        scale: float,
        dropout: float,
        dora: bool,
        principal: bool = False,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        dtype = torch.float32 if rows.dtype in (torch.float16, torch.bfloat16) else rows.dtype
        a = torch.empty(shape_a, dtype=dtype)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        self.A = nn.Parameter(a.to(rows.device))
        shape_b = (rows.shape[0], shape_a[0], *(1 for _ in shape_a[2:]))
        self.B = nn.Parameter(torch.zeros(shape_b, dtype=dtype, device=rows.device))
        self.scale = scale
        self.dropout = dropout
        self.strength: float | Tensor = 1.0
        start = principal_factors(rows, shape_a[0], generator) if principal else None
        a0, b0 = (None, None) if start is None else (start[0] / math.sqrt(scale), start[1] / math.sqrt(scale))
        self.register_buffer("A0", None if a0 is None else a0.view(shape_a).to(dtype), persistent=False)
        self.register_buffer("B0", None if b0 is None else b0.view(shape_b).to(dtype), persistent=False)
        if self.A0 is not None and self.B0 is not None:
            self.A, self.B = nn.Parameter(self.A0.clone()), nn.Parameter(self.B0.clone())
        squared = rows.detach().to(dtype).square().sum(1) if dora else None
        self.register_buffer("weight_squared", squared, persistent=False)
        self.magnitude = nn.Parameter(self.norm(rows).clone()) if dora else None

    @property
    def down(self) -> Tensor:
        """A, or [A; A0]: [r or 2r, in, *kernel]."""
        return self.A if self.A0 is None else torch.cat([self.A, self.A0])

    @property
    def up(self) -> Tensor:
        """B, or [B, -B0]: [out, r or 2r, *ones]."""
        return self.B if self.B0 is None else torch.cat([self.B, -self.B0], dim=1)

    def drop(self, inputs: Tensor) -> Tensor:
        """The input of the low-rank path; dropout in training mode only."""
        inputs = inputs.to(self.A.dtype) if inputs.dtype != self.A.dtype and not _autocast(inputs) else inputs
        return functional.dropout(inputs, self.dropout, self.training) if self.dropout else inputs

    @torch.no_grad()
    def norm(self, rows: Tensor) -> Tensor:
        """|W0 + scale B A| per row [out], without forming the sum: |W0|^2 + 2 s <W0 A', B> + s^2 <B (A A'), B>."""
        assert self.weight_squared is not None
        a, b = self.down.flatten(1), self.up.flatten(1)
        with torch.autocast(a.device.type, enabled=False):
            cross = 2 * self.scale * (rows.to(a.dtype) @ a.T) + self.scale**2 * (b @ (a @ a.T))
            return (self.weight_squared + (cross * b).sum(1)).clamp(min=0).sqrt()

    def factor(self, rows: Tensor) -> Tensor:
        """m / |W0 + scale B A| per row [out]; 1 where W0's row is zero."""
        assert self.magnitude is not None
        assert self.weight_squared is not None
        defined = self.weight_squared > 0
        norm = torch.where(defined, self.norm(rows), 1.0)
        return torch.where(defined, self.magnitude / norm, 1.0)

    @torch.no_grad()
    def effective(self, rows: Tensor) -> Tensor:
        """W' as rows, in A's dtype."""
        adapted = torch.addmm(rows.to(self.A.dtype), self.up.flatten(1), self.down.flatten(1), alpha=self.scale)
        return adapted if self.magnitude is None else self.factor(rows)[:, None] * adapted

    @property
    def is_off(self) -> bool:
        """Whether the strength is 0 for good; one that is learned is not."""
        return not isinstance(self.strength, Tensor) and self.strength == 0

    def mix(self, plain: Tensor, adapted: Tensor) -> Tensor:
        """The output at this strength: exactly `adapted` at 1."""
        adapted = adapted.to(plain.dtype)
        if isinstance(self.strength, Tensor):  # a weight that is learned
            return torch.lerp(plain, adapted, self.strength.to(plain.dtype))
        return adapted if self.strength == 1 else torch.lerp(plain, adapted, self.strength)


@torch.no_grad()
def principal_factors(rows: Tensor, rank: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """(A0 [rank, in], B0 [out, rank]) with B0 A0 the best approximation of `rows` [out, in] of that rank, sqrt(S) on both sides;
    ranks above what the matrix has are zero. Large matrices: by random projection (torch.svd_lowrank), from the generator.
    """
    matrix = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
    if min(matrix.shape) <= EXACT_BELOW:
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        v = vt.T
    else:
        with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            u, s, v = torch.svd_lowrank(matrix, q=rank + 8, niter=8)
    count = min(rank, len(s))
    a0, b0 = matrix.new_zeros(rank, matrix.shape[1]), matrix.new_zeros(matrix.shape[0], rank)
    root = s[:count].sqrt()
    a0[:count], b0[:, :count] = root[:, None] * v[:, :count].T, u[:, :count] * root
    return a0, b0


def _autocast(inputs: Tensor) -> bool:
    return torch.is_autocast_enabled(inputs.device.type)


def _adapt_linear(low_rank: LowRank, plain: Tensor, inputs: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    """`plain` = W0 x + bias [..., out] -> the adapted output at the update's strength."""
    if low_rank.is_off:
        return plain
    up = low_rank.up
    hidden = low_rank.drop(inputs).reshape(-1, inputs.shape[-1]) @ low_rank.down.T
    flat = plain.reshape(-1, plain.shape[-1]).to(hidden.dtype)
    if low_rank.magnitude is None:
        adapted = torch.addmm(flat, hidden, up.T, alpha=low_rank.scale)
    else:
        factor = low_rank.factor(rows)
        without_bias = flat if bias is None else flat - bias
        # Written as an addition so that an untrained factor of 1 leaves the base's bits alone.
        adapted = flat + ((factor - 1) * without_bias + (factor * low_rank.scale) * (hidden @ up.T))
    return low_rank.mix(plain, adapted.view(plain.shape))


class LoRALinear(nn.Linear):
    """`nn.Linear`, or a subclass that computes the same (`is_linear`) and keeps its own last bits, with a low-rank update."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.kind = type(layer)
        self.low_rank: LowRank

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the parent's name)
        plain = self.kind.forward(self, input)
        return _adapt_linear(self.low_rank, plain, input, self.weight, self.bias)


class LoRAConv1D(Conv1D):
    """GPT-2's `Conv1D`, a linear layer whose weight is [in, out], with a low-rank update."""

    def __init__(self, layer: Conv1D) -> None:
        with torch.device("meta"):
            super().__init__(layer.nf, layer.nx)
        self.weight, self.bias = layer.weight, layer.bias
        self.low_rank: LowRank

    def forward(self, x: Tensor) -> Tensor:
        plain = super().forward(x)
        return _adapt_linear(self.low_rank, plain, x, self.weight.T, self.bias)


def _adapt_convolution(layer: LoRAConv1d | LoRAConv2d, plain: Tensor, inputs: Tensor) -> Tensor:
    """The update as a convolution of the same kernel, stride, dilation and padding (its mode too) to `rank` channels, then 1x1."""
    low_rank = layer.low_rank
    if low_rank.is_off:
        return plain
    hidden: Tensor = layer._conv_forward(low_rank.drop(inputs), low_rank.down, None)
    pointwise = functional.conv1d if isinstance(layer, nn.Conv1d) else functional.conv2d
    update = pointwise(hidden * low_rank.scale, low_rank.up)
    base = plain.to(update.dtype)
    if low_rank.magnitude is None:
        return low_rank.mix(plain, base + update)
    channel = (-1, *(1 for _ in layer.kernel_size))
    factor = low_rank.factor(layer.weight.flatten(1)).view(channel)
    without_bias = base if layer.bias is None else base - layer.bias.view(channel)
    return low_rank.mix(plain, base + ((factor - 1) * without_bias + factor * update))


class LoRAConv1d(nn.Conv1d):
    """`nn.Conv1d` with a low-rank update."""

    def __init__(self, layer: nn.Conv1d) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.low_rank: LowRank

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return _adapt_convolution(self, super().forward(input), input)


class LoRAConv2d(nn.Conv2d):
    """`nn.Conv2d` with a low-rank update."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.low_rank: LowRank

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return _adapt_convolution(self, super().forward(input), input)


LoRALayer = LoRALinear | LoRAConv1D | LoRAConv1d | LoRAConv2d
LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: LoRALinear,
    Conv1D: LoRAConv1D,
    nn.Conv1d: LoRAConv1d,
    nn.Conv2d: LoRAConv2d,
}


def layer_class(layer: nn.Module) -> type[nn.Module]:
    """The class that adapts `layer`.

    Raises:
        KeyError: `type(layer)` is none of `LAYERS` and no subclass of `nn.Linear` (a subclass may compute something else in its forward).
    """
    return LoRALinear if isinstance(layer, nn.Linear) else LAYERS[type(layer)]


@torch.no_grad()
def is_linear(layer: nn.Linear, inputs: Tensor) -> bool:
    """Whether `layer`, of a subclass, gives `inputs` W0 x + bias within rounding and needs nothing but its weight and bias for it."""
    bare = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    bare.weight, bare.bias = layer.weight, layer.bias
    expected = functional.linear(inputs, layer.weight, layer.bias)
    try:
        made: object = type(layer).forward(bare, inputs)
    except (AttributeError, TypeError):
        return False
    if not isinstance(made, Tensor) or made.shape != expected.shape:
        return False
    near = torch.finfo(expected.dtype).eps ** 0.5
    return torch.allclose(made, expected, rtol=near, atol=near * float(expected.abs().max()))


def weight_rows(layer: nn.Module) -> Tensor:
    """The weight as [out, in (* kernel)], a view."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(layer, Conv1D) else weight.flatten(1)


def rows_to_weight(layer: nn.Module, rows: Tensor) -> Tensor:
    """The inverse of `weight_rows`."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return rows.T.contiguous() if isinstance(layer, Conv1D) else rows.view(weight.shape)


def low_rank_layer(
    layer: nn.Module,
    *,
    rank: int,
    scale: float,
    dropout: float,
    dora: bool,
    principal: bool = False,
    generator: torch.Generator | None,
) -> LoRALayer:
    """`layer` with an untrained update; its weight and bias are taken over, not copied.

    Raises:
        KeyError: `layer_class` knows none for it.
    """
    made: LoRALayer = layer_class(layer)(layer)  # type: ignore[assignment]
    rows = weight_rows(layer).detach()
    kernel = tuple(made.kernel_size) if isinstance(made, LoRAConv1d | LoRAConv2d) else ()
    inputs = rows.shape[1] // math.prod(kernel)
    made.low_rank = LowRank(
        rows, shape_a=(rank, inputs, *kernel), scale=scale, dropout=dropout, dora=dora, principal=principal,
        generator=generator,
    )  # fmt: skip
    made.train(layer.training)
    return made


def weight_at(layer: LoRALayer, strength: float) -> Tensor:
    """W(s) = lerp(W0, W', s) in the weight's shape and dtype, storage of its own."""
    rows = weight_rows(layer).detach()
    start = rows.to(layer.low_rank.A.dtype)
    mixed = torch.lerp(start, layer.low_rank.effective(rows), strength)
    return rows_to_weight(layer, mixed).to(layer.weight.dtype)
