# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Hugging Face Hub: export, model cards, and pushing of checkpoints and datasets."""
