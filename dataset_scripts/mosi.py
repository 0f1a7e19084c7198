# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m dataset_scripts.mosi FOLDER OUT`: see `modeling_sparse_merit.data.corpora.mosi`."""

import sys

from modeling_sparse_merit.cli import app

if __name__ == "__main__":
    app(["prepare", "mosi", *sys.argv[1:]], prog_name="sparse-merit")
