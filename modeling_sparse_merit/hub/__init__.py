# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The way to the Hugging Face Hub: export, model cards, pushing of checkpoints and datasets."""
