# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Packages of the extras, imported when they are needed."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any


def import_extra(name: str, extra: str) -> ModuleType:
    """Imports a package of an extra.

    Args:
        name: the package.
        extra: the extra of this package that provides it.

    Raises:
        ImportError: the package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'This needs the package `{name}`: pip install "modeling-sparse-merit[{extra}]"') from error


def one_thread_session(path: Path, extra: str) -> Any:
    """An ONNX graph in a session of onnxruntime on one CPU thread: results do not depend on the number of cores.

    Args:
        path: the ONNX file.
        extra: the extra of this package that provides onnxruntime.

    Raises:
        ImportError: onnxruntime is not installed; the message says how to install it.
    """
    onnxruntime = import_extra("onnxruntime", extra)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
