# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The page of `sparse-merit app`: enhances a recording in the browser and shows its emotion (extra `app`)."""
