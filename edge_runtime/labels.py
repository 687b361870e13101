"""Class names as data sets spell them."""

from __future__ import annotations

NO_TUMOR = "notumor"  # the usual name of the class without a tumour
_SPELLINGS = {"no", "notumor", "notumour", "healthy", "normal"}
KNOWN = ("glioma", "meningioma", "pituitary")


def normalise_label(name: str) -> str:
    """The usual name of a class for a common spelling of it; other names stay as they are.

    `no_tumor`, `No Tumour`, `notumor` become `notumor`; `glioma_tumor` becomes `glioma`.
    """
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    if plain.replace("_", "") in _SPELLINGS:
        return NO_TUMOR
    stem = plain.removesuffix("_tumor").removesuffix("_tumour")
    return stem if stem in KNOWN else name.strip()
