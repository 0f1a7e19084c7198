# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Evaluation: one configuration, any number of systems, the same clean and noisy test clips, one report."""

from .calibration import calibrate
from .configuration import EvaluationConfig
from .run import evaluate

__all__ = ["EvaluationConfig", "calibrate", "evaluate"]
