# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings on disk through a model: finding, batching, results that survive, pictures, several processes."""
