# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Checks the types of the package with mypy: `python tests/typing_errors.py`, as `make quality` runs it.

`models/` has no errors. Elsewhere their number may only fall: whoever fixes some records the new number here.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDED = 256
"""Errors outside `models/`, with the versions in constraints.txt."""


def find_errors() -> list[str]:
    """
    One line for each error that mypy reports.

    Raises:
        RuntimeError: mypy did not check the package.
    """
    done = subprocess.run([sys.executable, "-m", "mypy", "--no-pretty"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: there are errors
        raise RuntimeError(f"mypy failed:\n{done.stdout}{done.stderr}")
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def main() -> str | None:
    """Prints the count; returns what is wrong, if anything."""
    errors = find_errors()
    models = [line for line in errors if line.replace("\\", "/").startswith("modeling_sparse_merit/models/")]
    others = [line for line in errors if line not in models]
    print(f"mypy: {len(models)} errors in models/, {len(others)} elsewhere (recorded: {RECORDED})")
    if models:
        return "\n".join([*models, "models/ has none: fix these."])
    if len(others) > RECORDED:
        return "\n".join([*others, f"{len(others)} errors, {RECORDED} are recorded: fix those that are new."])
    if len(others) < RECORDED:
        print(f"Fewer than recorded: set RECORDED = {len(others)} in {Path(__file__).name}.")
    return None


if __name__ == "__main__":
    sys.exit(main())
