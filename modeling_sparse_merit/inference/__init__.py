# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Inference on recordings on disk: finding files, batching, resumable results, figures, several processes."""
