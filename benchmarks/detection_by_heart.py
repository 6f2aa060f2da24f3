"""A random tiny detector learns 16 pictures by heart: the proof that loss, matching, boxes and metric agree.

    python benchmarks/detection_by_heart.py [--family rt-detr-v2|yolos] [--method full|lora] [--minutes 6] [--seed 0]

With `full` everything is trained, batch-norm statistics too, by plain AdamW over the task's own loss and units; the score is that of the
same pictures. Stops once mAP50 is above .5 three times in a row, LoRA after 200 steps. Data are looked for in the folder that DOMAINTUNE_SHARED names
(by default ../shared). Nothing is saved.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from domaintune.bases.base import Base
from domaintune.data.formats import read_rows
from domaintune.evaluation.score import point_scores, predict, records_of
from domaintune.methods import method_from
from domaintune.methods.base import Attached
from domaintune.settings import FullSettings, LoRASettings, ObjectDetectionSettings
from domaintune.tasks.base import Dataset, dataset
from domaintune.tasks.object_detection import ObjectDetection

SHARED = Path(os.environ.get("DOMAINTUNE_SHARED", "../shared")) / "data" / "detection"
PICTURES, SIDE, ENOUGH = 16, 128, 0.5


def random_base(family: str) -> Base:
    """A detector with random weights, about 1.5 million for RT-DETR v2."""
    if family == "yolos":
        config: Any = transformers.YolosConfig(
            image_size=[SIDE, SIDE],
            patch_size=16,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=192,
            num_detection_tokens=20,
            use_mid_position_embeddings=False,
            num_labels=1,
        )
        processor: Any = transformers.YolosImageProcessorPil(size={"height": SIDE, "width": SIDE})
    else:
        config = transformers.RTDetrV2Config(
            backbone_config=transformers.RTDetrResNetConfig(
                embedding_size=32,
                hidden_sizes=[32, 64, 96, 128],
                depths=[1, 1, 1, 1],
                layer_type="basic",
                out_features=["stage2", "stage3", "stage4"],
            ),
            use_timm_backbone=False,
            freeze_backbone_batch_norms=False,
            anchor_image_size=None,
            num_labels=1,
            d_model=96,
            encoder_hidden_dim=96,
            encoder_in_channels=[64, 96, 128],
            feat_strides=[8, 16, 32],
            encoder_layers=1,
            encoder_ffn_dim=192,
            encoder_attention_heads=3,
            decoder_in_channels=[96, 96, 96],
            decoder_layers=2,
            decoder_ffn_dim=192,
            decoder_attention_heads=3,
            num_queries=50,
            num_denoising=30,
        )
        processor = transformers.RTDetrImageProcessorPil(size={"height": SIDE, "width": SIDE})
    model = transformers.AutoModelForObjectDetection.from_config(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # transformers draws them near 0, from which a random network does not start
    return Base(name=f"random-{family}", model=model.eval().requires_grad_(False), processor=processor)


def score(task: ObjectDetection, base: Base, model: nn.Module, data: Dataset) -> dict[str, float]:
    model.eval()
    return point_scores(task, records_of(task, data, predict(task, base, model, data, wanted=frozenset(task.scores))))


def learn(
    task: ObjectDetection,
    base: Base,
    attached: Attached,
    data: Dataset,
    *,
    minutes: float,
    seed: int,
    steps: int | None,
) -> dict[str, Any]:
    """Train until the pictures are known, or the time is up; the figures of the run."""
    model = attached.model
    trained = [parameter for group in attached.parameter_groups() for parameter in group.parameters]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    start, known, step = time.perf_counter(), 0, 0
    made: dict[str, Any] = {"curve": [{"step": 0, "seconds": 0.0, **score(task, base, model, data)}]}
    while known < 3 and (steps is None or step < steps) and time.perf_counter() - start < 60 * minutes:
        attached.train_(train_batch_norm=True)
        items = [task.augment(item, generator) for item in data.items]
        batch = task.collate(base, items, "train")
        sums, units = task.loss(model, batch), task.units(batch)
        loss = torch.stack([sums[key] / units[key] for key in sums]).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 0.1 if "rt-detr" in base.name else 1.0)
        optimizer.step()
        step += 1
        if step % 25 == 0:
            scores = score(task, base, model, data)
            known = known + 1 if scores["mAP50"] > ENOUGH else 0
            made["curve"].append(
                {"step": step, "seconds": round(time.perf_counter() - start, 1), "loss": float(loss.detach()), **scores}
            )
            print(json.dumps(made["curve"][-1]), flush=True)
    seconds = time.perf_counter() - start
    return {
        **made,
        "known": known >= 3,
        "steps": step,
        "seconds": seconds,
        "pictures_per_second": step * PICTURES / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["rt-detr-v2", "yolos"], default="rt-detr-v2")
    parser.add_argument("--method", choices=["full", "lora"], default="full")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    rows = read_rows(str(SHARED / "raccoon" / "train.json"))[:PICTURES]
    base = random_base(arguments.family)
    task = ObjectDetection.build(rows, base, ObjectDetectionSettings())
    base = base.with_head("domain", task.head(), generator=torch.Generator().manual_seed(arguments.seed))
    data = dataset(task, base, list(task.read(rows)))
    parameters = sum(parameter.numel() for parameter in base.model.parameters())
    print(
        json.dumps({"base": base.name, "parameters": parameters, "pictures": len(rows), "boxes": sum(task.box_counts)})
    )
    settings = {"full": FullSettings(), "lora": LoRASettings()}[arguments.method]
    attached = method_from(settings).attach(base, generator=torch.Generator().manual_seed(arguments.seed))
    steps = None if arguments.method == "full" else 200
    made = learn(task, base, attached, data, minutes=arguments.minutes, seed=arguments.seed, steps=steps)
    print(json.dumps({key: value for key, value in made.items() if key != "curve"}))
    if steps is None and not made["known"]:
        raise SystemExit(f"mAP50 did not stay above {ENOUGH}")


if __name__ == "__main__":
    main()
