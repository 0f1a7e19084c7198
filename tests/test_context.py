# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`enhance --context`: the emotion of each segment in the context of the others, over all channels of a call."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TINY_SIZES
from test_cli import record, results_in, run  # noqa: F401  # fixtures
from test_pipeline_mister_e import LABELS, embedders, make_pipeline, stages  # noqa: F401  # fixtures
from test_transcripts import RATE, ctc_folder  # noqa: F401  # fixtures

from modeling_sparse_merit import (
    ConversationPipeline,
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
)
from modeling_sparse_merit.inference.segments import write_segments


@pytest.fixture(scope="module")
def models(stages) -> dict[str, Path]:  # noqa: F811
    """Conversation models of both modalities, of speech alone, and of text alone."""
    folders = {"both": stages / "conversation"}
    for name, other in (("speech", "text"), ("text", "speech")):
        fields = {f"{name}_model": str(stages / name), f"{other}_size": 0}
        make_pipeline({}, **fields).model.save_pretrained(stages / f"{name}_conversation")
        folders[name] = stages / f"{name}_conversation"
    return folders


@pytest.fixture
def call(speech_clip, tmp_path) -> np.ndarray:
    """A call: the first channel speaks, then the second one, then the first one again: (samples, 2)."""

    def silence(seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * RATE), np.float32)

    first = np.concatenate([speech_clip(2.0), silence(3.5), speech_clip(1.5, seed=1)])
    second = np.concatenate([silence(2.75), speech_clip(2.0, seed=2), silence(2.25)])
    waveforms = np.stack([first, second], axis=1).astype(np.float32)
    soundfile.write(tmp_path / "call.wav", waveforms, RATE, subtype="FLOAT")
    return waveforms


def in_time(lines: list[dict], call: np.ndarray) -> list[tuple[dict, np.ndarray]]:
    """The segments of all channels in the order of their starts, with what is said in them and 0.2 s around."""
    segments = [(segment, call[:, number]) for number, line in enumerate(lines) for segment in line["segments"]]
    ordered = sorted(segments, key=lambda entry: entry[0]["start"])
    return [
        (each, channel[max(0, round((each["start"] - 0.2) * RATE)) : round((each["end"] + 0.2) * RATE)])
        for each, channel in ordered
    ]


def test_the_channels_of_a_call_are_one_conversation(run, call, models, embedders):  # noqa: F811
    result = run("call.wav", "--channel", "each", "-o", "out", "--context", models["speech"], "--segments", "csv")
    assert result.exit_code == 0, result.output
    lines = results_in("out")
    ordered = in_time(lines, call)
    assert [len(line["segments"]) for line in lines] == [2, 1]
    assert [segment in lines[1]["segments"] for segment, _ in ordered] == [False, True, False]
    pipe = ConversationPipeline.from_pretrained(models["speech"], embedders)
    expected = pipe([{"audio": {"array": waveform, "sampling_rate": RATE}} for _, waveform in ordered])
    alone = pipe([{"audio": {"array": ordered[0][1], "sampling_rate": RATE}}])[0]
    for (segment, _), own in zip(ordered, expected, strict=True):
        context = segment["context"]
        assert context["emotion"] == own["emotion"][0]["label"] and context["gate"] == {"speech": 1.0}
        scores = {entry["label"]: entry["score"] for entry in own["emotion"]}
        assert context["scores"] == pytest.approx(scores, abs=1e-4)
    assert ordered[0][0]["context"]["scores"] != pytest.approx(
        {entry["label"]: entry["score"] for entry in alone["emotion"]}, abs=1e-4
    )
    for number, line in enumerate(lines, 1):
        with open(f"out/call.ch{number}.segments.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["context_emotion"] for row in rows] == [each["context"]["emotion"] for each in line["segments"]]
        assert all(float(row["gate_speech"]) == 1 for row in rows)
        assert {f"context_{label}" for label in LABELS} < set(rows[0])


@pytest.mark.parametrize("kind", ["text", "both"])
def test_texts_are_those_of_the_recogniser(run, call, models, embedders, ctc_folder, kind):  # noqa: F811
    result = run("call.wav", "-o", "out", "--context", models[kind], "--transcribe", ctc_folder, "--segments", "vtt")
    assert result.exit_code == 0, result.output
    (line,) = results_in("out")
    mixed = call.mean(1, keepdims=True)
    utterances = []
    for segment, waveform in in_time([line], mixed):
        audio = {"audio": {"array": waveform, "sampling_rate": RATE}} if kind == "both" else {}
        utterances.append({"text": segment["transcript"], **audio})
    expected = ConversationPipeline.from_pretrained(models[kind], embedders)(utterances)
    for segment, own in zip(line["segments"], expected, strict=True):
        assert segment["context"]["gate"] == pytest.approx(own["gate"], abs=1e-4)
        scores = {entry["label"]: entry["score"] for entry in own["emotion"]}
        assert segment["context"]["scores"] == pytest.approx(scores, abs=1e-4)
    assert Path("out/call.segments.vtt").read_text().count("with context: ") == len(line["segments"])


def test_silence_and_low_scores_have_no_emotion_with_context(run, call, models):  # noqa: F811
    soundfile.write("silence.wav", np.zeros(RATE, np.float32), RATE)
    options = ["-o", "out", "--context", models["speech"], "--min-score", "1"]
    assert run("call.wav", "silence.wav", *options).exit_code == 0
    spoken, silent = results_in("out")
    assert silent["segments"] == [] and all(each["context"]["emotion"] is None for each in spoken["segments"])


def test_the_model_is_part_of_the_settings(run, call, models, stages):  # noqa: F811
    for option in ((), ("--context", models["speech"])):
        assert "by an earlier run" not in run("call.wav", "-o", "out", *option).output
        assert "1 by an earlier run" in run("call.wav", "-o", "out", *option).output
        assert ("context" in results_in("out")[0]["segments"][0]) == bool(option)


def test_what_cannot_be_done_says_why_in_one_line(run, call, models, stages, tiny_checkpoint, tmp_path):  # noqa: F811
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "call.txt").write_text("Hello")
    for name, change in {
        "nameless": {"speech_model": None},
        "moved": {"speech_model": "runs/nowhere"},
        "other": {"speech_model": str(stages / "text")},
    }.items():
        make_pipeline({}, text_size=0, **change).model.save_pretrained(tmp_path / name)
    for options, message in (
        ([models["text"]], "takes the text of each segment, and there are none: give --transcribe MODEL"),
        ([models["both"]], "takes the text of each segment, and there are none"),
        ([models["text"], "--transcribe", "texts"], "texts has texts of whole recordings alone"),
        ([tiny_checkpoint], "is a model of the type 'sparse_merit'; expected a conversation model"),
        (["nowhere"], "nowhere, is neither a folder"),
        (["nameless"], "names no model of its speech embeddings"),
        (["moved"], "runs/nowhere, is neither a folder"),
        (["other"], "takes text and gives embeddings of width 6; expected speech alone and the width 8"),
    ):
        result = run("call.wav", "-o", "out", "--context", *options)
        assert result.exit_code == 2 and message in result.output, result.output
        assert result.output.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_model_without_emotions_has_no_segments_for_context(run, call, models, tmp_path):  # noqa: F811
    config = SparseMeritConfig(**TINY_SIZES, tasks=["enhancement"])
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(tmp_path / "model")
    SparseMeritFeatureExtractor().save_pretrained(tmp_path / "model")
    result = run("call.wav", "-o", "out", "--context", models["speech"], "--model", tmp_path / "model")
    assert result.exit_code == 2 and "--context needs a model with the task emotion" in result.output


def test_segments_without_context_have_empty_cells(tmp_path):
    context = {"emotion": None, "scores": {"sad": 0.5, "glad": 0.5}, "gate": {"text": 1.0}}
    segments = [
        {"start": 0, "end": 1, "emotion": "sad", "context": context},
        {"start": 1, "end": 2, "emotion": "sad"},
    ]
    names = {"context_labels": ["sad", "glad"], "context_experts": ["text"]}
    write_segments(tmp_path / "a.csv", segments, "csv", ["sad"], "a.wav", **names)
    with open(tmp_path / "a.csv", newline="") as file:
        header, first, second = csv.reader(file)
    assert header[4:] == ["context_emotion", "context_glad", "context_sad", "gate_text"]
    assert (first[4:], second[4:]) == (["", "0.500000", "0.500000", "1.000000"], [""] * 4)
    write_segments(tmp_path / "a.vtt", segments, "vtt", ["sad"], "a.wav", **names)
    assert "with context: unsure" in (tmp_path / "a.vtt").read_text()
