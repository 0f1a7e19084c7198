# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m dataset_scripts.speechocean762 FOLDER OUT`: see `modeling_sparse_merit.data.corpora.speechocean762`."""

from modeling_sparse_merit.data.corpora import corpus
from modeling_sparse_merit.hub.datasets import push_dataset

if __name__ == "__main__":
    corpus("speechocean762").main(publish=push_dataset)
