# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The last line of a rendered card, a comment: which weights it describes, and whether a person has edited it."""

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
    """What the mark of a card says.

    Attributes:
        weights: SHA-256 of the weights that the card describes, see `files.weights_sha256`.
        records: names of the files, besides the checkpoint's own, that the card was rendered from.
        is_edited: whether the text is another than the rendered one.
    """

    weights: str
    records: tuple[str, ...]
    is_edited: bool


def marked(text: str, weights: str, records: Iterable[str]) -> str:
    """The text of a card with its mark at the end."""
    names = ", ".join(records) or "nothing else"
    mark = f"<!-- Rendered by modeling-sparse-merit from: {names}; weights: {weights}; text: {_digest(text)} -->"
    return f"{text.rstrip()}\n\n{mark}\n"


def read_mark(card: Path) -> CardMark | None:
    """The mark of a card; None where there is no card, or one that was not rendered by this package."""
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8")
    if not (found := _MARK.search(text)):
        return None
    names = [] if found["records"] == "nothing else" else found["records"].split(", ")
    rest = text[: found.start()] + text[found.end() :]
    return CardMark(found["weights"], tuple(names), _digest(rest) != found["text"])


def differing_parts(kept: str, fresh: str) -> list[str]:
    """What a card says otherwise than a new one: fields of its metadata and titles of its sections, in their order."""
    given, expected = _metadata(kept), _metadata(fresh)
    fields = [f"`{name}`" for name, value in given.items() if expected.get(name) != value]
    known = _sections(fresh)
    return fields + [title for title, text in _sections(kept).items() if known.get(title) != text]


def _metadata(card: str) -> dict[str, object]:
    try:
        return ModelCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):
        return {"metadata": card}  # unreadable, so equal to no other


def _sections(card: str) -> dict[str, str]:
    """Text of each section by its title; fences of code, which may hold lines with "#", are no titles."""
    sections: dict[str, str] = {}
    title, is_code = "its first lines", False
    for line in ModelCard(_MARK.sub("", card), ignore_metadata_errors=True).text.splitlines():
        is_code ^= line.startswith("```")
        if not is_code and (found := re.match(r"#+ +(.+)", line)):
            title = found[1].strip()
        sections[title] = sections.get(title, "") + line.rstrip() + "\n"
    return {title: text for title, text in sections.items() if text.strip()}


def _digest(text: str) -> str:
    """SHA-256 of a text, whatever its line ends and the white space around it."""
    return hashlib.sha256("\n".join(text.strip().splitlines()).encode()).hexdigest()
