# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Notebooks of the tutorials. `make docs` adds them to the site, and `make test-docs` executes them.

A block of Python is a cell, a block of Bash a cell of `%%bash`, and a block with a title (```yaml title="x.yaml") a
cell that writes this file. Blocks after <!-- skip: next "reason" --> are text, as are all others.
"""

import re

import jupytext
from nbformat import NotebookNode

BLOCK = re.compile(
    r'(?P<skip><!-- skip: next "[^"]*" -->\n)?'
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<source>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def notebook(page: str) -> NotebookNode:
    """The notebook of a tutorial.

    Args:
        page: the tutorial in Markdown.
    """
    converted = jupytext.reads(BLOCK.sub(_cell, page), "md")
    converted.metadata.kernelspec = KERNEL
    return converted


def _cell(block: re.Match[str]) -> str:
    """A fenced block as jupytext reads it: only what runs is a cell."""
    language, source = block["language"], block["source"]
    if block["skip"]:
        return f"```{language} .noeval\n{source}```"
    if block["title"]:
        return f"```python\n%%writefile {block['title']}\n{source}```"
    return f"```python\n%%bash -euo pipefail\n{source}```" if language == "bash" else block[0]
