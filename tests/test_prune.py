# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Narrower feed-forward layers: units that others can stand for are removed without a change of the output."""

import torch
from torch import nn

from benchmarks.prune import prune


def test_units_that_others_can_stand_for_are_removed_without_a_change():
    torch.manual_seed(0)
    intermediate, output = nn.Linear(6, 10), nn.Linear(10, 4)
    with torch.no_grad():
        intermediate.weight[5:8], intermediate.bias[5:8] = intermediate.weight[:3], intermediate.bias[:3]  # copies
        output.weight[:, 5:8] *= 0.01
        output.weight[:, 8:] = 0.0  # of no use
    frames = torch.randn(400, 6)
    units = nn.functional.gelu(intermediate(frames))
    before = output(units)
    prune(intermediate, output, units, count=5)
    assert intermediate.weight.shape == (5, 6) and output.weight.shape == (4, 5)
    after = output(nn.functional.gelu(intermediate(frames)))
    torch.testing.assert_close(after, before, atol=2e-3, rtol=0)
