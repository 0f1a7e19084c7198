# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m dataset_scripts.acoustic_features ... OUT`: see `modeling_sparse_merit.data.acoustic_features`."""

from modeling_sparse_merit.data.acoustic_features import main
from modeling_sparse_merit.hub.datasets import push_dataset

if __name__ == "__main__":
    main(publish=push_dataset)
