# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Files that were changed at random are read or refused: no crash, no hang, no memory by a number in a header."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="the memory of a process cannot be limited here")
ROOT = Path(__file__).parents[1]
GROUPS = {
    "recordings": {"recording": 1.0},
    "others": {"config": 0.2, "calibration": 0.02, "settings": 0.02, "task": 0.01},
}
"""Cases of each kind relative to FUZZ_CASES; the last ones take long."""
CASES = int(os.environ.get("FUZZ_CASES", "2000"))


@pytest.mark.parametrize("group", GROUPS)
def test_files_that_were_changed_at_random_are_read_or_refused(group, tmp_path):
    parts = [f"{kind}:0:{round(CASES * share)}" for kind, share in GROUPS[group].items()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FUZZ_CASE": str(tmp_path / "case"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "tests" / "fuzzing.py"), *parts]
    done = subprocess.run(command, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    case = (tmp_path / "case").read_text()
    assert done.returncode == 0, f"case {case}, status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    kind, _, last = parts[-1].split(":")
    assert case == f"{kind}:{int(last) - 1}"
