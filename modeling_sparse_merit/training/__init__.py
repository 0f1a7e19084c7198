# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Training: settings, data, losses, stages, validation and checkpoints of the runs of `train_accelerate.py`."""
