# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Classes of settings: pydantic checks their fields, and errors are in plain English.

A type states in words what it takes, as in `Annotated[int, Field(ge=0), "a whole number of at least 0"]`.
"""

import dataclasses
import difflib
import functools
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(strict=True, ge=0), "a whole number of at least 0"]
PositiveCount = Annotated[int, Field(strict=True, ge=1), "a whole number of at least 1"]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False), "a finite number"]
NonNegative = Annotated[Number, Field(ge=0), "a finite number of at least 0"]
Positive = Annotated[Number, Field(gt=0), "a finite number above 0"]
Probability = Annotated[Number, Field(ge=0, le=1), "a number from 0 to 1"]
Names = Annotated[list[str], "a list of names"]

IN_WORDS = {bool: "true or false", str: "text"}
Settings = TypeVar("Settings")


@dataclass_transform(kw_only_default=True)
def checked_dataclass(cls: type[Settings]) -> type[Settings]:
    """
    Makes a class a dataclass that checks its fields. `__post_init__` may check them against each other.

    A class attribute `RENAMED`, {former name: name}, helps those who use a former name.

    Raises:
        ValueError: Raised by the constructor: some fields are wrong. It names each, the value that was given and what
            was expected.
    """
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_enum_values=True)
    checked = dataclass(cls, config=config, kw_only=True)
    construct = checked.__init__

    @functools.wraps(construct)
    def construct_or_explain(self: Any, **given: Any) -> None:
        try:
            construct(self, **given)
        except ValidationError as error:
            problems = [_problem(cls, detail, given) for detail in error.errors(include_url=False)]
            raise ValueError(" ".join(dict.fromkeys(problems))) from None

    checked.__init__ = construct_or_explain  # type: ignore[method-assign]  # pydantic has no hook for its errors
    return checked  # type: ignore[return-value]  # the same class, which pydantic annotates as one of its own


def names_of(cls: type) -> list[str]:
    """The names of the fields of a class of settings."""
    return [field.name for field in dataclasses.fields(cls)]


def require(settings: Any, name: str, valid: Any, expected: str) -> None:
    """
    Checks one field of some settings against the others.

    Args:
        settings: The settings.
        name: The field that the error names.
        valid: Whether its value is valid.
        expected: What would be, in words.

    Raises:
        ValueError: The value is not valid.
    """
    if not valid:
        raise ValueError(f"`{name}` is {getattr(settings, name)!r}; expected {expected}.")


def split_labels(labels: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """
    Splits labels that are written as NAME or OWN=LABEL.

    Args:
        labels: The labels.

    Returns:
        The names, and {own: label} of those with a label of another model.

    Raises:
        ValueError: A label is written otherwise, or two have the same name.
    """
    parts = [[part.strip() for part in label.split("=")] for label in labels]
    names = [part[0] for part in parts]
    if not all(len(part) <= 2 and all(part) for part in parts):
        raise ValueError(
            f"`labels` is {list(labels)!r}; expected names, or OWN=LABEL with the LABEL of another model."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"`labels` is {list(labels)!r}; expected distinct names.")
    return names, {part[0]: part[1] for part in parts if len(part) == 2}


def unknown_names(given: Iterable[str], known: Collection[str], renamed: Mapping[str, str] | None = None) -> str:
    """
    Says which names do not exist.

    Args:
        given: The names that were given.
        known: All names that exist.
        renamed: {former name: name} of those that were renamed.

    Returns:
        For each unknown name its new name or the most similar one, if any; all names otherwise. Empty if all exist.
    """
    sentences, others = [], []
    for name in given:
        if name in known:
            continue
        if renamed and name in renamed:
            sentences.append(f"`{name}` is now called `{renamed[name]}`.")
        elif similar := difflib.get_close_matches(name, known, n=1):
            sentences.append(f"`{name}` is unknown; did you mean `{similar[0]}`?")
        else:
            others.append(f"`{name}`")
    if others:
        sentences.append(f"{', '.join(others)}: unknown; expected some of {', '.join(known)}.")
    return " ".join(sentences)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    Reads the fields of some settings from a YAML file. An empty file has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not valid YAML, or is not a mapping of names.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} holds {values!r}; expected a mapping of fields, such as 'seed: 0'.")
    return values


def _problem(cls: type, error: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """One error of pydantic as a sentence."""
    if not error["loc"]:  # raised by `__post_init__`
        return str(error["ctx"]["error"])
    name, *inner = error["loc"]
    if name not in (known := names_of(cls)):
        return unknown_names([name], known, getattr(cls, "RENAMED", None))
    shown, value = name, given[name]
    if inner and isinstance(value, Mapping):
        shown, value = f"{name}.{inner[0]}", value.get(inner[0])
    return f"`{shown}` is {value!r}; expected {_in_words(get_type_hints(cls, include_extras=True)[name])}."


def _in_words(hint: Any) -> str:
    """What a type takes."""
    words = [entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, str)]
    if words:
        return words[-1]
    if get_origin(hint) is Literal:
        return f"one of {list(get_args(hint))}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {[member.value for member in hint]}"
    if type(None) in get_args(hint):
        return f"{_in_words(get_args(hint)[0])}, or null"
    return IN_WORDS[hint]
