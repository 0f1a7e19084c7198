# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The last line of a rendered card, a comment that identifies the weights and reveals later edits."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

_MARK = re.compile(
    r"\n<!-- Rendered by modeling-sparse-merit from: (?P<records>[\w., ]*); weights: (?P<weights>[0-9a-f]{64}); "
    r"text: (?P<text>[0-9a-f]{64}) -->"
)


@dataclass(frozen=True)
class CardMark:
    """The mark of a card.

    Attributes:
        weights: SHA-256 of the described weights, see `files.weights_sha256`.
        records: names of the files, other than those of the checkpoint, that the card was rendered from.
        is_edited: whether the text differs from the rendered one.
    """

    weights: str
    records: tuple[str, ...]
    is_edited: bool


def marked(text: str, weights: str | None, records: Iterable[str]) -> str:
    """Appends the mark to the text of a card.

    Args:
        text: the card.
        weights: SHA-256 of the described weights; None without weights.
        records: names of the files that the card was rendered from.
    """
    names = ", ".join(records) or "nothing else"
    mark = f"<!-- Rendered by modeling-sparse-merit from: {names}; weights: {weights}; text: {_digest(text)} -->"
    return f"{text.rstrip()}\n\n{mark}\n"


def read_mark(card: Path) -> CardMark | None:
    """The mark of a card; None if the card is missing or was not rendered by this package."""
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8")
    if not (match := _MARK.search(text)):
        return None
    names = [] if match["records"] == "nothing else" else match["records"].split(", ")
    rest = text[: match.start()] + text[match.end() :]
    return CardMark(match["weights"], tuple(names), _digest(rest) != match["text"])


def differing_parts(kept: str, fresh: str) -> list[str]:
    """Fields of the metadata and titles of sections in which two cards differ, in order.

    Args:
        kept: text of the existing card.
        fresh: text of the newly rendered card.
    """
    given, expected = _metadata(kept), _metadata(fresh)
    fields = [f"`{name}`" for name, value in given.items() if expected.get(name) != value]
    known = _sections(fresh)
    return fields + [title for title, text in _sections(kept).items() if known.get(title) != text]


def _metadata(card: str) -> dict[str, object]:
    try:
        return ModelCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):
        return {"metadata": card}  # unreadable, so it differs from any other


def _sections(card: str) -> dict[str, str]:
    """Text of each section by its title; lines with "#" inside code blocks are not titles."""
    sections: dict[str, str] = {}
    title, is_code = "its first lines", False
    for line in ModelCard(_MARK.sub("", card), ignore_metadata_errors=True).text.splitlines():
        is_code ^= line.startswith("```")
        if not is_code and (match := re.match(r"#+ +(.+)", line)):
            title = match[1].strip()
        sections[title] = sections.get(title, "") + line.rstrip() + "\n"
    return {title: text for title, text in sections.items() if text.strip()}


def _digest(text: str) -> str:
    """SHA-256 of a text, independent of line endings and surrounding whitespace."""
    return hashlib.sha256("\n".join(text.strip().splitlines()).encode()).hexdigest()
