"""Whether stated probabilities can be believed: one temperature a strength, and the calibration error before and after it.

Pure functions of probabilities [decisions, classes] and right classes [decisions], as a task's `confidences` gives them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from domaintune.tasks.base import Record, Task
from domaintune.tasks.classification import tempered

BINS = 15
BIN_ROWS = 30
"""Decisions in a bin, at least: of fewer the share that is right says little."""
CHANCE_DRAWS = 200
PRIOR_WEIGHT = 4.0
MOST = 20.0
"""Temperatures lie between 1 / MOST and MOST."""


def fit_temperature(probability: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the smallest total log loss (nats), plus PRIOR_WEIGHT log(T)^2 / 2.

    That term, a normal prior on log(T) of standard deviation 1/2, weighs as much as four decisions: where all of a few are right
    the log loss alone is smallest at T = 0, which would state certainty, and with the weight of one 10 decisions made
    probabilities worse on average that were well stated before.
    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2. Differs: the prior.
    """
    logs = np.log(np.clip(probability, np.finfo(np.float64).eps, 1.0))
    right = logs[np.arange(len(truth)), truth]

    def objective(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        loss = (logsumexp(logs * inverse, axis=1) - right * inverse).sum()
        return float(loss + PRIOR_WEIGHT * log_temperature**2 / 2)

    bound = math.log(MOST)
    return math.exp(minimize_scalar(objective, bounds=(-bound, bound), method="bounded").x)


def temperatures(task: Task, records: Mapping[float, Sequence[Record]]) -> tuple[tuple[float, float], ...]:
    """(strength, temperature) from the records of the choosing part at each strength; empty where the task has none."""
    made = []
    for strength in sorted(records):
        found = task.confidences(records[strength])
        if found is not None:
            made.append((strength, fit_temperature(*found)))
    return tuple(made)


def mean_log_loss(probability: np.ndarray, truth: np.ndarray) -> float:
    """Mean over decisions of -log of the right class's probability (clipped as scikit-learn does), in nats."""
    right = probability[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(right, np.finfo(np.float64).eps, 1.0)).mean())


def equal_mass(confidence: np.ndarray) -> list[np.ndarray]:
    """Positions in at most 15 bins of equal size (but for one) and at least 30 each, by rising confidence; one of fewer decisions."""
    bins = min(BINS, max(1, len(confidence) // BIN_ROWS))
    return np.array_split(np.argsort(confidence, kind="stable"), bins)


def calibration_error(probability: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error of the answers given: see `distance`."""
    return distance(probability.max(1), probability.argmax(1) == truth)


def distance(confidence: np.ndarray, right: np.ndarray) -> float:
    """The mean distance between the confidence of answers and the share that is right over bins of equal mass.

    Source: Nguyen and O'Connor 2015 (arXiv 1508.05154) for the bins.
    """
    bins = equal_mass(confidence)
    return float(sum(abs(confidence[b].mean() - right[b].mean()) * len(b) for b in bins) / len(right))


def error_by_chance(confidence: np.ndarray) -> float:
    """The calibration error that a perfectly calibrated model of these confidences is expected to show: bins hold few decisions, and
    the share of right ones strays from the confidence by chance."""
    generator, off = np.random.default_rng(0), 0.0
    for _ in range(CHANCE_DRAWS):
        off += distance(confidence, generator.random(len(confidence)) < confidence)
    return off / CHANCE_DRAWS


def calibration_report(probability: np.ndarray, truth: np.ndarray, temperature: float) -> dict[str, Any]:
    """The errors before and after the temperature on decisions that it was not fitted on, what a perfect model would show in the place
    of the one after it (`by_chance`), and the bins behind them."""
    after = tempered(probability, temperature)
    states = {"before": probability, "after": after}
    errors = {
        name: {"ece": calibration_error(p, truth), "log_loss": mean_log_loss(p, truth)} for name, p in states.items()
    }
    chance, bins = error_by_chance(after.max(1)), _bins(probability, after, truth)
    return {"temperature": temperature, **errors, "by_chance": chance, "bins": bins}


def of_answers(confidence: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """How far the stated probabilities of single answers can be believed: their `count`, mean `confidence`, the share that is right
    (`accuracy`), the calibration error `ece` and what a perfect model would show in its place (`by_chance`)."""
    return {
        "count": len(right),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "ece": distance(confidence, right),
        "by_chance": error_by_chance(confidence),
    }


def _bins(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """Decisions of like confidence (the probability of the answer given, after calibration): its smallest, largest and mean, and
    the share that is right. The same of the bin of equal rank before calibration under `_before`."""
    right = before.argmax(1) == truth
    old, new = before.max(1), after.max(1)
    return [
        {
            "low": float(new[b].min()),
            "high": float(new[b].max()),
            "count": len(b),
            "confidence": float(new[b].mean()),
            "accuracy": float(right[b].mean()),
            "confidence_before": float(old[a].mean()),
            "accuracy_before": float(right[a].mean()),
        }
        for a, b in zip(equal_mass(old), equal_mass(new), strict=True)
    ]
