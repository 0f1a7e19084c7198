# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Sparse MERIT: configuration, model, feature extractor, pipelines, and reading and writing of audio."""
