# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Docstrings in the manner of transformers, rewritten as griffe reads them: section titles, links to names."""

import re
from typing import Any

import griffe

REWRITTEN = [
    (re.compile(r"^( *)(?:Usage|Example):$", re.MULTILINE), r"\1Examples:"),
    (re.compile(r"^( *)(Parameters|Raises)(?:, | \()([^:\n]+?)\)?:$", re.MULTILINE), r"\1\2: \2, \3"),
    (re.compile(r"\[(`[\w.]+`)\](?!\()"), r"\1"),
]


class TransformersDocstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            for pattern, replacement in REWRITTEN:
                obj.docstring.value = pattern.sub(replacement, obj.docstring.value)
