# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Conversion of weights: the published ones, pretrained encoders, adapters, ONNX."""
