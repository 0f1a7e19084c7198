# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Enrolment and verification of speakers, with untrained embeddings."""

import numpy as np
import pytest
import torch
from conftest import TINY, make_speech

from modeling_sparse_merit import (
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.inference.speakers import SpeakerVerifier


@pytest.fixture(scope="module")
def verifier():
    torch.manual_seed(0)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        TINY, tasks=["enhancement", "speaker"], clip_tasks={"speaker": {"kind": "embedding", "size": 8}}
    )
    extractor = SparseMeritFeatureExtractor.from_pretrained(TINY)
    return SpeakerVerifier(SpeechEnhancementAndEmotionPipeline(model=model.eval(), feature_extractor=extractor))


def clip(seed: int) -> dict:
    return {"array": make_speech(2.0, seed=seed), "sampling_rate": 16_000}


def test_a_recording_is_most_similar_to_its_own_voice(verifier):
    verifier.enrol("ann", [clip(0)])
    verifier.enrol("bob", [clip(1), clip(2)])
    assert verifier.speakers == ["ann", "bob"]
    assert verifier.similarity(clip(0), "ann") == pytest.approx(1)
    first, second = verifier.rank(clip(0))
    assert first["label"] == "ann" and first["score"] > second["score"]
    expected = np.mean([verifier.embedding(clip(seed)) for seed in (1, 2)], axis=0)
    expected /= np.linalg.norm(expected)
    assert verifier.similarity(clip(0), "bob") == pytest.approx(float(verifier.embedding(clip(0)) @ expected))


def test_what_has_no_voice_is_named(verifier):
    with pytest.raises(ValueError, match="no recording of 'cem'"):
        verifier.enrol("cem", [])
    with pytest.raises(ValueError, match="has no speech"):
        verifier.enrol("cem", [{"array": np.zeros(16_000, np.float32), "sampling_rate": 16_000}])
    with pytest.raises(ValueError, match="'cem' is not enrolled; those who are: ann, bob"):
        verifier.similarity(clip(0), "cem")


def test_a_model_without_embeddings_is_refused():
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu")
    with pytest.raises(ValueError, match="The model has no embeddings 'speaker'"):
        SpeakerVerifier(pipe)
