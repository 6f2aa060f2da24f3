"""Image classification: one label a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image

from domaintune.bases.base import Base
from domaintune.counting import counted
from domaintune.data.pictures import examine_pictures, open_picture
from domaintune.data.rows import Row
from domaintune.errors import BaseError, DataError
from domaintune.settings import ImageClassificationSettings
from domaintune.tasks.base import Batch, Finding, Item, Keys, Mode
from domaintune.tasks.classification import (
    Classification,
    LabelledExample,
    class_weights,
    label_index,
    label_map,
    multi_hot,
)
from domaintune.tasks.mirroring import mirror_findings, mirrors
from domaintune.tasks.picture_sizes import channels_of, first_line, forward_fault

IMAGE, LABEL = "image", "label"
CROP_ASPECTS = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
KNOWN = "ViT, DINOv2, Swin, ConvNeXt, ResNet, MobileNet, ..."


@dataclass(frozen=True, kw_only=True)
class ImageExample(LabelledExample):
    image: str
    """Path."""
    sha256: str
    """Of the file's bytes."""


class ImageClassification(Classification):
    """The label of a picture. Pictures are decoded, resized and cropped once by the base's image processor and kept in 8 bits;
    the processor's rescaling and normalisation follow in each batch, after the augmentation."""

    name: ClassVar[str] = "image-classification"
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    input_kind: ClassVar[Literal["picture"]] = "picture"

    flip: bool
    crop: float

    @classmethod
    def build(cls, rows: Sequence[Row], base: Base, settings: ImageClassificationSettings) -> ImageClassification:
        _check_processor(base)
        found = [_label_name(row) for row in rows]
        labels = label_map(found, given=settings.labels, where=rows[0].file if rows else "train")
        targets = [label_index(name, labels, where=row.where) for name, row in zip(found, rows, strict=True)]
        return cls(
            labels=labels,
            weights=class_weights(targets, count=len(labels), kind=settings.class_weights),
            flip=mirrors(settings.flip, labels),
            crop=settings.crop,
        )

    def read(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[ImageExample]:
        rows = list(rows)
        for row, facts in zip(rows, examine_pictures((row.text(IMAGE), row.where) for row in rows), strict=True):
            labels = (label_index(_label_name(row), self.labels, where=row.where),) if labelled else ()
            yield ImageExample(file=row.file, line=row.line, image=row.text(IMAGE), sha256=facts.sha256, labels=labels)

    def from_bare(self, value: str) -> dict[str, Any]:
        return {IMAGE: value}

    def has_target(self, row: Row) -> bool:
        return row.values.get(LABEL) not in (None, "")

    def check(self, examples: Sequence[ImageExample]) -> Iterator[Finding]:
        yield from mirror_findings(self.flip, self.labels)
        yield from self._rare(examples, unit="pictures", remedy="Add pictures of these classes")

    def keys(self, example: ImageExample) -> Keys:
        names = tuple(self.labels[index] for index in example.labels)
        target = "".join(names)
        return Keys(example.sha256, target, target, example.group, example.domain, names)

    def picture(self, example: ImageExample) -> str:
        return example.image

    def prepare(self, base: Base, example: ImageExample) -> tuple[Item, ...]:
        picture = open_picture(example.image, where=example.where)
        return (Item({"pixels": _resized(base, picture)}, {"target": multi_hot(example.labels, len(self.labels))}),)

    def augment(self, item: Item, generator: torch.Generator) -> Item:
        """A random crop of at least `crop` of the area, resized to the whole, and left for right half of the time."""
        pixels = item.inputs["pixels"]
        if self.crop < 1:
            pixels = _random_crop(pixels, self.crop, generator)
        if self.flip and float(torch.rand((), generator=generator)) < 0.5:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        return replace(item, inputs={"pixels": pixels})

    def cost(self, item: Item) -> int:
        _, height, width = item.inputs["pixels"].shape
        return int(height * width)

    def collate(self, base: Base, items: Sequence[Item], mode: Mode) -> Batch:
        shapes = {item.inputs["pixels"].shape for item in items}
        if len(shapes) > 1:
            sizes = ", ".join(sorted(f"{width}x{height}" for _, height, width in shapes))
            raise BaseError(
                f"its image processor gives pictures of different sizes ({sizes}).",
                where=base.name,
                remedy="Set a fixed size or a centre crop in its preprocessor_config.json.",
            )
        pixels = torch.from_numpy(_normalised(base, [item.inputs["pixels"] for item in items]))
        inputs = {"pixel_values": pixels.to(base.dtype)}
        targets: dict[str, Any] = {}
        if mode != "predict":
            targets = {"target": torch.from_numpy(np.stack([item.targets["target"] for item in items]))}
        return Batch(inputs, targets, items)

    def altered(self, example: ImageExample, change: Callable[[Sequence[str]], Sequence[str]]) -> ImageExample:
        return replace(example, image=change([example.image])[0])


def _label_name(row: Row) -> str:
    name = row.name(LABEL)
    if name is None:
        raise DataError(f"'{LABEL}' is empty.", where=row.where, remedy="Give a label, or drop the row.")
    return name


def _resized(base: Base, picture: Image.Image) -> np.ndarray:
    """uint8 [channels, height, width]: what the base's processor does before it leaves the 8 bits; grey for a base of one channel."""
    picture = picture.convert("L") if channels_of(base.config) == 1 else picture
    made = base.processor(images=picture, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels: np.ndarray = np.asarray(made["pixel_values"])[0]
    return pixels


def _normalised(base: Base, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """float32 [batch, channels, height, width]: the rest of what the processor does."""
    made = base.processor(
        images=list(pictures),
        do_resize=False,
        do_center_crop=False,
        input_data_format="channels_first",
        return_tensors="np",
    )
    return np.ascontiguousarray(made["pixel_values"], dtype=np.float32)


def _check_processor(base: Base) -> None:
    """That the processor's work in two halves equals its work in one, and that the base computes what comes of it.

    Raises:
        BaseError: it does not, it gives no pictures that the base takes, or the base's outputs have no logits.
    """
    name, channels = type(base.processor).__name__, channels_of(base.config)
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert("L" if channels == 1 else "RGB")
    try:
        made = base.processor(images=picture, return_tensors="np")
        if "pixel_values" not in made:  # ImageGPT's gives clusters of colours
            raise BaseError(
                f"{name} gives no pixel_values ({', '.join(made)}).",
                where=base.name,
                remedy=f"Use a base that takes pictures as they are ({KNOWN}).",
            )
        whole = np.asarray(made["pixel_values"])
        pixels = _resized(base, picture)
        halves = _normalised(base, [pixels])
    except ValueError as error:
        raise BaseError(
            f"{name} makes nothing of a picture with {counted(channels, '[channel|channels]')} ({first_line(error)}).",
            where=base.name,
            remedy="Give image_mean and image_std in its preprocessor_config.json one number for each channel.",
        ) from None
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or not np.allclose(halves, whole, atol=1e-5):
        raise BaseError(
            f"{name} does more than resize, crop, rescale and normalise.",
            where=base.name,
            remedy=f"Use a base whose image processor does these alone ({KNOWN}).",
        )
    depth, height, width = pixels.shape
    if fault := forward_fault(base, channels=depth, height=height, width=width):
        raise BaseError(
            f"{name} makes pictures of {width} x {height} pixels and {counted(depth, '[channel|channels]')}, which the model does not "
            f"compute ({fault}).",
            where=base.name,
            remedy="Correct the size in its preprocessor_config.json.",
        )
    with torch.no_grad():
        outputs = base.model(pixel_values=torch.from_numpy(whole).to(device=base.device, dtype=base.dtype))
    if "logits" not in outputs:  # PP-LCNet
        raise BaseError(
            f"the outputs of {type(base.model).__name__} have no logits.",
            where=base.name,
            remedy=f"Use another classifier of pictures ({KNOWN}).",
        )


def _random_crop(pixels: np.ndarray, smallest: float, generator: torch.Generator) -> np.ndarray:
    """A part of uint8 pixels [channels, height, width] with at least `smallest` of the area, resized to the whole; the whole where no
    part of the drawn shape fits in ten attempts.

    Source: Szegedy et al. 2014 (arXiv 1409.4842), section 6; torchvision's `RandomResizedCrop`.
    """
    _, height, width = pixels.shape
    for _ in range(CROP_ATTEMPTS):
        share, aspect, across, down = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = (smallest + (1 - smallest) * share) * height * width
        low, high = (math.log(bound) for bound in CROP_ASPECTS)
        ratio = math.exp(low + (high - low) * aspect) * width / height
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if columns > width or rows > height or columns * rows < smallest * height * width:
            continue
        left, top = int(across * (width - columns + 1)), int(down * (height - rows + 1))
        box = (left, top, left + columns, top + rows)
        picture = Image.fromarray(
            np.ascontiguousarray(pixels.transpose(1, 2, 0).squeeze(2 if len(pixels) == 1 else ()))
        )  # of one channel: no axis
        resized = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.ascontiguousarray(np.asarray(resized).reshape(height, width, -1).transpose(2, 0, 1))
    return pixels
