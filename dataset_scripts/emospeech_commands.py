# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m dataset_scripts.emospeech_commands FOLDER OUT`: see
`modeling_sparse_merit.data.corpora.emospeech_commands`."""

import sys

from modeling_sparse_merit.cli import app

if __name__ == "__main__":
    app(["prepare", "emospeech_commands", *sys.argv[1:]], prog_name="sparse-merit")
