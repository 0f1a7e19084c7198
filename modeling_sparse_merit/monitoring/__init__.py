# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Monitoring of a model in service: drift from a reference, and reports of shadow mode."""
