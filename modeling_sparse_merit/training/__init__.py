# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The machinery of `train_accelerate.py`: a file for each of its steps."""
