# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""From a corpus as it is distributed to a `datasets` table: one script for each corpus, one schema for all of them.

Run a script as `sparse-merit prepare ravdess RAW_FOLDER OUT_FOLDER` or `python -m dataset_scripts.ravdess RAW_FOLDER
OUT_FOLDER`, or call its `build(folder)` from Python.
"""
