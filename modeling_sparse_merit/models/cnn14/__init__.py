# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""CNN14, a convolutional classifier of sounds: configuration and model."""
