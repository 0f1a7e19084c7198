# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Adapters: what learns, what is saved and how large it is, and the way back to an ordinary checkpoint."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import TINY
from hub_server import TOKEN, HubServer, Repository
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.models.sparse_merit.audio import write_audio
from modeling_sparse_merit.training import build
from modeling_sparse_merit.training import run as training_run
from modeling_sparse_merit.training.balancing import build_balancing
from modeling_sparse_merit.training.lora import load_adapted
from modeling_sparse_merit.training.records import recorded
from modeling_sparse_merit.training.settings import TrainingSettings

folder_corpus, noise_corpus = corpus_named("folder"), corpus_named("noise")

PARTS = ["experts", "routers", "emotion", "enhancement"]
LINEARS = {"q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense"}


def adapted(checkpoint: Path, parts: list[str] = PARTS, **changes) -> PeftModel:
    settings = TrainingSettings(model=str(checkpoint), lora_rank=4, lora_train_modules=parts, **changes)
    torch.manual_seed(0)
    return build.build_model(settings)


def shaken(model: PeftModel) -> PeftModel:
    """The model after everything that learns has changed; fresh adapters compute nothing, and would prove nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def batch(speech_clip) -> dict[str, torch.Tensor]:
    speech = torch.from_numpy(np.stack([speech_clip(0.5, seed=seed) for seed in (0, 1)])) * 3
    return {"input_values": speech, "clean_values": speech * 0.9, "labels": torch.tensor([0, 2])}


def difference(one, other, batch) -> float:
    with torch.inference_mode():
        ours, theirs = (model.eval()(input_values=batch["input_values"]) for model in (one, other))
    speech = (ours.enhanced_values - theirs.enhanced_values).abs().max()
    return max(speech.item(), (ours.logits - theirs.logits).abs().max().item())


def test_fresh_adapters_change_nothing(tiny_checkpoint, batch):
    plain = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    assert difference(adapted(tiny_checkpoint), plain, batch) == 0.0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_experts_routers_and_heads_learn_and_nothing_else(tiny_checkpoint, batch, checkpointing):
    model = shaken(adapted(tiny_checkpoint, gradient_checkpointing=checkpointing)).train()
    model(**batch).loss.backward()

    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = [f"encoder.encoder.layers.{layer}." for layer in range(model.config.num_hidden_layers)]
    for name in LINEARS:
        for layer in layers:
            assert sum(f".{name}.lora_" in known and layer in known for known in learning) == 2
    others = {name for name in learning if ".lora_" not in name}
    assert all("model.integration." in name or "heads." in name for name in others)
    plain = SparseMeritForSpeechEnhancementAndEmotion(model.config)
    assert len(others) == len([*plain.model.integration.parameters(), *plain.heads.parameters()])
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert reached == (name in learning), name


def test_the_first_stage_leaves_the_adapters_alone_and_they_learn_at_the_encoders_rate(tiny_checkpoint):
    model = adapted(tiny_checkpoint)
    settings = TrainingSettings(learning_rate=1e-3, encoder_learning_rate_factor=0.5)
    for frozen in (True, False):
        build.set_trainable(model, build.Stage(0, 1, encoder_frozen=frozen), train_feature_encoder=False)
        rates = {group["lr"] for group in build.build_optimizer(model, settings).param_groups}
        assert rates == ({1e-3} if frozen else {1e-3, 5e-4})
        assert any(p.requires_grad for name, p in model.named_parameters() if "lora_" in name) is not frozen
        assert all(p.requires_grad for name, p in model.named_parameters() if "modules_to_save" in name)


def test_adapters_learn_from_projected_gradients_too(tiny_checkpoint, batch):
    model = shaken(adapted(tiny_checkpoint)).train()
    balancing = build_balancing(TrainingSettings(task_balancing="pcgrad"), Accelerator(cpu=True), model)
    balancing.backward(balancing.through(model)(**batch))
    balancing.finish(step=0)
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert reached == parameter.requires_grad, name


def test_adapters_come_back_and_merge_into_an_ordinary_checkpoint(tiny_checkpoint, batch, tmp_path):
    model = shaken(adapted(tiny_checkpoint))
    plain = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    assert difference(model, plain, batch) > 1e-3
    model.save_pretrained(tmp_path / "adapter")

    base = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert difference(loaded, model, batch) == 0.0
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tiny_checkpoint)

    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "merged")
    assert set(merged.state_dict()) == set(plain.state_dict())
    assert difference(merged, model, batch) < 1e-5


def test_the_base_may_be_loaded_by_its_own_code(tiny_checkpoint, batch, tmp_path):
    model = shaken(adapted(tiny_checkpoint))
    model.save_pretrained(tmp_path / "adapter")
    base = AutoModel.from_pretrained(tiny_checkpoint, trust_remote_code=True)
    assert type(base).__module__.startswith("transformers_modules")
    assert difference(PeftModel.from_pretrained(base, tmp_path / "adapter"), model, batch) < 1e-6


PUSH_AND_COME_BACK = """
import sys
from modeling_sparse_merit.convert.published import convert
from modeling_sparse_merit.hub.push import push_checkpoint
from modeling_sparse_merit.training.lora import load_adapted
push_checkpoint(sys.argv[1], "someone/adapter", token=sys.argv[2])
load_adapted("someone/adapter").save_pretrained("back")
convert("someone/adapter", "merged")
"""


def save_as_training_does(model: PeftModel, base: Path, folder: Path) -> None:
    for part in (model, model.get_base_model().config, SparseMeritFeatureExtractor.from_pretrained(base)):
        part.save_pretrained(folder)


def name_base_on_the_hub(card: Path, base: Path) -> None:
    card.write_text(card.read_text().replace(str(base), "someone/base"))


def test_adapters_are_pushed_where_they_are_whole_and_their_card_names_a_base_on_the_hub(
    tiny_checkpoint, tmp_path, monkeypatch
):
    folder = tmp_path / "adapter"
    save_as_training_does(adapted(tiny_checkpoint), tiny_checkpoint, folder)

    def push(*options):
        return CliRunner().invoke(app, ["push", str(folder), "someone/adapter", "--token", TOKEN, *options])

    with HubServer() as hub:
        hub.serve_this_process(monkeypatch, tmp_path / "home")
        assert f"the base_model of README.md is '{tiny_checkpoint}': give its Hub id" in push().stderr
        name_base_on_the_hub(folder / "README.md", tiny_checkpoint)
        result = push("--base", "someone/base")
        assert result.exit_code == 0, result.output
        whole = {"adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json"}
        assert whole < set(hub.model("someone/adapter").files())

        weights = load_file(folder / "adapter_model.safetensors")
        next(iter(weights.values())).view(-1)[0] = torch.nan
        save_file(weights, folder / "adapter_model.safetensors")
        (folder / "preprocessor_config.json").unlink()
        result = push()
    assert result.exit_code == 2
    assert "adapter_model.safetensors holds NaN" in result.stderr and "preprocessor_config.json" in result.stderr


@pytest.mark.slow
def test_adapters_are_pushed_and_come_back(batch, tmp_path):
    model = shaken(adapted(TINY))
    save_as_training_does(model, TINY, tmp_path / "adapter")
    name_base_on_the_hub(tmp_path / "adapter" / "README.md", TINY)
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    with HubServer() as hub:
        hub.repositories["models", "someone/adapter"] = Repository()
        environment |= {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-c", PUSH_AND_COME_BACK, str(tmp_path / "adapter"), TOKEN]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    sent, came = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "back"))
    assert sent.keys() == came.keys() and all(torch.equal(sent[name], came[name]) for name in sent)
    merged = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "merged")
    assert difference(merged, model, batch) < 1e-5


def test_new_labels_travel_with_the_adapters(tiny_checkpoint, batch, tmp_path):
    labels = ["calm", "tense"]
    model = shaken(adapted(tiny_checkpoint, labels=labels))
    model.save_pretrained(tmp_path)
    model.get_base_model().config.save_pretrained(tmp_path)

    loaded = load_adapted(tmp_path)
    assert list(loaded.config.id2label.values()) == labels
    assert difference(loaded, model, {**batch, "labels": batch["labels"] // 2}) == 0.0

    with pytest.raises(ValueError, match="saved with the emotion head. Add .emotion."):
        adapted(tiny_checkpoint, parts=["experts", "routers"], labels=labels)


@pytest.mark.parametrize(
    ("parts", "at_most"),
    [
        (["routers", "emotion"], 0.3),
        (["experts", "routers", "emotion"], 0.5),
        (["routers", "emotion", "enhancement"], 0.5),
        (PARTS, 0.75),
    ],
)
def test_how_large_adapters_of_the_tiny_model_are(tmp_path, parts, at_most):
    settings = TrainingSettings(model=str(TINY), lora_rank=8, lora_train_modules=parts)
    build.build_model(settings).save_pretrained(tmp_path / "adapter")

    whole = (TINY / "model.safetensors").stat().st_size
    share = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size / whole
    assert share < at_most


@pytest.mark.parametrize("integration", ["weighted_sum", "weighted_sum_experts", "expert_weighted_sums"])
def test_every_integration_takes_adapters(tiny_config, batch, tmp_path, integration):
    config = SparseMeritConfig(**{**tiny_config.to_diff_dict(), "integration": integration})
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(tmp_path / "base")
    model = shaken(adapted(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    base = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "base")
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    assert difference(merged, model, batch) < 1e-5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_rank": 4}, "need a `model`"),
        ({"lora_rank": 4, "model": "x", "train_feature_encoder": True}, "leave its feature encoder frozen"),
        ({"lora_rank": -1, "model": "x"}, "lora_rank"),
        ({"lora_rank": 4, "model": "x", "lora_dropout": 1.0}, "lora_dropout"),
    ],
)
def test_settings_that_cannot_be_say_so(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**fields)


def test_a_part_that_the_model_lacks_is_refused():
    settings = TrainingSettings(model=str(TINY), lora_rank=4, lora_train_modules=["head"])
    with pytest.raises(ValueError, match=r"has \['head'\]; expected some of \['experts', 'routers', 'enhancement'"):
        build.build_model(settings)


def test_the_record_of_a_run_names_no_place_of_this_machine(tmp_path):
    speech, weak = (tmp_path / name for name in ("calls", "weak"))
    for folder in (speech, weak):
        folder.mkdir()
    settings = TrainingSettings(
        model="tiny",
        lora_rank=4,
        speech=[str(speech), str(weak), "someone/speech"],
        unlabelled=[str(weak)],
        sampling="weighted",
        sampling_weights={str(weak): 0.5, "happy": 2},
    )
    record = recorded(settings)
    assert record["model"] == "sparse-merit-tiny" and record["speech"] == ["calls", "weak", "someone/speech"]
    assert record["unlabelled"] == ["weak"] and record["sampling_weights"] == {"weak": 0.5, "happy": 2}
    assert str(tmp_path) not in str(record)


@pytest.fixture
def private_folder(speech_clip, tmp_path) -> Path:
    """Recordings with a list of their emotions, as a user has them, and a noise."""
    return make_private_folder(speech_clip, tmp_path, ["angry", "sad"])


def make_private_folder(speech_clip, tmp_path: Path, labels: list[str]) -> Path:
    for name in ("calls", "noises"):
        (tmp_path / name).mkdir()
    rows = []
    for index in range(8):
        write_audio(tmp_path / "calls" / f"{index}.wav", speech_clip(0.5, seed=index), 16_000)
        split = "dev" if index > 5 else "train"
        rows.append((f"{index}.wav", labels[index % 2], f"caller{index}", split))
    hiss = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    for split in ("train", "dev"):
        write_audio(tmp_path / "noises" / f"{split}.wav", hiss, 16_000)
    write_dataset(tmp_path / "calls" / "metadata.csv", ("file_name", "emotion", "speaker", "split"), rows)
    noises = [(f"{split}.wav", split) for split in ("train", "dev")]
    write_dataset(tmp_path / "noises" / "metadata.csv", ("file_name", "split"), noises)
    prepare.write_dataset(folder_corpus.build(tmp_path / "calls", labels=labels), tmp_path / "tables" / "calls")
    prepare.write_dataset(noise_corpus.build(tmp_path / "noises"), tmp_path / "tables" / "noise")
    return tmp_path


def write_dataset(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def test_fine_tuning_on_a_private_folder_goes_on_and_ends_with_a_checkpoint(tiny_checkpoint, private_folder):
    run, tables = private_folder / "run", private_folder / "tables"
    arguments = ["--model", str(tiny_checkpoint), "--speech", str(tables / "calls"), "--noise", str(tables / "noise")]
    arguments += ["--labels", "angry", "sad", "--lora_rank", "4", "--lora_train_modules", "routers", "emotion"]
    arguments += [
        "--dataloader_num_workers",
        "0",
        "--per_device_train_batch_size",
        "4",
        "--learning_rate",
        "0.01",
        "--average_decay",
        "0.5",
    ]
    arguments += ["--lr_scheduler_type", "constant"]

    training_run.main([*arguments, "--epochs", "1", "--output_dir", str(run)])
    training_run.main([*arguments, "--epochs", "2", "--output_dir", str(run)])
    training_run.main([*arguments, "--epochs", "2", "--output_dir", str(private_folder / "at once")])

    checkpoints = (folder / "checkpoint-2" / "model.safetensors" for folder in (private_folder / "at once", run))
    once, twice = map(load_file, checkpoints)
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    assert (run / "best" / "adapter_model.safetensors").exists() and not (run / "best" / "model.safetensors").exists()

    merging = ["convert", str(run / "best"), str(private_folder / "merged")]
    result = CliRunner().invoke(app, [*merging, "--labels", "a,b", "--mean", "0", "--std", "1"])
    assert result.exit_code == 2 and "--labels, --mean, --std, --measure does not apply" in result.stderr
    result = CliRunner().invoke(app, merging)
    assert result.exit_code == 0, result.output
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(private_folder / "merged")
    output = pipe(str(private_folder / "calls" / "0.wav"))
    assert {entry["label"] for entry in output["emotion"]} == {"angry", "sad"}
    assert len(output["audio"]) == 8_000

    features = SparseMeritFeatureExtractor.from_pretrained(run / "best")
    assert features.normalization == SparseMeritFeatureExtractor.from_pretrained(tiny_checkpoint).normalization


def test_own_words_of_a_private_folder_are_learned_from_the_rows_of_known_ones(
    tiny_checkpoint, speech_clip, tmp_path, capfd
):
    folder = make_private_folder(speech_clip, tmp_path, ["upset", "calm"])
    arguments = ["--model", str(tiny_checkpoint), "--speech", str(folder / "tables" / "calls")]
    arguments += ["--noise", str(folder / "tables" / "noise"), "--labels", "upset=angry", "calm=neutral"]
    arguments += [
        "--lora_rank",
        "2",
        "--dataloader_num_workers",
        "0",
        "--per_device_train_batch_size",
        "6",
        "--learning_rate",
        "1e-7",
    ]
    for epochs in ("1", "2"):  # the second goes on
        training_run.main([*arguments, "--epochs", epochs, "--output_dir", str(tmp_path / "run")])
    assert not re.search(r"\d%|it/s|s/it|examples/s", capfd.readouterr().err)  # bars are for terminals
    written = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (written["labels"], written["labels_from"]) == (["upset", "calm"], {"upset": "angry", "calm": "neutral"})
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    config = SparseMeritConfig.from_pretrained(tmp_path / "run" / "best")
    assert config.id2label == {0: "upset", 1: "calm"} and config.class_weights == [1.0, 1.0]
    weights = load_file(tmp_path / "run" / "best" / "adapter_model.safetensors")
    name = "heads.emotion.classifier.weight"
    base = load_file(tiny_checkpoint / "model.safetensors")[name]
    torch.testing.assert_close(weights[f"base_model.model.{name}"], base[[0, 3]], atol=1e-5, rtol=0)
