# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Drift, references, and the report of shadow mode, with values by hand and from scipy and scikit-learn."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from scipy.stats import chi2
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.monitoring.drift import Drift, Reference, chance_limit, expert_signals, psi, signals
from modeling_sparse_merit.monitoring.shadow_report import build_report, cohen_kappa, parse_requirements
from modeling_sparse_merit.monitoring.sources import build_reference
from modeling_sparse_merit.service.calls import Call
from modeling_sparse_merit.service.recording import Recorder
from modeling_sparse_merit.service.shadow import Comparison

LABELS = ["angry", "happy", "neutral", "sad"]


def record(emotion: str, score: float = 0.7, level: float | None = -20.0, channel: int = 1) -> dict:
    rest = (1 - score) / (len(LABELS) - 1)
    scores = {label: score if label == emotion else rest for label in LABELS}
    facts = {"channel": channel, "level_dbfs": level, "clipped_ratio": 0.0}
    return {"emotion": emotion, "scores": scores, **facts}


def call(emotion: str | None, milliseconds: float, status: int = 200, number: str = "0") -> Call:
    records = [] if emotion is None else [record(emotion)]
    seconds = (2.0, milliseconds / 1000) if records else (0.0, 0.0)
    return Call(number, status, records=records, audio_seconds=seconds[0], work_seconds=seconds[1])


def comparison(number: str, primary: str = "sad", candidate: str | None = "sad", **sides) -> Comparison:
    ours = call(primary, sides.get("ours", 10.0), number=number)
    theirs = call(candidate, sides.get("theirs", 20.0), 200 if candidate else sides["status"], number)
    return Comparison(ours, theirs, [12.0] if candidate else [])


# Drift ---------------------------------------------------------------------------------------------------------------


def test_psi_by_hand():
    assert psi(np.array([5, 5]), np.array([5, 5])) == 0
    expected = (0.8 - 0.5) * np.log(0.8 / 0.5) + (0.2 - 0.5) * np.log(0.2 / 0.5)
    assert psi(np.array([80, 20]), np.array([10, 10])) == pytest.approx(expected)
    assert np.isfinite(psi(np.array([10, 0]), np.array([0, 10])))  # empty bins


@pytest.mark.parametrize("bins", [3, 6, 8])
def test_the_limit_is_the_chi_squared_quantile(bins):
    expected = chi2.ppf(0.99, bins - 1) * (1 / 200 + 1 / 1_000)
    assert chance_limit(bins, 200, 1_000) == pytest.approx(expected, rel=0.01)


def test_chance_exceeds_the_limit_about_once_in_a_hundred_samples():
    generator, shares = np.random.default_rng(0), np.array([0.2, 0.3, 0.4, 0.1])
    pairs = [(generator.multinomial(200, shares), generator.multinomial(500, shares)) for _ in range(4_000)]
    exceeding = np.mean([psi(*pair) > chance_limit(4, 200, 500) for pair in pairs])
    assert 0.005 < exceeding < 0.02


def test_drift_is_noticed_once_and_ends(monkeypatch):
    usual, changed = [record("neutral")] * 6 + [record("angry")] * 4, [record("angry", level=-50.0)] * 10
    reference = Reference.of("tiny", LABELS, [signals(each, LABELS) for each in usual * 100])
    changes = []
    drift = Drift(reference, lambda name, measured: changes.append((name, measured.size)), window=200, least=100)
    for each in usual * 20:
        drift.add(signals(each, LABELS))
    assert changes == [] and drift.measured("emotion").psi < 0.01
    for each in changed * 20:
        drift.add(signals(each, LABELS))
    assert drift.measured("emotion").psi > 0.25 and drift.measured("level_dbfs").size == "large"
    assert {name for name, size in changes if size == "large"} == {"emotion", "level_dbfs"}
    for each in usual * 20:
        drift.add(signals(each, LABELS))
    assert changes[-1][1] is None and drift.measured("emotion").psi == pytest.approx(0)


def test_few_recordings_are_no_drift():
    reference = Reference.of("tiny", LABELS, [signals(record("sad"), LABELS)] * 500)
    drift = Drift(reference, pytest.fail)
    for _ in range(99):
        drift.add(signals(record("angry"), LABELS))
    assert drift.measured("emotion") is None


def test_signals_of_a_result():
    bins = signals(record("happy", 0.55, -40.0), LABELS) | expert_signals({"emotion": [1, 3]})
    assert {name: values.tolist() for name, values in bins.items()} == {
        "emotion": [0, 1, 0, 0, 0, 0],
        "confidence": [0, 0, 1, 0, 0, 0, 0],
        "level_dbfs": [0, 0, 1, 0, 0, 0, 0, 0],
        "experts_emotion": [0.25, 0.75],
    }
    silent = {"emotion": None, "reason": "no speech", "scores": {}, "level_dbfs": None}
    assert signals(silent, LABELS)["emotion"].tolist() == [0, 0, 0, 0, 1, 0]


# References ----------------------------------------------------------------------------------------------------------


def test_a_reference_of_results_is_written_and_read(tmp_path):
    lines = [{**record("sad"), "model": "tiny", "settings_hash": "a"}] * 3 + [{"file": "b.wav", "error": "why"}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "reference.json"
    result = CliRunner().invoke(app, ["monitor-reference", str(tmp_path), "-o", str(path)])
    assert result.exit_code == 0, result.output
    reference = Reference.load(path)
    assert reference.labels == LABELS and reference.recordings == {"emotion": 3, "confidence": 3, "level_dbfs": 3}
    assert reference.histograms["emotion"].tolist() == [0, 0, 0, 3, 0, 0]


def test_a_reference_of_an_evaluation_has_the_use_of_the_experts(tmp_path):
    (tmp_path / "results.json").write_text(
        json.dumps({"systems": {"noisy": [], "model": []}, "labels": ["sad", "happy"]})
    )
    shares = {"expert_emotion_0": 0.25, "expert_emotion_1": 0.75, "expert_enhancement_0": None}
    rows = [{"predicted": "sad", "probability_happy": 0.25, "probability_sad": 0.75, "frames": 50, **shares}] * 2
    clips = tmp_path / "clips" / "model" / "0"
    clips.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), clips / "clean.parquet")
    reference = build_reference([tmp_path])
    assert (reference.model, reference.labels) == ("model", ["happy", "sad"])
    assert {name: values.tolist() for name, values in reference.histograms.items()} == {
        "emotion": [0, 2, 0, 0],
        "confidence": [0, 0, 0, 0, 2, 0, 0],
        "experts_emotion": [0.5, 1.5],
    }
    pq.write_table(pa.Table.from_pylist(rows), clips / "street_0dB.parquet")
    assert build_reference([tmp_path], condition="all").recordings["emotion"] == 4
    with pytest.raises(ValueError, match="has no condition 'street': give --condition with one of clean, street_0dB"):
        build_reference([tmp_path], condition="street")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"schema_version": 2}', '{"schema_version": 1, "model": "m", "labels": [], "signals": 3}']
)
def test_another_file_is_no_reference(tmp_path, content):
    path = tmp_path / "reference.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="reference.json is no reference .*monitor-reference"):
        Reference.load(path)


def test_results_of_several_models_are_refused(tmp_path):
    lines = [{**record("sad"), "model": "tiny", "settings_hash": name} for name in "ab"]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="2 models or settings"):
        build_reference([tmp_path])
    with pytest.raises(FileNotFoundError, match=r"has neither results.jsonl .* nor results.json"):
        build_reference([tmp_path / "nothing"])


# The report ----------------------------------------------------------------------------------------------------------


def recorded(folder: Path, comparisons) -> list[dict]:
    recorder = Recorder(folder)
    for each in comparisons:
        recorder.add(each)
    recorder.close()
    return [json.loads(line) for line in (folder / "shadow.jsonl").read_text().splitlines()]


def test_kappa_equals_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    ours, theirs = generator.integers(0, 4, (2, 200))
    theirs[:120] = ours[:120]
    table = np.zeros((4, 4), int)
    np.add.at(table, (ours, theirs), 1)
    assert cohen_kappa(table) == pytest.approx(cohen_kappa_score(ours, theirs))
    assert cohen_kappa(np.array([[3, 0], [0, 0]])) is None


def test_agreement_latency_and_failures_by_hand(tmp_path):
    pairs = [("sad", "sad")] * 5 + [("sad", "happy")] * 1 + [("happy", "happy")] * 2
    compared = [comparison(str(number), *pair) for number, pair in enumerate(pairs)]
    compared += [comparison("8", candidate=None, status=504), comparison("9", candidate=None, status=400)]
    report = build_report(recorded(tmp_path, compared))
    assert report["outcomes"] == {"invalid": 1, "ok": 8, "timeout": 1}
    assert report["failures"] == 0.2  # the primary model has decoded the recording that is invalid for the candidate
    assert report["agreement"]["agreement"] == pytest.approx(7 / 8)
    chance = (6 * 5 + 2 * 3) / 64
    assert report["agreement"]["kappa"] == pytest.approx((7 / 8 - chance) / (1 - chance))
    assert report["agreement"]["names"] == ["happy", "sad"] and report["agreement"]["confusion"] == [[2, 0], [1, 5]]
    assert report["agreement"]["score_difference"] == pytest.approx((0.6 + 0.6) / (8 * 4))
    assert report["latency"]["primary"]["p95_ms"] == 10 and report["latency"]["shadow"]["p50_ms"] == 20
    assert report["latency"]["shadow"]["real_time_factor"] == pytest.approx(0.01)
    assert report["measures"]["p95_ratio"] == 2
    assert report["si_sdr"] == {"median_db": 12.0, "recordings": 8}


def test_corrected_emotions_compare_the_models(tmp_path):
    true = ["sad"] * 10 + ["happy"] * 10
    compared = [comparison(str(number), "sad", emotion) for number, emotion in enumerate(true)]
    lines = recorded(tmp_path, compared)
    feedback = [{"id": str(number), "channel": 1, "emotion": emotion} for number, emotion in enumerate(true)]
    section = build_report(lines, feedback)["feedback"]
    assert section["recordings"] == 20
    assert section["primary"] == pytest.approx((0 + 2 / 3) / 2) and section["shadow"] == 1
    assert section["p_value"] < 0.01
    assert build_report(lines, [{"id": "unknown", "channel": 1, "emotion": "sad"}])["feedback"] is None


def test_the_gate_needs_every_requirement(tmp_path):
    recorded(tmp_path, [comparison(str(number)) for number in range(4)])
    for required, code in (("agreement>=1, failures<=0", 0), ("p95_ratio<1", 1), ("macro_f1_gain>=0", 1)):
        result = CliRunner().invoke(app, ["shadow-report", str(tmp_path), "--require", required])
        assert result.exit_code == code, result.output
    report = json.loads((tmp_path / "shadow_report.json").read_text())
    assert report["requirements"] == [{"requirement": "macro_f1_gain>=0", "value": None, "is_met": False}]
    assert "- [ ] `macro_f1_gain>=0`: unknown" in (tmp_path / "shadow_report.md").read_text()


def test_one_failure_in_a_thousand_is_a_thousandth(tmp_path):
    compared = [comparison(str(number)) for number in range(999)] + [comparison("x", candidate=None, status=504)]
    assert build_report(recorded(tmp_path, compared))["measures"]["failures"] == 0.001


@pytest.mark.parametrize(
    "change", [{"si_sdr": 5}, {"shadow": {}}, {"seconds": "2"}, {"primary": {"ms": 1, "results": [{}]}}]
)
def test_lines_of_another_form_are_named(tmp_path, change):
    (line,) = recorded(tmp_path, [comparison("0")])
    (tmp_path / "shadow.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, **change}) + "\n")
    result = CliRunner().invoke(app, ["shadow-report", str(tmp_path)])
    assert result.exit_code == 2 and "entry 2 is no comparison" in " ".join(result.output.split())
    (tmp_path / "shadow.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "feedback.jsonl").write_text('{"id": [1]}\n')
    result = CliRunner().invoke(app, ["shadow-report", str(tmp_path)])
    assert result.exit_code == 2 and "entry 1 is no correction" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "name, content", [("results.json", "[]"), ("results.json", "{}"), ("results.jsonl", '{"scores": [1]}\n')]
)
def test_results_of_another_form_are_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    result = CliRunner().invoke(app, ["monitor-reference", str(tmp_path), "-o", str(tmp_path / "reference.json")])
    assert result.exit_code == 2 and "another form" in " ".join(result.output.split())


@pytest.mark.parametrize("text", ["kapa>=1", "kappa=1", "kappa>=", "kappa>=one"])
def test_invalid_requirements_are_named(text):
    with pytest.raises(ValueError, match=f"--require has '{text}'.*The measures are recordings"):
        parse_requirements(text)


def test_a_line_that_a_kill_left_incomplete_is_ignored(tmp_path):
    recorded(tmp_path, [comparison("0"), comparison("1")])
    path = tmp_path / "shadow.jsonl"
    path.write_text(path.read_text() + '{"time": "2026-')
    result = CliRunner().invoke(app, ["shadow-report", str(tmp_path)])
    assert result.exit_code == 0 and "2 copies" in result.output
    path.write_text("nonsense\n" + path.read_text())
    result = CliRunner().invoke(app, ["shadow-report", str(tmp_path)])
    assert result.exit_code == 2 and "line 1" in result.output


def test_drift_of_the_candidate_from_a_reference(tmp_path):
    lines = recorded(tmp_path, [comparison(str(number), "sad", "angry") for number in range(200)])
    assert build_report(lines)["drift"]["signals"]["emotion"]["psi"] > 1
    reference = Reference.of("tiny", LABELS, [signals(record("angry"), LABELS)] * 200)
    drift = build_report(lines, reference=reference)["drift"]
    assert drift["against"] == "tiny"
    assert (drift["signals"]["emotion"]["psi"], drift["signals"]["emotion"]["size"]) == (0, None)
    other = Reference.of("other", ["calm"], [])
    with pytest.raises(ValueError, match="give a reference of the same model"):
        build_report(lines, reference=other)


def test_the_report_needs_no_package_of_training():
    code = "import sys, modeling_sparse_merit.monitoring.shadow_report as report; print(sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"datasets", "evaluate", "sklearn", "fastapi"} & set(ast.literal_eval(run.stdout))
