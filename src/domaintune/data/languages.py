"""Language codes as files and tokenizers write them: whether two mean the same language. No files here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

TWO_LETTERS = (
    " afr:af amh:am arb:ar ara:ar aze:az azj:az bel:be ben:bn bos:bs bul:bg cat:ca ces:cs cze:cs cym:cy dan:da deu:de "
    "ger:de ell:el gre:el eng:en epo:eo est:et ekk:et eus:eu fas:fa pes:fa fin:fi fra:fr fre:fr gle:ga glg:gl guj:gu "
    "hau:ha heb:he hin:hi hrv:hr hun:hu hye:hy ind:id isl:is ita:it jpn:ja jav:jv kan:kn kat:ka kaz:kk khm:km kor:ko "
    "lao:lo lav:lv lvs:lv lit:lt mal:ml mar:mr mkd:mk mlt:mt msa:ms zsm:ms mya:my nep:ne npi:ne nld:nl dut:nl nob:nb "
    "nor:no nno:nn pan:pa pol:pl por:pt ron:ro rum:ro rus:ru sin:si slk:sk slo:sk slv:sl som:so spa:es sqi:sq srp:sr "
    "swa:sw swh:sw swe:sv tam:ta tel:te tgl:tl tha:th tur:tr ukr:uk urd:ur uzb:uz uzn:uz vie:vi xho:xh yor:yo zho:zh "
    "chi:zh cmn:zh zul:zu"
)
"""ISO 639-3 and 639-2/B : 639-1, for the languages that multilingual translation models are mostly used with."""
CHINESE_SCRIPTS = {"cn": "hans", "sg": "hans", "tw": "hant", "hk": "hant", "mo": "hant"}


class Language(NamedTuple):
    language: str
    script: str | None
    rest: tuple[str, ...]


def parsed(code: str) -> Language:
    """The parts of a code in any spelling: "zh-TW", "zh_TW", "zho_Hant" and "EN-us" alike."""
    first, *rest = code.strip().lower().replace("_", "-").split("-")
    place = TWO_LETTERS.find(f" {first}:")
    if place >= 0:
        first = TWO_LETTERS[place + 5 : place + 7]
    script = next((part for part in rest if len(part) == 4 and part.isalpha()), None)
    others = tuple(part for part in rest if part != script)
    if first == "zh" and script is None and others:
        script = CHINESE_SCRIPTS.get(others[0])
    return Language(first, script, others)


def same_language(code: str, other: str) -> bool:
    """Whether one code is the other or a more general form of it: en and en-US, but neither zh-CN and zh-TW nor en-US and en-GB."""
    one, two = parsed(code), parsed(other)
    scripts = {one.script, two.script} - {None}
    length = min(len(one.rest), len(two.rest))
    return one.language == two.language and len(scripts) < 2 and one.rest[:length] == two.rest[:length]


def distinct_languages(codes: Iterable[str]) -> list[str]:
    """The most general codes, in the order given: ["de", "en"] of ["de", "en-US", "en"]."""
    given = list(dict.fromkeys(codes))
    kept: list[str] = []
    for code in sorted(given, key=lambda code: len(parsed(code).rest)):
        if not any(same_language(code, other) for other in kept):
            kept.append(code)
    places = {code: min(n for n, other in enumerate(given) if same_language(code, other)) for code in kept}
    return sorted(kept, key=places.__getitem__)
