"""Object detection: reading, losses against transformers' own, boxes against its image processors, heads of detectors."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny import config, tiny_base

from domaintune import Recipe, tune
from domaintune.bases.anatomy import examine
from domaintune.bases.base import Base, HeadSpec
from domaintune.bases.cuts import train_behind_prefix_
from domaintune.data.rows import Row
from domaintune.engine.gradient import StepGradient, accelerator
from domaintune.errors import BaseError, DataError, RecipeError
from domaintune.methods import method_from
from domaintune.methods.base import batch_norms_to_eval_, mend_batch_norm_
from domaintune.settings import FullSettings, ObjectDetectionSettings
from domaintune.tasks.base import Batch, Keys, dataset
from domaintune.tasks.detection_loss import detection_loss, detection_units, family_of
from domaintune.tasks.object_detection import ObjectDetection

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
GROUPED = {
    "projector_scale_factors": [1.0],
    "d_model": 32,
    "decoder_ffn_dim": 48,
    "decoder_n_points": 2,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "num_queries": 8,
    "group_detr": 2,
    "num_labels": 3,
    "num_feature_levels": 1,
    "dropout": 0.0,
}
WINDOWED = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "out_indices": [1, 2],
}
FAMILIES = ("rt-detr", "rt-detr-v2", "d-fine", "deimv2", "lw-detr", "rf-detr", "yolos", "detr")


def detector_config(family: str) -> Any:
    """The configuration of a tiny detector; those that tests/tiny.py lacks are made here."""
    if family in ("rt-detr", "deimv2"):
        like = config("rt-detr-v2" if family == "rt-detr" else "d-fine").to_dict()
        kept = (
            "d_model",
            "encoder_hidden_dim",
            "encoder_in_channels",
            "feat_strides",
            "encoder_layers",
            "encoder_ffn_dim",
            "encoder_attention_heads",
            "decoder_in_channels",
            "decoder_ffn_dim",
            "num_queries",
            "decoder_layers",
            "decoder_attention_heads",
            "num_denoising",
            "decoder_n_points",
            "anchor_image_size",
        )
        values = {key: like[key] for key in kept} | {"num_labels": 3}
        if family == "deimv2":
            return transformers.Deimv2Config(backbone_config=config("d-fine").backbone_config, **values)
        backbone = transformers.RTDetrResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])
        return transformers.RTDetrConfig(backbone_config=backbone, use_timm_backbone=False, **values)
    if family == "lw-detr":
        vit = transformers.LwDetrViTConfig(**WINDOWED, pretrain_image_size=64, num_windows=4, window_block_indices=[0])
        return transformers.LwDetrConfig(backbone_config=vit, **GROUPED)
    if family == "rf-detr":
        body = transformers.RfDetrDinov2Config(**WINDOWED, num_windows=2, window_block_indexes=[0])
        return transformers.RfDetrConfig(backbone_config=body, **GROUPED)
    if family == "detr":
        return transformers.DetrConfig(
            use_timm_backbone=False,
            backbone=None,
            backbone_config=transformers.ResNetConfig(**RESNET, out_features=["stage4"]),
            d_model=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            num_queries=10,
            num_labels=3,
            dropout=0.0,
            auxiliary_loss=True,
        )
    return config(family)


@functools.cache
def detector(family: str) -> Any:
    """A tiny random detector in evaluation mode; its random parts are larger than usual, so that every term is alive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.AutoModelForObjectDetection.from_config(detector_config(family))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * (0.02 if parameter.ndim == 1 else 0.05))
    return model.eval()


def targets(counts: Sequence[int], *, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for count in counts:
        sides = 0.1 + 0.3 * torch.rand(count, 2, generator=generator)
        centres = 0.3 + 0.4 * torch.rand(count, 2, generator=generator)
        labels = torch.randint(0, 3, (count,), generator=generator)
        made.append({"class_labels": labels, "boxes": torch.cat([centres, sides], 1)})
    return made


def pixels(count: int, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


# --- losses


@pytest.mark.parametrize("family", FAMILIES)
def test_sum_over_units_is_transformers_own_loss(family: str) -> None:
    model = copy.deepcopy(detector(family)).train()
    # D-FINE's distillation term is a mean over pictures here and a mixed one there: equal for one picture.
    counts = [2] if family_of(model) == "pictures" else [2, 0, 3]
    answer, inputs = targets(counts), {"pixel_values": pixels(len(counts))}
    torch.manual_seed(0)
    expected = model(**inputs, labels=answer).loss
    torch.manual_seed(0)
    sums = detection_loss(model, inputs, answer, denoising=True)
    units = detection_units(model, counts)
    assert sums.keys() == units.keys()
    made = sum(sums[key] / units[key] for key in units)
    # The reference rounds its weights of queries and its number of boxes to 32 bits, as all of it.
    assert float((made - expected).detach().abs() / expected.detach()) < 1e-6
    assert "_loss_function" not in vars(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_give_the_gradient_of_the_whole(family: str) -> None:
    model = copy.deepcopy(detector(family)).double()
    train_behind_prefix_(model, examine(model))
    batch_norms_to_eval_(model)
    mend_batch_norm_(model)
    counts = [2, 1, 0, 4, 1, 2, 0, 3]
    answer, inputs = targets(counts), pixels(8, dtype=torch.float64)
    parameters = [p for p in model.parameters() if p.requires_grad]
    whole = detection_units(model, counts)

    def gradient(parts: list[slice]) -> torch.Tensor:
        added = dict.fromkeys(whole, 0.0)
        for parameter in parameters:
            parameter.grad = None
        for part in parts:
            sums = detection_loss(model, {"pixel_values": inputs[part]}, answer[part], denoising=False)
            torch.stack([sums[key] / whole[key] for key in sums]).sum().backward()
            for key, value in detection_units(model, counts[part]).items():
                added[key] += value
        assert added == pytest.approx(whole, abs=1e-12)
        return torch.cat([torch.zeros(p.numel()).double() if p.grad is None else p.grad.flatten() for p in parameters])

    expected = gradient([slice(0, 8)])
    assert float(expected.norm()) > 0.1
    cuts = [[slice(0, 3), slice(3, 8)]]
    if family == "rt-detr-v2":  # pictures alone, one of them without a box
        cuts.append([slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 8)])
    for parts in cuts:
        # LW-DETR and RF-DETR compute their matching cost in 32 bits, which decides but does not enter the gradient.
        assert float((gradient(parts) - expected).norm() / expected.norm()) < 1e-10


@pytest.mark.parametrize("family", ["rt-detr-v2", "d-fine"])
def test_denoising_adds_queries_only_where_it_is_asked_for(family: str) -> None:
    model = copy.deepcopy(detector(family)).train()
    answer, inputs = targets([2, 1]), {"pixel_values": pixels(2)}
    plain = detection_loss(model, inputs, answer, denoising=False)["boxes"]
    noisy = detection_loss(model, inputs, answer, denoising=True)["boxes"]
    assert float(noisy.detach()) > 1.2 * float(plain.detach())
    model.eval()
    quiet = detection_loss(model, inputs, answer, denoising=True)["boxes"]
    assert torch.equal(quiet, detection_loss(model, inputs, answer, denoising=False)["boxes"])


@pytest.mark.parametrize("family", ["rt-detr-v2", "d-fine", "yolos"])
def test_a_batch_without_boxes_and_predictions_that_are_no_numbers(family: str) -> None:
    model = copy.deepcopy(detector(family)).train()
    sums = detection_loss(model, {"pixel_values": pixels(2)}, targets([0, 0]), denoising=True)
    assert all(bool(value.isfinite()) for value in sums.values())
    assert detection_units(model, [0, 0])["boxes"] == 0
    broken = {"pixel_values": torch.full((1, 3, 64, 64), float("nan"))}
    sums = detection_loss(model, broken, targets([1]), denoising=False)
    assert sums.keys() == detection_units(model, [1]).keys()
    assert all(math.isnan(float(value.detach())) for value in sums.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_without_boxes_teaches_what_is_no_object(family: str) -> None:
    model = copy.deepcopy(detector(family)).train()
    inputs = {"pixel_values": pixels(1 if family_of(model) == "pictures" else 3)}
    empty = targets([0] * len(inputs["pixel_values"]))
    torch.manual_seed(0)
    expected = float(model(**inputs, labels=empty).loss.detach())
    if family in ("lw-detr", "rf-detr"):  # whose groups of queries all count there, and one here
        expected /= model.config.group_detr
    torch.manual_seed(0)
    units = detection_units(model, [0] * len(empty))
    sums = detection_loss(model, inputs, empty, denoising=True)
    made = sum(float(value.detach()) / (units[key] or 1) for key, value in sums.items())
    assert made == pytest.approx(expected, rel=1e-6)
    assert expected > 0


@pytest.mark.parametrize("family", ["rt-detr-v2", "d-fine"])
def test_micro_batches_without_boxes_give_the_gradient_of_the_whole_step(family: str, folder: Path) -> None:
    base, task = make(folder, family, flip=False)
    bare = [row(folder, f"{n}.png", boxes=[], labels=[]) for n in range(4)]
    data = dataset(task, base, list(task.read(bare)))
    attached = method_from(FullSettings()).attach(base, generator=torch.Generator())
    step = StepGradient(task, base, attached, data, seed=0, pulls=(), accelerator=accelerator())

    def gradient(parts: list[list[int]]) -> torch.Tensor:
        attached.train_()
        attached.model.zero_grad()
        step.accumulate_(parts, epoch=0, step=0)
        return torch.cat([p.grad.flatten() for p in attached.model.parameters() if p.grad is not None])

    whole = gradient([[0, 1, 2, 3]])
    assert float(whole.norm()) > 0.1
    assert float((gradient([[0], [1, 2, 3]]) - whole).norm() / whole.norm()) < 1e-4  # in 32 bits


def test_a_detector_with_an_unknown_loss_is_refused() -> None:
    model = copy.deepcopy(detector("yolos"))
    model.loss_type = "GroundingDinoForObjectDetection"
    with pytest.raises(BaseError, match="no detector whose loss is known"):
        family_of(model)


@pytest.mark.parametrize("setting", ["eos_coefficient", "num_detection_tokens"])
def test_a_detector_that_only_bears_the_name_of_detr_s_loss_is_refused(setting: str) -> None:
    """transformers falls back to that name for detectors without a loss of their own."""
    model = copy.deepcopy(detector("yolos"))
    assert family_of(model) == "queries"
    model.config = SimpleNamespace(**{name: value for name, value in vars(model.config).items() if name != setting})
    with pytest.raises(BaseError, match="no detector whose loss is known"):
        family_of(model)


# --- rows, items, predictions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(4):
        small = generator.integers(0, 255, size=(6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((80, 60), Image.Resampling.BILINEAR).save(made / f"{number}.png")
    tall = Image.fromarray(generator.integers(0, 255, size=(60, 80, 3), dtype=np.uint8))
    exif = tall.getexif()
    exif[0x0112] = 6
    tall.save(made / "turned.jpg", exif=exif)
    whole = (made / "turned.jpg").read_bytes()
    (made / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return made


def row(folder: Path, name: str = "0.png", *, line: int = 1, **values: Any) -> Row:
    given = {
        "image": str(folder / name),
        "width": 80,
        "height": 60,
        "boxes": [[10, 5, 20, 30]],
        "labels": ["cat"],
        **values,
    }
    return Row({key: value for key, value in given.items() if value is not None}, "train.json", line)


def rows(folder: Path) -> list[Row]:
    return [
        row(folder, "0.png", line=1),
        row(folder, "1.png", line=2, boxes=[[0, 0, 40, 20], [30, 20, 45, 38]], labels=["dog", "cat"]),
        row(folder, "2.png", line=3, boxes=[], labels=[]),
        row(
            folder, "3.png", line=4, boxes=[[0, 0, 80, 60], [5, 5, 10, 10]], labels=["cat", "dog"], crowd=[True, False]
        ),
    ]


def make(folder: Path, family: str = "rt-detr-v2", **settings: Any) -> tuple[Base, ObjectDetection]:
    base = tiny_base(family, "object-detection")
    task = ObjectDetection.build(rows(folder), base, ObjectDetectionSettings(**settings))
    return base.with_head("domain", task.head(), generator=torch.Generator().manual_seed(0)), task


def batch(base: Base, task: ObjectDetection, data: Sequence[Row], mode: Any = "score") -> Batch:
    return task.collate(base, [item for e in task.read(data) for item in task.prepare(base, e)], mode)


def test_build_and_read(folder: Path) -> None:
    base, task = make(folder)
    assert task.labels == ("cat", "dog")
    assert task.box_counts == (3, 2)
    assert (task.height, task.width, task.queries) == (64, 64, 20)
    assert type(task).model_validate_json(task.model_dump_json()) == task
    examples = list(task.read(rows(folder)))
    assert [e.where for e in examples] == [f"train.json:{i}" for i in range(1, 5)]
    assert examples[3].crowd == (True, False)
    (item,) = task.prepare(base, examples[3])
    assert item.targets["boxes"] == pytest.approx(
        np.array([[10 / 80, 10 / 60, 10 / 80, 10 / 60]])
    )  # the crowd is left out
    assert item.targets["classes"].tolist() == [1]
    assert task.cost(item) == 64 * 64
    made = batch(base, task, rows(folder))
    assert made.inputs["pixel_values"].shape == (4, 3, 64, 64)
    assert task.units(made) == {"boxes": 4.0}
    assert batch(base, task, rows(folder), "predict").targets == {}
    bare = Row(task.from_bare(str(folder / "0.png")), "new.json", 1)
    assert task.has_target(rows(folder)[2])
    assert not task.has_target(bare)
    (example,) = task.read([bare], labelled=False)
    assert (example.width, example.height, example.boxes) == (80, 60, ())
    assert task.relabelled(("owl", "dog", "cat")).box_counts == (0, 2, 3)


BAD = {
    "missing picture": ({"image": "nowhere.png"}, "cannot be read"),
    "no picture": ({"image": None}, "no column 'image'"),
    "three numbers": ({"boxes": [[1, 2, 3]]}, "four finite numbers"),
    "text in a box": ({"boxes": [[1, 2, "3", 4]]}, "four finite numbers"),
    "nan": ({"boxes": [[1, 2, float("nan"), 4]]}, "four finite numbers"),
    "infinite": ({"boxes": [[1, 2, float("inf"), 4]]}, "four finite numbers"),
    "no width": ({"boxes": [[1, 2, 0, 4]]}, "must be above 0"),
    "negative height": ({"boxes": [[1, 2, 3, -4]]}, "must be above 0"),
    "outside": ({"boxes": [[80, 2, 3, 4]]}, "lies outside the picture of 80 x 60"),
    "unknown label": ({"labels": ["cta"]}, "Did you mean 'cat'"),
    "no labels": ({"labels": None}, "one name a box"),
    "too few labels": ({"boxes": [[1, 2, 3, 4], [2, 2, 3, 4]]}, "2 boxes but 1 labels"),
    "no boxes": ({"boxes": None}, "no 'boxes'"),
    "crowd of another length": ({"crowd": [True, False]}, "one entry a box"),
    "another size": ({"width": 81}, "the picture is 80 x 60 pixels, the row says 81 x 60"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_name_file_and_line(folder: Path, case: str) -> None:
    _, task = make(folder)
    values, message = BAD[case]
    with pytest.raises(DataError, match=r"^train\.json:7: ") as caught:
        list(task.read([row(folder, line=7, **values)]))
    assert message in str(caught.value)


def test_a_truncated_picture_is_named_when_rows_are_read(folder: Path) -> None:
    _, task = make(folder)
    with pytest.raises(DataError, match=r"^train\.json:9: .*cut\.jpg"):
        list(task.read([row(folder, "cut.jpg", line=9)]))


def test_a_turned_picture_has_its_boxes_in_the_pixels_that_are_shown(folder: Path) -> None:
    base, task = make(folder)
    (example,) = task.read([row(folder, "turned.jpg", width=60, height=80, boxes=[[0, 60, 60, 20]])])
    assert (example.width, example.height) == (60, 80)
    assert task.prepare(base, example)[0].targets["boxes"] == pytest.approx(np.array([[0.5, 70 / 80, 1.0, 0.25]]))
    with pytest.raises(DataError, match="EXIF data turn it"):
        list(task.read([row(folder, "turned.jpg")]))


def test_boxes_that_reach_outside_are_cut_and_reported(folder: Path) -> None:
    _, task = make(folder)
    made = row(folder, boxes=[[-5, -5, 20, 20], [70, 50, 20.5, 20]], labels=["cat", "dog"])
    (example,) = task.read([made])
    assert example.boxes == ((0, 0, 15, 15), (70, 50, 10, 10))
    assert example.clipped == 2
    assert "clipped-boxes" in {finding.name for finding in task.check([example])}


def test_check_and_keys(folder: Path) -> None:
    _, task = make(folder)
    twice = row(folder, line=5, boxes=[[1, 2, 3, 4]] * 30, labels=["dog"] * 30)
    examples = list(task.read([*rows(folder), twice]))
    found = {finding.name: finding for finding in task.check(examples)}
    assert found.keys() == {"few-boxes", "no-boxes", "double-boxes", "many-boxes"}
    assert found["no-boxes"].rows == ("train.json:3",)
    assert found["many-boxes"].rows == found["double-boxes"].rows == ("train.json:5",)
    assert "cat (3)" in found["few-boxes"].message
    assert "dog" not in found["few-boxes"].message
    keys = [task.keys(example) for example in examples]
    assert [key.stratum for key in keys] == ["cat", "dog", "", "dog", "dog"]
    assert keys[0].input == keys[4].input
    assert keys[0].target != keys[4].target
    other = next(
        task.read([row(folder, "1.png", line=8, boxes=[[30, 20, 45, 38], [0, 0, 40, 20]], labels=["cat", "dog"])])
    )
    assert task.keys(other) == Keys(keys[1].input, keys[1].target, "dog", labels=("cat", "dog"))


def test_sizes_of_pictures_fit_the_windows_of_the_backbone(folder: Path) -> None:
    base = Base(name="tiny", model=detector("rf-detr"), processor=tiny_base("yolos", "object-detection").processor)
    body = transformers.RfDetrDinov2Config(
        **{**WINDOWED, "patch_size": 14, "image_size": 56}, num_windows=2, window_block_indexes=[0]
    )
    model = transformers.AutoModelForObjectDetection.from_config(
        transformers.RfDetrConfig(backbone_config=body, **GROUPED)
    )
    windowed = replace(base, model=model.eval())
    task = ObjectDetection.build(rows(folder), windowed, ObjectDetectionSettings(image_size=84))
    assert (task.height, task.width) == (84, 84)
    with pytest.raises(RecipeError, match="multiple of 28 for this base, such as 84 or 112"):
        ObjectDetection.build(rows(folder), windowed, ObjectDetectionSettings(image_size=96))
    lw = replace(base, model=detector("lw-detr"))
    assert ObjectDetection.build(rows(folder), lw, ObjectDetectionSettings(image_size=96)).height == 96

    class Refusing(torch.nn.Module):
        config, loss_type = model.config, model.loss_type

        def forward(self, pixel_values: torch.Tensor) -> None:
            raise RuntimeError("shape is invalid.\nmore")

    refusing = Refusing()
    refusing.register_parameter("w", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(RecipeError, match=r"is 84, which the base cannot compute \(shape is invalid\)"):
        ObjectDetection.build(rows(folder), replace(base, model=refusing), ObjectDetectionSettings(image_size=84))


def test_settings_that_cannot_be(folder: Path) -> None:
    base = tiny_base("yolos", "object-detection")
    with pytest.raises(RecipeError, match="multiple of 32"):
        ObjectDetection.build(rows(folder), base, ObjectDetectionSettings(image_size=100))
    with pytest.raises(DataError, match="no picture has a box"):
        ObjectDetection.build([rows(folder)[2]], base, ObjectDetectionSettings())
    base.processor.size = {"shortest_edge": 96, "longest_edge": 128}
    task = ObjectDetection.build(rows(folder), base, ObjectDetectionSettings())
    assert batch(base, task, rows(folder)).inputs["pixel_values"].shape == (4, 3, 96, 96)


def test_a_flip_mirrors_picture_and_boxes(folder: Path) -> None:
    base, task = make(folder)
    (item,) = task.prepare(base, next(task.read([row(folder, boxes=[[0, 0, 20, 60]])])))
    drawn = [task.augment(item, torch.Generator().manual_seed(seed)).inputs["flip"] for seed in range(40)]
    assert 10 < sum(drawn) < 30
    assert drawn == [task.augment(item, torch.Generator().manual_seed(seed)).inputs["flip"] for seed in range(40)]
    flipped = replace(item, inputs={**item.inputs, "flip": True})
    plain, mirrored = (task.collate(base, [one], "train") for one in (item, flipped))
    # Mirroring before or after the resize differs by rounding to 8 bits.
    difference = mirrored.inputs["pixel_values"] - plain.inputs["pixel_values"].flip(-1)
    assert float(difference.abs().max()) < 0.01
    assert plain.targets["pictures"][0]["boxes"].tolist() == [[0.125, 0.5, 0.25, 1.0]]
    assert mirrored.targets["pictures"][0]["boxes"].tolist() == [[0.875, 0.5, 0.25, 1.0]]
    _, still = make(folder, flip=False)
    assert not any(still.augment(item, torch.Generator().manual_seed(seed)).inputs["flip"] for seed in range(9))


@pytest.mark.parametrize("family", ["rt-detr-v2", "d-fine", "yolos"])
def test_predicted_boxes_are_those_of_the_image_processor(folder: Path, family: str) -> None:
    base, task = make(folder, family, max_detections=15 if family == "yolos" else 20)
    data = rows(folder)[:2]
    collated = batch(base, task, data)
    with torch.no_grad():
        made = task.predict(base, base.model, collated, frozenset({"mAP"}))
        outputs = base.model(**collated.inputs)
    expected = base.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(60, 80)] * 2)
    for prediction, reference in zip(made, expected, strict=True):
        order = reference["scores"].argsort(descending=True, stable=True)
        corners = reference["boxes"][order].numpy().clip(0, [80, 60, 80, 60])
        assert prediction["scores"] == pytest.approx(reference["scores"][order].numpy(), abs=1e-6)
        assert sorted(prediction["classes"]) == sorted(reference["labels"].tolist())
        wanted = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        # Scores that the reference rounds to the same 32 bits may stand in another order.
        apart = np.abs(prediction["boxes"][:, None] - wanted[None]).max(-1)
        assert max(apart.min(0).max(), apart.min(1).max()) < 1e-4


def test_what_the_user_sees_and_agreement(folder: Path) -> None:
    _, task = make(folder, threshold=0.4)
    example = next(task.read(rows(folder)))
    prediction = {
        "boxes": np.array([[10.0, 5, 20, 30], [1, 2, 3, 4], [0, 0, 0, 9], [5, 5, 9, 9]]),
        "scores": np.array([0.9, 0.4, 0.4, 0.39]),
        "classes": np.array([0, 1, 1, 1]),
    }
    assert task.render(prediction) == {
        "objects": [
            {"label": "cat", "score": 0.9, "box": [10.0, 5.0, 20.0, 30.0]},
            {"label": "dog", "score": 0.4, "box": [1.0, 2.0, 3.0, 4.0]},
        ]
    }
    reference = task.as_reference(prediction, example)
    assert reference.labels == (0, 1)
    records = [task.statistics(task.join(reference, [prediction]), reference)]
    scores = task.reduce(records, np.ones((1, 1)))
    assert scores.keys() == set(task.scores)
    assert task.primary.name == task.scores[0]
    # Below both right boxes in their class's ranking stand false alarms, which cost nothing.
    assert scores["mAP"][0] == pytest.approx(1.0)
    assert task.reduce([task.statistics(prediction, example)], np.ones((2, 1)))["mAP50"] == pytest.approx([1.0, 1.0])


def test_a_base_that_shows_nothing_is_agreed_with_by_showing_nothing(folder: Path) -> None:
    _, task = make(folder, threshold=0.4)
    examples = list(task.read(rows(folder)[:2]))
    place, kind = np.array([[10.0, 5, 20, 30]]), np.array([0])

    def shown(*scores: float) -> list[Any]:
        return [{"boxes": place, "scores": np.array([score]), "classes": kind} for score in scores]

    weights = np.array([[1, 1], [2, 0], [0, 2]])
    for base, tuned, expected in (
        (shown(0.3, 0.1), shown(0.39, 0.2), [1, 1, 1]),
        (shown(0.3, 0.1), shown(0.3, 0.4), [0, 1, 0]),
        (shown(0.9, 0.1), shown(0.9, 0.1), [1, 1, 1]),  # nothing is shown in the third draw
        (shown(0.9, 0.1), shown(0.1, 0.9), [0.5, 1, 0]),
    ):
        references = [task.as_reference(p, e) for p, e in zip(base, examples, strict=True)]
        records = [task.statistics(p, e) for p, e in zip(tuned, references, strict=True)]
        assert task.reduce(records, weights)["mAP"] == pytest.approx(expected, abs=0.01)
    dogs = task.scoring(["dog"])
    reference = dogs.as_reference(shown(0.1)[0], examples[0])
    assert dogs.reduce([dogs.statistics(shown(0.9)[0], reference)], np.ones((1, 1)))["mAP"] == [1.0]  # a cat
    bare = replace(examples[0], boxes=(), labels=(), crowd=())
    unlike = task.reduce([task.statistics(shown(0.1)[0], bare)], np.ones((1, 1)))
    assert np.isnan(unlike["mAP"]).all()  # of labelled pictures without objects nothing can be said


@pytest.mark.parametrize("family", ["rt-detr-v2", "yolos"])
def test_divergence_is_that_of_the_distributions(folder: Path, family: str) -> None:
    base, task = make(folder, family)
    other = base.fork()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "class" in name:
                parameter.data = parameter + 0.1 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(1)
                )
        collated = batch(base, task, rows(folder))
        same, units = task.divergence(base.fork(), base.model, collated)
        made, _ = task.divergence(other, base.model, collated)
        p, q = (m(**collated.inputs).logits.double() for m in (base.model, other))
    assert units == 4 * task.queries
    assert float(same) == pytest.approx(0.0, abs=1e-6)
    if family == "yolos":
        kind: Any = torch.distributions.Categorical
        expected = torch.distributions.kl_divergence(kind(logits=p), kind(logits=q)).sum()
    else:
        kind = torch.distributions.Bernoulli
        expected = torch.distributions.kl_divergence(kind(logits=p), kind(logits=q)).sum()
    assert float(expected) > 0.01
    assert float(made) == pytest.approx(float(expected), rel=1e-4)


# --- heads


def tied(model: torch.nn.Module) -> set[tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {tuple(group) for group in names.values() if len(group) > 1}


@pytest.mark.parametrize("family", ["rt-detr", "rt-detr-v2", "d-fine", "deimv2", "lw-detr", "rf-detr"])
def test_a_fresh_head_is_tied_and_starts_at_its_prior(family: str) -> None:
    model = copy.deepcopy(detector(family)).requires_grad_(False)
    spec = HeadSpec("AutoModelForObjectDetection", ("a", "b", "c", "d", "e"), whole=False)
    base = Base(name="tiny", model=model, processor=None).with_head(
        "domain", spec, generator=torch.Generator().manual_seed(0)
    )
    assert tied(base.model) == tied(model)
    settings = copy.deepcopy(model.config)
    settings.num_labels = 5
    fresh = dict(
        transformers.AutoModelForObjectDetection.from_config(settings).named_parameters(remove_duplicate=False)
    )
    state = base.heads["domain"].state()
    assert len(state) >= 2
    for name, tensor in state.items():
        expected = fresh[name]
        assert tensor.shape == expected.shape
        if tensor.ndim == 1:  # biases are constants: the prior
            assert torch.equal(tensor, expected.detach())
        else:
            assert float(tensor.std()) == pytest.approx(float(expected.detach().std()), rel=0.35)
    assert base.model(pixel_values=pixels(1)).logits.shape[-1] == 5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bases_own_head_in_another_order_gives_the_same_outputs(family: str) -> None:
    model = copy.deepcopy(detector(family)).requires_grad_(False)
    base = Base(name="tiny", model=model, processor=None, own_labels=("a", "b", "c"))
    spec = HeadSpec("AutoModelForObjectDetection", ("c", "a", "b"), whole=False)
    turned = base.with_head("domain", spec, generator=torch.Generator().manual_seed(0)).model
    before, after = (m(pixel_values=pixels(2)) for m in (model, turned))
    order = [2, 0, 1, *([3] if family_of(model) == "queries" else [])]
    # The permutation changes which columns a matrix product sums where: rounding.
    assert float((before.logits[..., order] - after.logits).abs().max()) < 1e-5
    assert float((before.pred_boxes - after.pred_boxes).abs().max()) < 1e-5
    assert tied(turned) == tied(model)
    answer = targets([2, 1])
    swapped = [{**t, "class_labels": torch.tensor([1, 2, 0])[t["class_labels"]]} for t in answer]
    ours, theirs = (
        detection_loss(m, {"pixel_values": pixels(2)}, t, denoising=False)
        for m, t in ((model, answer), (turned, swapped))
    )
    for key in ours:
        assert float(theirs[key]) == pytest.approx(float(ours[key]), rel=1e-4)


def test_denoising_labels_are_permuted_too() -> None:
    model = copy.deepcopy(detector("rt-detr-v2")).requires_grad_(False)
    base = Base(name="tiny", model=model, processor=None, own_labels=("a", "b", "c"))
    spec = HeadSpec("AutoModelForObjectDetection", ("c", "a", "b"), whole=False)
    turned: Any = base.with_head("domain", spec, generator=torch.Generator().manual_seed(0)).model
    assert torch.equal(
        turned.model.denoising_class_embed.weight, model.model.denoising_class_embed.weight[[2, 0, 1, 3]]
    )


def test_a_detector_is_tuned_and_parts_without_boxes_are_refused(tmp_path: Path) -> None:
    base = tiny_base("yolos", "object-detection")
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")
    generator = np.random.default_rng(1)

    def part(name: str, boxes: int, rows: int = 4) -> str:
        lines = []
        for number in range(rows):
            path = tmp_path / f"{name}{number}.png"
            Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
            boxed = number < boxes
            lines.append({"image": path.name, "boxes": [[5, 5, 20, 20]] * boxed, "labels": ["cat"] * boxed})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return str(tmp_path / f"{name}.jsonl")

    values = {
        "task": "object-detection", "base": str(tmp_path / "base"), "output": str(tmp_path / "run"), "threads": 1,
        "train": part("train", 2), "dev": part("dev", 1), "test": part("test", 1),
        "training": {"epochs": 1}, "evaluation": {"draws": 100},
    }  # fmt: skip
    tune(Recipe.make(values))
    assert json.loads((tmp_path / "run/scores.json").read_text())["dev"] >= 0
    for name in ("dev", "test"):
        given = values | {name: part(f"bare-{name}", 0), "output": str(tmp_path / name)}
        with pytest.raises(DataError, match=f"^{name}: no row has a label"):
            tune(Recipe.make(given))
    few = {"general": part("few", 1, 12)}
    bare = {"general": part("general", 9, 12), "general_check": part("check", 0, 12)}
    for given, where in ((few, r"general \((report|choosing) part\)"), (bare, "general-check")):
        with pytest.raises(DataError, match=f"^{where}: no row has a label.* agreement with the base"):
            tune(Recipe.make(values | given | {"output": str(tmp_path / "general")}))
