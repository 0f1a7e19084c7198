# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The command `sparse-merit`."""

from .main import app

__all__ = ["app"]
