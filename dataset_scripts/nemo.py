# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m dataset_scripts.nemo FOLDER OUT`: see `modeling_sparse_merit.data.corpora.nemo`."""

import sys

from modeling_sparse_merit.cli import app

if __name__ == "__main__":
    app(["prepare", "nemo", *sys.argv[1:]], prog_name="sparse-merit")
