"""Which kind of MR sequence a volume is of, in words of our own.

What a scanner or a person wrote is looked at and never copied: a description may hold a name. The
times are the usual ones of brain imaging at 1.5 and 3 T (E. M. Haacke et al., Magnetic Resonance
Imaging, 2nd edition, 2014, chapter 15).
"""

from __future__ import annotations

import re

CONTRAST = "T1 contrast"
SEQUENCES = ("T1", CONTRAST, "T2", "FLAIR", "PD", "DWI", "ADC", "T2*", "SWI", "MRA")
# The first that fits is it. Words of descriptions and of BIDS file names, between anything that is
# no letter or digit.
_KINDS = (
    ("ADC", r"adc|apparent diffusion"),
    ("DWI", r"dwi|dti|diff|diffusion|trace|b ?(?:1000|800)"),
    ("SWI", r"swi|swan|venobold|swip"),
    ("MRA", r"mra|tof|angio|angiography"),
    ("T2*", r"t2 star|t2star|t2starw|hemo|fl2d t2"),
    ("T1", r"t1|t1w|t1c|t1ce|t1gd|t1wce|mprage|mp rage|bravo|f?spgr|tfl|vibe|t1 ?flair"),
    ("FLAIR", r"flair|t2 ?flair|t2w flair|tirm|dark fluid|t2f"),
    ("T2", r"t2|t2w"),
    ("PD", r"pd|pdw|dp|proton"),
)
_PATTERNS = [(name, re.compile(rf"\b(?:{words})\b")) for name, words in _KINDS]
_T2_STAR = re.compile(r"t2\*")
_AGENT = re.compile(
    r"\b(?:t1c|t1ce|t1gd|t1wce|gd|gad|gado|gadolinium|post|postcontrast|contrast|ce|km|kontrast)\b"
    r"|\+ ?(?:c|gd|km)\b"
)
_DOUBLE_ECHO = re.compile(r"\b(?:pdw?|dp) ?\+? ?(?:t2w?)\b|\bt2w? ?\+? ?(?:pdw?|dp)\b")
_WITHOUT = re.compile(r"\b(?:pre|without|no|none|non|ohne|nativ|native|unenhanced)\b")


def sequence_in(text: str) -> str:
    """The sequence that a description or a file's name tells of; empty where it tells of none."""
    lower = text.lower()
    if _T2_STAR.search(lower):
        return "T2*"
    words = _words(lower)
    found = next((name for name, pattern in _PATTERNS if pattern.search(words)), "")
    if found == "T1" and _AGENT.search(words) and not _WITHOUT.search(words):
        return CONTRAST
    return found


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9+]+", " ", text.lower())


def sequence_of(
    description: str, agent: str, repetition: float, echo: float, inversion: float
) -> str:
    """The sequence of a DICOM series; empty where nothing tells.

    Args:
        description: of the series and its protocol.
        agent: the contrast agent.
        repetition, echo, inversion: times in ms; 0 where they are not told.
    """
    found = sequence_in(description)
    if not found or _DOUBLE_ECHO.search(_words(description)):
        found = _by_times(repetition, echo, inversion)
    given = agent.strip() and not _WITHOUT.search(agent.lower())
    return CONTRAST if found == "T1" and given else found


def _by_times(repetition: float, echo: float, inversion: float) -> str:
    if not (repetition and echo):
        return ""
    if inversion >= 1500 and repetition >= 4000 and echo >= 60:
        return "FLAIR"
    if inversion:  # of other inversions only the fast gradient echoes are common
        return "T1" if echo < 12 and repetition < 3500 else ""
    if echo <= 30:
        return "T1" if 250 <= repetition <= 1000 else "PD" if repetition >= 2000 else ""
    return "T2" if echo >= 70 and repetition >= 2000 else ""
