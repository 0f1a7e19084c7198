# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Model families: a flat, closed folder each. Its files travel to the Hub with every checkpoint."""
