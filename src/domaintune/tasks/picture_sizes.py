"""Which sizes of pictures a base computes: asked of it by one forward."""

from __future__ import annotations

from typing import Any

import torch

from domaintune.bases.base import Base
from domaintune.bases.device_memory import is_full
from domaintune.errors import RecipeError

STRIDE = 32


def detector_size(base: Base, image_size: int | None) -> tuple[int, int]:
    """Height and width that pictures are resized to: `image_size`, else the image processor's own.

    Raises:
        RecipeError: an `image_size` that the base cannot compute.
    """
    if image_size is None:
        size = dict(base.processor.size)
        if size.get("height") and size.get("width"):
            return int(size["height"]), int(size["width"])
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    stride = stride_of(base.config)
    near = max(stride, image_size // stride * stride)
    remedy = f"It must be a multiple of {stride} for this base, such as {near} or {near + stride}."
    if image_size % stride:
        raise RecipeError(f"is {image_size}.", where="task.image_size", remedy=remedy)
    if fault := forward_fault(base, channels=3, height=image_size, width=image_size):
        remedy = "Take another multiple of it, or leave the key out for the base's own size."
        raise RecipeError(
            f"is {image_size}, which the base cannot compute ({fault}).", where="task.image_size", remedy=remedy
        )
    return image_size, image_size


def stride_of(config: Any) -> int:
    """What picture sides have to be a multiple of: of backbones that part the picture into windows, a patch times the windows a side."""
    backbone = vars(config).get("backbone_config")
    kind = None if backbone is None else backbone.model_type
    if kind == "rf_detr_dinov2":
        return int(backbone.patch_size * backbone.num_windows)
    return int(backbone.patch_size * backbone.num_windows_side) if kind == "lw_detr_vit" else STRIDE


def forward_fault(base: Base, *, channels: int, height: int, width: int) -> str | None:
    """What the base says of one picture of this size; None where it computes it."""
    pixels = torch.zeros(1, channels, height, width, dtype=base.dtype, device=base.device)
    try:
        with torch.no_grad():
            base.model(pixel_values=pixels)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, RuntimeError) and is_full(error):
            raise
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def channels_of(config: Any) -> int:
    """Of the pictures that a base takes: 3, or what its configuration says."""
    return int(vars(config).get("num_channels") or 3)
