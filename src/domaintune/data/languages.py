"""Language codes as files and tokenizers write them: whether two mean the same language. No files here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

TWO_LETTERS = (
    " afr:af aka:ak amh:am ara:ar arb:ar asm:as ayr:ay aze:az azj:az bak:ba bel:be bul:bg bam:bm ben:bn bod:bo"
    " tib:bo bos:bs cat:ca ces:cs cze:cs cym:cy wel:cy dan:da deu:de ger:de dzo:dz ewe:ee ell:el gre:el eng:en"
    " epo:eo spa:es ekk:et est:et baq:eu eus:eu fas:fa per:fa pes:fa fuv:ff fin:fi fij:fj fao:fo fra:fr fre:fr"
    " gle:ga gla:gd glg:gl grn:gn guj:gu hau:ha heb:he iw:he hin:hi hrv:hr hat:ht hun:hu arm:hy hye:hy in:id ind:id"
    " ibo:ig ice:is isl:is ita:it jpn:ja jav:jv jw:jv geo:ka kat:ka kon:kg kik:ki kaz:kk khm:km kan:kn kor:ko knc:kr"
    " kas:ks kmr:ku kur:ku kir:ky ltz:lb lug:lg lim:li lin:ln lao:lo lit:lt lav:lv lvs:lv mlg:mg plt:mg mao:mi"
    " mri:mi mac:mk mkd:mk mal:ml khk:mn mon:mn mar:mr may:ms msa:ms zsm:ms mlt:mt bur:my mya:my no:nb nob:nb nor:nb"
    " nep:ne npi:ne dut:nl nld:nl nno:nn nya:ny oci:oc gaz:om orm:om ory:or pan:pa pol:pl pbt:ps pus:ps por:pt"
    " que:qu quy:qu run:rn ron:ro rum:ro rus:ru kin:rw san:sa srd:sc snd:sd sag:sg sin:si slk:sk slo:sk slv:sl"
    " smo:sm sna:sn som:so alb:sq als:sq sqi:sq srp:sr ssw:ss sot:st sun:su swe:sv swa:sw swh:sw tam:ta tel:te"
    " tgk:tg tha:th tir:ti tuk:tk fil:tl tgl:tl tsn:tn tur:tr tso:ts tat:tt twi:tw uig:ug ukr:uk urd:ur uzb:uz"
    " uzn:uz vie:vi wol:wo xho:xh ji:yi ydd:yi yid:yi yor:yo chi:zh cmn:zh zho:zh zul:zu"
)
"""Codes of ISO 639-3 and 639-2/B, and older ones of 639-1 : 639-1, for the languages of NLLB-200, mBART-50 and M2M-100. "no" is Bokmål,
as NLLB's nob is."""
NO_REGION = "xx"
"""What mBART-50 writes for it: en_XX."""
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
        first = TWO_LETTERS[place + len(first) + 2 :][:2]
    script = next((part for part in rest if len(part) == 4 and part.isalpha()), None)
    others = tuple(part for part in rest if part not in (script, NO_REGION))
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
