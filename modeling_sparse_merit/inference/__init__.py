# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Inference on recordings on disk and in stores: finding files, batching, resumable results, figures, Ray Data."""
