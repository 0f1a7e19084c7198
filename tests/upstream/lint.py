# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Runs the model linter of transformers (transformers-mlinter) on the model files: `python tests/upstream/lint.py`.

The linter expects the layout of transformers' own source, so the files are checked in a copy that has it. Findings of
a rule in `ACCEPTED` are counted, with the reason; any other is a failure, and so is a rule there that finds nothing.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
ACCEPTED = {
    "TRF009": "the encoder is the installed WavLM with further outputs, so that its checkpoints load",
    "TRF028": "the licence is stated in one line in every file, and its text is in LICENSE",
    "TRF045": "`output_hidden_states` may be a list of layers, which `@capture_outputs` does not know",
    "TRF057": "docstrings are written by hand, with shapes and units",
}
"""Rules that the model files break, and why."""


def stage(root: Path) -> None:
    """Copies each family's model files and tests below `root`, laid out as in the source of transformers."""
    for family in (path for path in (ROOT / "modeling_sparse_merit" / "models").iterdir() if path.is_dir()):
        shutil.copytree(family, root / "src" / "transformers" / "models" / family.name)
        tests = root / "tests" / "models" / family.name
        tests.mkdir(parents=True)
        for path in ROOT.glob("tests/**/test_*.py"):
            if (family / path.name.removeprefix("test_")).exists():
                shutil.copyfile(path, tests / path.name)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder))
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "mlinter", "--no-cache", "--no-progress", "--output-json", str(report)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if not report.exists():
            print(done.stdout + done.stderr)
            return 1
        findings = json.loads(report.read_text(encoding="utf-8"))["findings"]
    for finding in (finding for finding in findings if finding["rule"] not in ACCEPTED):
        print(f"{finding['path']}:{finding['line']}: {finding['message']}")
    counts = Counter(finding["rule"] for finding in findings)
    for rule in ACCEPTED:
        print(f"{rule}: {counts[rule]} accepted, as {ACCEPTED[rule]}")
    return int(not set(counts) == set(ACCEPTED))


if __name__ == "__main__":
    raise SystemExit(main())
