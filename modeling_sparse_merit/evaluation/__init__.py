# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Evaluation: one configuration, any number of systems, the same clean and noisy test clips, one report.

Names are imported when they are first used: statistics and tables need none of the packages of an evaluation.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` imports, for type checkers and editors
    from .calibration import calibrate as calibrate
    from .configuration import EvaluationConfig as EvaluationConfig
    from .run import evaluate as evaluate

_MODULE_OF = {"EvaluationConfig": "configuration", "calibrate": "calibration", "evaluate": "run"}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
