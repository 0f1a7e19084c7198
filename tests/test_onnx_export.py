# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint exported to ONNX gives the outputs of the model, in onnxruntime and without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY, TINY_SIZES

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
)
from modeling_sparse_merit.convert import onnx as module
from modeling_sparse_merit.convert.onnx import RealSpectrogram, export_onnx, noise
from modeling_sparse_merit.models.sparse_merit.enhancement import Spectrogram

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LOG_MEL = {"feature_encoder": "log_mel", "conv_kernel": (400,), "conv_stride": (320,), "conv_dim": (32,)}
VARIANTS = {
    "log_mel, magnitude": {**LOG_MEL, "enhancement_mask": "magnitude"},
    "log1p": {"enhancement_mask": "log1p", "enhancement_num_layers": 2},
    "deep filter": {"enhancement_mask": "deep_filter", "n_fft": 512, "win_length": 512, "hop_length": 256},
    "post norm": {"do_stable_layer_norm": False},
    "convolutions with group norm": {"feat_extract_norm": "group"},
    "odd transform": {"n_fft": 401, "win_length": 320, "hop_length": 100},
    "dense": {"router": "dense"},
    "switch": {"router_gradient": "switch"},
    "weighted_sum": {"integration": "weighted_sum"},
    "weighted_sum_experts": {"integration": "weighted_sum_experts"},
    "expert_weighted_sums": {"integration": "expert_weighted_sums", "emotion_pooling_heads": 3},
    "enhancement alone": {"tasks": ["enhancement"]},
    "emotion alone": {"tasks": ["emotion"], "router": "dense"},
}


@pytest.fixture(scope="module")
def model():
    return small_model(num_hidden_layers=1, **LOG_MEL)


@pytest.fixture(scope="module")
def feature_extractor():
    return SparseMeritFeatureExtractor()


@pytest.fixture(scope="module")
def folder(model, feature_extractor, tmp_path_factory):
    """The model, exported."""
    folder = tmp_path_factory.mktemp("export") / "onnx"
    differences = export_onnx(model, feature_extractor, folder)
    assert sorted(differences) == ["enhanced_values", "logits"] and max(differences.values()) < 1e-4
    return folder


def small_model(**fields):
    """Two narrow layers, with weights large enough for routers to choose and masks to differ."""
    torch.manual_seed(0)
    return SparseMeritForSpeechEnhancementAndEmotion(
        SparseMeritConfig(**(TINY_SIZES | {"initializer_range": 0.2} | fields))
    ).eval()


def outputs(folder, inputs):
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    values = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip([output.name for output in session.get_outputs()], values, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(400,), (12_345, 400), (500_000,), (5_000, 70_001, 401, 33_333)])
def test_outputs_equal_those_of_torch_for_any_number_and_length_of_clips(folder, model, lengths):
    inputs = noise(lengths)
    with torch.inference_mode():
        expected = model(**inputs)
    for name, result in outputs(folder, inputs).items():
        np.testing.assert_allclose(result, expected[name].numpy(), atol=1e-4)


@pytest.mark.slow
def test_outputs_do_not_depend_on_padding(folder):
    lengths = (16_000, 9_999, 400)
    batch = noise(lengths)
    together = outputs(folder, batch)
    for row, length in enumerate(lengths):
        alone = outputs(folder, {name: tensor[row : row + 1, :length] for name, tensor in batch.items()})
        np.testing.assert_allclose(together["logits"][row], alone["logits"][0], atol=1e-4)
        np.testing.assert_allclose(together["enhanced_values"][row, :length], alone["enhanced_values"][0], atol=1e-4)
        assert not together["enhanced_values"][row, length:].any()


@pytest.mark.slow
def test_the_example_of_its_readme_runs_where_torch_is_not_installed(
    folder, model, feature_extractor, speech_clip, tmp_path
):
    clips = {
        name: speech_clip(seconds, seed=seed) for seed, (name, seconds) in enumerate({"a": 1.0, "b": 0.4}.items())
    }
    for name, clip in clips.items():
        soundfile.write(tmp_path / f"{name}.wav", clip, 16_000, subtype="FLOAT")
    example = (folder / "example.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```\n" in (folder / "README.md").read_text(encoding="utf-8")
    hidden = "import sys; sys.modules.update(torch=None, transformers=None, modeling_sparse_merit=None)\n"
    (tmp_path / "example.py").write_text(hidden + example, encoding="utf-8")
    command = [sys.executable, tmp_path / "example.py", *(tmp_path / f"{name}.wav" for name in clips)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    inputs = feature_extractor(list(clips.values()), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs)
    labels = [model.config.id2label[index] for index in expected.logits.argmax(-1).tolist()]
    assert [line.split()[-1] for line in done.stdout.splitlines()] == labels
    for name, clean in zip(
        clips, feature_extractor.denormalize(expected.enhanced_values, list(clips.values())), strict=True
    ):
        written, rate = soundfile.read(tmp_path / f"{name}.wav.enhanced.wav")
        assert rate == 16_000
        np.testing.assert_allclose(written, clean, atol=1e-4)  # 16 bits a sample


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "channels", "samples", "said"),
    [
        (8_000, 1, 8_000, "8000 Hz, 1 channel(s), 8000 samples; expected 16000 Hz"),
        (16_000, 2, 9_000, "16000 Hz, 2 channel(s), 9000 samples; expected 16000 Hz, 1 channel"),
        (16_000, 1, 399, "399 samples; expected 16000 Hz, 1 channel, at least 400 samples"),
    ],
)
def test_the_example_refuses_what_the_graph_does_not_take_and_says_what_to_do(
    folder, tmp_path, rate, channels, samples, said
):
    soundfile.write(tmp_path / "call.wav", np.zeros((samples, channels)), rate)
    command = [sys.executable, "example.py", tmp_path / "call.wav"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"{tmp_path / 'call.wav'}: ") and said in done.stderr
    assert "ffmpeg -i RECORDING -ar 16000 -ac 1" in done.stderr and not list(tmp_path.glob("*.enhanced.wav"))


@pytest.mark.slow
def test_the_folder_says_what_goes_in_and_out_and_nothing_of_this_machine(folder):
    description = json.loads((folder / "onnx_config.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for kind, nodes in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert {node.name: node.shape for node in nodes} == {
            name: entry["shape"] for name, entry in description[kind].items()
        }
    assert description["labels"] == ["angry", "sad", "happy", "neutral"]
    assert description["normalization"] == {"kind": "recording"} and description["sampling_rate"] == 16_000
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "example.py",
        "model.onnx",
        "onnx_config.json",
    ]
    assert b"site-packages" not in (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize("sizes", [(400, 160, 400), (512, 128, 400), (401, 100, 320)])
def test_the_transform_by_convolutions_is_the_transform(sizes):
    lengths = torch.tensor([4_000, 1_234])
    waveforms = noise(lengths.tolist())["input_values"]
    exact, real = Spectrogram(*sizes), RealSpectrogram(*sizes)
    spectrum = exact.transform(waveforms, lengths)
    torch.testing.assert_close(real.transform(waveforms, lengths), spectrum, atol=1e-4, rtol=1e-4)
    back = real.inverse(spectrum, lengths, 4_000)
    torch.testing.assert_close(back, exact.inverse(spectrum, lengths, 4_000), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(back, waveforms, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_an_export_is_replaced_only_on_request_and_other_folders_never(model, feature_extractor, folder, tmp_path):
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_onnx(model, feature_extractor, folder)
    (tmp_path / "thesis.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="not an ONNX export"):
        export_onnx(model, feature_extractor, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_says_which_packages_are_missing_and_how_to_get_them(model, feature_extractor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript: pip install 'modeling-sparse-merit\[onnx\]'"):
        export_onnx(model, feature_extractor, tmp_path / "onnx")


def test_refuses_weights_and_precisions_that_it_cannot_export(feature_extractor, tmp_path):
    with pytest.raises(ValueError, match="bfloat16 on cpu; .* dtype=torch.float32"):
        export_onnx(small_model().bfloat16(), feature_extractor, tmp_path / "onnx")
    with pytest.raises(ValueError, match="'bf16'; .*'fp32', 'int8'"):
        export_onnx(small_model(), feature_extractor, tmp_path / "onnx", precision="bf16")


@pytest.mark.slow
def test_writes_nothing_where_the_graph_differs_from_the_model(feature_extractor, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOLERANCE", 0.0)  # rounding differs
    with pytest.raises(ValueError, match="The graph does not match the model"):
        export_onnx(small_model(), feature_extractor, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_kind_of_model_exports(fields, tmp_path):
    model = small_model(**fields)
    extractor = SparseMeritFeatureExtractor(normalization="corpus", corpus_mean=0.01, corpus_std=0.2)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    export_onnx(model, extractor, tmp_path)  # an empty folder is free
    assert "(x - 0.01) / 0.2" in (tmp_path / "README.md").read_text(encoding="utf-8")
    inputs = noise((30_001, 400, 5_000))
    with torch.inference_mode():
        expected = model(**inputs)
    given = outputs(tmp_path, inputs)
    assert set(given) == set(module.output_names(model.config))
    for name, result in given.items():
        np.testing.assert_allclose(result, expected[name].numpy(), atol=1e-4)
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)  # the model is left as it was


@pytest.mark.slow
def test_the_embedded_checkpoint_exports_and_in_int8_is_smaller_and_close(speech_clip, tmp_path):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY)
    extractor = SparseMeritFeatureExtractor.from_pretrained(TINY)
    assert max(export_onnx(model, extractor, tmp_path / "fp32").values()) < 1e-4
    export_onnx(model, extractor, tmp_path / "int8", precision="int8")
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("int8", "fp32")]
    assert sizes[0] < 0.75 * sizes[1]
    inputs = extractor(speech_clip(2.0), sampling_rate=16_000, return_tensors="pt")
    inputs["attention_mask"] = inputs["attention_mask"].long()
    exact, near = outputs(tmp_path / "fp32", inputs), outputs(tmp_path / "int8", inputs)
    np.testing.assert_allclose(near["logits"], exact["logits"], atol=0.2)
    error = np.square(near["enhanced_values"] - exact["enhanced_values"]).mean()
    assert error < 1e-2 * np.square(exact["enhanced_values"]).mean()  # 20 dB
