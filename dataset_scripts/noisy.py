# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m dataset_scripts.noisy ... OUT`: see `modeling_sparse_merit.evaluation.prepare_noisy`."""

from modeling_sparse_merit.evaluation.prepare_noisy import main
from modeling_sparse_merit.hub.datasets import push_dataset

if __name__ == "__main__":
    main(publish=push_dataset)
