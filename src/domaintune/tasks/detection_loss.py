"""The training losses of transformers' detectors as sums over stated units. No data, no labels' names.

Matchers and terms are transformers' own; what is ours is the normalisation. Three families:

- "boxes" (RT-DETR, RT-DETR v2, LW-DETR, RF-DETR): every term is a sum over the ground-truth boxes. One unit.
- "queries" (YOLOS, DETR): the class term is a weighted mean over queries, the box terms are sums over boxes. Two units.
- "pictures" (D-FINE, DEIMv2): the distillation term is no sum over anything in a batch, so the criterion is applied to one
  picture at a time: that term is a mean over pictures, the others are sums over boxes. Two units.

Sum / units of one batch is transformers' own loss for the first two families, and for D-FINE but for its distillation term; all
are transformers' own for a batch of one picture. A step without any box is divided by one, as transformers does: it teaches what
is no object. Differs: in DEIMv2 the box terms of a picture are divided by its own number of dense matches before they are
weighted by its boxes, since the number of a whole step is not known from the targets; in LW-DETR and RF-DETR a step without any
box counts as much as one with one box, where transformers gives it the weight of all groups of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domaintune.errors import BaseError

Family = Literal["boxes", "queries", "pictures"]
Targets = list[dict[str, Tensor]]


def family_of(model: nn.Module) -> Family:
    """How the model's loss is normalised; "queries" models also have a class for "no object", the last.

    Raises:
        BaseError: a detector whose loss is not known here.
    """
    family = _LOSSES[str(model.loss_type)][0] if str(model.loss_type) in _LOSSES else None
    # transformers names this loss for detectors that have none of their own too.
    if (
        family is None
        or _queries(model) is None
        or (family == "queries" and not hasattr(model.config, "eos_coefficient"))
    ):
        raise BaseError(
            f"{type(model).__name__} is no detector whose loss is known.",
            remedy="Use RT-DETR v1/v2, D-FINE, DEIMv2, LW-DETR, RF-DETR, YOLOS or DETR.",
        )
    return family


def query_count(model: nn.Module) -> int:
    """Most boxes that the model can find in a picture."""
    return int(_queries(model))  # type: ignore[arg-type]


def _queries(model: nn.Module) -> int | None:
    return getattr(model.config, "num_detection_tokens", getattr(model.config, "num_queries", None))


def detection_units(model: nn.Module, counts: Sequence[int]) -> dict[str, float]:
    """Units of each loss term for pictures with these numbers of boxes."""
    family = family_of(model)
    units = {"boxes": float(sum(counts))}
    if family == "pictures":
        units["pictures"] = float(len(counts))
    if family == "queries":
        queries, weight = query_count(model), float(model.config.eos_coefficient)  # type: ignore[union-attr, arg-type]
        matched = sum(min(count, queries) for count in counts)
        units["queries"] = matched + weight * (queries * len(counts) - matched)
    return units


def detection_loss(
    model: nn.Module, inputs: Mapping[str, Any], targets: Targets, *, denoising: bool
) -> dict[str, Tensor]:
    """Sum of each term over its units (the keys of `detection_units`), auxiliary outputs included as transformers does.

    `targets` holds per picture `class_labels` [boxes] and `boxes` [boxes, 4]: centre and size as shares of the picture.
    Denoising queries (RT-DETR, D-FINE, DEIMv2, in training mode) are drawn from torch's global generator; how many groups of
    them there are follows the micro-batch's largest number of boxes, so with them its cut changes the gradient a little.
    Predictions that are not finite give nan.
    """
    from transformers.loss.loss_utils import LOSS_MAPPING

    kind = str(model.loss_type)
    _, criterion = _LOSSES[kind]

    def sums(
        logits: Tensor, labels: Targets, device: torch.device, boxes: Tensor, config: Any, *more: Any, **named: Any
    ) -> tuple[None, dict[str, Tensor], None]:
        # Transformers' matcher raises on boxes that are no numbers; a loss of nan is what the training loop knows to handle.
        if not (logits.isfinite().all() and boxes.isfinite().all()):
            broken = (logits.sum() + boxes.sum()) * float("nan")
            return None, dict.fromkeys(detection_units(model, [0]), broken), None
        return None, criterion(_Outputs(logits, boxes, more, named, LOSS_MAPPING[kind]), targets, config), None

    # Models of the RT-DETR family make denoising queries from the labels they get, and none from pictures without boxes.
    shown = targets if denoising else [{key: value[:0] for key, value in target.items()} for target in targets]
    with _loss_function_(model, sums):
        result: dict[str, Tensor] = model(**inputs, labels=shown).loss_dict
    return result


@contextmanager
def _loss_function_(model: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Let the model hand its outputs to `function` instead of its own loss; afterwards it is as before."""
    fields: dict[str, Any] = vars(model)
    before = fields.get("_loss_function")
    fields["_loss_function"] = function
    try:
        yield
    finally:
        fields.pop("_loss_function")
        if before is not None:
            fields["_loss_function"] = before


class _Outputs:
    """What a detector hands to its loss function, in at least 32 bits; `own`: that function, as transformers has it."""

    def __init__(
        self, logits: Tensor, boxes: Tensor, more: Sequence[Any], named: Mapping[str, Any], own: Callable[..., Any]
    ) -> None:
        self.logits, self.boxes, self.own = _precise(logits), _precise(boxes), own
        self.more = [_precise(value) for value in more]
        self.named = {key: _precise(value) for key, value in named.items()}

    def targets(self, targets: Targets) -> Targets:
        return [{**target, "boxes": target["boxes"].to(self.boxes.dtype)} for target in targets]


def _precise(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value


def _rt_detr_sums(outputs: _Outputs, targets: Targets, config: Any) -> dict[str, Tensor]:
    targets = outputs.targets(targets)
    total, _, _ = outputs.own(
        outputs.logits, targets, outputs.logits.device, outputs.boxes, config, *outputs.more, **outputs.named
    )
    return {"boxes": total * max(1, sum(len(target["class_labels"]) for target in targets))}


def _detr_sums(outputs: _Outputs, targets: Targets, config: Any) -> dict[str, Tensor]:
    from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

    matcher = HungarianMatcher(class_cost=config.class_cost, bbox_cost=config.bbox_cost, giou_cost=config.giou_cost)
    criterion = ImageLoss(matcher, config.num_labels, config.eos_coefficient, ["labels", "boxes"])
    criterion.to(device=outputs.logits.device, dtype=outputs.logits.dtype)
    targets = outputs.targets(targets)
    sums = {"boxes": outputs.boxes.new_zeros(()), "queries": outputs.boxes.new_zeros(())}
    for part in _layers(outputs, config):
        matches = criterion.matcher(part, targets)
        matched = sum(len(queries) for queries, _ in matches)
        unmatched = part["logits"].shape[0] * part["logits"].shape[1] - matched
        weight = matched + float(criterion.empty_weight[-1]) * unmatched
        sums["queries"] = sums["queries"] + weight * criterion.loss_labels(part, targets, matches, 1)["loss_ce"]
        sums["boxes"] = sums["boxes"] + _box_terms(criterion, part, targets, matches, config)
    return sums


def _lw_detr_sums(outputs: _Outputs, targets: Targets, config: Any) -> dict[str, Tensor]:
    from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher, LwDetrImageLoss

    matcher = LwDetrHungarianMatcher(
        class_cost=config.class_cost, bbox_cost=config.bbox_cost, giou_cost=config.giou_cost
    )
    # In training the model answers in several groups of queries, each matched to all boxes; in eval mode in one.
    groups = outputs.logits.shape[1] // config.num_queries
    criterion = LwDetrImageLoss(matcher, config.num_labels, config.focal_alpha, ["labels", "boxes"], groups)
    targets = outputs.targets(targets)
    classes, boxes = outputs.more[2:4]  # of the encoder's proposals
    total = outputs.boxes.new_zeros(())
    for part in [*_layers(outputs, config), {"logits": classes, "pred_boxes": boxes}]:
        matches = matcher(part, targets, groups)
        labels = criterion.loss_labels(part, targets, matches, 1)["loss_ce"]
        total = total + config.class_loss_coefficient * labels + _box_terms(criterion, part, targets, matches, config)
    return {"boxes": total / groups}


def _layers(outputs: _Outputs, config: Any) -> list[dict[str, Tensor]]:
    """The last layer's outputs and, where the model trains them too, those of the layers before."""
    parts = [{"logits": outputs.logits, "pred_boxes": outputs.boxes}]
    if config.auxiliary_loss:
        classes, boxes = outputs.more[:2]
        parts += [{"logits": a, "pred_boxes": b} for a, b in zip(classes[:-1], boxes[:-1], strict=True)]
    return parts


def _box_terms(criterion: Any, part: dict[str, Tensor], targets: Targets, matches: Any, config: Any) -> Tensor:
    terms = criterion.loss_boxes(part, targets, matches, 1)
    distance: Tensor = terms["loss_bbox"] * config.bbox_loss_coefficient
    return distance + terms["loss_giou"] * config.giou_loss_coefficient


def _picture_sums(outputs: _Outputs, targets: Targets, config: Any) -> dict[str, Tensor]:
    """One criterion a picture, always in 32 bits: transformers' fails on 64 (it mixes the two in one assignment)."""
    sums = {"boxes": outputs.boxes.new_zeros(()), "pictures": outputs.boxes.new_zeros(())}
    for index, target in enumerate(targets):
        _, terms, _ = outputs.own(
            _picture(outputs.logits, index),
            [{**target, "boxes": target["boxes"].float()}],
            outputs.logits.device,
            _picture(outputs.boxes, index),
            config,
            *(_picture(value, index) for value in outputs.more),
            **{key: _picture(value, index) for key, value in outputs.named.items()},
        )
        boxes = max(1, len(target["class_labels"]))
        for name, term in terms.items():
            if name.startswith("loss_ddf"):
                sums["pictures"] = sums["pictures"] + term
            else:
                sums["boxes"] = sums["boxes"] + term * boxes
    return sums


def _picture(value: Any, index: int) -> Any:
    """The part of a batch's outputs that belongs to one picture."""
    if isinstance(value, Tensor):
        return value[index : index + 1].float()
    if isinstance(value, dict):  # of denoising: the places of the positive queries are by picture, the rest is common
        return {**value, "dn_positive_idx": value["dn_positive_idx"][index : index + 1]}
    return value


_LOSSES: Mapping[str, tuple[Family, Callable[[_Outputs, Targets, Any], dict[str, Tensor]]]] = {
    "RTDetrForObjectDetection": ("boxes", _rt_detr_sums),
    "RTDetrV2ForObjectDetection": ("boxes", _rt_detr_sums),
    "LwDetrForObjectDetection": ("boxes", _lw_detr_sums),
    "RfDetrForObjectDetection": ("boxes", _lw_detr_sums),
    "ForObjectDetection": ("queries", _detr_sums),
    "DFineForObjectDetection": ("pictures", _picture_sums),
    "Deimv2ForObjectDetection": ("pictures", _picture_sums),
}
