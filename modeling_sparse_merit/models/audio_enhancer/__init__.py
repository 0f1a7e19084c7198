# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Audio enhancement without an encoder: configuration, model and its structures."""
