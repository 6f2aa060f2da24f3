"""Image classification: pictures go through the base's own processor, augmentation by its generator, sums add up."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from PIL import Image

from domaintune.bases.base import Base
from domaintune.data.formats import read_rows
from domaintune.data.pictures import open_picture
from domaintune.data.rows import Row
from domaintune.errors import BaseError, DataError
from domaintune.evaluation.score import point_scores, predict, records_of
from domaintune.settings import ImageClassificationSettings
from domaintune.tasks.base import Item, dataset
from domaintune.tasks.image_classification import ImageClassification

FAMILIES = ["vit", "dinov2", "swin", "resnet", "mobilenet-v2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine noisy pictures of several sizes and modes in three classes."""
    path = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(9):
        place = path / ("cat", "dog", "eel")[number % 3]
        place.mkdir(exist_ok=True)
        size = (30 + 5 * number, 60 - 3 * number, 3)
        mode = ("RGB", "L", "RGBA")[number // 3]
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).convert(mode).save(place / f"{number}.png")
    return path


@functools.cache
def tiny_base(family: str = "vit") -> Base:
    return tiny.tiny_base(family, "image-classification")


def task(folder: Path, base: Base | None = None, **settings: Any) -> ImageClassification:
    rows = read_rows(str(folder))
    return ImageClassification.build(rows, base or tiny_base(), ImageClassificationSettings(**settings))


def with_head(made: ImageClassification, family: str = "vit") -> Base:
    return tiny_base(family).with_head("domain", made.head(), generator=torch.Generator().manual_seed(0))


def test_rows_become_examples(folder: Path) -> None:
    made = task(folder)
    assert made.labels == ("cat", "dog", "eel")
    examples = list(made.read(read_rows(str(folder))))
    assert [example.labels for example in examples] == [(0,)] * 3 + [(1,)] * 3 + [(2,)] * 3
    assert made.keys(examples[0]).stratum == "cat"
    assert len({made.keys(example).input for example in examples}) == 9
    assert ImageClassification.model_validate_json(made.model_dump_json()) == made
    assert task(folder, labels=("eel", "dog", "cat")).labels == ("eel", "dog", "cat")
    bare = Row(made.from_bare(examples[0].image), "-", 1)
    assert not made.has_target(bare)
    assert next(iter(made.read([bare], labelled=False))).labels == ()


def test_bad_rows_name_file_and_line(folder: Path, tmp_path: Path) -> None:
    made = task(folder)
    good = read_rows(str(folder))[0].values["image"]
    whole = Path(good).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    cases = [
        ({"image": str(tmp_path / "cut.png"), "label": "cat"}, r"cut\.png"),
        ({"image": str(tmp_path / "empty.png"), "label": "cat"}, "empty"),
        ({"image": str(tmp_path / "gone.png"), "label": "cat"}, r"gone\.png"),
        ({"image": 5, "label": "cat"}, "must be text"),
        ({"image": good}, "no column 'label'"),
        ({"image": good, "label": " "}, "is empty"),
        ({"image": good, "label": "cats"}, "Did you mean 'cat'"),
    ]
    for values, says in cases:
        with pytest.raises(DataError, match=says) as caught:
            list(made.read([Row(values, "pictures", 17)]))
        assert caught.value.where == "pictures:17"


def test_all_unreadable_pictures_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    good = read_rows(str(folder))[0].values["image"]
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    rows = [Row({"image": good, "label": "cat"}, "p", 1)]
    rows += [Row({"image": str(tmp_path / f"{n}.png"), "label": "cat"}, "p", n + 2) for n in range(12)]
    with pytest.raises(
        DataError, match=r"12 pictures cannot be used: p:2: .*0\.png.*; p:3: .*1\.png.*, \.\.\."
    ) as caught:
        list(task(folder).read(rows))
    assert caught.value.where == "p:2"
    assert "10.png" not in str(caught.value)


def test_a_picture_that_vanishes_is_named(folder: Path) -> None:
    made = task(folder)
    example = next(iter(made.read(read_rows(str(folder)))))
    with pytest.raises(DataError, match=r"gone\.png"):
        made.prepare(tiny_base(), replace(example, image="gone.png"))


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_equal_those_of_the_processor_in_one_go(folder: Path, family: str) -> None:
    base = tiny_base(family)
    made = task(folder, base)
    examples = list(made.read(read_rows(str(folder))))
    batch = made.collate(base, dataset(made, base, examples).items, "score")
    pictures = [open_picture(example.image) for example in examples]
    expected = np.concatenate([base.processor(images=p, return_tensors="np")["pixel_values"] for p in pictures])
    np.testing.assert_allclose(batch.inputs["pixel_values"].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "flip", "severity"),
    [
        (("cat", "dog"), True, None),
        (("leftover", "outright", "copyright"), True, None),
        (("left", "right"), False, "note"),
        (("turnLeft", "straight"), False, "note"),
        (("TURN_RIGHT", "stop"), False, "note"),
        (("linke Hand", "Fuß"), False, "note"),
        (("左转", "直行"), False, "note"),
        (("a", "b", "d", "space"), True, "note"),
        (("0", "1"), True, None),
    ],
)
def test_pictures_are_not_mirrored_where_labels_name_sides(
    labels: tuple[str, ...], flip: bool, severity: str | None
) -> None:
    rows = [Row({"image": "x.png", "label": label}, "p", 1) for label in labels]
    for given in (None, True, False):
        made = ImageClassification.build(rows, tiny_base(), ImageClassificationSettings(flip=given))
        assert made.flip == (flip if given is None else given)
        found = [finding for finding in made.check([]) if finding.name == "mirrored-labels"]
        if given is None:
            assert [finding.severity for finding in found] == ([severity] if severity else [])
        elif given and not flip:
            assert [finding.severity for finding in found] == ["warning"]
            assert "--set task.flip=false" in found[0].remedy


def vit(name: str, *, channels: int, side: int, means: int) -> Base:
    made = tiny.config("vit")
    made.num_channels, made.image_size = channels, 32
    processor = tiny.tiny_processor("vit", "image-classification")
    processor.size = {"height": side, "width": side}
    processor.image_mean = processor.image_std = [0.5] * means
    model = transformers.AutoModelForImageClassification.from_config(made).eval()
    return Base(name=name, model=model, processor=processor)


def test_a_base_of_one_channel_sees_grey_pictures(folder: Path) -> None:
    base = vit("grey", channels=1, side=32, means=1)
    made = task(folder, base, crop=0.5)
    example = next(iter(made.read(read_rows(str(folder)))))
    (item,) = made.prepare(base, example)
    assert item.inputs["pixels"].shape == (1, 32, 32)
    for _ in range(3):
        assert made.augment(item, torch.Generator()).inputs["pixels"].shape == (1, 32, 32)
    batch = made.collate(base, [item, item], "predict")
    assert base.model(**batch.inputs).logits.shape == (2, 2)


@pytest.mark.parametrize(
    ("channels", "side", "means", "says"),
    [
        (1, 32, 3, "one number for each channel"),
        (3, 64, 3, "64 x 64 pixels and 3 channels, which the model does not compute"),
    ],
)
def test_a_processor_that_does_not_fit_the_model_is_refused(
    folder: Path, channels: int, side: int, means: int, says: str
) -> None:
    with pytest.raises(BaseError, match=says):
        task(folder, vit("other", channels=channels, side=side, means=means))


def test_a_processor_that_does_more_is_refused(folder: Path) -> None:
    class Inverting:
        def __call__(self, **options: Any) -> Any:
            made = tiny_base().processor(**options)
            made["pixel_values"] = -np.asarray(made["pixel_values"])
            return made

    with pytest.raises(BaseError, match="does more than"):
        task(folder, replace(tiny_base(), processor=Inverting()))


def test_pictures_of_different_sizes_are_refused(folder: Path) -> None:
    made = task(folder)
    items = [Item({"pixels": np.zeros((3, 8, side), np.uint8)}, {"target": np.zeros(3, np.float32)}) for side in (8, 9)]
    with pytest.raises(BaseError, match="different sizes"):
        made.collate(tiny_base(), items, "predict")


def pixels_item(height: int = 24, width: int = 40) -> Item:
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    return Item({"pixels": pixels}, {"target": np.eye(3, dtype=np.float32)[0]})


def test_flip_happens_half_of_the_time_and_leaves_the_item_alone(folder: Path) -> None:
    made = task(folder, crop=1.0)
    item = pixels_item()
    before = item.inputs["pixels"].copy()
    generator = torch.Generator().manual_seed(0)
    flipped = 0
    for _ in range(400):
        pixels = made.augment(item, generator).inputs["pixels"]
        mirrored = bool((pixels == before[:, :, ::-1]).all())
        assert mirrored or (pixels == before).all()
        flipped += mirrored
    assert 160 <= flipped <= 240  # 4 standard deviations
    np.testing.assert_array_equal(item.inputs["pixels"], before)
    still = task(folder, crop=1.0, flip=False)
    np.testing.assert_array_equal(still.augment(item, generator).inputs["pixels"], before)


@pytest.mark.parametrize(("height", "width"), [(24, 40), (32, 32), (3, 2)])
def test_crops_keep_the_share_and_the_shape(
    folder: Path, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = task(folder, flip=False, crop=0.5)
    shares = []
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], resample: Any, box: tuple[int, int, int, int]) -> Image.Image:
        left, top, right, bottom = box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        shares.append((right - left) * (bottom - top) / (height * width))
        return resize(self, size, resample, box)

    monkeypatch.setattr(Image.Image, "resize", watched)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        pixels = made.augment(pixels_item(height, width), generator).inputs["pixels"]
        assert (pixels.shape, pixels.dtype) == ((3, height, width), np.uint8)
    assert min(shares) >= 0.5
    if height * width > 100:
        assert len(shares) > 150
        assert min(shares) < 0.6
        assert max(shares) > 0.9


def test_augmentation_follows_its_generator(folder: Path) -> None:
    made = task(folder)
    first, again, other = (
        np.stack([made.augment(pixels_item(), generator).inputs["pixels"] for _ in range(5)])
        for generator in (torch.Generator().manual_seed(seed) for seed in (0, 0, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_micro_batches_add_up(folder: Path, family: str, class_weights: str) -> None:
    made = task(folder, tiny_base(family), class_weights=class_weights)
    base = with_head(made, family)
    model = base.fork().double().requires_grad_(True)
    items = dataset(made, base, list(made.read(read_rows(str(folder))))[1:]).items
    batches = [made.collate(base, part, "train") for part in (items, items[:3], items[3:])]
    for batch in batches:
        batch.inputs["pixel_values"] = batch.inputs["pixel_values"].double()
    losses = [made.loss(model, batch)["label"] for batch in batches]
    units = [made.units(batch)["label"] for batch in batches]
    assert units[0] == pytest.approx(units[1] + units[2], rel=1e-6)  # weights are float32
    assert losses[0].item() == pytest.approx((losses[1] + losses[2]).item(), rel=1e-10)
    gradients = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters(), allow_unused=True, materialize_grads=True)])
                 for loss in losses]  # fmt: skip
    torch.testing.assert_close(gradients[0], gradients[1] + gradients[2], rtol=1e-9, atol=1e-9)


def test_predictions_scores_and_own_labels_in_another_order(folder: Path) -> None:
    made = task(folder)
    base = with_head(made)
    examples = list(made.read(read_rows(str(folder))))
    data = dataset(made, base, examples)
    predictions = predict(made, base, base.model, data, wanted=frozenset(made.scores))
    scores = point_scores(made, records_of(made, data, predictions))
    assert set(scores) == set(made.scores)
    best = [int(np.argmax(p["probability"])) for p in predictions]
    assert scores["accuracy"] == np.mean([b == e.labels[0] for b, e in zip(best, examples, strict=True)])
    assert made.render(predictions[0]) == {
        "label": made.labels[best[0]],
        "probability": predictions[0]["probability"][best[0]],
    }
    assert made.as_reference(predictions[0], examples[0]).labels == (best[0],)
    other = made.relabelled(("eel", "cat", "dog"))
    owned = replace(tiny_base(), model=base.model, own_labels=made.labels)
    permuted = owned.with_head("domain", other.head(), generator=torch.Generator().manual_seed(5))
    for first, second in zip(
        predictions, predict(other, permuted, permuted.model, data, wanted=frozenset({"accuracy"})), strict=True
    ):
        np.testing.assert_allclose(first["probability"][[2, 0, 1]], second["probability"], atol=1e-7)


def test_divergence_and_majority(folder: Path) -> None:
    made = task(folder)
    base = with_head(made)
    examples = list(made.read(read_rows(str(folder))))
    batch = made.collate(base, dataset(made, base, examples).items, "predict")
    assert batch.targets == {}
    with torch.no_grad():
        total, units = made.divergence(base.model, base.model, batch)
    assert (float(total), units) == (0.0, 9.0)
    assert made.render(made.majority(examples[2:], examples[:1])[0])["label"] == "dog"
    assert {finding.name for finding in made.check(examples)} == {"rare-label"}


def test_a_processor_without_pixel_values_is_refused(folder: Path) -> None:
    """ImageGPT's gives the nearest of its clusters of colours for each pixel."""

    class Clustering:
        def __call__(self, **options: Any) -> Any:
            return {"input_ids": np.zeros((1, 64), dtype=np.int64)}

    with pytest.raises(BaseError, match=r"Clustering gives no pixel_values \(input_ids\)"):
        task(folder, replace(tiny_base(), processor=Clustering()))


def test_a_classifier_without_logits_is_refused(folder: Path) -> None:
    model = transformers.PPLCNetForImageClassification(transformers.PPLCNetConfig(scale=0.25)).eval()
    with pytest.raises(BaseError, match="the outputs of PPLCNetForImageClassification have no logits"):
        task(folder, replace(tiny_base(), model=model))
