# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""ICBHI 2017: from the folder as it is distributed to cycles with checked marks, and the score of the challenge."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from modeling_sparse_merit import metrics
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.corpora import corpus
from modeling_sparse_merit.data.corpora.icbhi import default_dev_patients, read_official_split, shared_patients
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset
from modeling_sparse_merit.metrics import UndefinedScoreWarning, icbhi_score
from modeling_sparse_merit.models.sparse_merit.audio import load_audio

icbhi = corpus("icbhi")
RATE = 4000
FIRST, SECOND, THIRD = "101_1b1_Al_sc_Meditron", "102_1b1_Ar_mc_LittC2SE", "156_2b3_Al_mc_AKGC417L"


def record(folder: Path, name: str, marks: str | None, seconds: float = 3.0, level: float = 0.1) -> None:
    """Writes a recording of noise and its annotation."""
    samples = level * np.random.default_rng(len(name)).standard_normal(int(seconds * RATE)).clip(-3, 3)
    soundfile.write(folder / f"{name}.wav", samples, RATE)
    if marks is not None:
        (folder / f"{name}.txt").write_text(marks)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three recordings of three patients."""
    record(tmp_path, FIRST, "0.5\t1.5\t0\t0\n1.5\t3.05\t1\t0\n")
    record(tmp_path, SECOND, "0\t1\t0\t1\n1\t2.5\t1\t1\n")
    record(tmp_path, THIRD, "0\t1\t0\t0\n")
    lines = [f"{FIRST}\ttest", f"{SECOND}\ttrain", f"{THIRD}\ttrain", "156_8b3_Ar_mc_AKGC417L\ttest"]
    (tmp_path / "official_split.txt").write_text("\n".join(lines))
    (tmp_path / "patient_diagnosis.txt").write_text("101\tURTI\n102\tHealthy\n")
    return tmp_path


def test_each_cycle_is_a_row_with_its_sounds_its_patient_and_its_device(folder):
    dataset = icbhi.build(folder)

    names = dataset.features["label"].names
    assert [names[label] for label in dataset["label"]] == ["normal", "crackle", "wheeze", "both", "normal"]
    assert dataset["crackles"][:] == [False, True, False, True, False]
    assert dataset["split"][:] == ["test", "test", "train", "train", "train"]
    first = dataset[1]
    assert (first["patient"], first["speaker"], first["recording"]) == ("101", "icbhi_101", FIRST)
    assert (first["device"], first["location"], first["mode"]) == ("Meditron", "Al", "sc")
    assert (first["diagnosis"], first["original_rate"]) == ("URTI", RATE)
    assert dataset[4]["diagnosis"] is None
    # a mark may lie 0.1 s beyond the recording, and the cycle then ends with it
    whole = load_audio(str(folder / f"{FIRST}.wav"))
    assert len(whole) == 48_000 and first["duration"] == pytest.approx(1.5)
    np.testing.assert_allclose(load_audio(first["audio"]), whole[24_000:], atol=2e-7)


def test_recordings_are_rows_on_request_and_the_command_writes_both(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    for name, options in {"cycles": [], "recordings": ["--recordings", "--dev", "102", "--test", "156"]}.items():
        done = CliRunner().invoke(app, ["prepare", "icbhi", str(folder), str(out / name), *options])
        assert done.exit_code == 0, done.output
    recordings = read_dataset(out / "recordings")
    assert sorted(zip(recordings["recording"], recordings["split"], strict=True)) == [
        (FIRST, "train"),
        (SECOND, "dev"),
        (THIRD, "test"),
    ]
    assert "label" not in recordings.features and len(read_dataset(out / "cycles")) == 5


def test_marks_and_sampling_rates_may_be_in_lists(folder):
    (folder / f"{FIRST}.txt").unlink()
    (folder / "cycles").mkdir()
    header, line = "file_name,label,crackles,wheezes,recording,start,end", f"x_00.flac,both,1,1,{FIRST},0.2,0.9"
    (folder / "cycles" / "metadata.csv").write_text(f"{header}\n{line}\n")
    (folder / "metadata.csv").write_text(f"file_name,original_sample_rate\n{FIRST}.flac,44100\n")
    soundfile.write(folder / "cycles" / f"{FIRST}_00.wav", np.ones(100), RATE)

    dataset = icbhi.build(folder)

    row = next(row for row in dataset if row["recording"] == FIRST)
    assert (row["label"], row["original_rate"], row["duration"]) == (3, 44_100, pytest.approx(0.7))
    assert "1 files are not recordings of this corpus" in dataset.info.description


def test_patients_in_both_parts_of_the_official_split_are_reported_and_can_be_left_out(folder):
    record(folder, "156_8b3_Ar_mc_AKGC417L", "0\t1\t0\t0\n")
    with pytest.warns(UserWarning, match="1 values of 'patient' are in more than one split: 156"):
        icbhi.build(folder)
    dataset = icbhi.build(folder, drop_shared_patients=True)
    assert THIRD not in dataset["recording"][:] and "156_8b3_Ar_mc_AKGC417L" in dataset["recording"][:]
    assert "1 recordings of patients in both parts were left out of the train part" in dataset.info.description


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (None, f"1 recordings without annotations, NAME.txt: {SECOND}.wav"),
        ("2 1 0 0", f"1 cycles that do not end after their start: {SECOND}.wav: 2 to 1 s"),
        ("1 1 0 0", "cycles that do not end after their start"),
        ("1 3.2 0 0", f"1 cycles that end beyond their recording: {SECOND}.wav: 1 to 3.2 s"),
        ("3.02 3.05 0 0", "1 silent cycles"),
        ("one 2 0 0", "'one 2 0 0'; expected four numbers: start and end in seconds"),
        ("1 2 0", "expected four numbers"),
    ],
)
def test_bad_marks_are_named(folder, marks, message):
    (folder / f"{SECOND}.txt").unlink()
    if marks is not None:
        (folder / f"{SECOND}.txt").write_text(marks)
    with pytest.raises(DatasetError, match=message):
        icbhi.build(folder)


def test_bad_cycles_are_left_out_on_request_and_the_good_ones_of_the_recording_stay(folder):
    (folder / f"{FIRST}.txt").write_text("0 1 0 0\n2 1 0 0\n1 9 0 0\n")
    with pytest.warns(UserWarning, match="2 problems"):
        dataset = icbhi.build(folder, skip_bad=True)
    assert dataset["recording"][:].count(FIRST) == 1


def test_an_unknown_device_is_an_error(folder):
    record(folder, "103_1b1_Al_sc_Walkman", "0 1 0 0")
    with pytest.raises(DatasetError, match=r"unknown devices \(known are AKGC417L.*103_1b1_Al_sc_Walkman.*'Walkman'"):
        icbhi.build(folder)


def test_silence_is_an_error(folder):
    record(folder, SECOND, "0 1 0 0", level=0)
    with pytest.raises(DatasetError, match=f"1 silent recordings: {SECOND}.wav"):
        icbhi.build(folder)
    quiet = np.concatenate([np.zeros(RATE), 0.1 * np.ones(RATE)])
    soundfile.write(folder / f"{SECOND}.wav", quiet, RATE)
    with pytest.raises(DatasetError, match="1 silent cycles"):
        icbhi.build(folder)


def test_a_missing_split_or_a_recording_that_it_lacks_is_an_error(folder):
    record(folder, "103_1b1_Al_sc_Meditron", "0 1 0 0")
    with pytest.raises(DatasetError, match="1 recordings that the official split does not list"):
        icbhi.build(folder)
    (folder / "official_split.txt").unlink()
    with pytest.raises(DatasetError, match="official_split.txt or .*; add the official split, or name patients"):
        icbhi.build(folder)


def test_the_official_split_has_two_patients_in_both_parts_and_dev_patients_are_not_tested(reference_data):
    official = read_official_split(reference_data / "data" / "respiratory")
    assert (len(official), list(official.values()).count("train")) == (920, 539)
    assert shared_patients(official) == {"156", "218"}
    dev = default_dev_patients(official)
    assert len(dev) == 12 and not {name[:3] for name, part in official.items() if part == "test"} & set(dev)


def test_the_reference_recordings_are_read(reference_data):
    dataset = icbhi.build(reference_data / "data" / "respiratory")
    names = dataset.features["label"].names
    counts = {name: dataset["label"][:].count(index) for index, name in enumerate(names)}
    assert counts == {"normal": 140, "crackle": 13, "wheeze": 15, "both": 1}


# The score -----------------------------------------------------------------------------------------------------------

TRUE = ["normal"] * 4 + ["crackle"] * 2 + ["wheeze", "both"]


@pytest.mark.parametrize(
    ("predicted", "binary", "expected"),
    [
        (["normal"] * 8, False, (1.0, 0.0, 0.5)),
        (TRUE, False, (1.0, 1.0, 1.0)),
        # one normal cycle is missed; a crackle is taken for a wheeze, both for a crackle
        (["both", *["normal"] * 3, "crackle", "wheeze", "wheeze", "crackle"], False, (0.75, 0.5, 0.625)),
        (["both", *["normal"] * 3, "crackle", "wheeze", "wheeze", "crackle"], True, (0.75, 1.0, 0.875)),
    ],
)
def test_the_score_counts_abnormal_cycles_of_their_own_class(predicted, binary, expected):
    actual = icbhi_score(TRUE, predicted, binary=binary)
    assert tuple(actual[name] for name in ("specificity", "sensitivity", "score")) == expected


def test_the_score_is_undefined_without_abnormal_cycles(tmp_path):
    with pytest.warns(UndefinedScoreWarning, match="no normal or no abnormal cycle"):
        actual = icbhi_score(["normal", "normal"], ["normal", "both"])
    assert actual["specificity"] == 0.5 and math.isnan(actual["score"])


def test_the_module_of_evaluate_gives_the_same(tmp_path):
    predicted = ["normal"] * 5 + ["wheeze", "wheeze", "crackle"]
    module = metrics.load("icbhi_score", cache_dir=str(tmp_path), binary=True)
    assert module.compute(predictions=predicted, references=TRUE) == icbhi_score(TRUE, predicted, binary=True)
