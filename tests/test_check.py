# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit check`: each fault of a dataset is found, and a dataset without faults has no finding."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from typer.testing import CliRunner

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.audio_fingerprint import audio_fingerprint, copies
from modeling_sparse_merit.data.check import check_dataset
from modeling_sparse_merit.data.clip_measures import bandwidth_hz, clipped_ratio, measure_clip
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset
from modeling_sparse_merit.data.prepare import write_dataset
from modeling_sparse_merit.data.transmission import TRANSMISSIONS
from modeling_sparse_merit.models.sparse_merit.audio import resample

RATE = 16_000
SPEAKERS = {"train": ("ann", "bob"), "dev": ("cem",), "test": ("dee",)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def voice(seconds: float = 1.5, seed: int = 0) -> np.ndarray:
    """Sounds of 60 to 180 ms with their own pitch and timbre, as in speech: float32 (samples,), peak 0.3."""
    generator = np.random.default_rng(seed)
    sounds = [0.001 * generator.standard_normal(round(0.1 * RATE))]
    while sum(map(len, sounds)) < seconds * RATE:
        time = np.arange(round(generator.uniform(0.06, 0.18) * RATE)) / RATE
        pitch, harmonics = generator.uniform(90, 250), np.arange(1, 30)
        amplitudes = generator.exponential(1 / harmonics)
        sound = amplitudes @ np.sin(2 * np.pi * pitch * harmonics[:, None] * time)
        hiss = 0.05 * generator.standard_normal(len(time))
        sounds.append((sound + hiss) * np.hanning(len(time)))
    wave = np.concatenate(sounds)[: round(seconds * RATE)]
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def made_clips() -> list[dict]:
    """Two labels of each of four speakers, in three splits: rows with their samples."""
    places = [(split, speaker) for split, speakers in SPEAKERS.items() for speaker in speakers]
    rows = [(split, speaker, label) for split, speaker in places for label in ("calm", "cross")]
    return [
        {"file_name": f"{speaker}_{label}.wav", "emotion": label, "speaker": speaker, "split": split}
        | {"samples": voice(1.5, seed=seed)}
        for seed, (split, speaker, label) in enumerate(rows)
    ]


def write(folder: Path, rows: list[dict], columns=("file_name", "emotion", "speaker", "split")) -> Path:
    """A folder with metadata.csv; samples of None are not written."""
    folder.mkdir(exist_ok=True)
    for row in rows:
        if row["samples"] is not None:
            soundfile.write(folder / row["file_name"], row["samples"], RATE)
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def kinds(folder: Path) -> dict[str, list[str]]:
    return {finding.kind: finding.clips for finding in check_dataset(folder).findings}


def with_samples(tmp_path: Path, change) -> dict[str, list[str]]:
    """Findings of the made clips after a change of the samples of `bob_cross.wav`."""
    rows = made_clips()
    rows[3]["samples"] = change(rows[3]["samples"])
    return kinds(write(tmp_path / "corpus", rows))


def test_a_dataset_without_faults_has_no_finding(tmp_path):
    result = check_dataset(write(tmp_path / "corpus", made_clips()))
    assert result.findings == []
    assert list(result.splits) == ["train", "dev", "test"]
    train = result.splits["train"]
    assert (train.clips, train.seconds, train.speakers) == (4, 6.0, 2)
    assert train.labels == {"calm": 2, "cross": 2}


def test_a_prepared_dataset_is_checked_like_its_folder(tmp_path):
    folder = write(tmp_path / "corpus", made_clips())
    done = CliRunner().invoke(
        app, ["prepare", "folder", str(folder), str(tmp_path / "dataset"), "--embed", "--labels", "calm,cross"]
    )
    assert done.exit_code == 0, done.output
    shutil.rmtree(folder)
    assert check_dataset(tmp_path / "dataset").findings == []


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("silent", lambda wave: np.zeros_like(wave)),
        ("quiet", lambda wave: wave * 0.003),
        ("short", lambda wave: wave[5_000:9_000]),
        ("long", lambda wave: np.tile(wave, 21)),
        ("clipped", lambda wave: np.clip(wave * 20, -1, 1)),
        ("clipped", lambda wave: np.clip(wave, -0.1, 0.1) * 0.7),
        ("offset", lambda wave: wave + 0.03),
        ("narrowband", lambda wave: resample(resample(wave, RATE, 8_000), 8_000, RATE)),
        ("narrowband", lambda wave: TRANSMISSIONS["gsm"].apply(wave)),
    ],
)
def test_a_fault_of_one_recording_is_found_there_alone(kind, change, tmp_path):
    assert with_samples(tmp_path, change) == {kind: ["bob_cross.wav"]}


def test_damage_behind_an_intact_header_is_found_by_decoding(tmp_path):
    rows = made_clips()
    folder = write(tmp_path / "corpus", rows)
    soundfile.write(folder / "ann_calm.flac", rows[0]["samples"], RATE)
    content = bytearray((folder / "ann_calm.flac").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    (folder / "ann_calm.flac").write_bytes(content)
    (folder / "bob_calm.wav").write_bytes((folder / "bob_calm.wav").read_bytes()[:20_000])
    (folder / "cem_calm.wav").unlink()
    rows[0]["file_name"] = "ann_calm.flac"
    write(folder, [row | {"samples": None} for row in rows])

    (finding,) = check_dataset(folder).findings

    assert (finding.kind, finding.severity) == ("damaged", "error")
    assert finding.clips == ["ann_calm.flac", "bob_calm.wav", "cem_calm.wav"]
    assert soundfile.info(folder / "ann_calm.flac").duration == 1.5


def test_shared_speakers_are_errors(tmp_path):
    rows = made_clips()
    rows[4]["speaker"] = "bob"
    (finding,) = check_dataset(write(tmp_path / "corpus", rows)).findings
    assert (finding.kind, finding.severity) == ("shared_speakers", "error")
    assert "bob (train, dev)" in finding.message


def test_missing_speakers_labels_and_splits_are_warnings(tmp_path):
    folder = write(tmp_path / "corpus", made_clips(), columns=("file_name",))
    findings = check_dataset(folder).findings
    assert {finding.kind for finding in findings} == {"unknown_speakers", "unlabelled", "missing_splits"}
    assert all(finding.severity == "warning" and len(finding.clips) == 8 for finding in findings)


def test_an_unlabelled_clip_and_a_label_of_one_split_are_found(tmp_path):
    rows = made_clips()
    rows[1]["emotion"] = ""
    rows[5]["emotion"] = "glad"
    result = check_dataset(write(tmp_path / "corpus", rows))
    assert {finding.kind for finding in result.findings} == {"unlabelled", "missing_labels"}
    message = next(finding.message for finding in result.findings if finding.kind == "missing_labels")
    assert "cross (not in dev)" in message and "glad (not in train, test)" in message


def test_imbalance_is_found_from_ten_to_one(tmp_path):
    rows = made_clips()
    more = [
        row | {"file_name": f"more_{seed}.wav", "samples": voice(1.0, seed=100 + seed)}
        for seed, row in enumerate([rows[0]] * 18)
    ]
    few, many = write(tmp_path / "few", rows + more[:17]), write(tmp_path / "many", rows + more)
    assert kinds(few) == {}  # 19 to 2
    assert list(kinds(many)) == ["imbalance"]  # 20 to 2


@pytest.mark.parametrize("is_exact", [True, False])
def test_copies_are_errors_across_splits_and_between_labels_and_warnings_elsewhere(is_exact, tmp_path):
    rows = made_clips()
    copied = [rows[0] | {"file_name": f"copy_{number}.wav"} for number in range(3)]
    if not is_exact:
        for row in copied:
            row["samples"] = 0.4 * row["samples"][1_000:]
    same, other_label, other_split = copied
    other_label["emotion"] = "cross"
    other_split |= {"speaker": "cem", "split": "dev"}
    for row, kind, severity in (
        (same, "copies", "warning"),
        (other_label, "copies_with_different_labels", "error"),
        (other_split, "copies_across_splits", "error"),
    ):
        (finding,) = check_dataset(write(tmp_path / kind, [*rows, row])).findings
        assert (finding.kind, finding.severity) == (kind, severity)
        assert finding.groups == [["ann_calm.wav", row["file_name"]]]
        assert ("1 with identical samples" in finding.message) == is_exact


def coded(waveform: np.ndarray, kind: str, path: Path) -> np.ndarray:
    soundfile.write(path / f"coded.{kind}", waveform, RATE)
    return soundfile.read(path / f"coded.{kind}", dtype="float32")[0]


def test_the_fingerprint_recognises_copies_and_tells_recordings_apart(tmp_path):
    clips = [voice(2.0, seed=seed) for seed in range(6)]
    changed = [
        clips[0] * np.float32(0.05),
        clips[1] + np.float32(0.1),
        coded(clips[2], "mp3", tmp_path),
        coded(clips[3], "ogg", tmp_path),
        np.concatenate([np.zeros(3_333, np.float32), clips[4]]),
        resample(clips[5], RATE, 44_100),
    ]
    rates = [RATE] * 11 + [44_100]
    prints = [audio_fingerprint(clip, rate) for clip, rate in zip(clips + changed, rates, strict=True)]
    assert copies(prints) == [(number, number + 6) for number in range(6)]


def test_common_silence_does_not_make_copies():
    silence = np.zeros(5 * RATE, np.float32)
    prints = [audio_fingerprint(np.concatenate([voice(1.0, seed=seed), silence]), RATE) for seed in range(4)]
    assert copies(prints) == []


def test_measures_by_hand():
    time = np.arange(2 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time)).astype(np.float32)
    clipped = np.clip(noise, -1, 1)
    # 31.7 % of normal samples are beyond one standard deviation; three in a row on one side: 2 * 0.159 ** 3
    assert clipped_ratio(clipped) == pytest.approx(2 * 0.1587**3, rel=0.15)
    assert clipped_ratio(np.sin(2 * np.pi * 440 * time).astype(np.float32)) == 0
    assert bandwidth_hz(noise, RATE) == 8_000
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(len(noise), 1 / RATE) > 5_000] = 0
    assert bandwidth_hz(np.fft.irfft(spectrum).astype(np.float32), RATE) == 5_000
    offset = measure_clip(
        {"array": np.full(RATE, 0.25, np.float32) + 0.25 * np.sign(noise[:RATE]), "sampling_rate": RATE}
    )
    assert offset.offset_ratio == pytest.approx(0.5**0.5, abs=0.01)
    assert offset.level_dbfs == pytest.approx(-9.03, abs=0.1)


# The command ---------------------------------------------------------------------------------------------------------


def run(*arguments: str):
    return CliRunner().invoke(app, ["check", *map(str, arguments)], env={"COLUMNS": "80"})


def test_the_command_prints_what_why_and_what_to_do_within_80_columns(tmp_path):
    rows = made_clips()
    rows[0]["samples"] = np.zeros(RATE, np.float32)
    rows[2]["samples"] = 0.002 * rows[2]["samples"]
    done = run(write(tmp_path / "corpus", rows))
    assert done.exit_code == 1, done.output
    for shown in ("train", "calm", "Error", "ann_calm.wav", "Warning", "bob_calm.wav", "Why", "To do"):
        assert shown in done.stdout
    assert "1 error, 1 warning" in done.stdout
    lines = done.stdout.splitlines()[:-1]  # the last one has a path
    assert max(map(len, lines)) <= 80


def test_the_exit_code_is_0_with_warnings_only_and_2_without_a_dataset(tmp_path):
    rows = made_clips()
    rows[0]["samples"] = 0.002 * rows[0]["samples"]
    assert run(write(tmp_path / "corpus", rows)).exit_code == 0
    missing = run(tmp_path / "nothing")
    assert missing.exit_code == 2 and "holds no dataset" in missing.stderr


def test_json_names_all_clips(tmp_path):
    rows = made_clips()
    for row in rows[:5]:
        row["samples"] = 0.002 * row["samples"]
    done = run(write(tmp_path / "corpus", rows), "--json")
    result = json.loads(done.stdout)
    assert result["findings"][0]["clips"] == [row["file_name"] for row in rows[:5]]
    assert result["splits"]["dev"]["clips"] == 2


def test_noises_may_be_long_and_narrowband_and_have_no_speaker(tmp_path):
    long = np.concatenate([voice(seed=seed) for seed in range(22)])
    folder = write(
        tmp_path / "noises", [{"file_name": "hum.wav", "samples": resample(resample(long, RATE, 8_000), 8_000, RATE)}]
    )
    (folder / "metadata.csv").unlink()
    soundfile.write(folder / "silence.wav", np.zeros(RATE), RATE)
    done = CliRunner().invoke(app, ["prepare", "noise", str(folder), str(tmp_path / "dataset"), "--split", "train"])
    assert done.exit_code == 0, done.output
    assert kinds(tmp_path / "dataset") == {"silent": ["silence.wav"]}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="lists no recording"):
        check_dataset(write(tmp_path / "corpus", []))


# Real recordings -----------------------------------------------------------------------------------------------------


def test_acted_sentences_of_one_speaker_are_not_copies_and_planted_ones_are(tmp_path):
    """Thirty clips of one speaker, who says the same sentences in several emotions."""
    path = ROOT / "tables" / "nemo"
    if not path.is_dir():
        pytest.skip(f"the dataset nemo is not at {path}; `make tables CORPORA=FOLDER` writes it")
    dataset = read_dataset(path, "test").select(range(30))
    write_dataset(dataset, tmp_path / "nemo", embed=True)
    rows = [{"file_name": f"{number}.wav", "samples": measure["samples"]} for number, measure in samples_of(dataset)]
    rows.append({"file_name": "copy.mp3", "samples": coded(rows[0]["samples"], "mp3", tmp_path)[777:] * 0.5})

    assert set(kinds(tmp_path / "nemo")) <= {"missing_splits", "missing_labels"}
    assert kinds(write(tmp_path / "planted", rows, columns=("file_name",)))["copies"] == ["0.wav", "copy.mp3"]


def samples_of(dataset):
    from modeling_sparse_merit import load_audio

    return [(number, {"samples": load_audio(row["audio"])}) for number, row in enumerate(dataset)]
