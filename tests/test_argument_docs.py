# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Docstrings of public functions, methods and classes: every argument is described, and every error is named."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
NOT_YET = ("benchmarks/",)
"""Folders that are not complete yet."""
SECTIONS = re.compile(r"^ *(Args|Attributes|Options|Parameters)\b", re.MULTILINE)


class Function(NamedTuple):
    """A public function or method, and the docstrings that describe it: its own, its class's, and those of bases."""

    place: str
    node: ast.FunctionDef
    texts: list[str]


def modules() -> dict[str, ast.Module]:
    """The parsed files by their paths."""
    paths = [
        path
        for folder in ("modeling_sparse_merit", "dataset_scripts", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(paths)}


MODULES = modules()
CLASSES = {
    node.name: node for module in MODULES.values() for node in ast.walk(module) if isinstance(node, ast.ClassDef)
}


def inherited(owner: ast.ClassDef, name: str) -> Iterator[str]:
    """Docstrings of a method in the base classes of this repository."""
    for base in (CLASSES.get(getattr(base, "id", "")) for base in owner.bases):
        if base is not None:
            methods = [node for node in base.body if isinstance(node, ast.FunctionDef) and node.name == name]
            yield from (ast.get_docstring(method) or "" for method in methods)
            yield from inherited(base, name)


def functions() -> Iterator[Function]:
    """All public functions, methods and constructors but commands, whose options have help texts, and those that only
    pass everything on."""
    for path, module in MODULES.items():
        owners: list[ast.Module | ast.ClassDef] = [
            module,
            *(node for node in module.body if isinstance(node, ast.ClassDef)),
        ]
        for owner in owners:
            if path.startswith(NOT_YET) or getattr(owner, "name", "").startswith("_"):
                continue
            for node in (node for node in owner.body if isinstance(node, ast.FunctionDef)):
                texts = [ast.get_docstring(node) or ""]
                if isinstance(owner, ast.ClassDef):
                    texts += [ast.get_docstring(owner) or "", *inherited(owner, node.name)]
                only_passes_on = {argument.arg for argument in arguments(node)} == {"args", "kwargs"}
                is_public = not node.name.startswith("_") or node.name == "__init__"
                if is_public and not only_passes_on and not is_command(node):
                    yield Function(f"{path}:{node.lineno} {node.name}", node, texts)


def is_command(node: ast.FunctionDef) -> bool:
    return any("typer." in note or note.endswith("Option") for note in map(annotation, arguments(node)))


def annotation(argument: ast.arg) -> str:
    return ast.unparse(argument.annotation) if argument.annotation else ""


def arguments(node: ast.FunctionDef) -> list[ast.arg]:
    given = node.args
    extra = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [argument for argument in (*named, *extra) if argument.arg not in ("self", "cls")]


def described(name: str, texts: list[str]) -> bool:
    """Whether a section of a docstring has an entry `name: ...`, perhaps together with others: `start, end: ...`."""
    entry = re.compile(rf"^ +(?:\w+, )*\**{name}(?:, \w+)*: ", re.MULTILINE)
    return any(SECTIONS.search(text) and entry.search(text) for text in texts)


def raised(node: ast.FunctionDef) -> set[str]:
    """Names of the errors that a function raises itself; errors that it passes on are up to the author."""
    calls = [part.exc for part in ast.walk(node) if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call)]
    return {ast.unparse(call.func) for call in calls} - {"NotImplementedError"}


FUNCTIONS = list(functions())


def test_every_argument_is_described():
    missing = [
        f"{place}: {argument.arg}"
        for place, node, texts in FUNCTIONS
        if len(arguments(node)) > 1
        for argument in arguments(node)
        if not described(argument.arg, texts)
    ]
    assert not missing, "\n".join(missing)


def test_every_error_is_named():
    missing = [
        f"{place}: {error}"
        for place, node, texts in FUNCTIONS
        for error in sorted(raised(node))
        if not any("Raises" in text and error in text for text in texts)
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    ("text", "is_described"),
    [
        ("Does.\n\nArgs:\n    size: in samples.", True),
        ("Does.\n\nArgs:\n    start, size: in samples.", True),
        ("Does with size: all of it.", False),
        ("Does.\n\nArgs:\n    other: the size.", False),
    ],
)
def test_an_argument_is_described_by_an_entry(text, is_described):
    assert described("size", [text]) == is_described
