"""Inputs damaged as life damages them, targets kept, and the scores on them. A damage is a function of example and seed alone.

Texts in any language with letters; where a damage has nothing to act on (case in Chinese) the text stays as it is. Negations of
English, German and Chinese lose no letter, word or space: an answer would seldom be right without them. It may be wrong all the same
where another word that it hangs on is lost.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from domaintune.bases.base import Base
from domaintune.data.pictures import open_picture
from domaintune.data.words import CJK, word_spans
from domaintune.evaluation.intervals import Estimate, bootstrap_weights, score_estimates
from domaintune.evaluation.score import records_of
from domaintune.tasks.base import Dataset, Prediction, Record, Task, dataset

Random = np.random.Generator
Predictor = Callable[[float, Dataset], list[Prediction]]
"""Predictions on data at a strength."""
TextDamage = Callable[[str, Random], str]
PictureDamage = Callable[[Image.Image, Random], Image.Image]

SLIPS, LOOKALIKES, SPACES, DROPPED = 0.04, 0.1, 0.1, 0.1
"""Shares of letters mistyped, of letters replaced, of spaces lost, of words lost; at least one of each where there are any."""
WORD_END = "\n"
"""Between the given words of a text; no damage to words touches white space."""
PICTURES_AT_ONCE = 16
"""Damaged pictures that lie on disk together."""

TYPED = re.compile(rf"[{CJK}]{{2,}}|[^\W\d_{CJK}]{{4,}}")
"""Runs of letters that may be mistyped."""
NEGATION = re.compile(
    r"\b(?:no|not|none|nobody|nothing|nowhere|neither|nor|never|without|cannot|\w*n['’]t"
    r"|(?:do|does|did|is|are|was|were|ca|wo|could|would|should|has|have|had|must|need|ai)nt"
    r"|nicht|nichts|nein|nie|niemals|niemand\w*|nirgend\w*|kein\w*|ohne|weder)\b"
    rf"|[不没沒無无未别別非勿莫][{CJK}]?",
    re.IGNORECASE,
)
"""In Chinese with the character that follows, which it turns round."""
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "püäöl")
LATIN = dict(zip("aceiopsxyABCEHIKMOPTXäöü", "асеіорѕхуАВСЕНІКМОРТХӓӧϋ", strict=True))
"""Latin letters : Cyrillic and Greek ones that look the same."""


# --- texts


def negating(text: str) -> set[int]:
    """The places of the letters of the text's negations."""
    return {place for match in NEGATION.finditer(text) for place in range(*match.span())}


def typos(text: str, random: Random) -> str:
    """One letter in 25 swapped with the next, doubled by a near key, replaced by one, or left out; first letters and negations
    stay. In Chinese and Japanese characters are swapped or left out."""
    kept = negating(text)
    runs = [match.span() for match in TYPED.finditer(text)]
    letters = [
        place
        for start, end in runs
        for place in range(start + (text[start] < "\u3040"), end - 1)
        if text[place] != text[place + 1]  # twins could be swapped unseen
        and kept.isdisjoint((place, place + 1))
    ]
    for place in sorted(_drawn(letters, SLIPS, random), reverse=True):  # from the end, so that places stay true
        near = _near(text[place])
        slip = ("swap", "drop", "insert", "replace")[random.integers(4 if near else 2)]
        key = near[random.integers(len(near))] if near else ""
        here, following = text[place], text[place + 1]
        written = {"swap": following + here, "drop": following, "insert": here + key + following}
        text = text[:place] + written.get(slip, key + following) + text[place + 2 :]
    return text


def _near(letter: str) -> str:
    """Keys beside a letter's own."""
    found = ""
    for row in KEYS:
        place = row.find(letter.lower())
        if place >= 0:
            found += row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    found = "".join(key for key in found if key < "\x7f" or letter > "\x7f")
    return found.upper() if letter.isupper() else found


def case(text: str, random: Random) -> str:
    """All letters small, or all capital."""
    small, capital = text.lower(), text.upper()
    first, second = (small, capital) if random.random() < 0.5 else (capital, small)
    return first if first != text else second


def homoglyphs(text: str, random: Random) -> str:
    """One letter in ten replaced by one of another script that looks the same (Cyrillic for Latin, radicals for Chinese)."""
    alike = LATIN | _radicals()
    places = [place for place, letter in enumerate(text) if letter in alike]
    letters = list(text)
    for place in _drawn(places, LOOKALIKES, random):
        letters[place] = alike[letters[place]]
    return "".join(letters)


@functools.cache
def _radicals() -> dict[str, str]:
    """Chinese characters : the Kangxi radicals that look the same."""
    return {unicodedata.normalize("NFKC", radical): radical for radical in map(chr, range(0x2F00, 0x2FD6))}


def punctuation(text: str, random: Random) -> str:
    """Without punctuation marks."""
    return "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))


def spacing(text: str, random: Random) -> str:
    """One space in ten lost, and as many put inside words; none beside or inside negations."""
    kept = negating(text)
    places = (match.start() for match in re.finditer(r"(?<=\S) (?=\S)", text))
    gaps = [place for place in places if kept.isdisjoint((place - 1, place + 1))]
    inside = [match.start() + 1 for match in re.finditer(r"\w(?=\w)", text) if match.start() not in kept]
    lost = set(_drawn(gaps, SPACES, random))
    wanted = len(lost) / len(inside) if lost and inside else SLIPS
    split = set(_drawn(inside, wanted, random))
    made = (" " * (place in split) + letter for place, letter in enumerate(text) if place not in lost)
    return "".join(made)


def dropped_words(text: str, random: Random) -> str:
    """One word in ten left out (Chinese and Japanese: character), of texts of at least four; no negation."""
    words = [(start, end) for start, end in word_spans(text) if text[start].isalnum()]
    if len(words) < 4:
        return text
    kept = negating(text)
    words = [span for span in words if kept.isdisjoint(range(*span))]
    for start, end in reversed(_drawn(words, DROPPED, random)):
        text = text[:start] + text[end:].removeprefix(" ")
    return text


def _drawn(choices: Sequence[Any], share: float, random: Random) -> list[Any]:
    """A share of the choices, at least one of them, in their order."""
    if not choices:
        return []
    count = max(1, round(share * len(choices)))
    return [choices[i] for i in np.sort(random.choice(len(choices), min(count, len(choices)), replace=False))]


# --- pictures


def blur(picture: Image.Image, random: Random) -> Image.Image:
    """Gaussian, its radius 1 % of the shorter side."""
    return picture.filter(ImageFilter.GaussianBlur(max(1.0, min(picture.size) / 100)))


def noise(picture: Image.Image, random: Random) -> Image.Image:
    """Gaussian, standard deviation 20 of 255, each pixel and channel on its own."""
    pixels = np.asarray(picture, dtype=np.float32)
    noisy = pixels + 20 * random.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))


def brightness(picture: Image.Image, random: Random) -> Image.Image:
    """All values times 0.6 or 1.4."""
    factor = 0.6 if random.random() < 0.5 else 1.4
    return picture.point([min(round(value * factor), 255) for value in range(256)] * 3)


def jpeg(picture: Image.Image, random: Random) -> Image.Image:
    """Compressed at quality 15."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=15)
    return Image.open(stream).convert("RGB")


def rotation(picture: Image.Image, random: Random) -> Image.Image:
    """Turned by 5 to 15 degrees either way; the corners take the mean colour."""
    angle = random.uniform(5, 15) * (1 if random.random() < 0.5 else -1)
    red, green, blue = (int(value) for value in np.asarray(picture).reshape(-1, 3).mean(0))
    return picture.rotate(angle, Image.Resampling.BILINEAR, fillcolor=(red, green, blue))


WORDS: dict[str, TextDamage] = {"typos": typos, "case": case, "homoglyphs": homoglyphs}
TEXTS: dict[str, TextDamage] = {
    **WORDS,
    "punctuation": punctuation,
    "spacing": spacing,
    "dropped words": dropped_words,
}
BOXES: dict[str, PictureDamage] = {"blur": blur, "noise": noise, "brightness": brightness, "jpeg": jpeg}
PICTURES: dict[str, PictureDamage] = {**BOXES, "rotation": rotation}
TEXT_KINDS = {"text": TEXTS, "words": WORDS}
PICTURE_KINDS = {"picture": PICTURES, "boxes": BOXES}


# --- examples and scores


def randomness(key: str, *, kind: str, seed: int) -> Random:
    """The generator of one damage to the example with this key."""
    digest = hashlib.sha256(f"{kind}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def perturbed(task: Task, example: Any, kind: str, *, seed: int, folder: Path) -> Any:
    """The example with one kind of damage to its input, its target kept; itself where there is nothing to act on.

    A text or word that would be empty stays as it is. Damaged pictures are written to `folder`.
    """
    random = randomness(task.keys(example).input, kind=kind, seed=seed)

    def texts(parts: Sequence[str]) -> list[str]:
        damage = TEXT_KINDS[task.input_kind][kind]
        # Words are one text, whose shares are drawn over all of it.
        if task.input_kind == "words" and not any(WORD_END in part for part in parts):
            made = damage(WORD_END.join(parts), random).split(WORD_END)
        else:
            made = [damage(part, random) for part in parts]
        return [new if new.strip() else old for old, new in zip(parts, made, strict=True)]

    def pictures(paths: Sequence[str]) -> list[str]:
        damage = PICTURE_KINDS[task.input_kind][kind]
        made = []
        for path in paths:
            copy = folder / f"{len(list(folder.iterdir()))}.png"
            damage(open_picture(path, where=example.where), random).save(copy, compress_level=1)
            made.append(str(copy))
        return made

    return task.altered(example, texts if task.input_kind in TEXT_KINDS else pictures)


def perturbed_scores(
    task: Task,
    base: Base,
    predictor: Predictor,
    examples: Sequence[Any],
    clean: Mapping[float, Sequence[Record]],
    *,
    seed: int,
    draws: int,
) -> dict[str, dict[float, Estimate]]:
    """The primary score at each strength of `clean` on the examples as they are ("clean", from their records) and under each kind
    of damage, as `predictor` answers. Kinds that change no example are left out; examples that a kind leaves alone are not predicted again."""
    weights = bootstrap_weights(len(examples), draws=draws, seed=seed, groups=[e.group for e in examples])

    def estimates(records: Mapping[float, Sequence[Record]]) -> dict[float, Estimate]:
        return {s: score_estimates(task, found, weights)[task.primary.name] for s, found in records.items()}

    made = {"clean": estimates(clean)}
    pictures = task.input_kind in PICTURE_KINDS
    step = PICTURES_AT_ONCE if pictures else max(len(examples), 1)
    for kind in PICTURE_KINDS[task.input_kind] if pictures else TEXT_KINDS[task.input_kind]:
        records = {strength: list(found) for strength, found in clean.items()}
        changed = 0
        for start in range(0, len(examples), step):
            with tempfile.TemporaryDirectory(prefix="domaintune-") as folder:
                part = range(start, min(start + step, len(examples)))
                new = {i: perturbed(task, examples[i], kind, seed=seed, folder=Path(folder)) for i in part}
                places = [i for i in part if new[i] != examples[i]]
                changed += len(places)
                _rescore_(records, task, base, predictor, places, [new[i] for i in places])
        if changed:
            made[kind] = estimates(records)
    return made


def _rescore_(
    records: Mapping[float, list[Record]],
    task: Task,
    base: Base,
    predictor: Predictor,
    places: Sequence[int],
    examples: Sequence[Any],
) -> None:
    """Put the records of the examples in the place of those at `places`."""
    if not places:
        return
    data = dataset(task, base, examples)
    for strength, found in records.items():
        for place, record in zip(places, records_of(task, data, predictor(strength, data)), strict=True):
            found[place] = record
