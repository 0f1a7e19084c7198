# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Datasets: their schema, preparation and publication, mixtures, acoustic features and synthetic noise."""
