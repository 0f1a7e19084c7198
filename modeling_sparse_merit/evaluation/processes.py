# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The processes of `accelerate launch`, on one or several machines."""

from datetime import timedelta

import torch
from accelerate import PartialState


def join_processes(device: str | None) -> PartialState:
    """Joins the processes of the launcher, without time limit.

    Args:
        device: torch device; None is the fastest available.
    """
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    return PartialState(cpu=on_cpu, timeout=timedelta(days=7))
