"""The verdict follows the rules in their order."""

import math

import numpy as np
import pytest

from domaintune.balance.frontier import Point, choose, why_the_base
from domaintune.confirm import majority_score
from domaintune.evaluation.intervals import Estimate, bootstrap_weights, gain_estimate, retention_estimate
from domaintune.evaluation.verdict import Confirmed, judge
from domaintune.tasks.base import Primary
from domaintune.tasks.text_classification import TextClassification, TextExample


def estimate(value, half, lower=None):
    return Estimate(value, value - half, value + half, value - half * 0.84 if lower is None else lower)


def verdict(chosen, full, *, test_rows=400, majority=None):
    return judge(
        chosen,
        full,
        floor=0.95,
        test_rows=test_rows,
        general_rows=300,
        why_the_base="the reason",
        majority=majority,
    )


def at(strength, gain, kept, kind="ratio"):
    return Confirmed(strength, gain, kept, kind)


def test_deploy():
    good = at(0.75, estimate(0.1, 0.03), estimate(0.99, 0.02))
    assert verdict(good, good).kind == "deploy"


def test_trade_when_nothing_qualifies_but_full_gains():
    full = at(1.0, estimate(0.1, 0.03), estimate(0.8, 0.05))
    made = verdict(at(0.0, estimate(0.0, 0.0), estimate(1.0, 0.0)), full)
    assert made.kind == "trade"
    assert made.sentence.startswith("A trade: the reason; at strength 1: gain +0.100")


@pytest.mark.parametrize(
    ("kept", "kind", "told"),
    [
        (0.8, "ratio", "retention is below the floor of 0.95 (balance.floor); at strength 0.75: gain +0.100"),
        (0.8, "difference", "change of the general score is below the floor of -0.05 (balance.floor less 1); at"),
        (0.8, "agreement", "agreement is below the floor of 0.95 (balance.keep_agreement); at strength 0.75"),
    ],
)
def test_a_sure_gain_at_a_sure_loss_is_a_trade_at_any_strength(kept, kind, told):
    paid = at(0.75, estimate(0.1, 0.03), estimate(kept, 0.05), kind)
    made = verdict(paid, paid)
    assert made.kind == "trade"
    assert made.sentence.startswith(f"A trade: {told}")
    assert made.sentence.endswith("]; a lower strength would lose less.") or kind == "difference"
    assert (made.test_rows_needed, made.general_rows_needed) == (None, None)
    for gain, kept_there in ((estimate(0.1, 0.03), estimate(0.92, 0.05)), (estimate(0.02, 0.03), estimate(0.98, 0.04))):
        unsure = at(0.75, gain, kept_there, kind)
        assert verdict(unsure, unsure).kind == "too close to call"
    constant = Confirmed(0.75, estimate(0.4, 0.2), estimate(0.8, 0.02), kind, score=0.95)
    assert verdict(constant, constant, majority=0.958).kind == "too close to call"


def test_where_the_base_was_chosen_the_numbers_are_said_to_be_strength_1s():
    full = at(1.0, estimate(-0.08, 0.12), estimate(0.99, 0.05))
    made = verdict(at(0.0, estimate(0.0, 0.0), estimate(1.0, 0.0)), full)
    assert made.sentence.startswith("Too close to call: at strength 1: gain -0.080")
    worse = verdict(
        at(0.0, estimate(0.0, 0.0), estimate(1.0, 0.0)), at(1.0, estimate(-0.08, 0.02), estimate(0.9, 0.05))
    )
    assert worse.sentence.startswith("Keep the base: at strength 1: gain")


def test_strengths_that_differ_between_seeds_are_all_told():
    good = Confirmed(0.25, estimate(0.1, 0.03), estimate(0.99, 0.02), told="each run's own strength (0.25, 0.5)")
    assert verdict(good, good).sentence.startswith("Deploy at each run's own strength (0.25, 0.5): gain")


@pytest.mark.parametrize(
    ("domain", "retention", "why"),
    [
        ((0.6, 0.7, 0.8), (1.0, 0.97984, 0.9), "none above 0 keeps 98 % (most: 97.98 %, at 0.5)"),
        ((0.6, 0.5, 0.6), (1.0, 0.99, 0.7), "none that keeps enough is better than the base"),
    ],
)
def test_it_is_told_why_the_base_was_chosen(domain, retention, why):
    frontier = [Point(s, d, r, r) for s, d, r in zip((0.0, 0.5, 1.0), domain, retention, strict=True)]
    assert choose(frontier, keep=0.98, primary=Primary("accuracy")) == 0
    assert why_the_base(frontier, keep=0.98, primary=Primary("accuracy")) == f"where strengths are chosen, {why}"


def test_a_strength_that_keeps_just_enough_qualifies_whatever_rounding_does():
    """Of 85 general rows the base has 50 right, the tuned model 49: .98, of which floats make a little less."""
    kept = (49 / 85) / (50 / 85)
    assert kept < 0.98
    frontier = [Point(s, d, r, r) for s, d, r in ((0.0, 0.6, 1.0), (0.5, 0.7, kept), (1.0, 0.8, 0.979))]
    assert choose(frontier, keep=0.98, primary=Primary("accuracy")) == 0.5
    worse = [Point(p.strength, 0.6 - p.strength / 10, p.general, p.retention) for p in frontier]
    assert choose(worse, keep=0.98, primary=Primary("accuracy")) == 0
    told = why_the_base(worse, keep=0.98, primary=Primary("accuracy"))
    assert told == "where strengths are chosen, none that keeps enough is better than the base"


def test_of_a_score_near_0_its_change_says_why_the_base_was_chosen():
    frontier = [Point(s, s, 0.04 - s / 25, 1 - s / 25) for s in (0.0, 0.75, 1.0)]
    told = "none above 0 changes the general score by -0.02 or better (best: -0.030, at 0.75)"
    assert told in why_the_base(frontier, keep=0.98, primary=Primary("mAP"))


def test_keep_the_base_on_a_loss_and_on_no_gain_with_loss():
    worse = at(1.0, estimate(-0.1, 0.05), estimate(1.0, 0.05))
    assert verdict(worse, worse).kind == "keep the base"
    paid = at(1.0, estimate(0.0, 0.02), estimate(0.9, 0.03))
    assert verdict(paid, paid).kind == "keep the base"


def test_open_says_how_many_rows():
    result = verdict(*[at(1.0, estimate(0.02, 0.04), estimate(0.99, 0.02))] * 2)
    assert result.kind == "too close to call"
    assert (
        result.test_rows_needed == 3270
    )  # half-width .04 must halve, four times 400, and 2.04 times for a power of .8
    result = verdict(*[at(1.0, estimate(0.1, 0.02), estimate(0.97, 0.08, lower=0.93))] * 2)
    assert result.general_rows_needed == 2750  # of 300 four times, and 2.29 for one side


def test_so_many_rows_show_a_gain_in_four_of_five_cases():
    """A gain of .1 of rows won and lost: named from one test part, seen in others of that size."""
    generator = np.random.default_rng(0)

    def interval(rows):
        delta = generator.choice([1, -1, 0], rows, p=[0.25, 0.15, 0.6])
        return delta.mean(), 1.96 * delta.std() / np.sqrt(rows)

    named = []
    while len(named) < 200:
        value, half = interval(60)
        if value - half <= 0 < value:
            made = verdict(*[at(1.0, estimate(0.1, half), None)] * 2, test_rows=60)
            named.append(made.test_rows_needed)
    shown = [value > half for value, half in (interval(int(np.median(named))) for _ in range(2000))]
    assert 0.7 < np.mean(shown) < 0.9


class Right:
    """A task of right and wrong alone."""

    primary = Primary("accuracy", binary=True)

    @staticmethod
    def reduce(records, weights):
        return {"accuracy": weights @ np.array([record["correct"] for record in records]) / weights.sum(1)}


def estimates(rows, *, won, lost, wrong=0):
    """Gain, and retention of the same rows: so many that only the tuned model, only the base, and neither has right."""
    answers = [(1.0, 0.0)] * won + [(0.0, 1.0)] * lost + [(0.0, 0.0)] * wrong
    answers += [(1.0, 1.0)] * (rows - len(answers))
    tuned, base = ([{"correct": np.asarray(pair[side])} for pair in answers] for side in (0, 1))
    weights = bootstrap_weights(rows, draws=300, seed=0)
    return gain_estimate(Right, tuned, base, weights), retention_estimate(Right, tuned, base, weights)[0]


@pytest.mark.parametrize(
    ("rows", "won", "lost", "least"),
    [
        (50, 3, 0, 120),
        (50, 2, 0, 200),
        (40, 4, 0, 80),
        (50, 3, 1, 400),
        (100, 3, 0, 250),
        (10, 3, 0, 23),
        (60, 9, 4, 260),
    ],
)
def test_where_few_rows_differ_no_more_test_rows_are_asked_for_than_decide(rows, won, lost, least):
    """`least`: with which the gain is shown in 4 of 5 samples of these rates, found by trying all numbers."""
    gain = estimates(rows, won=won, lost=lost)[0]
    asked = verdict(*[at(1.0, gain, None)] * 2, test_rows=rows).test_rows_needed
    assert 0.95 * least <= asked <= 1.6 * least
    generator = np.random.default_rng(0)
    rates = np.array([won, lost, rows - won - lost]) / rows
    samples = generator.multinomial(asked, rates, size=40)[:, :2]
    assert np.mean([estimates(asked, won=w, lost=k)[0].low > 0 for w, k in samples]) > 0.7


@pytest.mark.parametrize(
    ("rows", "won", "lost", "least"),
    [(20, 0, 0, 92), (50, 0, 0, 92), (50, 0, 1, 300), (150, 0, 3, 300), (60, 2, 2, 280)],
)
def test_where_few_rows_differ_no_more_general_rows_are_asked_for_than_decide(rows, won, lost, least):
    share = 0.2
    kept = estimates(rows, won=won, lost=lost, wrong=round(share * rows) - won)[1]
    made = judge(
        *[at(1.0, estimate(0.1, 0.02), kept)] * 2, floor=0.95, test_rows=400, general_rows=rows, why_the_base=""
    )
    asked = made.general_rows_needed
    assert 0.75 * least <= asked <= 1.6 * least
    generator = np.random.default_rng(0)
    samples = generator.multinomial(asked, np.array([won, lost, rows - won - lost]) / rows, size=40)[:, :2]
    settled = [estimates(asked, won=w, lost=k, wrong=round(share * asked) - w)[1].lower >= 0.95 for w, k in samples]
    assert np.mean(settled) > 0.7


@pytest.mark.parametrize("half", [0.04, 0.2])
def test_of_several_seeds_it_is_told_whether_rows_or_seeds_decide(half):
    """The seeds' part of the half-width, which rows do not narrow, lies beyond the gain, near it, or far below."""
    for of_seeds, rows in ((0.7 * half, None), (0.495 * half, None), (0.1 * half, 3440)):
        side = Confirmed(1.0, estimate(half / 2, half), None, seeds=3, gain_of_seeds=of_seeds)
        made = verdict(side, side)
        assert made.test_rows_needed == rows
        assert ("more seeds (now 3) are needed to show a gain of this size" in made.sentence) == (rows is None)
        assert "test rows" in made.sentence
    kept = Confirmed(1.0, estimate(0.1, 0.02), estimate(0.97, 0.08, lower=0.93), seeds=2, kept_of_seeds=0.03)
    made = verdict(kept, kept)
    assert made.general_rows_needed is None
    assert "more seeds (now 2) are needed to settle the retention" in made.sentence


def test_rows_asked_for_over_seeds_leave_the_seeds_part_as_it_is():
    """A half-width of .04 over 400 rows, of which .012 are the seeds': the rows' part shrinks until both leave out a gain of .02."""
    side = Confirmed(1.0, estimate(0.02, 0.04), None, seeds=3, gain_of_seeds=0.012)
    asked = verdict(side, side).test_rows_needed
    part = math.sqrt((0.04**2 - 0.012**2) * 400 / asked)
    assert math.hypot(part, 0.012) + 0.8416 * part / 1.96 == pytest.approx(0.02, rel=0.002)


def test_a_constant_answer_is_no_gain():
    made = verdict(*[Confirmed(1.0, estimate(0.4, 0.2), estimate(0.99, 0.02), score=0.958)] * 2, majority=0.958)
    assert made.kind == "too close to call"
    assert "always the commonest answer scores 0.958 as well" in made.sentence
    base = Confirmed(0.0, estimate(0.0, 0.0), estimate(1.0, 0.0), score=0.55)
    full = Confirmed(1.0, estimate(0.4, 0.2), estimate(0.8, 0.02), score=0.95)
    assert verdict(base, full, majority=0.958).kind == "too close to call"
    assert verdict(base, full, majority=0.9).kind == "trade"
    better = Confirmed(1.0, estimate(0.4, 0.2), estimate(0.99, 0.02), score=0.97)
    assert verdict(better, better, majority=0.958).kind == "deploy"


def test_of_several_labels_a_row_the_commonest_answer_is_the_commonest_set():
    task = TextClassification(
        labels=("food", "room", "staff"), multi_label=True, max_length=64, text_column="text", label_column="label",
        label_separator="|", weights=None,
    )  # fmt: skip
    rows = [
        TextExample(file="x", line=n, text=f"{n}", labels=labels)
        for n, labels in enumerate([*[(0,)] * 4, *[(1, 2), (2, 1), (1,), (2,), ()] * 2, (1, 2)])
    ]
    assert majority_score(task, rows, rows) == 5 / 15  # room and staff, each of them less often right alone
    assert majority_score(task, rows, rows[:4]) == 0.0


def test_where_nothing_is_left_to_gain_no_rows_are_asked_for():
    made = verdict(*[Confirmed(1.0, estimate(0.0, 0.02), None, score=1.0)] * 2)
    assert "leaves next to nothing to gain" in made.sentence
    assert "training rows" not in made.sentence


def test_no_one_is_told_to_label_more_rows_than_anyone_would():
    result = verdict(*[at(1.0, estimate(0.1, 0.02), estimate(0.951, 0.08, lower=0.9))] * 2)
    assert result.general_rows_needed is None
    assert "too little above the floor of 0.95 for 10,000 general rows to show" in result.sentence
    result = verdict(*[at(1.0, estimate(0.001, 0.04), estimate(0.99, 0.02))] * 2)
    assert result.test_rows_needed is None
    assert "more than 10,000 test rows" in result.sentence


def test_without_general_data_the_gain_decides():
    assert verdict(*[at(1.0, estimate(0.1, 0.02), None)] * 2).kind == "deploy"
    assert "unknown" in verdict(*[at(1.0, estimate(0.1, 0.02), None)] * 2).sentence


def test_agreement_uses_its_threshold():
    agrees = at(1.0, estimate(0.1, 0.02), estimate(0.97, 0.01), "agreement")
    assert verdict(agrees, agrees).kind == "deploy"
    unlike = at(1.0, estimate(0.0, 0.02), estimate(0.9, 0.01), "agreement")
    assert verdict(unlike, unlike).kind == "keep the base"


def test_what_is_kept_has_its_own_name_and_remedy():
    unlike = at(1.0, estimate(0.1, 0.02), estimate(0.93, 0.01), "agreement")
    told = verdict(unlike, unlike).sentence
    assert "agreement with the base 93.0 %" in told
    assert "agreement is below the floor of 0.95" in told
    assert "balance.keep_agreement" in told
    assert "retention" not in told
    one = at(1.0, estimate(0.1, math.inf), estimate(0.93, math.inf))
    assert "gain +0.100 (no bounds), retention 93.0 % (no bounds); " in verdict(one, one).sentence
    unsure = at(1.0, estimate(0.1, 0.02), estimate(1.1, 0.5), "likelihood")
    told = verdict(unsure, unsure).sentence
    assert "kept likelihood of the base's answers 110.0 % [60.0, 160.0]" in told
    assert "would settle the likelihood" in told
    assert "agreement" not in told
    lost = at(1.0, estimate(0.1, 0.02), estimate(0.955, 0.02), "difference")
    told = verdict(lost, lost).sentence
    assert "general score -0.045 [-0.065, -0.025] (the base's is too near 0 for a ratio)" in told
    assert "would settle the change of the general score" in told
    assert "95.5" not in told
    assert "retention" not in told
    more = at(1.0, estimate(0.1, 0.02), estimate(0.93, 0.02), "difference")
    told = verdict(more, more).sentence
    assert "change of the general score is below the floor of -0.05 (balance.floor less 1)" in told


@pytest.mark.parametrize("low", [-1.0, -float("inf")])
def test_a_test_part_of_one_group_decides_nothing(low):
    gain = Estimate(0.15, low, 1.0, low)
    made = verdict(*[at(1.0, gain, estimate(0.99, 0.02))] * 2)
    assert made.kind == "too close to call"
    assert "too few rows" in made.sentence
    assert made.test_rows_needed is None


@pytest.mark.parametrize(
    ("scores", "kept", "expected"),
    [
        ([0.7, 0.8, 0.85, 0.9, 0.92], [1, 1, 0.99, 0.97, 0.9], 0.5),
        ([0.7, 0.8, 0.8, 0.8, 0.8], [1, 1, 1, 1, 1], 0.25),  # ties take the lower
        ([0.7, 0.8, 0.9, 0.9, 0.9], [1, 0.9, 0.9, 0.9, 0.9], 0.0),
        ([0.7, 0.6, 0.5, 0.4, 0.3], [1, 1, 1, 1, 1], 0.0),
    ],
)
def test_choice_of_strength(scores, kept, expected):
    strengths = (0, 0.25, 0.5, 0.75, 1)
    frontier = [Point(s, d, 0.8, k) for s, d, k in zip(strengths, scores, kept, strict=True)]
    assert choose(frontier, keep=0.98, primary=Primary("accuracy")) == expected
    loss = [Point(s, -d, 0.8, k) for s, d, k in zip(strengths, scores, kept, strict=True)]
    assert choose(loss, keep=0.98, primary=Primary("cross_entropy", higher_is_better=False)) == expected
    alone = [Point(s, d, None, None) for s, d in zip(strengths, scores, strict=True)]
    assert choose(alone, keep=0.98, primary=Primary("accuracy")) == 1.0
