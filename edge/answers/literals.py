"""What two questions have to have in common to the letter before they share an answer. Pure.

The vector of a text says what it is about, and hardly anything of its numbers: "pressure 3 bar"
and "pressure 9 bar" are neighbours. So what a vector overlooks is compared as it is written, and
where it is written differently the two have no answer in common, whether or not they mean the same.
"""

from __future__ import annotations

import unicodedata

OPENING, CLOSING = "([{\"'`“„«‹‚‘¿¡", ")]}\"'`”“»›’‘?!.,;:…"

NEGATIONS = (
    "no not never none nothing nobody neither nor without cannot except only unless until"
    " nicht kein keine keinen keinem keiner keines nie niemals nichts niemand ohne weder außer"
    " nur"
)

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy"
    " eighty ninety hundred thousand million billion dozen half third quarter double triple"
    " once twice thrice first second fourth fifth sixth seventh eighth ninth tenth last next"
    " null ein eine eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf zwanzig"
    " dreißig vierzig fünfzig sechzig siebzig achtzig neunzig hundert tausend million"
    " milliarde dutzend halb halbe hälfte drittel viertel doppelt einmal zweimal dreimal erste"
    " zweite dritte letzte nächste"
)

OPPOSITES = (
    "on off open close opened closed start stop begin end up down in out left right top"
    " bottom front back increase decrease raise lower high low higher lower highest lowest max"
    " min maximum minimum above below over under before after more less most least enable"
    " disable enabled disabled lock unlock hot cold warm cool fast slow faster slower allow"
    " forbid allowed forbidden true false yes add remove install uninstall connect disconnect"
    " tighten loosen fill empty full inside outside clockwise counterclockwise forward"
    " backward forwards backwards push pull input output ein aus an ab auf zu offen öffnen"
    " schließen starten stoppen oben unten rein raus links rechts vorne hinten erhöhen senken"
    " hoch niedrig höher niedriger maximal minimal über unter vor nach mehr weniger aktivieren"
    " deaktivieren heiß kalt warm schnell langsam erlaubt verboten ja nein"
)

DECIDING = frozenset(f"{NEGATIONS} {NUMBERS} {OPPOSITES}".split())
"""Words that turn a sentence around and leave its vector nearly where it was."""


def literals(text: str) -> tuple[str, ...]:
    """In their order: numbers in whatever spelling with the word behind, which may be a unit;
    signs; names such as `AX` and `B`; and words that decide."""
    words = text.split()
    found: list[str] = []
    for at, word in enumerate(words):
        core = word.lstrip(OPENING).rstrip(CLOSING)
        if _has_number(core):
            behind = words[at + 1].rstrip(CLOSING) if at + 1 < len(words) else ""
            found.append(f"{core} {behind}")
        elif (core and not any(letter.isalpha() for letter in core)) or _is_name(
            core, first=at == 0
        ):
            found.append(core)
        elif (plain := _plain(core)) in DECIDING:
            found.append(plain)
    return tuple(found)


def _has_number(word: str) -> bool:
    """Digits of any script, and signs that are numbers, as ½ and 三."""
    return any(unicodedata.numeric(letter, None) is not None for letter in word)


def _is_sign(word: str) -> bool:
    return not any(letter.isalpha() for letter in word)


def _is_name(word: str, *, first: bool) -> bool:
    """`PLC`, `mW` and `A`, but not `I` or the first word of a sentence."""
    if any(letter.isupper() for letter in word[1:]):
        return True
    return len(word) == 1 and word.isupper() and word != "I" and not first


def _plain(word: str) -> str:
    """In lower case; of `isn't` what counts is that it denies."""
    plain = word.casefold().replace("’", "'")
    return "not" if plain.endswith("n't") else plain
