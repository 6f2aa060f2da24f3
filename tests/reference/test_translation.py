"""Translation on tiny encoder-decoders: loss against transformers' own, batches against single rows, languages, reading."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny import TEXT, tiny_base, tiny_model, tokenizer
from torch.nn import functional

from domaintune.bases.base import Base
from domaintune.checks.lengths import length_findings
from domaintune.data.columns import wanted_of
from domaintune.data.formats import read_part
from domaintune.data.rows import Row
from domaintune.errors import BaseError, DataError, RecipeError
from domaintune.recipe import Recipe
from domaintune.settings import TranslationSettings
from domaintune.tasks.base import Item
from domaintune.tasks.translation import Translation, TranslationExample, cut_middle

FAMILIES = ["marian", "m2m100", "t5"]
PAIRS = [
    ("the quick brown fox", "der schnelle braune Fuchs"),
    ("a waiter brought cold soup , but the room was lovely and quiet .", "Suppe"),
    ("the lazy dog", "springt über den faulen Hund ."),
    ("Paris in May", "Paris"),
    ("save the file", "Press %s to save the file { name } or cancel !"),
    ("dog", "Hund"),
    ("very quiet", "sehr"),
    ("runs away", "springt"),
]
ALL = frozenset({"chrf", "bleu", "exact_match", "cross_entropy"})


def rows(pairs: list[tuple[Any, Any]]) -> list[Row]:
    return [Row({"source": s, "target": t}, "pairs.jsonl", n) for n, (s, t) in enumerate(pairs, 1)]


def built(family: str, *, double: bool = False, seed: int = 0, **settings: Any) -> tuple[Base, Translation, list[Item]]:
    base = tiny_base(family, "translation", seed=seed)
    with torch.no_grad():  # louder attention: tied embeddings would only repeat the token before, whatever the source
        for name, parameter in base.model.named_parameters():
            if parameter.ndim == 2 and parameter.shape[0] != 400 and "position" not in name and "relative" not in name:
                parameter.mul_(4)
    if double:
        base.model.double()
    task = Translation.build(rows(PAIRS), base, TranslationSettings(**settings))
    items = [item for example in task.read(rows(PAIRS)) for item in task.prepare(base, example)]
    return base, task, items


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_over_units_is_the_loss_of_transformers(family: str) -> None:
    base, task, items = built(family, label_smoothing=0.0)
    batch = task.collate(base, items, "train")
    ours = task.loss(base.model, batch)["cross_entropy"] / task.units(batch)["cross_entropy"]
    inputs = {key: batch.inputs[key] for key in ("input_ids", "attention_mask")}
    theirs = base.model(**inputs, labels=batch.targets["labels"]).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_smoothed_loss_is_that_of_torch_over_the_real_tokens() -> None:
    base, task, items = built("marian", double=True, label_smoothing=0.2)
    total, count = 0.0, 0
    for item in items:
        single = task.collate(base, [item], "train")
        logits = base.model(**single.inputs).logits[0]
        labels = single.targets["labels"][0]
        total += float(functional.cross_entropy(logits, labels, label_smoothing=0.2)) * len(labels)
        count += len(labels)
    batch = task.collate(base, items, "train")
    assert task.units(batch) == {"cross_entropy": count}
    assert float(task.loss(base.model, batch)["cross_entropy"]) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_add_up(family: str) -> None:
    base, task, items = built(family, double=True)

    def gradient(parts: list[list[Item]]) -> torch.Tensor:
        model = copy.deepcopy(base.model).requires_grad_(True)
        units = sum(task.units(task.collate(base, part, "train"))["cross_entropy"] for part in parts)
        for part in parts:
            (task.loss(model, task.collate(base, part, "train"))["cross_entropy"] / units).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient([items])
    torch.testing.assert_close(gradient([items[:3], items[3:]]), whole, rtol=0, atol=1e-12 * float(whole.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_gives_what_single_rows_give(family: str, num_beams: int) -> None:
    base, task, items = built(family, num_beams=num_beams, max_target_length=12, seed=1)
    together = task.predict(base, base.model, task.collate(base, items, "score"), ALL)
    unlabelled = task.predict(base, base.model, task.collate(base, items, "predict"), frozenset({"output"}))
    for item, one, other in zip(items, together, unlabelled, strict=True):
        (alone,) = task.predict(base, base.model, task.collate(base, [item], "score"), ALL)
        assert one["text"] == alone["text"] == other["text"]
        assert one["nll"] == pytest.approx(alone["nll"], rel=1e-5)
        assert one["tokens"] == alone["tokens"] == len(item.targets["labels"])
    assert len({entry["text"] for entry in together}) > 1  # or nothing was compared


def test_nothing_is_decoded_where_only_the_targets_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    base, task, items = built("marian")
    monkeypatch.setattr(type(base.model), "generate", lambda *a, **k: pytest.fail("decoded"))
    made = task.predict(base, base.model, task.collate(base, items, "score"), frozenset({"cross_entropy"}))
    assert all(set(entry) == {"nll", "tokens"} for entry in made)
    mean = sum(entry["nll"] for entry in made) / sum(entry["tokens"] for entry in made)
    plain = task.model_copy(update={"settings": TranslationSettings(label_smoothing=0)})
    batch = plain.collate(base, items, "train")
    expected = plain.loss(base.model, batch)["cross_entropy"] / plain.units(batch)["cross_entropy"]
    assert mean == pytest.approx(float(expected), rel=1e-6)


def test_the_checkpoints_own_generation_settings_do_not_matter() -> None:
    base, task, items = built("marian", num_beams=2, max_target_length=8)
    batch = task.collate(base, items, "predict")
    plain = task.predict(base, base.model, batch, frozenset({"output"}))
    own = base.model.generation_config
    own.update(
        do_sample=True, temperature=9.0, repetition_penalty=5.0, no_repeat_ngram_size=1, min_length=7, num_beams=4
    )
    own.update(forced_eos_token_id=5, top_k=3, max_length=3, min_p=0.3, length_penalty=-4.0)
    assert task.predict(base, base.model, batch, frozenset({"output"})) == plain
    assert base.model.generation_config is own
    assert own.do_sample  # and it is left as it was
    own.bad_words_ids = [[token] for token in range(400) if token != 7]  # what its vocabulary means is kept
    assert {entry["text"] for entry in task.predict(base, base.model, batch, frozenset({"output"}))} != {
        entry["text"] for entry in plain
    }


def test_divergence_is_the_sum_of_the_kl_over_target_tokens() -> None:
    base, task, items = built("marian", double=True)
    other = tiny_model("marian", "translation", seed=1).double()
    batch = task.collate(base, items, "score")
    total, units = task.divergence(other, base.model, batch)
    mask = batch.targets["labels"] != -100
    p, q = (model(**batch.inputs).logits[mask].log_softmax(-1) for model in (base.model, other))
    expected = functional.kl_div(q, p, log_target=True, reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
    assert units == int(mask.sum()) == task.units(batch)["cross_entropy"]
    assert float(task.divergence(base.model, base.model, batch)[0]) == 0


def test_long_rows_are_cut_before_the_end_token_and_counted() -> None:
    base = tiny_base("marian", "translation")
    task = Translation.build(rows(PAIRS), base, TranslationSettings(max_source_length=6, max_target_length=5))
    example = TranslationExample(file="f", line=1, source=TEXT[0], target=TEXT[3])
    (item,) = task.prepare(base, example)
    source, target = base.processor(TEXT[0])["input_ids"], base.processor(TEXT[3])["input_ids"]
    assert item.inputs["input_ids"] == [*source[:5], 5]
    assert item.targets["labels"] == [*target[:4], 5]
    assert task.cost(item) == 11
    assert task.target_tokens([item]) == (5, len(target) - 5)
    found = {finding.name: finding for finding in length_findings(task, base, {"train": [example]})}
    assert found.keys() == {"long-rows", "cut-targets"}
    assert (
        found["cut-targets"].message
        == f"1 target of train is cut at the end: {len(target) - 5} tokens are never learned."
    )


def test_unknown_words_at_the_end_of_a_long_row_are_cut_as_text_is() -> None:
    base = tiny_base("marian", "translation")
    unknown, end = base.processor.unk_token_id, base.processor.eos_token_id
    assert unknown not in (None, end)
    text = [7, 8, 9, 10, 11, unknown, unknown]
    assert cut_middle(base, [*text, end], 5) == [7, 8, 9, 10, end]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"source": "a"}, "no column 'target'"),
        ({"target": "a"}, "no column 'source'"),
        ({"source": "a", "target": 3}, "must be text"),
        ({"source": "a", "target": " "}, "'target' is empty"),
    ],
)
def test_a_bad_row_is_named(values: dict[str, Any], says: str) -> None:
    _, task, _ = built("marian")
    with pytest.raises(DataError, match=says) as caught:
        list(task.read([Row({"source": "x", "target": "y"}, "a.jsonl", 1), Row(values, "a.jsonl", 7)]))
    assert caught.value.where == "a.jsonl:7"


def test_a_target_ends_where_the_tokenizer_puts_no_end() -> None:
    made = tiny_base("marian", "translation")
    bare = replace(made, processor=tokenizer("causal"))
    rows = [Row({"source": "the dog", "target": "der Hund"}, "x", 1)]
    tasks = [Translation.build(rows, base, TranslationSettings()) for base in (made, bare)]
    assert tasks[0] == tasks[1]
    (first,), (second,) = (task.prepare(base, *task.read(rows)) for task, base in zip(tasks, (made, bare), strict=True))
    assert first.targets == second.targets
    assert first.targets["labels"][-1] == bare.processor.eos_token_id
    endless = copy.deepcopy(bare.processor)
    endless.eos_token = endless.sep_token = None
    with pytest.raises(BaseError, match="no end token, so that no translation"):
        Translation.build(rows, replace(bare, processor=endless), TranslationSettings())


def test_a_length_penalty_without_beams_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"task.length_penalty: got length_penalty=0.6.*num_beams above 1"):
        Translation.build(
            [Row({"source": "a", "target": "b"}, "x", 1)],
            tiny_base("marian", "translation"),
            TranslationSettings(num_beams=1, length_penalty=0.6),
        )


def test_unlabelled_rows_need_no_target() -> None:
    base, task, _ = built("marian", max_target_length=6)
    row = Row({"source": "the dog"}, "a.jsonl", 1)
    assert not task.has_target(row)
    (example,) = task.read([row], labelled=False)
    (raw,) = task.predict(
        base, base.model, task.collate(base, task.prepare(base, example), "predict"), frozenset({"output"})
    )
    prediction = task.join(example, [raw])
    assert task.render(prediction) == {"translation": prediction["text"]}
    reference = task.as_reference(prediction, example)
    record = task.statistics(prediction, reference)
    assert task.reduce([record], np.ones((1, 1)))["exact_match"][0] == 1
    empty = task.as_reference({"text": ""}, example)  # a base that says nothing is a reference too
    assert task.prepare(base, empty)[0].targets["labels"] == [5]


def test_check_finds_what_is_wrong() -> None:
    _, task, _ = built("marian")
    made = [
        TranslationExample(file="f", line=1, source=" ", target="Hund"),
        TranslationExample(file="f", line=2, source="Save  all", target="Save all"),
        TranslationExample(file="f", line=3, source="Save %s in {place}", target="Speichere in {place}"),
        TranslationExample(file="f", line=4, source="Save %s", target="Speichere %s"),
    ]
    found = {finding.name: finding.rows for finding in task.check(made)}
    assert found == {"empty-source": ("f:1",), "untranslated": ("f:2",), "lost-placeholder": ("f:3",)}


def test_the_task_survives_json() -> None:
    _, task, _ = built("marian", num_beams=2)
    assert Translation.model_validate_json(task.model_dump_json()) == task
    assert not task.head().labels


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "text").write_text("\n".join(TEXT * 3), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spm"), vocab_size=150, minloglevel=2,
        hard_vocab_limit=False, num_threads=1,
    )  # fmt: skip
    made = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    return folder, [made.id_to_piece(i) for i in range(made.get_piece_size())][3:]


def test_a_multilingual_base_gets_its_languages(pieces: tuple[Path, list[str]]) -> None:
    folder, words = pieces
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    (folder / "m2m.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = transformers.M2M100Tokenizer(str(folder / "m2m.json"), str(folder / "spm.model"), model_max_length=64)
    config = transformers.M2M100Config(
        vocab_size=tokenizer.get_lang_id("zu") + 1, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.M2M100ForConditionalGeneration(config).eval().requires_grad_(False)
    base = Base(name="tiny-m2m", model=model, processor=tokenizer)
    english, german, french = (tokenizer.get_lang_id(code) for code in ("en", "de", "fr"))
    tasks = {
        code: Translation.build(
            rows(PAIRS), base, TranslationSettings(source_language="en", target_language=code, max_target_length=6)
        )
        for code in ("de", "fr")
    }
    assert (tasks["de"].forced_bos_token_id, tasks["fr"].forced_bos_token_id) == (german, french)
    assert tasks["de"].decoder_start_token_id == 2
    example = next(iter(tasks["de"].read(rows(PAIRS))))
    for code, language in (("de", german), ("fr", french), ("de", german)):  # one tokenizer, two tasks in turn
        (item,) = tasks[code].prepare(base, example)
        assert (item.inputs["input_ids"][0], item.targets["labels"][0]) == (english, language)
        batch = tasks[code].collate(base, [item], "train")
        assert batch.inputs["decoder_input_ids"][0, :2].tolist() == [2, language]
    seen: list[torch.Tensor] = []
    hook = model.model.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    tasks["de"].predict(base, model, batch, frozenset({"output"}))
    hook.remove()
    assert (seen[0] == 2).all()
    assert (seen[1] == german).all()
    with pytest.raises(RecipeError, match="does not know 'xx'"):
        Translation.build(rows(PAIRS), base, TranslationSettings(source_language="en", target_language="xx"))
    with pytest.raises(RecipeError, match="multilingual"):
        Translation.build(rows(PAIRS), base, TranslationSettings(source_language="en"))


def test_a_prefix_stands_before_what_the_model_reads_alone() -> None:
    base, task, _ = built("t5", source_prefix="Press %s to ")
    _, plain, _ = built("t5")
    again = Translation.model_validate_json(task.model_dump_json())
    for source in ("the quick brown fox", "save the file " * 40):
        (example,) = task.read([Row({"source": source}, "x", 1)], labelled=False)
        (written,) = plain.read([Row({"source": f"Press %s to {source}"}, "x", 1)], labelled=False)
        assert task.prepare(base, example) == plain.prepare(base, written) == again.prepare(base, example)
        assert (task.keys(example), task.texts(example)) == (plain.keys(example), plain.texts(example))
        assert task.render_input(example) == source
        (altered,) = task.prepare(base, task.altered(example, lambda texts: [text[::-1] for text in texts]))
        begun = base.processor("Press %s to ", add_special_tokens=False)["input_ids"]
        assert altered.inputs["input_ids"][: len(begun)] == begun


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        ({"source_language": "en", "target_language": "de"}, ["translate English to German: "]),
        ({"source_language": "eng_Latn", "target_language": "fr-FR"}, ["translate English to French: "]),
        ({}, ["translate English to German: ", "translate English to French: "]),
        ({"source_language": "en", "target_language": "es"}, []),
        ({"source_prefix": ""}, []),
        ({"source_prefix": "translate English to German: "}, []),
    ],
)
def test_a_base_of_several_tasks_without_its_prefix_is_told(languages: dict[str, str], expected: list[str]) -> None:
    """As T5 has it in its configuration."""
    base = tiny_base("t5", "translation")
    names = {"de": "German", "fr": "French"}
    told = {f"translation_en_to_{code}": {"prefix": f"translate English to {name}: "} for code, name in names.items()}
    base.model.config.task_specific_params = {"summarization": {"prefix": "summarize: "}, **told}
    try:
        task = Translation.build(rows(PAIRS), base, TranslationSettings(**languages))
    finally:
        del base.model.config.task_specific_params
    found = [finding for finding in task.check(list(task.read(rows(PAIRS)))) if finding.name == "no-source-prefix"]
    assert len(found) == bool(expected)
    for finding in found:
        assert all(repr(prefix) in finding.message for prefix in expected)
        assert f"--set \"task.source_prefix='{expected[0]}'\"" in finding.remedy
        key, value = finding.remedy.split('"')[1].split("=", 1)
        values = {"base": "x", "train": "y", "output": "z", "task": "translation"}
        set_ = Recipe.read(None, [f"{key}={value}"], **values).task
        assert isinstance(set_, TranslationSettings)
        assert set_.source_prefix == expected[0]


def test_marks_of_target_languages_are_prefixes(pieces: tuple[Path, list[str]]) -> None:
    folder, words = pieces
    table = {token: i for i, token in enumerate(["</s>", "<unk>", ">>fra<<", ">>deu<<", "<2de>", *words, "<pad>"])}
    (folder / "marks.json").write_text(json.dumps(table), encoding="utf-8")
    spm = str(folder / "spm.model")
    tokenizer = transformers.MarianTokenizer(spm, spm, str(folder / "marks.json"), model_max_length=64)
    base = Base(name="marian", model=tiny_model("marian", "translation"), processor=tokenizer)
    for target, expected in ((None, (">>fra<< ", ">>deu<< ")), ("de", (">>deu<< ", "<2de> "))):
        task = Translation.build(rows(PAIRS), base, TranslationSettings(target_language=target))
        assert task.unset_prefixes == expected
    marked = Translation.build(rows(PAIRS), base, TranslationSettings(source_prefix=">>fra<< "))
    (item,) = marked.prepare(base, next(marked.read(rows(PAIRS))))
    assert item.inputs["input_ids"][0] == table[">>fra<<"]


def test_languages_of_the_data_for_a_base_of_one_pair(tmp_path: Path) -> None:
    """A memory of three languages needs two named, also where the tokenizer knows none."""
    variants = "".join(
        f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>'
        for code, text in (("fr", "chien"), ("en", "dog"), ("de", "Hund"))
    )
    memory = tmp_path / "m.tmx"
    memory.write_text(f'<tmx><header srclang="en"/><body>\n<tu>{variants}</tu></body></tmx>', encoding="utf-8")
    given = {"base": "tiny", "train": str(memory), "output": str(tmp_path / "run")}
    unnamed = Recipe.make({**given, "task": "translation"})
    with pytest.raises(DataError, match="3 languages") as caught:
        read_part(unnamed.train, wanted_of(unnamed))
    assert "--set task.source_language=en --set task.target_language=fr" in caught.value.remedy
    languages = {"source_language": "en", "target_language": "de"}
    recipe = Recipe.make({**given, "task": {"name": "translation", **languages}})
    read = read_part(recipe.train, wanted_of(recipe)).rows
    assert [dict(row.values) for row in read] == [{"source": "dog", "target": "Hund"}]
    base, task, items = built("marian", **languages)
    assert not hasattr(base.processor, "src_lang")
    assert task.forced_bos_token_id is None
    assert items == built("marian")[2]


def test_marian_with_two_vocabularies(pieces: tuple[Path, list[str]]) -> None:
    folder, words = pieces
    tail = ["</s>", "<unk>"]
    files = {"source": [*tail, *words, "<pad>"], "target": [*tail, *reversed(words), "<pad>"]}
    for side, tokens in files.items():
        (folder / f"{side}.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    spm = str(folder / "spm.model")
    tokenizer = transformers.MarianTokenizer(
        spm, spm, str(folder / "source.json"), str(folder / "target.json"), separate_vocabs=True, model_max_length=64
    )
    base = Base(name="marian", model=tiny_model("marian", "translation"), processor=tokenizer)
    task = Translation.build(rows(PAIRS), base, TranslationSettings())
    text = "the dog"
    (item,) = task.prepare(base, TranslationExample(file="f", line=1, source=text, target=text))
    inverse = {side: json.loads((folder / f"{side}.json").read_text(encoding="utf-8")) for side in files}
    names = {side: {i: token for token, i in table.items()} for side, table in inverse.items()}
    source, target = item.inputs["input_ids"], item.targets["labels"]
    assert source != target
    assert [names["source"][i] for i in source] == [names["target"][i] for i in target]
    assert tokenizer.decode(target, skip_special_tokens=True) == text


def test_keys_are_normal_forms() -> None:
    _, task, _ = built("marian")
    example = TranslationExample(file="f", line=1, source=" The  Dog", target="Der  Hund ", group="g")
    other = replace(example, source="the dog", target="Der Hund")
    assert task.keys(example) == task.keys(other)
    assert task.keys(example).target != task.keys(replace(example, target="der hund")).target
