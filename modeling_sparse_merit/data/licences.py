# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Names of licences: as people write them, and as the Hub's metadata take them."""

import re
from typing import Any

HUB_LICENCES = {
    "cc0-1.0",
    "cc-by-2.5",
    *(f"cc-by{terms}-{version}" for terms in ("", "-sa", "-nc", "-nc-sa") for version in ("2.0", "3.0", "4.0")),
    "mit",
    "apache-2.0",
}
"""The Hub's names of licences that let everybody who has the data pass it on."""
FULL_NAMES = (
    (r"\(.*?\)|\b(licen[cs]e|version|international|unported|the)\b|,", " "),
    (r"creative commons", "cc"),
    (r"\bzero\b|\bcc-?0\b", "cc0"),
    (r"cc cc0", "cc0"),
    (r"attribution", "by"),
    (r"non-?commercial", "nc"),
    (r"share-?alike", "sa"),
    (r"\bv(?=\d)", ""),
    (r"[\s_-]+", "-"),
    (r"^(cc0)(-universal)?$|^cc0-1\.0-universal$", "cc0-1.0"),
    (r"^(apache)(-2)?$", "apache-2.0"),
)
"""Patterns in names of licences, and what replaces them, in this order."""


def licence_names(licence: str) -> list[str] | None:
    """The Hub's identifiers of a dataset's licences, such as two for `"CC BY 4.0 + CC0 1.0"`. None if a licence is
    unknown or does not let everybody redistribute the data.

    Usage:
        >>> from modeling_sparse_merit.data.licences import licence_names
        >>> licence_names("Creative Commons Attribution-NonCommercial 4.0 International + CC0")
        ['cc-by-nc-4.0', 'cc0-1.0']
    """
    parts = [_normalized(part) for part in re.split(r"\+|\n\n", licence)]
    return parts if set(parts) <= HUB_LICENCES else None


def _normalized(name: str) -> str:
    name = name.strip().lower()
    for pattern, replacement in FULL_NAMES:
        name = re.sub(pattern, replacement, name.strip(" -"))
    return name


def licence_metadata(licence: str) -> dict[str, Any]:
    """The field `license` of a card and, for a licence that the Hub does not know, `license_name`.

    Args:
        licence: a licence, or several joined by "+".
    """
    if names := licence_names(licence):
        return {"license": names}
    return {
        "license": "other",
        "license_name": re.sub(r"[^\w.]+", "-", licence.lower()).strip("-")[:60] or "not-stated",
    }
