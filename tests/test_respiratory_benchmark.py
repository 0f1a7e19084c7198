# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python -m benchmarks.respiratory`: patients are held out, the filters work, and the report says what it is."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from benchmarks.respiratory import __main__ as respiratory
from benchmarks.respiratory.classification import _described, _draws
from benchmarks.respiratory.filters import low_pass, wiener
from benchmarks.respiratory.folds import divide
from benchmarks.respiratory.tables import NO_CLAIM, classification_as_markdown, enhancement_as_markdown
from modeling_sparse_merit.evaluation.statistics import Resampling
from modeling_sparse_merit.fields import read_yaml
from modeling_sparse_merit.metrics import icbhi_score, si_sdr
from modeling_sparse_merit.training.arguments import parse_fields
from modeling_sparse_merit.training.classifier import ClassifierSettings
from modeling_sparse_merit.training.enhancer import EnhancerSettings

LABELS = ["normal", "crackle", "wheeze", "both"]


def test_every_patient_is_tested_once_by_models_of_others():
    labels = {"101": [0, 0], "102": [1, 0], "103": [2], "104": [0], "105": [3, 3], "106": [0], "107": [1], "108": [0]}
    rows = [(patient, label) for patient, own in labels.items() for label in own]
    features = Features({"patient": Value("string"), "label": ClassLabel(names=LABELS)})
    columns = dict(zip(("patient", "label"), map(list, zip(*rows, strict=True)), strict=True))
    folds = divide(Dataset.from_dict(columns, features=features))
    tested = [patient for _, test in folds for patient in test]
    assert sorted(tested) == sorted(labels)
    for dev, test in folds:
        trained = set(labels) - set(dev) - set(test)
        assert not set(dev) & set(test) and dev
        for part in (trained, set(test)):  # each has normal and abnormal cycles
            assert {bool(label) for patient in part for label in labels[patient]} == {False, True}


def test_the_filters_remove_noise_and_keep_the_length():
    generator = np.random.default_rng(0)
    time = np.arange(48_001) / 16_000
    breath = (0.1 * np.sin(2 * np.pi * 300 * time) * np.clip(np.sin(2 * np.pi * time), 0, None)).astype(np.float32)
    noisy = breath + 0.02 * generator.standard_normal(len(breath)).astype(np.float32)
    for function in (low_pass, wiener):
        enhanced = function(noisy)
        assert enhanced.dtype == np.float32 and enhanced.shape == noisy.shape
        assert si_sdr(breath, enhanced) > si_sdr(breath, noisy) + 3


def test_scores_of_an_arm_are_those_of_the_metric_and_differences_are_paired():
    true, generator = np.array([0, 0, 0, 1, 2, 0, 1, 3]), np.random.default_rng(0)
    predicted = generator.integers(4, size=8)
    resampling = Resampling([str(index // 2) for index in range(8)], 50, 0)
    draws = _draws(true, predicted, resampling)
    expected = icbhi_score([LABELS[index] for index in true], [LABELS[index] for index in predicted])
    described = _described(draws, draws)
    for name, value in expected.items():
        assert described[name]["value"] == pytest.approx(value)
        assert described[f"{name}_difference"] == {"value": 0.0, "interval": [0.0, 0.0]}


def test_the_report_makes_no_clinical_claim():
    estimated = {"mean": 1.0, "low": 0.5, "high": 1.5}
    gains = {"low_pass": {"0": {"si_sdr_gain": estimated, "segmental_snr_gain": estimated}}}
    published = {"gain": estimated, "from_cmgan": estimated, "from_wave_u_net": estimated}
    costs = {"mask_lstm": {"parameters": 1000, "real_time_factor": 0.01, "working_memory_mib": 500.0}}
    common = {"command": respiratory.COMMAND, "commit": "0"}
    text = enhancement_as_markdown(
        {
            **common,
            **{"recordings": 1, "patients": 1, "gains": gains, "costs": costs},
            "published_clips": {"clips": 9, "si_sdr_noisy": 10.0, "systems": {"low_pass": published}},
        }
    )
    assert NO_CLAIM in text and "| low_pass | +1.0 (+0.5 to +1.5) |" in text
    score = {"value": 0.5, "interval": [0.25, 0.75]}
    names = ("specificity", "sensitivity", "score", "score_difference")
    entry = {"arm": "clean", "snr_db": None, **dict.fromkeys(names, score)}
    devices = {"clean": {"Meditron": {"cycles": 1, "specificity": 1.0, "sensitivity": None, "score": None}}}
    cycles = {"cycles": {"normal": 1}, "patients": 1, "scores": [entry], "devices": devices}
    text = classification_as_markdown({**common, **cycles})
    assert NO_CLAIM in text and "| no noise | clean | 0.50 [0.25, 0.75] |" in text
    assert "| Meditron | 1 | clean | 1.00 | – | – |" in text


def test_the_settings_of_the_benchmark_are_valid():
    data = ["--data", "x"]
    for structure in respiratory.STRUCTURES:
        settings = parse_fields(EnhancerSettings, [str(respiratory.FOLDER / f"{structure}.yaml"), *data], "")
        assert settings.config["structure"] == structure and settings.config["snr_weight"] > 0
    for arm in respiratory.ARMS:
        settings = parse_fields(ClassifierSettings, [str(respiratory.FOLDER / f"cnn14_{arm}.yaml"), *data], "")
        assert bool(settings.noise) == (arm != "clean")
    tested = {"tables/urbansound8k", "tables/nonspeech_noisex"}
    for path in respiratory.FOLDER.glob("*.yaml"):
        assert not tested & set(read_yaml(path).get("noise", []))
