# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m modeling_sparse_merit.cli`, for launchers that run modules."""

from .main import app

app()
