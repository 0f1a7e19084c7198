# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Adapters wherever a checkpoint goes: run, described, evaluated, exported, pushed, and loaded with their base."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY
from hub_server import TOKEN
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.hub.push import check_checkpoint
from modeling_sparse_merit.inference.results import settings_of
from modeling_sparse_merit.models.sparse_merit.calibration import checkpoint_sha256
from modeling_sparse_merit.models.sparse_merit.sources import locate, portable_name
from modeling_sparse_merit.training import build
from modeling_sparse_merit.training.lora import describe_adapters, load_adapted, save_adapters
from modeling_sparse_merit.training.settings import TrainingSettings

ROOT = Path(__file__).parents[1]
LABELS = ["upset=angry", "calm=neutral", "weary"]


def train(model: str, folder: Path, labels: list[str] = LABELS) -> PeftModel:
    """Adapters of a run that changed all that learns, in a folder as training leaves it."""
    settings = TrainingSettings(
        model=model, labels=labels, lora_rank=4, speech=[str(ROOT / "tests"), "someone/calls"], output_dir=str(folder)
    )
    torch.manual_seed(0)
    adapted = build.build_model(settings)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    folder.mkdir()
    save_adapters(adapted, folder)
    build.build_feature_extractor(settings).save_pretrained(folder)
    scores = {"epoch": 3, "step": 12, "dev": {"macro_f1": 0.612, "si_sdr_gain": 4.5}}
    (folder / "dev_results.json").write_text(json.dumps(scores))
    describe_adapters(folder, settings)
    return adapted.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Adapters of the embedded checkpoint: the model as it was trained, and the folder."""
    folder = tmp_path_factory.mktemp("adapters") / "best"
    return train("sparse-merit-tiny", folder), folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(trained[1], tmp_path / "best"))


@pytest.fixture
def clip(speech_clip) -> np.ndarray:
    return speech_clip(0.6)


def outputs(model, clip, folder):
    inputs = SparseMeritFeatureExtractor.from_pretrained(folder)(clip, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs)


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def assert_same(model, other, clip, folder, tolerance=1e-5):
    ours, theirs = outputs(model, clip, folder), outputs(other, clip, folder)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=tolerance, rtol=0)
    torch.testing.assert_close(ours.enhanced_values, theirs.enhanced_values, atol=tolerance, rtol=0)


def test_the_pipeline_merges_adapters_as_peft_does(trained, clip):
    model, folder = trained
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(folder, device="cpu")
    assert list(pipe.model.config.id2label.values()) == ["upset", "calm", "weary"]
    assert not any("lora" in name or "modules_to_save" in name for name in pipe.model.state_dict())
    assert_same(pipe.model, model, clip, folder)
    base = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        TINY, config=SparseMeritConfig.from_pretrained(folder), ignore_mismatched_sizes=True
    )
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload().eval()
    assert_same(pipe.model, merged, clip, folder, 1e-6)
    plain = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY).eval()
    assert (
        outputs(plain, clip, folder).enhanced_values - outputs(model, clip, folder).enhanced_values
    ).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_adapters_take_a_precision(trained, clip, dtype):
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(trained[1], device="cpu", dtype=dtype)
    model = outputs(trained[0], clip, trained[1])
    scores = {entry["label"]: entry["score"] for entry in pipe(clip, sampling_rate=16_000)["emotion"]}
    expected = model.logits.softmax(-1)[0].tolist()
    assert [scores[label] for label in ("upset", "calm", "weary")] == pytest.approx(expected, abs=0.03)


def test_adapters_run_from_the_command_line(trained, clip, tmp_path):
    model, folder = trained
    soundfile.write(tmp_path / "call.wav", clip, 16_000, subtype="FLOAT")
    result = run(
        "enhance",
        tmp_path / "call.wav",
        "-o",
        tmp_path / "out",
        "--model",
        folder,
        "--device",
        "cpu",
        "--vad",
        "level",
    )
    assert result.exit_code == 0, result.output
    line = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    expected = outputs(model, clip, folder).logits.softmax(-1)[0].tolist()
    assert [line["scores"][label] for label in ("upset", "calm", "weary")] == pytest.approx(expected, abs=1e-4)
    assert line["model"] == str(folder)

    shown = run("info", "--model", folder).stdout
    assert "upset, calm, weary" in shown and re.search(r"Adapters of +sparse-merit-tiny", shown)
    assert re.search(r"Licence +cc-by-nc-sa-4.0", shown)


RUN_WITHOUT_PEFT = """
import sys
sys.modules["peft"] = None
from modeling_sparse_merit.cli import app
app()
"""
LOAD_ELSEWHERE = """
import json, sys
sys.modules.update(peft=None, modeling_sparse_merit=None)
import numpy as np
from transformers import pipeline
pipe = pipeline(model=sys.argv[1], trust_remote_code=True)
result = pipe(np.load(sys.argv[2]), sampling_rate=16_000)
print(json.dumps({entry["label"]: entry["score"] for entry in result["emotion"]}))
"""


@pytest.mark.slow
def test_an_export_is_a_whole_checkpoint_that_needs_neither_peft_nor_this_package(trained, clip, tmp_path):
    model, folder = trained
    target = tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN_WITHOUT_PEFT, "export", target, "--model", folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "clip.npy", clip)
    del environment["PYTHONPATH"]
    command = [sys.executable, "-c", LOAD_ELSEWHERE, target, tmp_path / "clip.npy"]
    completed = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    scores = json.loads(completed.stdout.splitlines()[-1])
    expected = outputs(model, clip, folder).logits.softmax(-1)[0].tolist()
    assert [scores[label] for label in ("upset", "calm", "weary")] == pytest.approx(expected, abs=1e-5)
    assert not [path for path in target.iterdir() if "adapter" in path.name and path.name != "adapters.py"]
    card = (target / "README.md").read_text()
    assert ModelCard(card).data["license"] == "cc-by-nc-sa-4.0"  # that of the embedded checkpoint
    assert "Fine-tuned with adapters from sparse-merit-tiny" in card
    assert "| 0 | upset |" in card and "| macro_f1 | 0.612 |" in card and "lora_rank: 4" in card
    check_checkpoint(target)


def test_convert_merges_them_too(trained, clip, tmp_path):
    assert run("convert", trained[1], tmp_path / "merged").exit_code == 0
    merged = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "merged").eval()
    assert_same(merged, trained[0], clip, trained[1])


def test_adapters_are_a_system_of_an_evaluation(trained, clip):
    model, folder = trained
    system = CheckpointSystem(str(folder), device="cpu")
    assert system.labels == ["upset", "calm", "weary"]
    (output,) = system.predict([clip])
    np.testing.assert_allclose(output.probabilities, outputs(model, clip, folder).logits.softmax(-1)[0], atol=1e-5)
    files = [folder / "adapter_model.safetensors", TINY / "model.safetensors"]
    digests = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert checkpoint_sha256(str(folder)) == hashlib.sha256(digests.encode()).hexdigest()
    assert CheckpointSystem("sparse-merit-tiny").describe()["sha256"] == checkpoint_sha256(str(TINY))


def test_results_of_enhance_know_another_base(tiny_checkpoint, tmp_path):
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    train(str(base), tmp_path / "best")
    before = settings_of(SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path / "best")).hash
    weights = load_file(base / "model.safetensors")
    weights["heads.enhancement.input_dense.bias"] += 1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    assert settings_of(SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path / "best")).hash != before


# The name of the base ------------------------------------------------------------------------------------------------


def test_the_embedded_checkpoint_has_a_name_and_other_folders_an_absolute_path(tiny_checkpoint, tmp_path, monkeypatch):
    assert locate("sparse-merit-tiny") == str(TINY) and locate("someone/model") == "someone/model"
    assert portable_name(TINY) == "sparse-merit-tiny" and portable_name("someone/model") == "someone/model"
    monkeypatch.chdir(tiny_checkpoint.parent)
    assert portable_name(tiny_checkpoint.name) == str(tiny_checkpoint.resolve())
    train(tiny_checkpoint.name, tmp_path / "best")
    written = json.loads((tmp_path / "best" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert written == str(tiny_checkpoint.resolve())
    monkeypatch.chdir(tmp_path)
    assert load_adapted(tmp_path / "best").config.num_labels == 3


@pytest.mark.parametrize("name", ["sparse-merit-huge", "huge", "a/b/c", "./nowhere"])
def test_a_name_that_is_nowhere_is_refused_at_once_with_the_names_that_are(name, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"is not a folder: .*inside the package \(.*tiny"):
        TrainingSettings(model=name) and build.build_feature_extractor(TrainingSettings(model=name))
    assert time.monotonic() - start < 2


def test_training_from_the_embedded_name_asks_no_network(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    train("sparse-merit-tiny", tmp_path / "best")
    load_adapted(tmp_path / "best")
    export_checkpoint(tmp_path / "best", tmp_path / "whole")


def test_a_base_that_moved_is_named_with_the_remedy(tiny_checkpoint, clip, tmp_path):
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    model = train(str(base), tmp_path / "best")
    base.rename(tmp_path / "moved")
    for load in (load_adapted, SpeechEnhancementAndEmotionPipeline.from_pretrained):
        with pytest.raises(
            FileNotFoundError, match=f"trained on {base}, which does not exist here.*base_model_name_or_path"
        ):
            load(tmp_path / "best")
    assert_same(load_adapted(tmp_path / "best", base=str(tmp_path / "moved")), model, clip, tmp_path / "best")
    config = tmp_path / "best" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(base), str(tmp_path / "moved")))
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path / "best", device="cpu")
    assert_same(pipe.model, model, clip, tmp_path / "best")


def test_adapters_of_another_kind_or_another_base_are_refused(folder, tiny_checkpoint):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ValueError, match=r"use_dora.*expected plain LoRA. Merge them with peft"):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(folder)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(tiny_checkpoint)}))
    with pytest.raises(ValueError, match="expected their base checkpoint"):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(folder)


def test_adapters_are_no_model_to_start_another_training_from(folder):
    with pytest.raises(ValueError, match="holds adapters: merge them first"):
        build.build_model(TrainingSettings(model=str(folder)))


@pytest.mark.slow
def test_without_peft_training_names_the_extra():
    code = "import sys; sys.modules['peft'] = None; import modeling_sparse_merit.training.lora"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "pip install 'modeling-sparse-merit[train]'" in done.stderr.splitlines()[-1]


# The card ------------------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_adapters_are(trained, tmp_path):
    card = (trained[1] / "README.md").read_text()
    data = ModelCard(card).data.to_dict()
    assert data["library_name"] == "peft" and data["license"] == "cc-by-nc-sa-4.0" and "base_model" not in data
    digest = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert "# Adapters of sparse-merit-tiny" in card and digest in card and "[More Information Needed]" not in card
    numbers = sum(tensor.numel() for tensor in load_file(trained[1] / "adapter_model.safetensors").values())
    for shown in (
        "| emotions | upset, calm, weary |",
        "| rank, alpha | 4, 16 |",
        "| fully trained modules, stored here | emotion, experts, routers |",
        f"| size | {numbers:,} parameters |",
        "| macro_f1 | 0.612 |",
        "lora_rank: 4",
        "upset: angry",
        "- tests\n- someone/calls",
        "Article 5(1)(f)",
    ):
        assert shown in card, shown
    assert str(tmp_path.parent) not in card and str(ROOT) not in card


@pytest.mark.slow
def test_the_code_of_the_card_runs(trained, clip, tmp_path):
    card = (trained[1] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    soundfile.write(tmp_path / "call.wav", clip, 16_000)
    code = "\n".join(blocks).replace("USER/ADAPTERS", str(trained[1]))
    done = subprocess.run(
        [sys.executable, "-c", code + "\nprint(sorted(result), type(model).__name__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "['audio', 'emotion', 'sampling_rate'] PeftModel", done.stderr


def test_adapters_of_the_embedded_checkpoint_are_pushed_and_load_elsewhere(hub, trained, clip, tmp_path):
    result = run("push", trained[1], "someone/adapters", "--token", TOKEN)
    assert result.exit_code == 0, result.output
    where = {"token": TOKEN, "cache_dir": tmp_path / "cache"}
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("someone/adapters", device="cpu", **where)
    assert_same(pipe.model, trained[0], clip, trained[1])


def test_adapters_of_a_private_folder_are_pushed_once_their_base_has_a_name_on_the_hub(
    hub, tiny_checkpoint, clip, tmp_path
):
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    model = train(str(base), tmp_path / "best")
    result = run("push", tmp_path / "best", "someone/adapters", "--token", TOKEN)
    assert result.exit_code == 2
    assert f"adapters belong to {base}, which is not on the Hub" in " ".join(result.stderr.split())
    assert "--base USER/MODEL" in result.stderr and not hub.requests
    assert str(base) not in (tmp_path / "best" / "README.md").read_text()

    result = run("push", tmp_path / "best", "someone/adapters", "--token", TOKEN, "--base", "someone/base")
    assert result.exit_code == 0, result.output
    files = hub.model("someone/adapters").files()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "someone/base"
    assert ModelCard(files["README.md"].decode()).data["base_model"] == "someone/base"
    export_checkpoint(base, tmp_path / "exported")
    assert run("push", tmp_path / "exported", "someone/base", "--token", TOKEN).exit_code == 0
    shutil.rmtree(base)
    where = {"token": TOKEN, "cache_dir": tmp_path / "cache"}
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("someone/adapters", device="cpu", **where)
    assert_same(pipe.model, model, clip, tmp_path / "best")
    assert run("push", tmp_path / "best", "someone/adapters", "--base", str(base)).exit_code == 2
