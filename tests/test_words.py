# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Code, messages and documentation use the terms of the field: words that were retired do not come back."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".github", "benchmarks", "dataset_scripts", "docs", "modeling_sparse_merit", "tests")
KINDS = {".py", ".md", ".yaml", ".yml", ".toml", ".cff"}

RETIRED = {
    "hears?|heard": "a model processes or gets its input",
    "answer(s|ed|ing)?": "output, prediction, result, response",
    "stretch(es|ed|ing)?": "segment, span; speed change",
    "rooms?": "room impulse response (RIR); package",
    "front[ _-]?ends?": "feature encoder, enhancement model, cascade",
    "lower(s|ed|ing)|to lower": "reduce, decrease",
    "restor(e|es|ed|ing)": "denormalize, recover",
    "mine": "own",
    "anew": "again",
    "beside": "next to, in addition to",
    "of like length": "of similar length",
    "mend(s|ed|ing)?": "fix",
}
"""Patterns of retired words, and what to write instead."""

ALLOWED = (
    (".*", r"room impulse responses?", "acoustics"),
    ("tests/test_words.py", ".*", "this list"),
    ("CHANGELOG.md", r"`[\w.]+`", "former names"),
)
"""Places where a retired word stays: pattern of the path, pattern of the text, reason."""

TABLES = ("modeling_sparse_merit/data/", "dataset_scripts/")
"""Where a table would be a dataset; elsewhere it may be a table of a report."""


@functools.cache
def files() -> dict[str, str]:
    """The text of each file that people write, by its path; results of benchmarks are records."""
    paths = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    texts = {}
    for path in sorted(paths):
        name = path.relative_to(ROOT).as_posix()
        is_written = path.suffix in KINDS or path.name == "Makefile"
        if is_written and path.is_file() and not name.startswith("benchmarks/results/"):
            texts[name] = path.read_text(encoding="utf-8")
    return texts


def allowed(name: str, line: str) -> str:
    """The line of a file without what is allowed there."""
    for path, text, _ in ALLOWED:
        if re.fullmatch(path, name):
            line = re.sub(text, "", line, flags=re.IGNORECASE)
    return line


@pytest.mark.parametrize("word", RETIRED)
def test_retired_words_stay_retired(word):
    # letters alone count as part of a word, so that names such as `se_front_end` are searched too
    pattern = re.compile(rf"(?<![a-z])({word})(?![a-z])", re.IGNORECASE)
    places = []
    for name, text in files().items():
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line) and pattern.search(allowed(name, line)):
                places.append(f"{name}:{number}: {line.strip()}")
    assert not places, f"write {RETIRED[word]} instead:\n" + "\n".join(places)


def named(text: str) -> Iterator[tuple[str, int]]:
    """Names of the variables and arguments that a file defines, and their lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def test_no_variable_is_called_found():
    modules = {name: text for name, text in files().items() if name.endswith(".py")}
    places = [f"{name}:{line}" for name, text in modules.items() for word, line in named(text) if word == "found"]
    assert not places, f"name the content instead: {places}"


def test_a_dataset_is_not_called_a_table():
    texts = {name: text for name, text in files().items() if name.startswith(TABLES)}
    word = re.compile(r"(?<![a-z._])tables?\b")
    places = [
        f"{name}:{number}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if word.search(line)
    ]
    assert not places, f"write dataset instead: {places}"
