# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Calibrated emotion scores: temperatures by hand, `calibration.json` next to the weights, thresholds on test."""

import hashlib
import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from conftest import TINY
from hub_server import TOKEN
from rich.console import Console
from scipy.optimize import minimize_scalar
from test_adapters import train
from test_evaluation import LABELS, speech_like, write_dataset
from test_remote_code import run_elsewhere
from typer.testing import CliRunner

from modeling_sparse_merit import EmotionPipeline, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.evaluation import EvaluationConfig
from modeling_sparse_merit.evaluation.calibration import (
    SplitOutputs,
    _alarm_scores,
    build_calibration,
    choose_threshold,
    print_calibration,
)
from modeling_sparse_merit.evaluation.conditions import Condition
from modeling_sparse_merit.evaluation.markdown import render_calibration
from modeling_sparse_merit.evaluation.run import MeasuredClips
from modeling_sparse_merit.evaluation.statistics import Resampling
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.hub.embedded import document_checkpoint
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.hub.push import _measured_problems, check_checkpoint, push_checkpoint
from modeling_sparse_merit.metrics.calibration import brier_scores, fit_temperature, reliability, scale_temperature
from modeling_sparse_merit.models.sparse_merit.calibration import CALIBRATION, Calibration, checkpoint_sha256


@pytest.fixture(scope="module")
def recording(tmp_path_factory, speech_clip) -> Path:
    path = tmp_path_factory.mktemp("recording") / "call.wav"
    soundfile.write(path, speech_clip(2.0), 16_000)
    return path


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint without calibration."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copy(TINY / name, folder / name)
    return folder


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def write_calibration(folder: Path, digest: str | None = None, **changes) -> None:
    """Writes the fields that pipelines read."""
    content = {
        "temperature": 2.5,
        "thresholds": {"angry": {"threshold": 0.25, "recall": 0.9}},
        "model": {"name": "any", "sha256": digest or sha256(folder)},
    }
    (folder / CALIBRATION).write_text(json.dumps(content | changes))


def scores(entries: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in entries}


def scaled(given: dict[str, float], temperature: float) -> dict[str, float]:
    """Softmax of log p / T, which is p^(1/T) over its sum."""
    powers = {label: score ** (1 / temperature) for label, score in given.items()}
    return {label: power / sum(powers.values()) for label, power in powers.items()}


# Pipelines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SpeechEnhancementAndEmotionPipeline, EmotionPipeline])
def test_pipelines_divide_the_logits_by_the_temperature_unless_told_otherwise(checkpoint, recording, kind):
    def emotion(pipe):
        result = pipe(recording)
        return scores(result if isinstance(result, list) else result["emotion"])

    before = kind.from_pretrained(checkpoint)
    write_calibration(checkpoint)
    after, off = kind.from_pretrained(checkpoint), kind.from_pretrained(checkpoint, calibrated=False)
    assert before.calibration is None and off.calibration is None and before.temperature == 1
    assert after.calibration == Calibration(2.5, {"angry": 0.25})
    assert emotion(after) == pytest.approx(scaled(emotion(before), 2.5), abs=1e-6)
    assert emotion(off) == emotion(before)
    inputs = after.feature_extractor(np.zeros(16_000, np.float32), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(after.model(**inputs).logits, before.model(**inputs).logits)
    (raw, *_), (calibrated, *_) = before.emotion_timeline(recording), after.emotion_timeline(recording)
    assert calibrated["scores"] == pytest.approx(scaled(raw["scores"], 2.5), abs=1e-5)


def test_streams_give_calibrated_scores(checkpoint, recording):
    write_calibration(checkpoint)
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)
    waveform = soundfile.read(recording, dtype="float32")[0]

    def segments(temperature: float) -> list[dict]:
        pipe.calibration = Calibration(temperature, {})
        stream = pipe.stream()
        outputs = [stream.process(waveform), stream.finish()]
        return [segment for output in outputs for segment in output.segments]

    raw, calibrated = segments(1.0), segments(2.5)
    assert raw and [segment["scores"] for segment in calibrated] == [
        pytest.approx(scaled(segment["scores"], 2.5), abs=1e-5) for segment in raw
    ]


def test_only_the_softmax_is_calibrated(checkpoint, recording):
    write_calibration(checkpoint)
    on, off = (EmotionPipeline.from_pretrained(checkpoint, calibrated=value) for value in (True, False))
    for function in ("sigmoid", "none"):
        assert on(recording, function_to_apply=function) == off(recording, function_to_apply=function)


def test_a_calibration_of_other_weights_is_ignored_with_a_warning(checkpoint, recording, caplog):
    write_calibration(checkpoint, digest="0" * 64)
    with caplog.at_level(logging.WARNING):
        pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)
    assert pipe.calibration is None and "was fitted for other weights" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0},
        {"temperature": "hot"},
        {"temperature": float("inf")},
        {"model": None},
        {"thresholds": {"angry": {"threshold": 2}}},
    ],
)
def test_a_damaged_calibration_is_refused(checkpoint, changes):
    write_calibration(checkpoint, **changes)
    with pytest.raises(ValueError, match="calibration.json.*sparse-merit calibrate"):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)
    assert SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint, calibrated=False).calibration is None


def test_the_least_score_of_enhance_is_a_calibrated_one(checkpoint, recording, tmp_path):
    raw = max(scores(SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)(recording)["emotion"]).values())

    def record(name: str) -> dict:
        options = ["--model", str(checkpoint), "--min-score", str(raw - 0.01), "-o", str(tmp_path / name), "-q"]
        done = CliRunner().invoke(app, ["enhance", str(recording), "--vad", "level", *options])
        assert done.exit_code == 0, done.output
        return json.loads((tmp_path / name / "results.jsonl").read_text())

    before = record("before")
    write_calibration(checkpoint)
    after = record("after")
    assert before["emotion"] is not None and "temperature" not in before
    assert after["emotion"] is None and after["reason"] == "unsure" and after["temperature"] == 2.5
    assert after["scores"] == pytest.approx(scaled(before["scores"], 2.5), abs=1e-5)
    assert after["settings_hash"] != before["settings_hash"]


# Temperature and scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("margin", "accuracy"), [(3.0, 0.75), (0.5, 0.9), (1.0, 0.6)])
def test_two_classes_of_one_margin_have_a_temperature_in_closed_form(margin, accuracy):
    # every clip has the logits (margin, 0), so its score is 1 / (1 + exp(-margin / T)); likelihood is largest where
    # that is the accuracy
    logits, true = np.tile([margin, 0.0], (20, 1)), np.arange(20) >= 20 * accuracy
    expected = margin / np.log(accuracy / (1 - accuracy))
    assert fit_temperature(logits, true.astype(int)) == pytest.approx(expected)
    # logits are known up to a constant
    assert fit_temperature(logits + 7, true.astype(int)) == pytest.approx(expected)


def test_scores_that_are_calibrated_have_the_temperature_1():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (40_000, 4))
    probabilities = scale_temperature(logits, 1.0)
    true = (generator.random((40_000, 1)) > probabilities.cumsum(-1)).sum(-1)
    assert fit_temperature(logits, true) == pytest.approx(1, abs=0.02)
    assert fit_temperature(3 * logits, true) == pytest.approx(3, abs=0.06)


def test_the_temperature_of_a_general_search_is_the_same():
    generator = np.random.default_rng(1)
    logits, true = generator.normal(0, 5, (200, 4)), generator.integers(4, size=200)
    true = np.where(generator.random(200) < 0.5, logits.argmax(-1), true)

    def loss(log_temperature):
        return -np.log(scale_temperature(logits, np.exp(log_temperature))[np.arange(200), true]).mean()

    assert fit_temperature(logits, true) == pytest.approx(np.exp(minimize_scalar(loss).x), rel=1e-5)


@pytest.mark.parametrize("true", [[0, 0, 0], [1, 1, 1], []])
def test_clips_that_are_all_right_or_all_wrong_fit_no_temperature(true):
    logits = np.tile([2.0, 0.0], (len(true), 1))
    with pytest.raises(ValueError, match="expected (more clips|one or more)"):
        fit_temperature(logits, np.array(true, dtype=int))


def test_brier_scores_and_bins_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    assert brier_scores(probabilities, np.array([1, 2])) == pytest.approx([0.49 + 0.64 + 0.01, 0])
    # of 5 bins, (0.4, 0.6] has two clips and (0.8, 1] one
    actual = reliability(np.array([0.5, 0.6, 0.9]), np.array([True, False, True]), bins=5)
    assert actual == pytest.approx(np.array([[0.55, 0.5, 2], [0.9, 1, 1]]))


# The command ---------------------------------------------------------------------------------------------------------


def toy_rows(clips: int, seed: int) -> list[dict]:
    """Rows of a model that says 0.97 and is right for 80 % of the clean clips, and for 60 % of the noisy ones."""
    generator, rows = np.random.default_rng(seed), []
    for (pool, snr_db), accuracy in (((None, None), 0.8), (("hiss", 0.0), 0.6)):
        name = "clean" if pool is None else "hiss_0dB"
        for row in range(clips):
            predicted = (row + (generator.random() > accuracy)) % 4
            values = {f"probability_{label}": 0.97 if at == predicted else 0.01 for at, label in enumerate(LABELS)}
            facts = {"condition": name, "pool": pool, "snr_db": snr_db, "transmission": None, "row": row}
            rows.append({**facts, "emotion": LABELS[row % 4], "speaker": f"{seed}_{row % 5}", **values})
    return rows


@pytest.fixture(scope="module")
def toy_report() -> dict:
    record = {"model": {"name": "/home/someone/toy", "sha256": "0" * 64}, "config": {}, "versions": {}}
    measured = {
        split: MeasuredClips(record, {"model": [toy_rows(600, seed)]}, None, {})
        for seed, split in enumerate(("dev", "test"))
    }
    config = EvaluationConfig(speech=["datasets/toy.parquet"], noise={"hiss": "hiss"}, bootstrap_resamples=200)
    return build_calibration(measured, LABELS, {"angry": 0.9}, config)


def test_the_ece_of_an_overconfident_model_falls_and_its_accuracy_stays(toy_report):
    # (0.97 / 0.01)^(1 / T) is 3 p / (1 - p) for the score p of the prediction, which is the accuracy, about 0.7
    assert toy_report["temperature"] == pytest.approx(np.log(97) / np.log(3 * 0.7 / 0.3), rel=0.05)
    overall = toy_report["overall"]
    for name in ("expected_calibration_error", "brier_score"):
        before, after = (overall[name][side] for side in ("before", "after"))
        assert after["mean"] < before["mean"]
        assert after["interval"][1] < before["interval"][0] and len(after["speaker_interval"]) == 2
    assert overall["expected_calibration_error"]["before"]["mean"] == pytest.approx(0.27, abs=0.03)
    assert overall["expected_calibration_error"]["after"]["mean"] < 0.05
    for summary in (overall, *toy_report["conditions"]):
        assert summary["accuracy"]["before"] == summary["accuracy"]["after"]
    clean, noisy = toy_report["conditions"]
    assert clean["accuracy"]["after"]["mean"] == pytest.approx(0.8, abs=0.05)
    # one temperature for both: the clean scores are too small, the noisy ones too large
    assert noisy["expected_calibration_error"]["after"]["mean"] == pytest.approx(0.1, abs=0.05)
    assert toy_report["reliability"]["clean"]["before"][0][0] == pytest.approx(0.97)


def test_speakers_of_both_splits_are_counted():
    record = {"model": {"name": "toy", "sha256": "0" * 64}, "config": {}, "versions": {}}
    clips = MeasuredClips(record, {"model": [toy_rows(40, 0)]}, None, {})
    config = EvaluationConfig(speech=["toy"], noise={"hiss": "hiss"}, bootstrap_resamples=2)
    with pytest.warns(UserWarning, match="5 speakers are in the dev and in the test clips, such as 0_0"):
        build_calibration({"dev": clips, "test": clips}, LABELS, {}, config)


def test_a_threshold_has_its_recall_on_dev():
    of_first = np.array([[0.9, 0.6, 0.2, 0.7], [0.5, 0.8, 0.1, 0.3]])  # (conditions, clips)
    logits, conditions = np.log(np.stack([of_first, 1 - of_first], axis=-1)), [Condition(), Condition("hiss", 0.0)]
    dev = SplitOutputs(["angry", "calm"], conditions, logits, np.array([0, 0, 1, 0]), ["a"] * 4)
    # scores of the first class of its three clips in both conditions: 0.9, 0.8, 0.7, 0.6, 0.5, 0.3
    for recall, expected in ((0.1, 0.9), (0.5, 0.7), (0.51, 0.6), (5 / 6, 0.5), (1.0, 0.3)):
        assert choose_threshold(dev, 1.0, "angry", recall) == pytest.approx(expected)
    with pytest.raises(ValueError, match="No dev clip has the emotion 'calm'"):
        choose_threshold(replace(dev, true=np.zeros(4, int)), 1.0, "calm", 0.9)


def test_recall_precision_and_share_of_alarms_are_those_of_the_test_clips(toy_report):
    chosen = toy_report["thresholds"]["angry"]
    rows = [row for row in toy_rows(600, 1) if row["pool"] == "hiss"]
    alarms = np.array([row["probability_angry"] > 0.5 for row in rows])
    angry = np.array([row["emotion"] == "angry" for row in rows])
    # the toy has two scores alone: with the larger one, less than 90 % of the dev clips are recognised
    assert chosen["threshold"] < 0.5
    summary = chosen["conditions"][1]
    assert summary["recall"]["mean"] == summary["alarms"]["mean"] == 1 and summary["of_label"] == 150
    assert summary["precision"]["mean"] == pytest.approx(0.25)
    half = _alarm_scores(alarms[None], angry, Resampling(["a", "b"] * 300, 50, 0), [0])
    assert half["recall"]["mean"] == pytest.approx(alarms[angry].mean())
    assert half["precision"]["mean"] == pytest.approx(angry[alarms].mean())
    assert half["alarms"]["mean"] == pytest.approx(alarms.mean())
    low, high = half["recall"]["interval"]
    assert low < half["recall"]["mean"] < high


def test_the_report_says_what_it_is_not(toy_report, capsys):
    text = render_calibration(toy_report, ["figures/reliability.png"])
    assert "Decision support, not a decision" in text and "| hiss, 0 dB |" in text and "## Threshold for angry" in text
    print_calibration(toy_report, Console(width=120))
    assert "Decision support, not a decision" in capsys.readouterr().out


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> str:
    """Eight clips of two splits; three of four have the emotion that the model recognises."""
    clips = [speech_like(0.8 + 0.1 * index, 100 + 25 * index) for index in range(8)]
    system = CheckpointSystem("tiny", device="cpu")
    predicted = [int(system.predict([clip])[0].probabilities.argmax()) for clip in clips]
    emotions = [(number + (index % 4 == 3)) % 4 for index, number in enumerate(predicted)]
    assert system.labels == LABELS
    path = tmp_path_factory.mktemp("speech") / "speech.parquet"
    write_dataset(path, clips, emotion=emotions, speaker=list("aabbccdd"))
    table = pq.read_table(path)
    split = pa.array(["dev"] * 4 + ["test"] * 4)
    pq.write_table(table.set_column(table.column_names.index("split"), "split", split), path)
    return str(path)


def test_the_command_writes_next_to_the_weights_and_pipelines_apply_it(checkpoint, recording, speech, tmp_path):
    (tmp_path / "evaluation.yaml").write_text("{transmissions: [narrowband], bootstrap_resamples: 20, device: cpu}")
    before = SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)(recording)["emotion"]

    dev = read_dataset(speech, split="dev")
    emotion = dev.features["emotion"].int2str(dev[0]["emotion"])
    options = {"--config": tmp_path / "evaluation.yaml", "-o": tmp_path / "report", "--recall": f"{emotion}=0.5"}
    arguments = [str(value) for option in options.items() for value in option]
    done = CliRunner().invoke(app, ["calibrate", str(checkpoint), speech, *arguments])

    assert done.exit_code == 0, done.output
    assert "Decision support, not a decision" in done.output
    written = json.loads((checkpoint / CALIBRATION).read_text())
    assert list(written["thresholds"]) == [emotion]
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert written["model"] == {"name": "checkpoint", "sha256": sha256(checkpoint)}
    assert [summary["condition"] for summary in report["conditions"]] == ["clean", "clean@narrowband"]
    assert written["data"] == {
        "speech": ["speech"],
        "noise": [],
        "dev": {"clips": 4, "speakers": 2},
        "test": {"clips": 4, "speakers": 2},
    }
    assert str(tmp_path) not in (checkpoint / CALIBRATION).read_text()
    assert (tmp_path / "report" / "figures" / "reliability.png").exists()
    after = SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)(recording)["emotion"]
    assert scores(after) == pytest.approx(scaled(scores(before), written["temperature"]), abs=1e-5)


def test_a_checkpoint_inside_the_package_is_not_written(speech, tmp_path):
    before = (TINY / CALIBRATION).read_bytes()
    done = CliRunner().invoke(app, ["calibrate", "tiny", speech, "-o", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report" / CALIBRATION).read_bytes() != before == (TINY / CALIBRATION).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recall", "angry"], "expected LABEL=SHARE"),
        (["--recall", "fear=0.9"], "expected one of \\['angry'"),
        (["--recall", "angry=1.5"], "a share above 0"),
        (["--config", "given.yaml"], "test_set"),
    ],
)
def test_what_cannot_be_calibrated_is_said_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.yaml").write_text("test_set: somewhere")
    done = CliRunner().invoke(app, ["calibrate", "tiny", "speech.parquet", *arguments])
    assert done.exit_code == 2 and re.search(message, " ".join(done.output.split())), done.output


# Export, push, cards -------------------------------------------------------------------------------------------------


def write_whole(folder: Path, toy_report: dict, digest: str | None = None) -> float:
    """Writes a whole `calibration.json`; returns its temperature."""
    content = {name: value for name, value in toy_report.items() if name not in ("config", "reliability")}
    content["model"] = {"name": "any", "sha256": digest or sha256(folder)}
    (folder / CALIBRATION).write_text(json.dumps(content))
    return content["temperature"]


def test_it_travels_to_the_hub_and_is_applied_there(hub, checkpoint, recording, toy_report):
    for name in ("plain", "calibrated"):
        temperature = write_whole(checkpoint, toy_report) if name == "calibrated" else 1.0
        push_checkpoint(export_checkpoint(checkpoint, checkpoint.with_name(name)), f"someone/{name}", token=TOKEN)
        pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(f"someone/{name}")
        assert pipe.temperature == temperature
    again = SpeechEnhancementAndEmotionPipeline.from_pretrained("someone/calibrated", local_files_only=True)
    assert scores(again(recording)["emotion"]) == scores(pipe(recording)["emotion"])


REMOTE = """
import json, sys
from transformers import pipeline

checkpoint, recording = sys.argv[1:]
load = lambda **options: pipeline(model=checkpoint, trust_remote_code=True, device="cpu", **options)
on, off = load(), load(calibrated=False)
classifier = pipeline("audio-classification", model=checkpoint, trust_remote_code=True, device="cpu")
results = {"on": on(recording)["emotion"], "off": off(recording)["emotion"], "classifier": classifier(recording)}
print(json.dumps({"temperature": on.temperature, "home": type(on).__module__.split(".")[0], **results}))
"""


@pytest.mark.slow
def test_the_code_of_a_checkpoint_applies_it_without_this_package(checkpoint, recording, toy_report, tmp_path):
    temperature = write_whole(checkpoint, toy_report)
    exported = export_checkpoint(checkpoint, tmp_path / "exported")
    actual = run_elsewhere(REMOTE, exported, recording, folder=tmp_path)
    assert actual["temperature"] == temperature and actual["home"] == "transformers_modules"
    expected = SpeechEnhancementAndEmotionPipeline.from_pretrained(exported, device="cpu")(recording)["emotion"]
    assert scores(actual["on"]) == pytest.approx(scores(expected), abs=1e-6)
    assert scores(actual["classifier"]) == pytest.approx(scores(expected), abs=1e-6)
    assert scores(actual["on"]) == pytest.approx(scaled(scores(actual["off"]), temperature), abs=1e-5)


def test_the_card_has_a_section_on_it(checkpoint, toy_report, tmp_path):
    plain = (export_checkpoint(checkpoint, tmp_path / "plain") / "README.md").read_text()
    assert "### Calibration" not in plain
    temperature = write_whole(checkpoint, toy_report)
    card = (export_checkpoint(checkpoint, tmp_path / "calibrated") / "README.md").read_text()
    section = card.partition("### Calibration\n")[2].partition("\n### On the dev set")[0]
    assert "**Decision support, not a decision" in section and "600 dev clips of 5 speakers from toy" in section
    error = toy_report["conditions"][1]["expected_calibration_error"]
    before, after = error["before"]["mean"], error["after"]["mean"]
    assert f"| hiss | 0 | {before:.3f} [" in section and f"| {after:.3f} [" in section
    assert "angry is reported with a recall of 0.9 on dev" in section
    assert f"(outputs.logits / {temperature:.4g}).softmax(-1)" in card and "`calibrated=False`" in card
    assert not re.search(r"\n{3}", card)


def test_an_embedded_checkpoint_has_that_of_its_records(checkpoint, toy_report, tmp_path):
    (tmp_path / "training_data.yaml").write_text("{name: own, license: cc-by-4.0}")
    temperature = write_whole(tmp_path, toy_report, digest=sha256(checkpoint))
    document_checkpoint(checkpoint, tmp_path)
    assert "### Calibration" in (checkpoint / "README.md").read_text()
    assert SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint).temperature == temperature
    (tmp_path / CALIBRATION).unlink()
    document_checkpoint(checkpoint, tmp_path)
    assert "### Calibration" not in (checkpoint / "README.md").read_text() and not (checkpoint / CALIBRATION).exists()


def test_one_of_other_weights_is_neither_exported_nor_pushed(checkpoint, toy_report, tmp_path):
    exported = export_checkpoint(checkpoint, tmp_path / "exported")
    write_whole(exported, toy_report, digest="0" * 64)
    with pytest.raises(ValueError, match="calibration.json was fitted for other weights"):
        check_checkpoint(exported)
    write_whole(checkpoint, toy_report, digest="0" * 64)
    with pytest.raises(ValueError, match="calibration.json was fitted for other weights.*sparse-merit calibrate"):
        export_checkpoint(checkpoint, tmp_path / "other")


def test_weights_that_are_rounded_have_no_calibration(checkpoint, toy_report, tmp_path):
    write_whole(checkpoint, toy_report)
    assert not (export_checkpoint(checkpoint, tmp_path / "half", half=True) / CALIBRATION).exists()


def test_adapters_have_a_calibration_that_goes_into_the_merged_checkpoint(toy_report, tmp_path, recording):
    folder = tmp_path / "adapters"
    train("sparse-merit-tiny", folder)
    temperature = write_whole(folder, toy_report, digest=checkpoint_sha256(str(folder)))
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(folder)
    assert pipe.temperature == temperature
    assert not [problem for problem in _measured_problems(folder) if CALIBRATION in problem]
    merged = export_checkpoint(folder, tmp_path / "merged")
    exported = SpeechEnhancementAndEmotionPipeline.from_pretrained(merged)
    assert exported.temperature == temperature
    assert scores(exported(recording)["emotion"]) == pytest.approx(scores(pipe(recording)["emotion"]), abs=1e-5)
