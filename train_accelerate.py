# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`accelerate launch train_accelerate.py CONFIG.yaml`: see `modeling_sparse_merit.training.run`."""

from modeling_sparse_merit.training.run import main

if __name__ == "__main__":
    main()
