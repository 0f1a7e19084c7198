# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Reads the settings of a run from a YAML file and the command line."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

from transformers import HfArgumentParser
from transformers.hf_argparser import DataClassType

from ..fields import names_of, read_yaml, unknown_names

Settings = TypeVar("Settings")


def parse_fields(cls: type[Settings], arguments: list[str] | None, description: str, example: str = "") -> Settings:
    """
    Reads `[CONFIG.yaml] [--field value ...]`. CONFIG.yaml may contain `extends: OTHER.yaml`, a path relative to its
    own folder: fields that it does not set are those of OTHER.yaml, mappings such as `config` entry by entry.

    Args:
        cls: A class of settings, whose docstring describes its fields, with a field `resume`.
        arguments: The arguments; None takes those of the command line.
        description: What `--help` says first.
        example: What it says last.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A field is unknown or has a wrong value, or a file extends itself.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(DataClassType(cls), description=description, epilog=example)
    for name, text in documented_fields(cls).items():
        parser._option_string_actions[f"--{name}"].help = text.replace("%", "%%")
    parser._option_string_actions["--no_resume"].help = "Refuse an output_dir that holds a checkpoint."
    if arguments and not arguments[0].startswith("-"):
        parser.set_defaults(**_read_fields(cls, Path(arguments.pop(0))))
    settings, unused = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    _refuse(cls, unused)
    return settings


def documented_fields(cls: type) -> dict[str, str]:
    """{field: what the docstrings of a class of settings and of its bases say of it}, without line breaks."""
    documented: dict[str, str] = {}
    for documenting in reversed(cls.__mro__):
        text = inspect.cleandoc(documenting.__doc__ or "")
        section = text.partition("\nArgs:\n")[2].partition("\nRaises:\n")[0]
        entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
        documented |= {name: " ".join(entry.split()) for name, entry in entries}
    return documented


def _renamed(cls: type) -> dict[str, str]:
    return getattr(cls, "RENAMED", {})


def _refuse(cls: type, unused: list[str]) -> None:
    """
    Raises an error for arguments that set no field.

    Raises:
        ValueError: There are some.
    """
    if options := [argument[2:].partition("=")[0] for argument in unused if argument.startswith("--")]:
        raise ValueError(unknown_names(options, names_of(cls), _renamed(cls)))
    if unused:
        raise ValueError(f"The arguments {unused} set no field; expected [CONFIG.yaml] [--field value ...].")


def _read_fields(cls: type, path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """
    The fields of a file, and of those that it extends.

    Args:
        cls: The class of settings.
        path: The file.
        extending: Files that extend it, directly or not.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A field is unknown, or the file extends itself.
    """
    if path.resolve() in extending:
        raise ValueError(f"{path} extends itself, through {[str(other) for other in extending]}.")
    values = read_yaml(path)
    base = values.pop("extends", None)
    if unknown := unknown_names(values, names_of(cls), _renamed(cls)):
        raise ValueError(f"{path}: {unknown}")
    if base is None:
        return values
    inherited = _read_fields(cls, path.parent / base, (*extending, path.resolve()))
    return inherited | {name: _overridden(inherited.get(name), value) for name, value in values.items()}


def _overridden(inherited: Any, value: Any) -> Any:
    return {**inherited, **value} if isinstance(inherited, dict) and isinstance(value, dict) else value
