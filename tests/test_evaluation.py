# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The evaluation, end to end with a tiny untrained model: the same clips for every system, resumable, repeatable."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from datasets import Audio, ClassLabel, Dataset, Value

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    metrics,
)
from modeling_sparse_merit.evaluation import EvaluationConfig, conditions, evaluate, report

LABELS = ["angry", "sad", "happy", "neutral"]
EMOTIONS = ["angry", "sad", "happy", "neutral", "fear", None]


def speech_like(seconds: float, pitch: float) -> np.ndarray:
    time = np.arange(int(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * np.cumsum(pitch + 20 * np.sin(2 * np.pi * 1.5 * time)) / 16_000
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.05 * voice * np.clip(np.sin(2 * np.pi * 4 * time), 0, None)).astype(np.float32)


def as_bytes(waveform: np.ndarray) -> dict:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16_000, format="FLAC")
    return {"bytes": buffer.getvalue(), "path": None}


def write_table(path: Path, waveforms: list[np.ndarray], **columns: list) -> str:
    durations = [len(waveform) / 16_000 for waveform in waveforms]
    audio = [as_bytes(waveform) for waveform in waveforms]
    table = Dataset.from_dict({"audio": audio, "split": ["test"] * len(audio), "duration": durations, **columns})
    if "emotion" in columns:
        table = table.cast_column("emotion", ClassLabel(names=["angry", "sad", "happy", "neutral", "fear"]))
    table = table.cast_column("duration", Value("float32"))
    table.cast_column("audio", Audio(sampling_rate=16_000, decode=False)).to_parquet(str(path))
    return str(path)


def tiny_checkpoint(folder: Path, **changes) -> str:
    torch.manual_seed(0)
    config = SparseMeritConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        expert_hidden_size=32,
        emotion_hidden_size=16,
        enhancement_hidden_size=16,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        id2label=dict(enumerate(LABELS)),
        **changes,
    )
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(folder)
    SparseMeritFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict:
    """Six clips (four of the classes, one of another, one unlabelled), two noise pools and a model."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    clips = [speech_like(0.8 + 0.15 * index, 100 + 20 * index) for index in range(6)]
    noises = [0.1 * generator.standard_normal(20_000 + 5_000 * index).astype(np.float32) for index in range(3)]
    numbers = [None if name is None else EMOTIONS.index(name) for name in EMOTIONS]
    speech = write_table(folder / "speech.parquet", clips, emotion=numbers, speaker=list("aabbcc"))
    return {
        "speech": [speech],
        "noise": {
            "hiss": write_table(folder / "hiss.parquet", noises),
            "roar": write_table(folder / "roar.parquet", [np.cumsum(noise) / 50 for noise in noises]),
        },
        "snr_db": [0, 10],
        "model": tiny_checkpoint(folder / "model"),
        "bootstrap_resamples": 50,
        "batch_seconds": 2.5,
        "workers": 1,
    }


@pytest.fixture
def measure(corpus, tmp_path):
    """`measure(output, **changes of the configuration)` writes the YAML file and runs the evaluation."""

    def run_with(output: str = "results", **changes) -> dict:
        path = tmp_path / "evaluation.yaml"
        path.write_text(yaml.safe_dump({**corpus, **changes}))
        return evaluate(path, output=tmp_path / output)

    return run_with


def rows_of(folder: Path, condition: str) -> list[dict]:
    return pq.read_table(folder / "clips" / f"{condition}.parquet").to_pylist()


def test_the_report_has_every_condition_and_measure(measure, tmp_path, capsys):
    found = measure()
    written = json.loads((tmp_path / "results/results.json").read_text(), parse_constant=pytest.fail)
    assert written["conditions"][1]["emotion"]["confusion"] == found["conditions"][1]["emotion"]["confusion"]
    names = [condition["condition"] for condition in written["conditions"]]
    assert names == ["clean", "hiss_0dB", "hiss_10dB", "roar_0dB", "roar_10dB"]
    assert written["clips"]["labelled"] == dict.fromkeys(LABELS, 1) and written["clips"]["speakers"] == 2
    assert len(written["model"]["sha256"]) == 64 and written["versions"]["pesq"]
    for summary in written["conditions"][1:]:
        for name in metrics.SPEECH_MEASURES:
            for side in ("noisy", "enhanced", "difference"):
                low, high = summary["enhancement"][name][side]["interval"]
                assert low <= summary["enhancement"][name][side]["mean"] <= high
    printed = capsys.readouterr().out
    assert "hiss_0dB" in printed and "macro-F1" in printed


def test_the_clean_condition_has_no_score_for_its_input(measure):
    clean = measure(noise={})["conditions"]
    assert [summary["condition"] for summary in clean] == ["clean"]
    for name in metrics.SPEECH_MEASURES:
        assert clean[0]["enhancement"][name]["noisy"] is None
        assert clean[0]["enhancement"][name]["difference"] is None
        assert clean[0]["enhancement"][name]["enhanced"]["clips"] == 4


def test_noisy_clips_have_the_snr_of_their_condition(corpus):
    config = EvaluationConfig(speech=corpus["speech"], noise=corpus["noise"])
    clips, noise = conditions.Clips(config, LABELS), conditions.load_noise(config)["hiss"]
    example = conditions.Listener(clips, conditions.Condition("hiss", 3.0), noise, seed=5).example(2)
    assert metrics.snr(example.clean, example.noisy) == pytest.approx(3, abs=0.01)


def test_per_clip_rows_agree_with_the_model_used_by_hand(measure, corpus, tmp_path):
    measure(noise={}, batch_seconds=1000)
    clip = rows_of(tmp_path / "results", "clean")[1]
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(corpus["model"]).eval()
    extractor = SparseMeritFeatureExtractor.from_pretrained(corpus["model"])
    table = Dataset.from_parquet(corpus["speech"][0])
    waveform, _ = soundfile.read(io.BytesIO(table.cast_column("audio", Audio(decode=False))[1]["audio"]["bytes"]))
    waveform = waveform.astype(np.float32)
    with torch.inference_mode():
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        outputs = model(**inputs, output_router_logits=True)
    enhanced = extractor.restore(outputs.enhanced_values, waveform)[0]
    assert clip["enhanced_si_sdr"] == pytest.approx(metrics.si_sdr(waveform, enhanced), abs=1e-3)
    assert clip["probability_sad"] == pytest.approx(outputs.logits.softmax(-1)[0, 1].item(), abs=1e-5)
    assert clip["emotion"] == "sad" and clip["predicted"] == LABELS[outputs.logits.argmax()]
    choices = outputs.router_logits["emotion"][0].argmax(-1)
    assert clip["expert_emotion_1"] == pytest.approx((choices == 1).float().mean().item())
    assert clip["frames"] == len(choices)


def test_expert_use_sums_to_one_for_each_task(measure):
    for summary in measure()["conditions"]:
        assert set(summary["expert_use"]) == {"enhancement", "emotion"}
        for shares in summary["expert_use"].values():
            assert len(shares) == 3 and sum(shares) == pytest.approx(1)


def test_a_second_run_gives_the_same_bytes(measure, tmp_path):
    measure("first")
    measure("second")
    assert (tmp_path / "first/results.json").read_bytes() == (tmp_path / "second/results.json").read_bytes()


def test_several_processes_give_the_same_bytes(measure, tmp_path):
    measure("one", snr_db=[0], clean=False)
    measure("two", snr_db=[0], clean=False, workers=2)
    assert (tmp_path / "one/results.json").read_bytes() == (tmp_path / "two/results.json").read_bytes()


def test_another_seed_gives_other_mixtures(measure, tmp_path):
    measure("first", seed=1, snr_db=[0], clean=False)
    measure("second", seed=2, snr_db=[0], clean=False)
    first, second = (rows_of(tmp_path / name, "hiss_0dB") for name in ("first", "second"))
    assert all(a["mixture"] != b["mixture"] for a, b in zip(first, second, strict=True))


def test_every_system_and_every_choice_of_clips_hears_the_same_mixtures(measure, tmp_path):
    noisy = {"snr_db": [0], "clean": False}
    measure("first", **noisy)
    measure("other_model", **noisy, model=tiny_checkpoint(tmp_path / "dense", router="dense", num_experts=2))
    measure("all", **noisy, clips="all")
    measure("quick", **noisy, max_clips=2)
    heard = {row["row"]: row["mixture"] for row in rows_of(tmp_path / "all", "roar_0dB")}
    scores = {row["row"]: row["noisy_pesq_wb"] for row in rows_of(tmp_path / "all", "roar_0dB")}
    for name, count in (("first", 4), ("other_model", 4), ("quick", 2)):
        rows = rows_of(tmp_path / name, "roar_0dB")
        assert len(rows) == count
        assert all(row["mixture"] == heard[row["row"]] for row in rows)
        assert all(row["noisy_pesq_wb"] == scores[row["row"]] for row in rows)


def test_all_clips_are_enhanced_but_only_labelled_ones_are_recognised(measure):
    summary = measure(clips="all", noise={})["conditions"][0]
    assert summary["clips"] == 6
    assert summary["emotion"]["clips"] == 4
    assert summary["enhancement"]["stoi"]["enhanced"]["clips"] == 6


def test_a_run_that_broke_off_goes_on_with_the_next_condition(measure, corpus, tmp_path):
    path = tmp_path / "noise.parquet"
    noise = {"hiss": corpus["noise"]["hiss"], "later": write_table(path, [np.zeros(20_000, dtype=np.float32)])}
    with pytest.raises(ValueError, match="row 0 of `noise`.* is silent"):
        measure("resumed", noise=noise, snr_db=[0])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "resumed/clips").iterdir()}
    assert sorted(path.stem for path in kept) == ["clean", "hiss_0dB"]
    write_table(path, [speech_like(1.3, 300)])
    measure("resumed", noise=noise, snr_db=[0])
    measure("whole", noise=noise, snr_db=[0])
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert (tmp_path / "resumed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def test_a_condition_can_be_added_to_a_finished_run(measure, tmp_path):
    measure(snr_db=[0], clean=False)
    before = (tmp_path / "results/clips/roar_0dB.parquet").stat().st_mtime_ns
    assert len(measure(snr_db=[0, 10])["conditions"]) == 5  # clean and 10 dB are new
    assert (tmp_path / "results/clips/roar_0dB.parquet").stat().st_mtime_ns == before


def test_results_of_another_run_are_never_mixed_in(measure, tmp_path):
    measure(noise={})
    with pytest.raises(ValueError, match="different: model.*Choose another `output`"):
        measure(noise={}, model=tiny_checkpoint(tmp_path / "other", num_experts=2))
    with pytest.raises(ValueError, match="different: settings"):
        measure(noise={}, seed=7)


@pytest.mark.parametrize("task", ["enhancement", "emotion"])
def test_a_model_of_one_task_is_measured_on_that_task(measure, tmp_path, task):
    summary = measure(model=tiny_checkpoint(tmp_path / task, tasks=[task]), snr_db=[0], clean=False)["conditions"][0]
    assert (summary["emotion"] is not None) == (task == "emotion")
    assert (summary["enhancement"]["si_sdr"]["enhanced"] is not None) == (task == "enhancement")
    assert summary["enhancement"]["si_sdr"]["noisy"]["mean"] == pytest.approx(0, abs=0.5)
    assert list(summary["expert_use"]) == [task]


def test_a_choice_of_labels_is_a_closed_set(measure, tmp_path):
    found = measure(labels=["sad", "angry"], noise={})
    assert found["labels"] == ["sad", "angry"] and found["conditions"][0]["clips"] == 2
    for row in rows_of(tmp_path / "results", "clean"):
        assert row["predicted"] in ("sad", "angry")
        assert row["probability_sad"] + row["probability_angry"] == pytest.approx(1)
    with pytest.raises(ValueError, match="'bored'.*'neutral'"):
        measure("other", labels=["bored"])


def test_undefined_scores_are_counted_and_never_0(measure, tmp_path):
    whisper = np.zeros(16_000, dtype=np.float32)
    whisper[8_000:8_800] = speech_like(0.1, 120)[:800]  # PESQ finds no utterance, STOI too little speech
    clips = [speech_like(1.0, 110), whisper]
    table = write_table(tmp_path / "short.parquet", clips, emotion=[0, 1], speaker=["a", "a"])
    with pytest.warns(metrics.UndefinedScoreWarning, match="PESQ-WB of 1 enhanced clips.*STOI of 1 enhanced"):
        summary = measure(speech=[table], noise={})["conditions"][0]
    pesq = summary["enhancement"]["pesq_wb"]["enhanced"]
    assert pesq["undefined"] == 1 and pesq["clips"] == 1 and pesq["mean"] > 1
    assert pesq["interval"] is None  # one clip says nothing about spread
    assert np.isnan(rows_of(tmp_path / "results", "clean")[1]["enhanced_pesq_wb"])


def test_bootstrap_interval_covers_what_theory_says():
    scores = np.random.default_rng(0).normal(10, 2, size=400)
    low, high = report.Bootstrap(seed=0, resamples=1000).interval(400, lambda clips: scores[clips].mean())
    assert low == pytest.approx(scores.mean() - 1.96 * 2 / 20, abs=0.05)
    assert high == pytest.approx(scores.mean() + 1.96 * 2 / 20, abs=0.05)


def test_the_interval_of_a_class_follows_its_clips():
    rows = [{"emotion": "a", "predicted": "a"}] * 40 + [{"emotion": "b", "predicted": name} for name in "ab" * 20]
    summary = report.summarise_emotion(rows, ["a", "b", "c"], report.Bootstrap(seed=0, resamples=500))
    assert summary["per_class_f1"]["a"] == pytest.approx(2 * 40 / (40 + 60))
    assert summary["per_class_f1"]["b"] == pytest.approx(2 * 20 / (40 + 20))
    for label in "ab":
        low, high = summary["per_class_f1_interval"][label]
        assert low < summary["per_class_f1"][label] < high and high - low < 0.4
    assert summary["per_class_f1_interval"]["c"] is None  # neither said nor heard


def test_gain_is_the_mean_over_pairs_in_which_both_scores_are_defined():
    rows = [{"noisy_stoi": a, "enhanced_stoi": b} for a, b in ((0.5, 0.6), (0.5, float("nan")), (0.7, 1.0))]
    summary = report.summarise_measure(rows, "stoi", report.Bootstrap(seed=0, resamples=10))
    assert summary["difference"]["mean"] == pytest.approx(0.2)
    assert summary["difference"]["undefined"] == 1 and summary["noisy"]["clips"] == 3


def test_batches_hold_every_clip_once_within_their_budget(corpus):
    config = EvaluationConfig(speech=corpus["speech"], clips="all")
    clips = conditions.Clips(config, LABELS)
    batches = list(clips.batches(2.5))
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    durations = clips.table["duration"]
    assert all(len(batch) == 1 or len(batch) * max(durations[row] for row in batch) <= 2.5 for batch in batches)
    assert len(batches) < 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speech", []),
        ("noise", {"a/b": "table"}),
        ("noise", ["table"]),
        ("snr_db", 5),
        ("snr_db", [5, 5]),
        ("snr_db", [5, 5.0000001]),
        ("snr_db", [float("nan")]),
        ("clean", False),
        ("labels", []),
        ("clips", "some"),
        ("max_clips", 0),
        ("seed", -1),
        ("batch_seconds", 0),
        ("workers", 1.5),
        ("output", "results.json"),
    ],
)
def test_an_invalid_field_is_named(field, value):
    with pytest.raises(ValueError, match=rf"EvaluationConfig\.{field} is .*; expected "):
        EvaluationConfig(**{"speech": ["table"], field: value})


def test_an_unknown_or_missing_field_is_named(tmp_path):
    path = tmp_path / "evaluation.yaml"
    path.write_text("speech: [a]\nspech_split: test\n")
    with pytest.raises(ValueError, match="spech_split.*speech_split"):
        EvaluationConfig.from_yaml(path)
    path.write_text("speech: [a\n")
    with pytest.raises(ValueError, match="evaluation.yaml is not valid YAML"):
        EvaluationConfig.from_yaml(path)
    path.write_text("seed: 3\n")
    with pytest.raises(ValueError, match="'speech'.*missing"):
        EvaluationConfig.from_yaml(path)
    assert EvaluationConfig.from_yaml(path, speech="a", seed=None) == EvaluationConfig(speech=["a"], seed=3)


def test_clips_without_any_of_the_labels_are_an_error(corpus):
    with pytest.raises(ValueError, match="'contempt'.*'fear'.*clips: all"):
        conditions.Clips(EvaluationConfig(speech=corpus["speech"]), ["contempt"])
