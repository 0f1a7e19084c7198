# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A corpus shared out among the processes of `accelerate launch`, on one machine or several with a common folder."""

from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from .files import Recording


def join_processes(device: str | None) -> PartialState:
    """The processes of the launcher. They wait for each other as long as it takes."""
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    return PartialState(cpu=on_cpu, timeout=timedelta(days=7))


def share_of(recordings: Sequence[Recording], state: PartialState) -> list[Recording]:
    """This process's share, every so manieth, of the recordings that the first process gives."""
    plan = broadcast_object_list([list(recordings)])[0]
    return plan[state.process_index :: state.num_processes]
