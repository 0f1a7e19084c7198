# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Training, as `train_accelerate.py` runs it: a file for each step."""
