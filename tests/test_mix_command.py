# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit mix`: noisy files at the requested ratio, their references, and the list of what was mixed."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import make_speech
from typer.testing import CliRunner

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.transmission import TRANSMISSIONS

RATE = 16_000


def run(*arguments: object):
    return CliRunner().invoke(app, ["mix", *map(str, arguments)])


@pytest.fixture
def sounds(tmp_path) -> Path:
    """`speech/` with files of two rates in two folders, and `noise/` with two noises."""
    (tmp_path / "speech" / "more").mkdir(parents=True)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "speech" / "a.wav", make_speech(1.5, seed=1), RATE)
    soundfile.write(tmp_path / "speech" / "more" / "b.flac", make_speech(1.0, 44_100, seed=2), 44_100)
    generator = np.random.default_rng(0)
    for name, seconds in (("hiss.wav", 4.0), ("short.wav", 0.4)):
        soundfile.write(tmp_path / "noise" / name, 0.1 * generator.standard_normal(int(seconds * RATE)), RATE)
    return tmp_path


def lines(folder: Path) -> list[dict]:
    with open(folder / "mixtures.csv", newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    waveform, rate = soundfile.read(path)
    assert rate == RATE and waveform.ndim == 1
    return waveform


def test_the_files_have_the_requested_ratio(sounds):
    done = run(sounds / "speech", sounds / "noise", "-o", sounds / "out", "--snr-db", -5, 0, 12.5)
    assert done.exit_code == 0, done.output
    listed = lines(sounds / "out")
    assert [(line["noisy"], line["snr_db"]) for line in listed] == [
        *((f"noisy/a.{snr}dB.wav", snr) for snr in ("-5", "0", "12.5")),
        *((f"noisy/more/b.{snr}dB.wav", snr) for snr in ("-5", "0", "12.5")),
    ]
    for line in listed:
        clean, noisy = read(sounds / "out" / line["clean"]), read(sounds / "out" / line["noisy"])
        ratio = 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2))
        assert ratio == pytest.approx(float(line["snr_db"]), abs=0.01)
    files = {path.relative_to(sounds / "out").as_posix() for path in (sounds / "out").rglob("*.wav")}
    assert files == {line[kind] for line in listed for kind in ("noisy", "clean")}


def test_the_list_says_which_noise_starts_where(sounds):
    run(sounds / "speech" / "a.wav", sounds / "noise" / "hiss.wav", "-o", sounds / "out", "--seed", 3)
    (line, *_) = lines(sounds / "out")
    assert line["speech"] == str(sounds / "speech" / "a.wav") and line["seed"] == "3"
    start = round(float(line["noise_start_s"]) * RATE)
    clean, noisy = read(sounds / "out" / line["clean"]), read(sounds / "out" / line["noisy"])
    segment = read(Path(line["noise"]))[start : start + len(clean)]
    assert np.corrcoef(segment, noisy - clean)[0, 1] > 0.9999


def test_the_same_seed_gives_the_same_files_and_another_one_others(sounds):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        assert run(sounds / "speech", sounds / "noise", "-o", sounds / name, "--seed", seed).exit_code == 0
    one, two, three = (read(sounds / name / "noisy" / "a.0dB.wav") for name in ("one", "two", "three"))
    assert np.array_equal(one, two) and not np.array_equal(one, three)


def test_a_transmission_limits_mixture_and_reference(sounds):
    done = run(
        sounds / "speech", sounds / "noise", "-o", sounds / "out", "--snr-db", "20", "--transmission", "telephone"
    )
    assert done.exit_code == 0, done.output
    (line, *_) = lines(sounds / "out")
    assert line["transmission"] == "telephone"
    expected = TRANSMISSIONS["telephone"].band_limit(make_speech(1.5, seed=1))
    clean, noisy = read(sounds / "out" / line["clean"]), read(sounds / "out" / line["noisy"])
    assert np.corrcoef(clean, expected)[0, 1] > 0.9999
    spectrum, frequencies = np.abs(np.fft.rfft(noisy)) ** 2, np.fft.rfftfreq(len(noisy), 1 / RATE)
    assert spectrum[frequencies > 4_000].sum() < 1e-3 * spectrum.sum()


def test_a_folder_is_never_replaced_silently(sounds):
    target = sounds / "out"
    assert run(sounds / "speech", sounds / "noise", "-o", target).exit_code == 0
    again = run(sounds / "speech" / "a.wav", sounds / "noise", "-o", target)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert len(lines(target)) == 6
    assert run(sounds / "speech" / "a.wav", sounds / "noise", "-o", target, "--overwrite").exit_code == 0
    assert len(lines(target)) == 3
    foreign = run(sounds / "speech", sounds / "noise", "-o", sounds / "noise", "--overwrite")
    assert foreign.exit_code == 2 and "mixtures.csv" in foreign.stderr


def test_files_that_cannot_be_mixed_are_named_and_the_others_are_mixed(sounds):
    (sounds / "speech" / "bad.wav").write_bytes(b"RIFF")
    soundfile.write(sounds / "speech" / "silent.wav", np.zeros(RATE), RATE)
    done = run(sounds / "speech", sounds / "noise", "-o", sounds / "out")
    assert done.exit_code == 1
    for name in ("bad.wav", "silent.wav"):
        assert name in done.stderr
    assert len(lines(sounds / "out")) == 6


@pytest.mark.parametrize("options", [["--transmission", "pigeon"], ["--snr-db", "loud"]])
def test_invalid_options_leave_no_folder(options, sounds):
    assert run(sounds / "speech", sounds / "noise", "-o", sounds / "out", *options).exit_code == 2
    assert not (sounds / "out").exists()


def test_missing_files_are_refused(sounds):
    done = run(sounds / "nothing", sounds / "noise", "-o", sounds / "out")
    assert done.exit_code == 2 and "nothing" in done.stderr
    assert not (sounds / "out").exists()
