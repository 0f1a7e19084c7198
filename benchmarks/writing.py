# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Results of a benchmark as JSON, for programs, and as Markdown, for people."""

import json
import subprocess
from pathlib import Path
from typing import Any

from modeling_sparse_merit.files import replacing

RESULTS = Path(__file__).parent / "results"


def write_results(path: Path, results: dict[str, Any], text: str) -> None:
    """Writes `path` with the suffixes `.json` and `.md`, each complete or not at all.

    Args:
        path: Without a suffix; its folder is made where there is none.
        results: What was measured, JSON-able.
        text: The same as Markdown.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".json", json.dumps(results, indent=1)), (".md", text)):
        with replacing(path.with_name(path.name + suffix)) as temporary:
            temporary.write_text(content.rstrip("\n") + "\n", encoding="utf-8")


def commit() -> str:
    """The commit of the code that was measured."""
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
