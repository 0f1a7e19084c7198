# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Processes of `sparse-merit` that start at once: they are forked from a process that has imported torch.

multiprocessing imports this file in each of them, so it imports nothing at the top that takes long.
"""

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = ["modeling_sparse_merit.cli", "modeling_sparse_merit.inference.batching"]


def start(folder: Path, log: str, *arguments: object) -> BaseProcess:
    """Starts `sparse-merit ARGUMENTS` in a folder; stdout and stderr are appended to a file there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(folder, log, [str(argument) for argument in arguments]))
    process.start()
    return process


def _run(folder: Path, log: str, arguments: list[str]) -> None:
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
    from modeling_sparse_merit.cli import app

    app(arguments)
