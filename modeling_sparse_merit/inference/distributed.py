# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Distribution of recordings over the processes of `accelerate launch`, on one or several machines."""

from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from .files import Recording


def join_processes(device: str | None) -> PartialState:
    """Joins the processes of the launcher, without time limit."""
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    return PartialState(cpu=on_cpu, timeout=timedelta(days=7))


def share_of(recordings: Sequence[Recording], state: PartialState) -> list[Recording]:
    """The recordings of this process: every n-th of those given by the first process.

    Args:
        recordings: all recordings, in the first process.
        state: from `join_processes`.
    """
    plan = broadcast_object_list([list(recordings)])[0]
    return plan[state.process_index :: state.num_processes]
