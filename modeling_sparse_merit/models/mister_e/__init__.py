# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The conversation model, a mixture of speech and text experts: its code travels with its checkpoints to the Hub."""
