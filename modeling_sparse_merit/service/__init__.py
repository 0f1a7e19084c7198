# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The HTTP service of `sparse-merit serve`: emotion and enhanced speech of recordings (extra `serve`)."""
