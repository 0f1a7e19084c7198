# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint's folder is all that others need: it loads, runs and trains where this package is not installed."""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.hub.export import REQUIREMENTS, export_checkpoint

ROOT = Path(__file__).parents[1]
CODE = {
    "activity.py",
    "adapters.py",
    "attention.py",
    "audio.py",
    "calibration.py",
    "clip_heads.py",
    "clip_tasks.py",
    "configuration_sparse_merit.py",
    "containers.py",
    "cutting.py",
    "decoding.py",
    "emotion.py",
    "encoder.py",
    "deep_filtering.py",
    "enhancement.py",
    "experts.py",
    "feature_extraction_sparse_merit.py",
    "modeling_sparse_merit.py",
    "mpeg.py",
    "pipeline_sparse_merit.py",
    "pretrained.py",
    "processes.py",
    "speech_segments.py",
    "task_config.py",
    "task_files.py",
    "streaming.py",
    "quantization.py",
    "sources.py",
    "tasks.py",
    "views.py",
    "whisper.py",
}
CHECKPOINT = {"config.json", "preprocessor_config.json", "model.safetensors", *CODE}

# Run elsewhere: arguments are the checkpoint, a recording, a folder for the outputs. Prints what it loaded as JSON.
LOAD_AND_RUN = """
import json, sys
import numpy as np, soundfile, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

checkpoint, recording, target = sys.argv[1:]
trusting = {"trust_remote_code": True}
waveform = soundfile.read(recording, dtype="float32")[0].mean(axis=1)
feature_extractor = AutoFeatureExtractor.from_pretrained(checkpoint, **trusting)
inputs = feature_extractor(waveform, sampling_rate=16_000, return_tensors="pt")
loaded, saved = {}, {}
for auto_class in (AutoModel, AutoModelForAudioClassification):
    model = auto_class.from_pretrained(checkpoint, **trusting).eval()
    loaded[auto_class.__name__] = type(model).__name__
    with torch.no_grad():
        outputs = model(**inputs)
    saved[auto_class.__name__ + ".logits"] = outputs.logits
    saved[auto_class.__name__ + ".enhanced_values"] = outputs.enhanced_values
loaded["AutoConfig"] = type(AutoConfig.from_pretrained(checkpoint, **trusting)).__name__
loaded["AutoFeatureExtractor"] = type(feature_extractor).__name__
loaded["homes"] = sorted({type(part).__module__.split(".")[0] for part in (model, feature_extractor, model.config)})

whole = pipeline(model=checkpoint, device="cpu", dtype="float32", **trusting)
emotion = pipeline("audio-classification", model=checkpoint, batch_size=2, **trusting)
half = pipeline("speech-enhancement-and-emotion", model=checkpoint, dtype=torch.bfloat16, **trusting)
result = whole(recording)
saved["pipeline.audio"] = result.pop("audio")
loaded["pipeline"] = result
loaded["audio-classification"] = emotion([recording, {"array": waveform[:8000], "sampling_rate": 16_000}])
loaded["half"] = [str(half.dtype), half(recording)["emotion"]]
config = {"quant_method": "sparse_merit_int8"}
for name, argument in {"int8": {"dtype": "int8"}, "quantization_config": {"quantization_config": config}}.items():
    quantized = AutoModelForAudioClassification.from_pretrained(checkpoint, **argument, **trusting)
    with torch.no_grad():
        saved[name] = quantized(inputs["input_values"].to(quantized.dtype)).logits.float()
    loaded[name] = [type(quantized.hf_quantizer).__name__, quantized.config.quantization_config.to_dict()]
loaded["printable"] = "pipeline_sparse_merit.EmotionPipeline" in repr(emotion.model.config)

model.save_pretrained(target + "/by_model")
feature_extractor.save_pretrained(target + "/by_model")
emotion.save_pretrained(target + "/by_pipeline")
again = AutoModelForAudioClassification.from_pretrained(target + "/by_pipeline", **trusting).eval()
pipeline(model=again.name_or_path, **trusting).save_pretrained(target + "/twice")
np.savez(target + "/outputs.npz", **saved)
print(json.dumps(loaded))
"""

# A stock fine-tuning of audio classification; arguments are the checkpoint and a folder for the result.
FINE_TUNE = """
import json, sys
import numpy as np
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments, pipeline
from transformers import set_seed

set_seed(0)  # the new head starts at random
checkpoint, output = sys.argv[1:]
feature_extractor = AutoFeatureExtractor.from_pretrained(checkpoint, trust_remote_code=True)
model = AutoModelForAudioClassification.from_pretrained(
    checkpoint, trust_remote_code=True, num_labels=2, ignore_mismatched_sizes=True
)
generator, examples = np.random.default_rng(0), []
for index in range(16):
    noise = generator.standard_normal(2400 + 160 * index).astype(np.float32)
    sound = np.cumsum(noise) / 50 if index % 2 else noise  # rumble or hiss
    features = feature_extractor(sound, sampling_rate=16_000, padding=False)
    examples.append({name: values[0] for name, values in features.items()} | {"labels": index % 2})

def metrics(prediction):
    assert isinstance(prediction.predictions, np.ndarray) and prediction.predictions.shape == (16, 2)
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

arguments = TrainingArguments(
    output, per_device_train_batch_size=4, per_device_eval_batch_size=5, num_train_epochs=6, learning_rate=5e-3,
    eval_strategy="epoch", save_strategy="epoch", save_total_limit=1, report_to=[], use_cpu=True, disable_tqdm=True,
)
trainer = Trainer(
    model, arguments, train_dataset=examples, eval_dataset=examples, processing_class=feature_extractor,
    compute_metrics=metrics,
)
before = trainer.evaluate()
trainer.train()
after = trainer.evaluate()
trainer.save_model(output + "/final")
pipe = pipeline("audio-classification", model=output + "/final", trust_remote_code=True)
result = pipe({"array": np.cumsum(generator.standard_normal(4000)) / 50, "sampling_rate": 16_000})
print(json.dumps({"before": before, "after": after, "result": result}))
"""


def run_elsewhere(program: str, *arguments: object, folder: Path, python: Path | str = sys.executable) -> dict:
    """Runs a program offline, in another folder, with caches of its own, without this package and without ffmpeg."""
    hidden = ("modeling_sparse_merit", "datasets", "torchaudio", "torchcodec", "librosa", "scipy")
    hide = f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"  # None there makes an import fail
    (folder / "elsewhere").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")},
        "PATH": "",
        "HF_HOME": str(folder / "hf_home"),
        "HF_HUB_OFFLINE": "1",
    }
    finished = subprocess.run(
        [str(python), "-I", "-c", hide + program, *map(str, arguments)],
        cwd=folder / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def recording(tmp_path_factory, speech_clip) -> Path:
    """A stereo file at 16 kHz whose channels differ."""
    path = tmp_path_factory.mktemp("recording") / "stereo.wav"
    soundfile.write(path, np.stack([speech_clip(1.2), speech_clip(1.2, seed=1)], axis=1), 16_000, subtype="FLOAT")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_as_here(loaded: dict, results: Path, checkpoint: Path, recording: Path) -> None:
    """Compares what was computed elsewhere with the installed package, bit for bit."""
    name = "SparseMeritForSpeechEnhancementAndEmotion"
    assert loaded["AutoModel"] == loaded["AutoModelForAudioClassification"] == name
    assert (loaded["AutoConfig"], loaded["AutoFeatureExtractor"]) == (
        "SparseMeritConfig",
        "SparseMeritFeatureExtractor",
    )
    assert loaded["homes"] == ["transformers_modules"]  # not this package
    waveform = soundfile.read(recording, dtype="float32")[0].mean(axis=1)
    inputs = SparseMeritFeatureExtractor.from_pretrained(checkpoint)(
        waveform, sampling_rate=16_000, return_tensors="pt"
    )
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        outputs = model(**inputs)
    saved = np.load(results / "outputs.npz")
    for auto_class in ("AutoModel", "AutoModelForAudioClassification"):
        assert np.array_equal(saved[f"{auto_class}.logits"], outputs.logits)
        assert np.array_equal(saved[f"{auto_class}.enhanced_values"], outputs.enhanced_values)
    quantized = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(checkpoint, dtype="int8")
    with torch.no_grad():
        expected = quantized(inputs["input_values"].to(quantized.dtype)).logits.float()
    for name in ("int8", "quantization_config"):
        assert np.array_equal(saved[name], expected)
        assert loaded[name] == ["SparseMeritInt8Quantizer", {"quant_method": "sparse_merit_int8"}]

    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint, device="cpu")
    expected = pipe(recording)
    assert np.array_equal(saved["pipeline.audio"], expected.pop("audio"))
    assert loaded["pipeline"] == expected  # emotion, sampling_rate
    first, second = loaded["audio-classification"]
    assert [entry["label"] for entry in first] == [entry["label"] for entry in expected["emotion"]]
    assert [entry["score"] for entry in first] == pytest.approx([entry["score"] for entry in expected["emotion"]])
    assert sum(entry["score"] for entry in second) == pytest.approx(1)
    assert loaded["half"][0] == "torch.bfloat16" and loaded["printable"]


def test_the_folder_works_without_the_package_and_comes_back_complete(tiny_checkpoint, recording, tmp_path):
    loaded = run_elsewhere(LOAD_AND_RUN, tiny_checkpoint, recording, tmp_path, folder=tmp_path)

    assert_same_as_here(loaded, tmp_path, tiny_checkpoint, recording)
    original = files_of(tiny_checkpoint)
    assert set(original) == CHECKPOINT
    for folder in ("by_model", "by_pipeline", "twice"):
        assert files_of(tmp_path / folder) == original


@pytest.mark.slow
def test_a_stock_trainer_fine_tunes_the_emotion_without_the_package(tiny_checkpoint, tmp_path):
    done = run_elsewhere(FINE_TUNE, tiny_checkpoint, tmp_path / "tuned", folder=tmp_path)

    assert done["after"]["eval_loss"] < done["before"]["eval_loss"]
    assert done["after"]["eval_accuracy"] >= 0.9
    assert {entry["label"] for entry in done["result"]} == {"LABEL_0", "LABEL_1"}
    assert set(files_of(tmp_path / "tuned" / "final")) >= CHECKPOINT


def test_labels_of_ones_own_replace_the_head_and_the_class_weights(tiny_checkpoint, tmp_path):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    model.config.class_weights = [1.0, 2.0, 3.0, 4.0]
    model.save_pretrained(tmp_path / "weighted")

    two = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        tmp_path / "weighted", num_labels=2, ignore_mismatched_sizes=True
    )
    named = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        tmp_path / "weighted",
        id2label={0: "calm", 1: "angry", 2: "sad"},
        label2id={"calm": 0, "angry": 1, "sad": 2},
        class_weights=[1.0, 2.0, 2.0],
        ignore_mismatched_sizes=True,
    )

    assert two.heads["emotion"].classifier.out_features == 2 and two.config.class_weights is None
    assert two(torch.randn(1, 4000), labels=torch.tensor([1])).loss.isfinite()
    assert named.config.id2label[0] == "calm" and named.config.class_weights == [1.0, 2.0, 2.0]
    assert named(torch.randn(1, 4000)).logits.shape == (1, 3)
    # two labels with the default names are what `transformers` leaves out of a configuration
    two.save_pretrained(tmp_path / "two")
    assert SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "two").config.num_labels == 2


def test_the_pipeline_saves_the_same_folder_as_its_parts(tiny_checkpoint, tmp_path):
    SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    assert files_of(tmp_path) == files_of(tiny_checkpoint)


def test_export_adds_all_that_a_repository_wants(tiny_checkpoint, tmp_path):
    done = CliRunner().invoke(app, ["export", str(tmp_path / "my-model"), "--model", str(tiny_checkpoint)])

    assert done.exit_code == 0, done.output
    files = files_of(tmp_path / "my-model")
    assert set(files) == {*CHECKPOINT, "README.md", "handler.py", "requirements.txt"}
    for name, content in files_of(tiny_checkpoint).items():
        assert files[name] == content
    assert "# my-model" in files["README.md"].decode()
    assert files["requirements.txt"].decode().split() == list(REQUIREMENTS)
    # what others must install is what this package installs, less what only the command needs
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(REQUIREMENTS) <= set(installed)


def test_export_copies_what_is_next_to_the_weights_and_leaves_a_card_alone(tiny_checkpoint, tmp_path):
    source, target = export_checkpoint(tiny_checkpoint, tmp_path / "source"), tmp_path / "target"
    (source / "LICENSE").write_text("Own.")
    (source / "optimizer.pt").write_bytes(b"large")
    (source / "examples").mkdir()
    (source / "examples" / "a.wav").write_bytes(b"RIFF")
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    results = [{"file": "examples/a.wav", "emotion": []}]
    (source / "examples.json").write_text(json.dumps({"model": {"sha256": digest}, "examples": results}))
    target.mkdir()
    (target / "README.md").write_text("My own card.")

    export_checkpoint(source, target)

    assert (target / "README.md").read_text() == "My own card."
    assert (target / "LICENSE").read_text() == "Own."
    assert (target / "examples" / "a.wav").read_bytes() == b"RIFF"
    assert not (target / "optimizer.pt").exists()
    assert not list(target.glob(".*"))


@pytest.mark.parametrize("name", ["{own}", "../own.wav", "linked.wav", "experts.py"])
def test_examples_of_a_strangers_model_name_no_file_but_recordings_in_its_folder(tiny_checkpoint, tmp_path, name):
    source, own = export_checkpoint(tiny_checkpoint, tmp_path / "source"), tmp_path / "own.wav"
    own.write_bytes(b"RIFF")
    (source / "linked.wav").symlink_to(own)
    (source / "examples.json").write_text(json.dumps({"examples": [{"file": name.format(own=own)}]}))
    with pytest.raises(ValueError, match="not a recording in this folder"):
        export_checkpoint(source, tmp_path / "target")
    assert own.read_bytes() == b"RIFF" and not list((tmp_path / "target").iterdir())


def test_export_never_overwrites_a_checkpoint_unasked(tiny_checkpoint, tmp_path):
    taken = export_checkpoint(tiny_checkpoint, tmp_path / "taken")
    before = files_of(taken)
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_checkpoint(tiny_checkpoint, taken)
    with pytest.raises(FileExistsError, match="folder of the model itself"):
        export_checkpoint(taken, taken, overwrite=True)
    assert files_of(taken) == before

    (taken / "experts.py").write_text("old")
    export_checkpoint(tiny_checkpoint, taken, overwrite=True)
    assert files_of(taken) == before


@pytest.mark.slow
def test_an_environment_with_five_packages_gives_the_same_numbers(tiny_checkpoint, recording, tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    packages = ["torch", "transformers", "numpy", "soundfile", "soxr"]
    constraints = str(ROOT / "constraints.txt")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints, *packages]
    installing = subprocess.run(command, capture_output=True, text=True)
    assert installing.returncode == 0, installing.stderr
    listed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert not {"modeling-sparse-merit", "datasets", "accelerate", "torchaudio"} & set(listed.split())
    checkpoint = export_checkpoint(tiny_checkpoint, tmp_path / "exported")

    loaded = run_elsewhere(LOAD_AND_RUN, checkpoint, recording, tmp_path, folder=tmp_path, python=python)

    assert_same_as_here(loaded, tmp_path, checkpoint, recording)
    assert files_of(tmp_path / "twice").items() <= files_of(checkpoint).items()
