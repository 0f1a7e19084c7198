# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Transcripts of `enhance`: of each segment by a recogniser, or of each recording from a folder."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
import transformers
from conftest import TINY_SIZES
from hub_server import Repository
from test_cli import record, results_in, run  # noqa: F401  # fixtures
from tokenizers.pre_tokenizers import ByteLevel

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
    enhance_recordings,
    find_recordings,
)
from modeling_sparse_merit.inference.transcripts import SegmentTranscriber
from modeling_sparse_merit.models.sparse_merit.speech_segments import SpeechSegment

RATE = 16_000
TONES = [
    (0.5, None),
    (1.0, 300),
    (1.0, None),
    (2.0, 700),
    (0.6, None),
    (0.5, 1200),
    (15.0, None),
    (3.0, 500),
    (1, None),
]
"""Seconds and Hz of the parts of a recording, None for silence."""


def make_tones(tones=TONES) -> np.ndarray:
    """float32 (samples,) of tones and silence."""
    parts = [0.3 * np.sin(2 * np.pi * (hertz or 0) * np.arange(round(s * RATE)) / RATE) for s, hertz in tones]
    return np.concatenate(parts).astype(np.float32)


def detect_loud_frames():
    """A speech detector: frames of 20 ms that are not silent."""

    def detect(window, enhanced):
        piece = np.pad(window.piece, (0, -len(window.piece) % 320)).reshape(-1, 320)  # (samples,) -> (frames, 320)
        return np.abs(piece).max(1) > 0.01

    return detect


def name_of_tone(waveform: np.ndarray) -> str:
    """A recogniser of tones: the strongest frequency, to 50 Hz."""
    strongest = np.abs(np.fft.rfft(waveform)).argmax() * RATE / len(waveform)
    return f" {50 * round(strongest / 50)} "


def enhanced(folder, waveform, pipe, **treatment):
    """The record of a waveform, and what its transcriber received."""
    soundfile.write(folder / "call.wav", waveform, RATE, subtype="FLOAT")
    recordings, _ = find_recordings([str(folder / "call.wav")], folder)
    received = []

    def transcriber(audio):
        received.append(audio)
        return name_of_tone(audio)

    (result,) = enhance_recordings(pipe, recordings, transcriber=transcriber, detector=detect_loud_frames, **treatment)
    return result, received


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def ctc_folder(tmp_path_factory):
    """A tiny wav2vec 2.0 with random weights, for speech recognition."""
    folder = tmp_path_factory.mktemp("ctc")
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4, "C": 5}))
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(vocab_size=6, **{name: TINY_SIZES[name] for name in list(TINY_SIZES)[:5]})
    model = transformers.Wav2Vec2ForCTC(config)
    model.lm_head.weight.data *= 50
    model.save_pretrained(folder)
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    """A tiny Whisper with random weights, whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("whisper")
    vocabulary = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[], bos_token=special[0], eos_token=special[0])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.save_pretrained(folder)
    end, start = tokenizer.convert_tokens_to_ids(special[:2])
    tokens = {"eos_token_id": end, "bos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    torch.manual_seed(0)
    config = transformers.WhisperConfig(vocab_size=len(tokenizer), **sizes, **tokens)
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(**tokens, max_length=12, num_beams=1)
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def test_each_segment_is_transcribed_with_a_little_context(pipe, tmp_path):
    waveform = make_tones()
    result, received = enhanced(tmp_path, waveform, pipe)
    times = [(segment["start"], segment["end"]) for segment in result["segments"]]
    assert times == [(0.5, 1.5), (2.5, 4.5), (5.1, 5.6), (20.6, 23.6)]
    assert [segment["transcript"] for segment in result["segments"]] == ["300", "700", "1200", "500"]
    assert result["transcript"] == "300 700 1200 500"
    for (start, end), audio in zip(times, received, strict=True):
        assert audio.dtype == np.float32
        np.testing.assert_array_equal(audio, waveform[round((start - 0.2) * RATE) : round((end + 0.2) * RATE)])


def test_context_ends_with_the_recording(pipe, tmp_path):
    waveform = make_tones([(0.1, None), (1.0, 300)])
    _, (audio,) = enhanced(tmp_path, waveform, pipe)
    np.testing.assert_array_equal(audio, waveform)


def test_what_is_held_does_not_grow_with_the_recording():
    transcriber = SegmentTranscriber(name_of_tone)
    for second in range(0, 100, 2):
        assert transcriber.add(np.zeros(2 * RATE, np.float32), [], (second + 2) * RATE) == []
        assert len(transcriber._held) == 0.2 * RATE
    tone = make_tones([(2.0, 300)])
    assert transcriber.add(tone, [], 100 * RATE) == []
    ended = [SpeechSegment(100 * 50, 102 * 50, {})]
    assert transcriber.add(np.zeros(2 * RATE, np.float32), ended, 104 * RATE) == ["300"]
    assert len(transcriber._held) == 0.2 * RATE


def test_a_segment_that_is_too_long_for_whisper_is_transcribed_in_parts():
    received = []

    def transcriber(audio):
        received.append(len(audio) / RATE)
        return name_of_tone(audio)

    tones = make_tones([(40.0, 300), (30.0, 700)])
    assert SegmentTranscriber(transcriber).add(tones, [SpeechSegment(0, 70 * 50, {})], 70 * RATE) == ["300 300 700"]
    assert received == pytest.approx([70 / 3] * 3, abs=0.001)


def test_silence_has_an_empty_transcript_and_needs_no_recogniser(pipe, tmp_path):
    result, received = enhanced(tmp_path, np.zeros(RATE, np.float32), pipe)
    assert (result["transcript"], result["segments"], received) == ("", [], [])


@pytest.mark.parametrize("task", [{"tasks": ["enhancement"]}, {"tasks": ["emotion"]}])
def test_models_of_one_task_have_transcripts_too(tmp_path, task):
    model = SparseMeritForSpeechEnhancementAndEmotion(SparseMeritConfig(**TINY_SIZES, **task)).eval()
    pipe = SpeechEnhancementAndEmotionPipeline(model=model, feature_extractor=SparseMeritFeatureExtractor())
    result, received = enhanced(tmp_path, make_tones(), pipe)
    assert result["transcript"] == "300 700 1200 500" and len(received) == 4
    assert ("segments" in result) == ("emotion" in task["tasks"])


@pytest.mark.parametrize("kind", ["ctc_folder", "whisper_folder"])
def test_the_command_takes_models_for_speech_recognition(run, tmp_path, speech_clip, request, kind):  # noqa: F811
    folder = request.getfixturevalue(kind)
    waveform = np.concatenate([speech_clip(2.0), np.zeros(RATE, np.float32), speech_clip(1.5, seed=1)])
    soundfile.write(tmp_path / "call.wav", waveform, RATE, subtype="FLOAT")
    result = run("call.wav", "-o", "out", "--transcribe", folder, "--segments", "csv")
    assert result.exit_code == 0, result.output
    (line,) = results_in("out")
    recogniser = transformers.pipeline("automatic-speech-recognition", str(folder), dtype=torch.float32)
    expected = []
    for segment in line["segments"]:
        first, end = (round((segment[side] + shift) * RATE) for side, shift in (("start", -0.2), ("end", 0.2)))
        expected.append(recogniser(waveform[max(0, first) : end])["text"].strip())
    assert expected and [segment["transcript"] for segment in line["segments"]] == expected
    assert line["transcript"] == " ".join(filter(None, expected)) != ""
    with open("out/call.segments.csv", newline="") as file:
        assert [row["transcript"] for row in csv.DictReader(file)] == expected


def test_a_folder_has_a_transcript_of_each_recording(run, record, tmp_path):  # noqa: F811
    record("calls/a.wav"), record("calls/b.wav"), record("c.wav", channels=2)
    (tmp_path / "texts").mkdir()
    for name, text in {"a": "Grüße an alle.\n", "c.ch1": "Hello", "c.ch2": "Yes?"}.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    result = run("calls", "c.wav", "--channel", "each", "-o", "out", "--transcribe", "texts", "--segments", "csv")
    assert result.exit_code == 0, result.output
    assert [line["transcript"] for line in results_in("out")] == ["Grüße an alle.", None, "Hello", "Yes?"]
    assert all("transcript" not in segment for line in results_in("out") for segment in line["segments"])
    assert "transcript" not in (tmp_path / "out" / "a.segments.csv").read_text()


def test_transcripts_are_part_of_the_settings(run, record, ctc_folder, tmp_path):  # noqa: F811
    record("a.wav")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("Hello")
    for option in ((), ("--transcribe", "texts"), ("--transcribe", ctc_folder)):
        assert "by an earlier run" not in run("a.wav", "-o", "out", *option).output
        assert "1 by an earlier run" in run("a.wav", "-o", "out", *option).output
        assert ("transcript" in results_in("out")[0]) == bool(option)


def test_a_model_on_the_hub_is_not_downloaded_unasked(hub, run, record, ctc_folder):  # noqa: F811
    hub.repositories["models", "someone/recogniser"] = Repository(
        commits=[{path.name: path.read_bytes() for path in ctc_folder.iterdir()}]
    )
    record("a.wav")
    result = run("a.wav", "-o", "out", "--transcribe", "someone/recogniser")
    assert result.exit_code == 2 and "hf download someone/recogniser" in result.output
    assert hub.requests == []
    from huggingface_hub import snapshot_download

    snapshot_download("someone/recogniser")
    hub.requests.clear()
    assert run("a.wav", "-o", "out", "--transcribe", "someone/recogniser").exit_code == 0
    assert hub.requests == [] and results_in("out")[0]["transcript"] is not None


def test_what_cannot_transcribe_says_why_in_one_line(run, record, tiny_checkpoint, tmp_path):  # noqa: F811
    record("a.wav"), record("b/a.wav"), record("c.wav")
    for name in ("empty", "texts"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("Hello")
    for recordings, source, message in (
        (["c.wav"], "nowhere", "nowhere is not a folder"),
        (["c.wav"], "empty", "empty holds neither a model for speech recognition"),
        (["c.wav"], tiny_checkpoint, "cannot be loaded as a model for automatic speech recognition"),
        (["c.wav"], "texts", "expected files such as c.txt"),
        (["a.wav", "b/a.wav"], "texts", "Several recordings are called a,"),
    ):
        result = run(*recordings, "-o", "out", "--transcribe", source)
        assert result.exit_code == 2 and message in result.output, result.output
        assert result.output.count("\n") == 1 and not (tmp_path / "out").exists()
