# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Other formats of weights: the published ones, WavLM, adapters, ONNX."""
