# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Model families, each in its own folder. The files of a family travel to the Hub with every checkpoint."""
