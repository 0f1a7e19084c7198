# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Reads the tables of a model card: training data, results, use of the experts."""

import re

DATA = "Training data and licences"
EMOTION = "Emotion"
ENHANCEMENT = "SI-SDR (dB)"
EXPERT_USE = "Share of frames routed to each expert"
"""Headings of the tables in `model_card.md`."""


def card_tables(text: str) -> dict[str, list[dict[str, str]]]:
    """The first table below each heading of a card.

    Args:
        text: Markdown.

    Returns:
        `{heading: lines}`, each line as `{column: cell}`; links are reduced to their texts.
    """
    tables: dict[str, list[dict[str, str]]] = {}
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        match = re.search(r"(?:^\|.*\n)+", body, re.MULTILINE)
        if match:
            columns, _, *lines = map(_cells, match[0].splitlines())
            tables[heading.strip()] = [dict(zip(columns, cells, strict=False)) for cells in lines]
    return tables


def _cells(line: str) -> list[str]:
    line = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line)
    return [cell.strip() for cell in line.strip().removesuffix("|").removeprefix("|").split("|")]
