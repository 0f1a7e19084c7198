# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Common tests of transformers on the feature extractor."""

import unittest

import not_shipped  # noqa: F401
import numpy as np
from transformers_tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin

from modeling_sparse_merit import SparseMeritFeatureExtractor


class SparseMeritFeatureExtractionTester:
    """Recordings of growing length. The suite reads the sizes from the attributes."""

    batch_size = 7
    min_seq_length = 400
    max_seq_length = 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)
    feature_size = 1
    padding_value = 0.0

    def prepare_feat_extract_dict(self) -> dict[str, float]:
        return {"feature_size": 1, "padding_value": 0.0, "sampling_rate": 16_000, "return_attention_mask": True}

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False) -> list:
        generator = np.random.default_rng(0)
        lengths = [self.min_seq_length + index * self.seq_length_diff for index in range(self.batch_size)]
        recordings = [generator.random(self.max_seq_length if equal_length else length) for length in lengths]
        return recordings if numpify else [recording.tolist() for recording in recordings]


class SparseMeritFeatureExtractionTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = SparseMeritFeatureExtractor

    def setUp(self) -> None:
        self.feat_extract_tester = SparseMeritFeatureExtractionTester()
