# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m dataset_scripts.emospeech_commands FOLDER OUT`: see
`modeling_sparse_merit.data.corpora.emospeech_commands`."""

from modeling_sparse_merit.data.corpora import corpus
from modeling_sparse_merit.hub.datasets import push_dataset

if __name__ == "__main__":
    corpus("emospeech_commands").main(publish=push_dataset)
