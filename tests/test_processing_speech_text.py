# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The processor of the speech-text model: long and blank texts, padding, missing modalities."""

import logging

import numpy as np
import pytest
from test_modeling_speech_text import TEXTS, WORDS, make_clips, make_processor, make_tokenizer

from modeling_sparse_merit import SpeechTextProcessor


@pytest.fixture
def processor() -> SpeechTextProcessor:
    return make_processor()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return make_clips()


def test_a_long_text_is_cut_with_one_message(processor, caplog):
    with caplog.at_level(logging.WARNING, logger="modeling_sparse_merit"):  # which commands silence
        for _ in range(2):
            tokens = processor(text=["hello " * 600, "sad"])
    assert tokens["input_ids"].shape == (2, 38)
    assert tokens["input_ids"][0, -1] == WORDS.index("[SEP]")
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "Texts of more than 38 tokens are cut there"
    ]


def test_a_limit_of_ones_own_is_saved(tmp_path):
    SpeechTextProcessor(tokenizer=make_tokenizer(), max_tokens=5).save_pretrained(tmp_path)
    assert SpeechTextProcessor.from_pretrained(tmp_path)(text=TEXTS)["input_ids"].shape == (3, 5)
    assert SpeechTextProcessor.from_pretrained(tmp_path, max_tokens=4)(text=TEXTS)["input_ids"].shape == (3, 4)


def test_a_decoder_pads_on_the_right_with_its_last_token():
    tokenizer = make_tokenizer(pad_token=None, eos_token="[SEP]", padding_side="left")
    tokens = SpeechTextProcessor(tokenizer=tokenizer)(text=["hello sad", "hello"])
    assert tokens["input_ids"].tolist() == [[2, 12, 8, 3], [2, 12, 3, 3]]
    assert tokens["text_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    with pytest.raises(ValueError, match="neither `pad_token` nor `eos_token`"):
        SpeechTextProcessor(tokenizer=make_tokenizer(pad_token=None))


def test_clips_without_a_modality_are_rows_of_padding(processor, clips):
    features = processor(audio=[None, clips[1]], text=[" ", "hello"], sampling_rate=16_000)
    assert features["attention_mask"].sum(1).tolist() == [0, len(clips[1])]
    assert features["text_attention_mask"].sum(1).tolist() == [0, 3]
    assert set(processor(text=[None])) == {"input_ids", "text_attention_mask"}
    with pytest.raises(ValueError, match="`audio` has 1 recordings, `text` 2 texts"):
        processor(audio=clips[0], text=["hello", "sad"], sampling_rate=16_000)
    with pytest.raises(ValueError, match="neither `audio` nor `text`"):
        processor()
