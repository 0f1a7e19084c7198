# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The help of every command has an example that the command accepts."""

import re
import shlex
from collections.abc import Iterator

import pytest
import typer

from modeling_sparse_merit.cli import app


def commands(group=None, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name), command


@pytest.mark.parametrize(
    ("names", "command"), commands(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_help_has_an_example_that_is_accepted(names, command):
    text = f"{command.help}\n\n{command.epilog or ''}"
    (example,) = re.findall(r"^ *Example: (.*)$", text, re.MULTILINE)
    program, *arguments = shlex.split(example.partition(" < ")[0])
    assert program == "sparse-merit" and tuple(arguments[: len(names)]) == names
    command.make_context(names[-1], arguments[len(names) :])  # raises a usage error if an argument is wrong
