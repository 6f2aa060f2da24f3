"""Intervals have their nominal coverage, exact bounds equal scipy's, and groups stay together."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from domaintune.evaluation import intervals
from domaintune.evaluation.over_seeds import OverSeeds
from domaintune.evaluation.paired import difference
from domaintune.report.wording import change
from domaintune.tasks.base import Primary
from domaintune.tasks.detection_metric import match_boxes, mean_average_precision
from domaintune.terminal import signed


def accuracy_task(binary=True, higher=True):
    def reduce(records, weights):
        values = np.array([r["correct"] for r in records])
        return {"accuracy": weights @ values / weights.sum(1)}

    return SimpleNamespace(primary=Primary("accuracy", higher_is_better=higher, binary=binary), reduce=reduce)


def records(values):
    return [{"correct": np.float64(v)} for v in values]


def test_weights_are_resamples():
    weights = intervals.bootstrap_weights(50, draws=200, seed=1)
    assert (weights.sum(1) == 50).all()
    assert weights.mean() == pytest.approx(1.0)
    assert (weights == intervals.bootstrap_weights(50, draws=200, seed=1)).all()


def test_groups_are_drawn_whole():
    groups = ["a", "a", "b", None, None]
    weights = intervals.bootstrap_weights(5, draws=500, seed=0, groups=groups)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] != weights[:, 4]).any()
    drawn = weights[:, 0] + weights[:, 2] + weights[:, 3] + weights[:, 4]
    assert (drawn == 4).all()


def test_binomial_bounds_equal_scipy():
    for k, n in [(0, 10), (3, 10), (10, 10), (97, 100)]:
        expected = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
        assert intervals.binomial_bounds(k, n) == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_bootstrap_interval_covers():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = (generator.random(120) < 0.7).astype(float)
        weights = intervals.bootstrap_weights(120, draws=300, seed=trial)
        estimate = intervals.score_estimates(accuracy_task(), records(values), weights)["accuracy"]
        covered += estimate.low <= 0.7 <= estimate.high
    assert 0.90 <= covered / 200 <= 0.99


def test_gain_is_paired_and_signed():
    base = np.array([1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1] * 5, dtype=float)
    tuned = np.maximum(base, np.array([0, 1] * 30))
    weights = intervals.bootstrap_weights(60, draws=500, seed=0)
    gain = intervals.gain_estimate(accuracy_task(), records(tuned), records(base), weights)
    assert gain.value == pytest.approx(tuned.mean() - base.mean())
    assert gain.low > 0
    loss = intervals.gain_estimate(accuracy_task(binary=False, higher=False), records(tuned), records(base), weights)
    assert loss.value == pytest.approx(-gain.value)
    assert loss.high == pytest.approx(-gain.low, abs=1e-9)


def test_few_differences_get_exact_bounds():
    base = np.ones(100)
    tuned = base.copy()
    tuned[:2] = 0
    weights = intervals.bootstrap_weights(100, draws=300, seed=0)
    gain = intervals.gain_estimate(accuracy_task(), records(tuned), records(base), weights)
    assert gain.how == "exact"
    assert gain.differing == 2
    assert gain.low < -0.02 < gain.high  # wider than the bootstrap, and above 0 since wins may hide
    assert gain.high > 0
    same = intervals.gain_estimate(accuracy_task(), records(base), records(base), weights)
    assert same.value == 0
    assert same.low < 0 < same.high


def test_retention_is_a_ratio_a_difference_or_an_exponential():
    base, tuned = np.array([1.0] * 80 + [0.0] * 20), np.array([1.0] * 72 + [0.0] * 28)
    weights = intervals.bootstrap_weights(100, draws=300, seed=0)
    kept, kind = intervals.retention_estimate(accuracy_task(), records(tuned), records(base), weights)
    assert kind == "ratio"
    assert kept.value == pytest.approx(0.9)
    assert kept.low < kept.lower < 0.9 < kept.high
    weak = np.array([1.0] * 2 + [0.0] * 98)
    kept, kind = intervals.retention_estimate(accuracy_task(), records(np.zeros(100)), records(weak), weights)
    assert kind == "difference"
    assert kept.value == pytest.approx(0.98)
    kept, kind = intervals.retention_estimate(
        accuracy_task(binary=False, higher=False), records(tuned + 2), records(base + 2), weights
    )
    assert kept.value == pytest.approx(np.exp(0.08))


def test_exact_bounds_count_groups() -> None:
    """500 rows of 5 patients say as little as 5 rows."""
    task = accuracy_task()
    right = records([1] * 500)
    groups = [str(n // 100) for n in range(500)]
    weights = intervals.bootstrap_weights(500, draws=300, seed=0, groups=groups)
    assert intervals.drawn_units(weights) == 5
    assert intervals.drawn_units(intervals.bootstrap_weights(500, draws=300, seed=0)) == 500
    for count, groups_of in ((30, 3), (41, 7), (50, 5), (101, 10), (502, 5), (803, 7)):
        names = [str(n % groups_of) for n in range(count)]
        drawn = intervals.bootstrap_weights(count, draws=300, seed=0, groups=names)
        assert intervals.drawn_units(drawn) == groups_of
        whole = intervals.score_estimates(task, records([1] * count), drawn)["accuracy"]
        assert (whole.low, whole.high) == (pytest.approx(intervals.binomial_bounds(groups_of, groups_of)[0]), 1.0)
    made = intervals.score_estimates(task, right, weights)["accuracy"]
    assert (made.low, made.how) == (pytest.approx(intervals.binomial_bounds(5, 5)[0]), "exact")
    base = records([n >= 100 for n in range(500)])  # one patient's rows are won
    few = records([n >= 3 for n in range(500)])
    gain = intervals.gain_estimate(task, right, few, weights)
    assert gain.how == "exact"
    won, lost = (intervals.binomial_bounds(share, 5, level=0.975) for share in (0.03, 0))
    assert gain.low == pytest.approx(won[0] - lost[1])
    whole = intervals.gain_estimate(task, right, base, weights)
    assert (whole.how, whole.low < 0 < whole.lower + 1) == ("exact", True)


@pytest.mark.parametrize("won", [1, 4])
def test_few_groups_that_differ_get_exact_bounds_however_many_rows_they_hold(won):
    """4 of 20 documents won and none lost are no gain beyond chance (a sign test says .125), with 5 rows in each as with one."""
    groups = [str(n // 5) for n in range(100)]
    weights = intervals.bootstrap_weights(100, draws=1000, seed=0, groups=groups)
    tuned, base = records([1] * 100), records([n >= 5 * won for n in range(100)])
    gain = intervals.gain_estimate(accuracy_task(), tuned, base, weights)
    bounds = [intervals.binomial_bounds(count, 20, level=0.975) for count in (won, 0)]
    assert (gain.how, gain.differing, gain.value) == ("exact", 5 * won, pytest.approx(won / 20))
    assert gain.low <= bounds[0][0] - bounds[1][1] < 0
    assert gain.high >= bounds[0][1]
    kept, _ = intervals.retention_estimate(accuracy_task(), base, tuned, weights)
    assert (kept.how, kept.high > 1) == ("exact", True)
    assert kept.value == pytest.approx(1 - won / 20)
    score = intervals.score_estimates(accuracy_task(), base, weights)["accuracy"]
    exact = intervals.binomial_bounds(20 - won, 20)
    assert score.how == "exact"
    assert score.low <= exact[0] < exact[1] <= score.high
    ours, theirs = ([{"hits": int(r["correct"]), "counts": 2} for r in made] for made in (tuned, base))
    assert intervals.gain_estimate(F1(), ours, theirs, weights).low < 0
    five = records([n >= 25 for n in range(100)])
    assert intervals.gain_estimate(accuracy_task(), tuned, five, weights).how == "bootstrap"


def test_where_most_of_a_few_groups_differ_the_bootstrap_shows_how_they_vary():
    """4 patients with 100 rows each, 4 to 7 of which are won: 5 % on each is more than none."""
    groups = [str(n // 100) for n in range(400)]
    weights = intervals.bootstrap_weights(400, draws=1000, seed=0, groups=groups)
    base = records([n % 100 >= 4 + n // 100 for n in range(400)])
    gain = intervals.gain_estimate(accuracy_task(), records([1] * 400), base, weights)
    assert (gain.how, gain.low > 0) == ("bootstrap", True)


class F1:
    """A score that is no mean of rights: twice the hits over both counts."""

    primary = Primary("f1")

    @staticmethod
    def reduce(records, weights):
        hits, counts = (weights @ np.array([float(r[k]) for r in records]) for k in ("hits", "counts"))
        return {"f1": 2 * hits / np.maximum(counts, 1e-12)}


def test_scores_that_are_no_accuracies_have_bounds_where_few_examples_differ():
    """12 rows, none of which differs, say little of what is kept; 4 of 200 that differ show no gain."""
    task = F1()
    same = [{"hits": 1, "counts": 2}] * 12
    weights = intervals.bootstrap_weights(12, draws=500, seed=0)
    found, _ = intervals.retention_estimate(task, same, same, weights)
    share = stats.beta.ppf(0.975, 1, 12)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1 - share, 1 + share))
    assert found.how == "exact"
    base = [{"hits": int(n >= 4), "counts": 2} for n in range(200)]
    tuned = [{"hits": 1, "counts": 2}] * 200
    weights = intervals.bootstrap_weights(200, draws=500, seed=0)
    gain = intervals.gain_estimate(task, tuned, base, weights)
    assert gain.low < 0 < gain.value == pytest.approx(0.02)
    assert gain.high >= 0.02 + stats.beta.ppf(0.975, 5, 196)
    many = [{"hits": int(n >= 20), "counts": 2} for n in range(200)]
    assert intervals.gain_estimate(task, tuned, many, weights).how == "bootstrap"
    large = [{"hits": 1, "counts": 2}] * 3000
    kept, _ = intervals.retention_estimate(task, large, large, intervals.bootstrap_weights(3000, draws=50, seed=0))
    assert kept.lower > 0.995, "none of 3,000 says much"


def test_a_score_of_0_or_1_of_few_rows_is_not_certain():
    task, weights = F1(), intervals.bootstrap_weights(30, draws=200, seed=0)
    made = intervals.score_estimates(task, [{"hits": 1, "counts": 2}] * 30, weights)["f1"]
    assert (made.low, made.high) == (pytest.approx(0.025 ** (1 / 30)), 1.0)
    made = intervals.score_estimates(task, [{"hits": 0, "counts": 2}] * 30, weights)["f1"]
    assert (made.low, made.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 30)))


def test_a_ratio_of_scores_is_not_negative():
    weights = intervals.bootstrap_weights(40, draws=200, seed=0)
    low = [{"hits": int(n < 3), "counts": 2} for n in range(40)]
    kept, kind = intervals.retention_estimate(F1(), low, low, weights)
    assert kind == "ratio"
    assert kept.low == 0.0
    assert kept.lower >= 0.0


class Loss:
    """Nats."""

    primary = Primary("cross_entropy", higher_is_better=False)

    @staticmethod
    def reduce(records, weights):
        values = np.array([float(r["cross_entropy"]) for r in records])
        return {"cross_entropy": weights @ values / weights.sum(1)}


def test_losses_have_no_bounds_in_shares_of_examples():
    """Four blocks of running text: every one differs, and a share of blocks is no number of nats."""
    base, tuned = ([{"cross_entropy": value + 0.01 * n} for n in range(4)] for value in (3.0, 2.5))
    weights = intervals.bootstrap_weights(4, draws=500, seed=0)
    gain = intervals.gain_estimate(Loss(), tuned, base, weights)
    assert (gain.how, gain.low) == ("bootstrap", pytest.approx(0.5))  # every block gained the same
    kept, _ = intervals.retention_estimate(Loss(), tuned, base, weights)
    assert kept.low > 1.5
    assert not any(intervals.differing_records(Loss.primary, tuned, base))


def test_where_nothing_changes_no_zero_is_negative():
    same = [{"cross_entropy": 3.0 + 0.01 * n} for n in range(4)]
    weights = intervals.bootstrap_weights(4, draws=50, seed=0)
    alone = intervals.gain_estimate(Loss(), same, same, weights)
    keys = {"base": ["0"] * 2, "tuned": ["1"] * 2}
    sides = [{"change": {"1": alone.plain()}}] * 2
    seeds = OverSeeds.of(Loss(), dict.fromkeys(keys, [same] * 2), weights, seed=0, keys=keys, confirmed=sides)
    compared, _ = difference(Loss(), [same] * 2, [same] * 2, weights, draws=5, seed=0)
    assert not np.signbit(compared.value)
    for gain in (alone, seeds.gain("tuned")):
        assert not np.signbit([gain.value, gain.low, gain.high, gain.lower]).any()
        assert change(gain.plain(), "gain") == "+0.000 [+0.000, +0.000]"
    stored = dict.fromkeys(("value", "low", "high"), -0.0)  # as older runs hold it
    assert change(stored, "gain") == "+0.000 [+0.000, +0.000]"
    assert signed(stored) == "+0.000\n[+0.00, +0.00]"


@pytest.mark.parametrize("units", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("rows", [1, 10])
def test_intervals_over_few_groups_or_rows_hold_the_truth(units, rows):
    """Blocks of text, or rows of a few patients who differ from each other: no true gain, 95 % intervals."""
    generator, covered, sets = np.random.default_rng(units), 0, 400
    groups = [str(n // rows) for n in range(units * rows)]
    for trial in range(sets):
        of_group = generator.normal(0, 0.2, units).repeat(rows)
        gained = of_group + generator.normal(0, 0.1, units * rows)
        base, tuned = ([{"cross_entropy": v} for v in values] for values in (np.full(len(gained), 3.0), 3.0 - gained))
        weights = intervals.bootstrap_weights(len(groups), draws=400, seed=trial, groups=groups)
        gain = intervals.gain_estimate(Loss(), tuned, base, weights)
        covered += gain.low <= 0 <= gain.high
    assert 0.91 <= covered / sets <= 0.985


def test_one_group_has_no_interval():
    groups = ["patient 7"] * 20
    weights = intervals.bootstrap_weights(20, draws=100, seed=0, groups=groups)
    base, tuned = records([0] * 10 + [1] * 10), records([1] * 16 + [0] * 4)
    gain = intervals.gain_estimate(accuracy_task(), tuned, base, weights)
    assert (gain.low, gain.high, gain.lower) == (-1.0, 1.0, -1.0)
    kept, _ = intervals.retention_estimate(accuracy_task(), tuned, base, weights)
    assert (kept.low, kept.high, kept.lower) == (0.0, np.inf, 0.0)
    score = intervals.score_estimates(accuracy_task(), tuned, weights)["accuracy"]
    assert (score.low, score.high) != (score.value, score.value)


class Macro:
    """Mean recall over the classes of a resample, as a mean over classes loses those that no row has."""

    primary = Primary("macro_f1")

    @staticmethod
    def reduce(records, weights):
        truth, guess = (np.array([r[key] for r in records]) for key in ("truth", "guess"))
        sums = [
            [weights @ ((truth == c) & (guess == c)), weights @ (truth == c), weights @ (guess == c)] for c in range(77)
        ]
        hits, truths, guesses = np.array(sums).transpose(1, 0, 2)
        f1 = np.divide(2 * hits, truths + guesses, out=np.zeros_like(hits), where=truths + guesses > 0)
        return {"macro_f1": f1.sum(0) / ((truths + guesses) > 0).sum(0)}


def test_a_mean_over_many_classes_is_in_its_interval():
    generator, covered, sets = np.random.default_rng(0), 0, 40

    def rows(count):
        truth = generator.integers(0, 77, count)
        guess = np.where(generator.random(count) < 0.8, truth, generator.integers(0, 77, count))
        return [{"truth": t, "guess": g} for t, g in zip(truth, guess, strict=True)]

    true = Macro.reduce(rows(200_000), np.ones((1, 200_000)))["macro_f1"][0]
    for trial in range(sets):
        weights = intervals.bootstrap_weights(300, draws=200, seed=trial)
        made = intervals.score_estimates(Macro(), rows(300), weights)["macro_f1"]
        covered += made.low <= true <= made.high
    assert covered / sets >= 0.85, "plain percentiles hold it half of the time"


def picture_of_boxes(generator, shares, found):
    """One to four objects of which a share is `found` by class, at nearly their place, and on average one box more."""
    count = int(generator.integers(1, 5))
    classes = generator.choice(len(shares), count, p=shares)
    truth = np.column_stack([generator.uniform(0, 80, (count, 2)), generator.uniform(10, 20, (count, 2))])
    seen, more = generator.random(count) < found[classes], generator.poisson(1)
    others = np.column_stack([generator.uniform(0, 80, (more, 2)), generator.uniform(10, 20, (more, 2))])
    return match_boxes(
        boxes=np.concatenate([truth[seen] + generator.normal(0, [1, 1, 0.7, 0.7], (seen.sum(), 4)), others]),
        scores=np.concatenate([generator.beta(4, 2, seen.sum()), generator.beta(2, 4, more)]),
        classes=np.concatenate([classes[seen], generator.choice(len(shares), more, p=shares)]),
        truth_boxes=truth,
        truth_classes=classes,
        crowd=np.zeros(count, dtype=bool),
        num_classes=len(shares),
    )


def test_a_mean_average_precision_is_in_its_interval():
    generator, covered, sets = np.random.default_rng(1), 0, 60
    shares = 1 / np.arange(1, 21)
    shares, found = shares / shares.sum(), generator.uniform(0.3, 0.95, 20)
    every = [picture_of_boxes(generator, shares, found) for _ in range(2500)]
    true = mean_average_precision(every, np.ones((1, len(every))))["mAP"][0]
    task = SimpleNamespace(primary=Primary("mAP"), reduce=mean_average_precision)
    for trial in range(sets):
        drawn = [every[i] for i in generator.choice(len(every), 200, replace=False)]
        weights = intervals.bootstrap_weights(len(drawn), draws=100, seed=trial)
        made = intervals.score_estimates(task, drawn, weights)["mAP"]
        covered += made.low <= true <= made.high
    assert covered / sets >= 0.88, f"{covered} of {sets}: plain percentiles hold it three quarters of the time"


def test_what_the_score_does_not_see_is_no_difference():
    """Entities of types that are not scored, and tags that continue nothing, change no count."""

    class Entities(F1):
        primary = Primary("f1", counts=("hits", "counts"))

    base = [{"hits": 1, "counts": 2, "correct_words": 5} for _ in range(40)]
    tuned = [{**record, "correct_words": 4} for record in base]
    assert not any(intervals.differing_records(Entities.primary, tuned, base))
    kept, _ = intervals.retention_estimate(Entities(), tuned, base, intervals.bootstrap_weights(40, draws=100, seed=0))
    assert kept.how == "exact"
    assert kept.lower < 0.95
    wider = [{"hits": np.array([1, 0]), "counts": np.array([2, 0])} for _ in base]
    narrow = [{"hits": np.array([1]), "counts": np.array([2])} for _ in base]
    assert not any(intervals.differing_records(Entities.primary, wider, narrow)), "a type more that no row has"


def test_a_faultless_small_part_is_not_certain_by_any_score():
    class Both:
        primary = Primary("accuracy", binary=True)

        @staticmethod
        def reduce(records, weights):
            values = np.array([float(r["correct"]) for r in records])
            return {"accuracy": weights @ values / weights.sum(1), "mcc": np.ones(len(weights))}

    made = intervals.score_estimates(Both(), records([1] * 30), intervals.bootstrap_weights(30, draws=50, seed=0))
    assert made["mcc"].low == pytest.approx(2 * made["accuracy"].low - 1)


def test_a_ratio_with_exact_bounds_is_not_negative():
    held = records([1, 1] + [0] * 18)
    kept, kind = intervals.retention_estimate(
        accuracy_task(), held, held, intervals.bootstrap_weights(20, draws=50, seed=0)
    )
    assert (kind, kept.how, kept.low, kept.lower) == ("ratio", "exact", 0.0, 0.0)


def test_intervals_stay_within_what_a_score_can_be():
    wide = intervals.Estimate(0.9, -1.5, 1.3, -1.2)
    assert intervals.within_range(wide, "f1").low == 0.0
    assert intervals.within_range(wide, "f1").high == 1.0
    assert intervals.within_range(wide, "mcc").low == -1.0
    assert intervals.within_range(wide, "log_loss") == intervals.Estimate(0.9, 0.0, 1.3, 0.0)
