# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Two processes learn what one would learn from all their clips."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from learning import VARIANTS, learned
from safetensors.torch import load_file

TESTS = Path(__file__).parent


def test_losses_and_gradients_of_two_processes_are_those_of_one_with_all_clips(tmp_path):
    """Other lengths, labels and numbers of them in each process, for every loss and each kind of enhancement."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [*launcher, str(TESTS / "learning.py"), str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for number, variant in enumerate(VARIANTS):
        two, one = load_file(tmp_path / f"two{number}.safetensors"), learned(variant, [0, 1])
        assert two.keys() == one.keys()
        assert sum(name.startswith("loss ") for name in one) == 7 - (variant.get("router") == "dense")
        for name, expected in one.items():
            torch.testing.assert_close(
                two[name], expected, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n} {text}"
            )
