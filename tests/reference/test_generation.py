"""Generation on tiny causal models: loss and masks, packing of plain text, decoding in batches, stop strings, reading."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny import TEXT, VOCAB, tiny_base, tiny_model, tokenizer
from torch.nn import functional

from domaintune.bases.base import Base
from domaintune.checks.lengths import length_findings
from domaintune.checks.report import report_of
from domaintune.checks.shared import inseparable
from domaintune.data.rows import Row
from domaintune.errors import DataError, RecipeError
from domaintune.partition import split, without_leaks
from domaintune.recipe import DataSettings
from domaintune.settings import GenerationSettings
from domaintune.tasks.base import Item
from domaintune.tasks.decoding import Decoding, decode
from domaintune.tasks.generation import Generation, PromptExample, TextExample, pieces
from domaintune.tasks.token_losses import PLAIN_OUTPUT, causal_divergences, causal_losses

FAMILIES = ["gpt2", "llama", "qwen3"]
CAPPED = ["gemma2", "granite", "cohere"]
PAIRS = [
    ("the quick brown fox", "jumps over the lazy dog"),
    ("a waiter brought cold soup , but the room was lovely", "and quiet ."),
    ("Paris", "in May with Emmanuel Macron ."),
    ("", "save the file"),
    ("Press", "%s to save the file { name } or cancel !"),
    ("der schnelle", "braune Fuchs springt"),
    ("dog", "away"),
    ("the soup", "cold"),
]


def pairs(values: list[tuple[Any, Any]]) -> list[Row]:
    return [Row({"prompt": p, "completion": c}, "pairs.jsonl", n) for n, (p, c) in enumerate(values, 1)]


def lines(texts: list[str], file: str = "text.txt") -> list[Row]:
    return [Row({"text": text}, file, n) for n, text in enumerate(texts, 1)]


def built(family: str, *, double: bool = False, **settings: Any) -> tuple[Base, Generation, list[Item]]:
    base = tiny_base(family, "generation")
    if double:
        base.model.double()
    task = Generation.build(pairs(PAIRS), base, GenerationSettings(**settings))
    items = [item for example in task.read(pairs(PAIRS)) for item in task.prepare(base, example)]
    return base, task, items


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_over_units_is_the_loss_of_transformers(family: str) -> None:
    base, task, items = built(family)
    batch = task.collate(base, items, "train")
    labels = torch.full_like(batch.inputs["input_ids"], -100)
    for row, item in enumerate(items):
        start, tokens = len(item.inputs["prompt_ids"]), item.targets["completion_ids"]
        labels[row, start : start + len(tokens)] = torch.tensor(tokens)
    theirs = base.model(**batch.inputs, labels=labels).loss
    ours = task.loss(base.model, batch)["cross_entropy"] / task.units(batch)["cross_entropy"]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


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


def small_config(kind: str) -> Any:
    """A tiny configuration of any causal model type."""
    made = transformers.AutoConfig.for_model(
        kind, vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    for key, value in {"final_logit_softcapping": 0.5, "logits_scaling": 3.0, "logit_scale": 0.1}.items():
        if hasattr(made, key):  # caps and scales that bite at this size
            setattr(made, key, value)
    return made


@pytest.mark.parametrize("kind", [*sorted(PLAIN_OUTPUT), *CAPPED])
def test_losses_and_gradients_in_chunks_are_those_of_all_logits(kind: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(small_config(kind)).double().eval()
    inputs = {"input_ids": torch.randint(3, 61, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    following = torch.where(torch.rand(3, 9) < 0.5, torch.randint(3, 61, (3, 9)), -100)
    whole = functional.cross_entropy(model(**inputs).logits.flatten(0, 1), following.flatten(), reduction="none")
    whole = whole[following.flatten() != -100]
    names = [name for name, _ in model.named_parameters()]
    expected = dict(
        zip(names, torch.autograd.grad(whole.sum(), list(model.parameters()), allow_unused=True), strict=True)
    )
    for budget in (10**9, 61 * 4):  # one piece; chunks of four tokens where the class allows it
        made = causal_losses(model, inputs, following, budget=budget)
        torch.testing.assert_close(made, whole, rtol=1e-12, atol=1e-12)
        gradients = torch.autograd.grad(made.sum(), list(model.parameters()), allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            if expected[name] is not None:
                torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12, msg=name)


def test_logits_of_a_large_vocabulary_never_exist_whole() -> None:
    base, task, items = built("qwen3")
    batch = task.collate(base, items, "train")
    model = copy.deepcopy(base.model).requires_grad_(True)
    supervised = int(task.units(batch)["cross_entropy"])
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda _module, _args, output: sizes.append(output[..., 0].numel()))
    task.loss(model, batch)["cross_entropy"].backward()
    assert sizes == [supervised]  # not batch * length
    sizes.clear()
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    causal_losses(model, batch.inputs, batch.targets["next_tokens"], budget=400 * 5).sum().backward()
    assert max(sizes) == 5
    assert sum(sizes) == 2 * supervised  # once forward, once again in the backward pass
    assert calls == [1]  # hooks on the model itself run in chunks too


def test_divergence_is_the_sum_of_the_kl_over_target_tokens() -> None:
    base, task, items = built("llama", double=True)
    other = tiny_model("llama", "generation", seed=1).double()
    batch = task.collate(base, items, "score")
    mask = batch.targets["next_tokens"] != -100
    p, q = (model(**batch.inputs).logits[mask].log_softmax(-1) for model in (base.model, other))
    expected = functional.kl_div(q, p, log_target=True, reduction="sum")
    total, units = task.divergence(other, base.model, batch)
    assert units == int(mask.sum())
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
    chunked = causal_divergences(other, base.model, batch.inputs, batch.targets["next_tokens"], budget=400 * 3)
    torch.testing.assert_close(chunked.sum(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"sample": True, "temperature": 1.3, "top_p": 0.9}])
def test_a_batch_gives_what_single_rows_give(family: str, settings: dict[str, Any]) -> None:
    base, task, items = built(family, max_new_tokens=10, **settings)
    wanted = frozenset({"exact_match", "cross_entropy"})
    random_state = torch.get_rng_state()
    together = task.predict(base, base.model, task.collate(base, items, "score"), wanted)
    assert torch.equal(torch.get_rng_state(), random_state)
    unlabelled = task.predict(base, base.model, task.collate(base, items, "predict"), frozenset({"output"}))
    for item, one, other in zip(items, together, unlabelled, strict=True):
        (alone,) = task.predict(base, base.model, task.collate(base, [item], "score"), wanted)
        assert one["text"] == alone["text"] == other["text"]
        assert one["nll"] == pytest.approx(alone["nll"], rel=1e-5)
        assert one["tokens"] == len(item.targets["completion_ids"])
    assert len({entry["text"] for entry in together}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_is_the_arg_max_of_plain_forwards(family: str) -> None:
    base, task, items = built(family, max_new_tokens=6)
    made = task.predict(base, base.model, task.collate(base, items, "predict"), frozenset({"output"}))
    for item, entry in zip(items, made, strict=True):
        ids = list(item.inputs["decode_ids"])
        for _ in range(6):
            ids.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == task.end_id:
                break
        assert entry["text"] == base.processor.decode(ids[len(item.inputs["decode_ids"]) :], skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_decoding_with_a_cache_is_decoding_without(family: str, num_beams: int) -> None:
    base, task, items = built(family, max_new_tokens=8, num_beams=num_beams)
    inputs = task.collate(base, items, "predict").inputs
    cached, uncached = (
        decode(base.model, base.processor, inputs, replace(task.decoding(), use_cache=use)) for use in (True, False)
    )
    assert cached == uncached


@pytest.mark.parametrize("sample", [False, True])
def test_a_state_that_takes_padding_in_is_decoded_without(sample: bool) -> None:
    config = transformers.RecurrentGemmaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, lru_width=32, attention_window_size=16, pad_token_id=0, bos_token_id=6, eos_token_id=5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.RecurrentGemmaForCausalLM(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    base = Base(name="tiny", model=model.eval().requires_grad_(False), processor=tokenizer("causal"))
    assert not base.ignores_left_padding
    task = Generation.build(pairs(PAIRS), base, GenerationSettings(max_new_tokens=4, sample=sample))
    items = [item for example in task.read(pairs(PAIRS)) for item in task.prepare(base, example)]

    def texts(parts: list[list[Item]]) -> list[str]:
        batches = [task.collate(base, part, "predict") for part in parts]
        return [
            raw["text"] for batch in batches for raw in task.predict(base, base.model, batch, frozenset({"output"}))
        ]

    together = texts([items])
    assert len({len(item.inputs["decode_ids"]) for item in items}) < len(items)  # some of one length
    assert together == texts([[item] for item in items])
    assert len(set(together)) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_ignores_padding(family: str) -> None:
    assert tiny_base(family, "generation").ignores_left_padding


def test_samples_follow_the_softmax() -> None:
    base, task, _ = built("gpt2")
    model = copy.deepcopy(base.model)
    (item,) = task.prepare(base, PromptExample(file="f", line=1, prompt="the dog", completion=None))
    inputs = task.collate(base, [item], "predict").inputs
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 2)  # untie; sharper
        p = (model(**inputs).logits[0, -1] / 0.7).softmax(-1)
    texts = [
        decode(model, base.processor, inputs, Decoding(max_new_tokens=1, sample=True, temperature=0.7, seed=seed))[
            0
        ].text
        for seed in range(150)
    ]
    expected: dict[str, float] = {}
    for token, probability in enumerate(p.tolist()):  # several tokens may read the same
        text = base.processor.decode([token], skip_special_tokens=True)
        expected[text] = expected.get(text, 0) + probability
    commonest = sorted(expected, key=expected.__getitem__)[-4:]
    for text in commonest:
        share, probability = texts.count(text) / len(texts), expected[text]
        assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / len(texts)) ** 0.5)
    assert len(set(texts)) > 3
    again = decode(model, base.processor, inputs, Decoding(max_new_tokens=1, sample=True, temperature=0.7, seed=5))
    assert again[0].text == texts[5]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_output_ends_before_the_first_stop_string(num_beams: int) -> None:
    base, task, items = built("llama", max_new_tokens=16, num_beams=num_beams)
    batch = task.collate(base, items, "predict")
    free = [entry["text"] for entry in task.predict(base, base.model, batch, frozenset({"output"}))]
    # The tokenizer that the test trains is not the same in every process, and a random model may say nothing to some prompts.
    row = max(range(len(free)), key=lambda number: len(free[number]))
    stop = free[row][len(free[row]) // 3 : len(free[row]) // 3 + 3]
    assert stop
    steps: list[int] = []
    model = copy.deepcopy(base.model)
    model.register_forward_hook(lambda *_: steps.append(1))
    stopped = task.model_copy(update={"settings": task.settings.model_copy(update={"stop": ("@@", stop)})})
    made = [entry["text"] for entry in stopped.predict(base, model, batch, frozenset({"output"}))]
    assert all(stop not in text for text in made)
    if num_beams == 1:
        assert made == [text.split(stop)[0] for text in free]
        single = stopped.collate(base, items[row : row + 1], "predict")
        steps.clear()
        assert stopped.predict(base, model, single, frozenset({"output"}))[0]["text"] == made[row]
        assert len(steps) < 16  # it stopped there, it was not only cut


def test_a_completion_is_compared_up_to_its_stop_string() -> None:
    """As the output, which is cut there; what is trained and shown is the whole completion."""
    _, task, _ = built("llama", stop=(" END", "\n"))
    for completion, right in (("runs away END", 1), ("runs away\nand back", 1), ("runs END away", 0)):
        example = PromptExample(file="f", line=1, prompt="the dog", completion=completion)
        assert task.statistics({"text": "runs away"}, example)["exact_match"].tolist() == [right, 1]
        assert task.render_target(example, {}) == {"output": completion}


def test_the_prompt_is_masked_and_the_completion_with_its_end_is_not() -> None:
    base, task, items = built("llama")
    batch = task.collate(base, items, "train")
    for row, (_, completion) in enumerate(PAIRS):
        supervised = batch.targets["next_tokens"][row]
        places = (supervised != -100).nonzero().flatten()
        ids = supervised[places].tolist()
        assert ids[-1] == base.processor.eos_token_id
        assert ids[:-1] == base.processor(completion)["input_ids"]
        assert torch.equal(batch.inputs["input_ids"][row][places + 1], supervised[places])
        assert int(batch.inputs["attention_mask"][row].sum()) == places[-1] + 2 == task.cost(items[row])
    assert items[3].inputs["prompt_ids"] == [base.processor.bos_token_id]  # an empty prompt


def test_special_tokens_in_front_are_kept() -> None:
    base, _, _ = built("llama")
    tokenizer = copy.deepcopy(base.processor)
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 6)])
    base = Base(name="b", model=base.model, processor=tokenizer)
    task = Generation.build(pairs(PAIRS), base, GenerationSettings(max_length=8))
    assert task.front_ids == (6,)
    (item,) = task.prepare(
        base, PromptExample(file="f", line=1, prompt="the quick brown fox jumps over", completion="the dog")
    )
    assert item.inputs["prompt_ids"][0] == 6
    assert task.cost(item) == 8
    first, *_ = task.prepare(base, TextExample(file="f", line=1, text=TEXT[0]))
    assert first.inputs["prompt_ids"] == [6]


def test_special_tokens_that_the_data_bring_along_stand_once() -> None:
    from tokenizers.processors import TemplateProcessing

    base, _, _ = built("llama")
    tokenizer = copy.deepcopy(base.processor)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 6)])
    base = Base(name="b", model=base.model, processor=tokenizer)
    bare, marked = pairs([("the dog", "runs away")]), pairs([("<s>the dog", "runs away</s>\n")])
    for rows in (bare, marked):
        task = Generation.build(rows, base, GenerationSettings())
        ((one,), (other,)) = (task.prepare(base, *task.read(given)) for given in (bare, marked))
        assert one == other
        assert one.targets["completion_ids"].count(5) == one.inputs["prompt_ids"].count(6) == 1
        (example,) = task.read(marked)
        assert task.statistics({"text": "runs away"}, example)["exact_match"].tolist() == [1, 1]
    with pytest.raises(DataError, match=r"pairs.jsonl:1: the completion is '</s>' alone"):
        list(task.read(pairs([("the dog", "</s>")])))
    text = Generation.build(lines(TEXT), base, GenerationSettings())
    ((one, *_), (other, *_)) = (text.prepare(base, *text.read(lines([given]))) for given in (TEXT[0], "<s>" + TEXT[0]))
    assert one == other


def test_the_prompt_gives_way_to_the_completion() -> None:
    base, _, _ = built("llama")
    task = Generation.build(pairs(PAIRS), base, GenerationSettings(max_length=12))
    ids = {text: base.processor(text)["input_ids"] for text in TEXT}
    (item,) = task.prepare(base, PromptExample(file="f", line=1, prompt=TEXT[1], completion="the dog"))
    answer = [*base.processor("the dog")["input_ids"], 5]
    assert item.targets["completion_ids"] == answer
    assert item.inputs["prompt_ids"] == ids[TEXT[1]][-(12 - len(answer)) :]
    assert (item.cut, task.target_tokens([item])) == (True, (len(answer), 0))
    (item,) = task.prepare(base, PromptExample(file="f", line=1, prompt=TEXT[1], completion=TEXT[0]))
    assert item.inputs["prompt_ids"] == ids[TEXT[1]][-1:]
    assert item.targets["completion_ids"] == ids[TEXT[0]][:11]
    assert task.target_tokens([item]) == (11, len(ids[TEXT[0]]) + 1 - 11)
    made = [PromptExample(file="f", line=n, prompt="fox", completion=text) for n, text in enumerate(["dog", TEXT[0]])]
    made.append(PromptExample(file="f", line=2, prompt=TEXT[1], completion="the dog"))
    found = {finding.name: finding.rows for finding in length_findings(task, base, {"train": made})}
    assert found == {"long-rows": ("f:1", "f:2"), "cut-targets": ("f:1",)}


@pytest.mark.parametrize("max_length", [8, 20, 64])
def test_packing_covers_every_token_once(max_length: int) -> None:
    base = tiny_base("qwen3", "generation")
    texts = [*TEXT, "", "the", *TEXT[:3], " ".join(TEXT[:4] * 3), "dog ."]
    task = Generation.build(lines(texts), base, GenerationSettings(max_length=max_length))
    examples = list(task.read([*lines(texts), *lines(["a new file"], "other.txt")]))
    assert {e.file for e in examples} == {"text.txt", "other.txt"}
    mine = [e for e in examples if e.file == "text.txt"]
    assert "".join(e.text for e in mine) == "".join(text + "\n" for text in texts)
    assert all(a.line <= b.line for a, b in itertools.pairwise(mine))
    for example in examples:
        items = task.prepare(base, example)
        ids = base.processor(example.text, add_special_tokens=False)["input_ids"]
        assert [token for item in items for token in item.targets["completion_ids"]] == ids[1:]
        whole = [[*item.inputs["prompt_ids"], *item.targets["completion_ids"]] for item in items]
        assert all(2 <= len(window) <= max_length for window in whole)
        assert all(a[-1] == b[0] for a, b in itertools.pairwise(whole))
        assert [item.part for item in items] == list(range(len(items)))


@pytest.mark.parametrize("max_length", [8, 64])
def test_rows_of_a_table_are_texts_of_their_own(max_length: int) -> None:
    """Each ends with the end token, once where it has one already; lines of a text file go on."""
    base = tiny_base("gpt2", "generation")
    given = [TEXT[0], TEXT[1] + "</s>", TEXT[3] + "\n"]
    for file, ends in (("texts.jsonl", 3), ("text.txt", 1), ("text.txt.gz", 1)):
        rows = lines(given, file)
        task = Generation.build(rows, base, GenerationSettings(max_length=max_length))
        ids = []
        for example in task.read(rows):
            items = task.prepare(base, example)
            ids += items[0].inputs["prompt_ids"] + [token for item in items for token in item.targets["completion_ids"]]
        assert ids.count(task.end_id) == ends
        words = [token for token in ids if token != task.end_id]
        assert words == [token for text in TEXT[:2] + TEXT[3:4] for token in base.processor(text)["input_ids"]]
        assert (ids[-1] == task.end_id) == (ends == 3)
        older = task.model_copy(update={"ends": ()})
        assert "".join(e.text for e in older.read(rows)).count("</s>") == 1


def test_dropped_blank_lines_come_back_as_paragraphs() -> None:
    base = tiny_base("qwen3", "generation")
    rows = [
        Row({"text": text}, "a.txt", line)
        for text, line in (("the dog", 1), ("runs", 2), ("a fox", 5), ("x\ny", 7), ("z", 9))
    ]
    task = Generation.build(rows, base, GenerationSettings())
    assert task.contiguous
    (example,) = task.read(rows)
    assert example.text == "the dog\nruns\n\na fox\n\nx\ny\nz\n"
    assert not Generation.build(pairs(PAIRS), base, GenerationSettings()).contiguous


def test_pieces_put_together_are_the_text() -> None:
    for text in ("a bc def  ghij\nklmnopqrstuvwxyz", "x" * 30, "", "a\n"):
        for limit in (1, 4, 10, 100):
            parts = list(pieces(text, limit))
            assert "".join(parts) == text
            assert all(len(part) <= limit for part in parts)


def test_plain_text_is_scored_and_not_decoded() -> None:
    base = tiny_base("gpt2", "generation")
    task = Generation.build(lines(TEXT), base, GenerationSettings(max_length=16, max_new_tokens=4))
    examples = list(task.read(lines(TEXT * 2)))
    records, total, count = [], 0.0, 0
    for example in examples:
        items = task.prepare(base, example)
        raw = task.predict(base, base.model, task.collate(base, items, "score"), frozenset(task.scores))
        prediction = task.join(example, raw)
        assert set(prediction) == {"nll", "tokens", "whole"}
        records.append(task.statistics(prediction, example))
        for item in items:
            ids = torch.tensor([[*item.inputs["prompt_ids"], *item.targets["completion_ids"]]])
            total += float(base.model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    scores = task.reduce(records, np.ones((1, len(records))))
    assert set(scores) == {"cross_entropy", "perplexity"}
    assert scores["cross_entropy"][0] == pytest.approx(total / count, rel=1e-6)
    made = task.predict(base, base.model, task.collate(base, items, "score"), frozenset({"output"}))
    assert task.render(task.join(example, made)) == {"output": made[-1]["text"]}


def test_texts_of_one_token_and_of_none() -> None:
    """The tokenizer puts nothing before a text: the start token does. The data check and scores take both."""
    base = tiny_base("gpt2", "generation")
    rows = [row for n, text in enumerate(["dog", "  ", TEXT[0]]) for row in lines([text], f"{n}.txt")]
    task = Generation.build(rows, base, GenerationSettings(max_new_tokens=2))
    examples = list(task.read(rows))
    one, none, _ = (task.prepare(base, example) for example in examples)
    (dog,) = base.processor("dog", add_special_tokens=False)["input_ids"]
    assert (one[0].inputs["prompt_ids"], one[0].targets["completion_ids"]) == ([task.start_id], [dog])
    assert task.units(task.collate(base, one, "train")) == {"cross_entropy": 1}
    assert none == ()
    assert {f.name for f in report_of(task, {"train": examples}, base)} == {"blank-text", "no-letters"}
    scored = [{"nll": 2.0, "tokens": 1, "whole": True}]
    records = [task.statistics(task.join(e, raw), e) for e, raw in zip(examples, (scored, []), strict=False)]
    assert task.reduce(records, np.ones((1, 2)))["cross_entropy"].tolist() == [2.0]
    assert task.render(task.join(examples[1], [])) == {"output": ""}


def test_unlabelled_rows_are_continued_one_by_one() -> None:
    base, task, _ = built("qwen3", max_new_tokens=4)
    given = [Row({"prompt": "the dog"}, "a", 1), Row({"text": "the fox"}, "a", 2), Row({"text": "soup"}, "a", 3)]
    assert [task.has_target(row) for row in given] == [False, True, True]
    examples = list(task.read(given, labelled=False))
    assert [example.prompt for example in examples] == ["the dog", "the fox", "soup"]
    items = [item for example in examples for item in task.prepare(base, example)]
    assert all(task.cost(item) == len(item.inputs["decode_ids"]) for item in items)
    made = task.predict(base, base.model, task.collate(base, items, "predict"), frozenset({"output"}))
    reference = task.as_reference(task.join(examples[0], made[:1]), examples[0])
    assert task.statistics(made[0], reference)["exact_match"].tolist() == [1, 1]
    silent = task.as_reference({"text": "", "ids": (task.end_id,)}, examples[0])
    assert task.prepare(base, silent)[0].targets["completion_ids"] == [task.end_id]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_of_a_reference_the_tokens_that_the_base_wrote_are_scored_and_no_others(num_beams: int) -> None:
    """An output that the limit or a stop string cut has no end token, though padding behind it looks like one."""
    base, task, items = built("llama", max_new_tokens=6, num_beams=num_beams)
    base = replace(base, processor=copy.deepcopy(base.processor))
    base.processor.pad_token = base.processor.eos_token
    examples = list(task.read(pairs(PAIRS), labelled=False))
    free = task.predict(base, base.model, task.collate(base, items, "predict"), frozenset({"output"}))
    stop = next(entry["text"].split()[1] for entry in free if len(entry["text"].split()) > 2)
    stopping = task.model_copy(update={"settings": task.settings.model_copy(update={"stop": (stop,)})})
    kinds = set()
    for made_by in (task, stopping):
        made = made_by.predict(base, base.model, task.collate(base, items, "predict"), frozenset({"output"}))
        for entry, example in zip(made, examples, strict=True):
            (item,) = task.prepare(base, task.as_reference(entry, example))
            (asked,) = task.prepare(base, example)
            assert item.inputs["prompt_ids"] == asked.inputs["decode_ids"]
            assert item.targets["completion_ids"] == list(entry["ids"])
            text = base.processor.decode(entry["ids"], skip_special_tokens=True)
            ended = bool(entry["ids"]) and entry["ids"][-1] == task.end_id
            stopped = made_by is stopping and stop in text
            assert text.split(stop)[0] == entry["text"] if stopped else text == entry["text"]
            assert entry["unfinished"] == (not ended and not stopped)
            assert not entry["unfinished"] or len(entry["ids"]) == 6
            kinds.add("stopped" if stopped else "unfinished" if entry["unfinished"] else "ended")
    assert {"stopped", "unfinished"} <= kinds
    nothing = replace(examples[0], completion="", written=())
    batch = task.collate(base, list(task.prepare(base, nothing)), "score")
    (entry,) = task.predict(base, base.model, batch, frozenset({"cross_entropy"}))
    assert (entry["nll"], entry["tokens"]) == (0, 0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"prompt": "a"}, "no column 'completion'"),
        ({"completion": "a"}, "no column 'prompt'"),
        ({"prompt": 3, "completion": "a"}, "must be text"),
        ({"prompt": "a", "completion": "\n"}, "'completion' is empty"),
        ({"text": None}, "must be text"),
    ],
)
def test_a_bad_row_is_named(values: dict[str, Any], says: str) -> None:
    _, task, _ = built("gpt2")
    with pytest.raises(DataError, match=says) as caught:
        list(task.read([Row({"prompt": "x", "completion": "y"}, "a.jsonl", 1), Row(values, "a.jsonl", 7)]))
    assert caught.value.where == "a.jsonl:7"


def test_check_finds_what_is_wrong() -> None:
    _, task, _ = built("gpt2")
    made = [
        PromptExample(file="f", line=1, prompt=" ", completion="a"),
        PromptExample(file="f", line=2, prompt="a  b", completion="a b"),
        TextExample(file="f", line=3, text="\n\n"),
    ]
    found = {finding.name: finding.rows for finding in task.check(made)}
    assert found == {"empty-prompt": ("f:1",), "echo": ("f:2",), "blank-text": ("f:3",)}


def test_a_base_without_a_limit_is_said_to_have_none() -> None:
    base, _, _ = built("gpt2")
    config = copy.deepcopy(base.model.config)
    config.n_positions = 10**30  # as bases with relative positions
    model = copy.copy(base.model)
    model.config = config
    tokenizer = copy.deepcopy(base.processor)
    tokenizer.model_max_length = int(1e30)
    task = Generation.build(pairs(PAIRS), replace(base, model=model, processor=tokenizer), GenerationSettings())
    assert task.long_remedy == "--set task.max_length=..., or shorten them."


def test_bare_inputs_are_prompts() -> None:
    _, task, _ = built("gpt2")
    (example,) = task.read([Row(task.from_bare("the dog"), "input", 1)], labelled=False)
    assert example == PromptExample(file="input", line=1, prompt="the dog", completion=None)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(RecipeError, match="num_beams=2"):
        built("gpt2", sample=True, num_beams=2)
    for name, value in (("temperature", 0.3), ("top_p", 0.5)):
        with pytest.raises(RecipeError, match=rf"task.{name}: got {name}={value}.*task.sample=true"):
            built("gpt2", **{name: value})


def test_the_task_survives_json() -> None:
    _, task, _ = built("gpt2", stop=("\n", "###"))
    assert Generation.model_validate_json(task.model_dump_json()) == task


# --- what many rows share


def of(prompts: list[str], *, first: int = 0) -> list[Row]:
    """Each prompt with a completion of its own."""
    words = "".join(TEXT).split()
    draw = np.random.default_rng(first)
    return pairs([(prompt, " ".join(draw.choice(words, 8))) for prompt in prompts])


def test_one_prompt_of_many_completions_can_be_parted() -> None:
    rows = of(["Write a haiku."] * 60)
    task = Generation.build(rows, tiny_base("gpt2", "generation"), GenerationSettings())
    examples = list(task.read(rows))
    rest, part, _ = split(task, examples, fraction=0.2, seed=0)
    assert (len(rest), len(part)) == (48, 12)
    assert without_leaks(task, rest, part, "test", DataSettings(), []) == rest
    twice = [*examples, examples[0]]
    assert without_leaks(task, twice, examples[:1], "test", DataSettings(), []) == examples[1:]
    found = {finding.name: finding for finding in report_of(task, {"train": examples, "test": part})}
    assert set(found) == {"shared-prompts", "leaks"}
    assert (found["shared-prompts"].severity, found["shared-prompts"].count) == ("note", 72)
    (asked,) = task.read(rows[:1], labelled=False)
    assert task.keys(asked).input == "writeahaiku"


def test_prompts_of_few_rows_are_inputs() -> None:
    """Ten answers to each of 12 questions: rows of one question stay together, and given parts that share them say what helps."""
    rows = of([f"What is the {word} like?" for word in "abcdefghijkl" for _ in range(10)])
    task = Generation.build(rows, tiny_base("gpt2", "generation"), GenerationSettings())
    examples = list(task.read(rows))
    assert task.shared_prompts == ()
    rest, part, _ = split(task, examples, fraction=0.2, seed=0)
    assert {e.prompt for e in rest}.isdisjoint(e.prompt for e in part)
    with pytest.raises(DataError, match=r"every row of train also stands in test.*--keep-leaks"):
        without_leaks(task, examples[::2], examples[1::2], "test", DataSettings(), [])
    few = of(["a b"] * 4 + ["c d"] * 4)
    assert Generation.build(few, tiny_base("gpt2", "generation"), GenerationSettings()).shared_prompts == ()


def test_a_system_message_of_many_chats_makes_them_no_duplicates() -> None:
    told = [
        "You are the assistant of the Grand Hotel and answer politely, in whole sentences. " * 6,
        "Answer as a pirate. " * 20,
    ]
    asked = [row.values["completion"] for row in of(["x"] * 60)]
    chats = [
        Row({"messages": [{"role": "system", "content": system}, {"role": "user", "content": text},
                          {"role": "assistant", "content": f"{text} {system[:20]}"}]}, "c.jsonl", number)
        for number, (system, text) in enumerate([(told[0], text) for text in asked] + [(told[1], text) for text in asked[:20]])
    ]  # fmt: skip
    task = Generation.build(chats, tiny_base("gpt2", "generation"), GenerationSettings())
    assert len(task.shared_systems) == 2
    examples = list(task.read(chats))
    assert len(set(inseparable(task, examples[:60]))) == 60
    parts = {"train": examples[:40], "test": examples[40:60]}
    assert {finding.name for finding in report_of(task, parts)} == {"no-chat-template"}
    # One question under two messages is no leak and no conflict, since answers may differ; it is almost equal, and stays together.
    numbers = inseparable(task, examples)
    assert numbers[60:] == numbers[:20]
    both = {finding.name: finding.count for finding in report_of(task, {"train": examples[:60], "test": examples[60:]})}
    assert both == {"no-chat-template": 80, "near-duplicates": 20}


def test_what_differs_in_the_system_message_alone_is_compared_by_it() -> None:
    texts = [row.values["completion"] for row in of(["x"] * 30)]
    chats = [
        Row({"messages": [{"role": "system", "content": text}, {"role": "user", "content": "Sum it up."},
                          {"role": "assistant", "content": text[:9]}]}, "c.jsonl", number)
        for number, text in enumerate(texts)
    ]  # fmt: skip
    task = Generation.build(chats, tiny_base("gpt2", "generation"), GenerationSettings())
    assert len(set(inseparable(task, list(task.read(chats))))) == 30
