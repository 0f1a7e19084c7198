# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Blinded studies in which people label recordings as they are, in noise and after enhancement."""
