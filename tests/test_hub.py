# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Push and come back: the real Hub client against a small Hub on this machine. What is pushed loads elsewhere and
gives the same numbers; what fails says so in one line and publishes nothing."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import TOKEN, Cut
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.hub.client import hub_errors
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.hub.model_card import render_card
from modeling_sparse_merit.hub.push import push_checkpoint

ROOT = Path(__file__).parents[1]
NOTHING = ["initial commit"]


@pytest.fixture
def no_waiting(monkeypatch):
    """The client waits for half a minute in all between its attempts to connect; here it tries as often, at once."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory) -> Path:
    return export_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("exported") / "tiny")


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A copy of the exported checkpoint, to be damaged."""
    return Path(shutil.copytree(exported, tmp_path / "checkpoint"))


def push(folder, *arguments, repository="someone/model", token=TOKEN):
    """`sparse-merit push`, in this process."""
    options = ["--token", token] if token else []
    return CliRunner().invoke(app, ["push", str(folder), repository, *options, *arguments])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(result) -> str:
    """The error of a command that did nothing: a single line, exit code 2."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


# Round trip ----------------------------------------------------------------------------------------------------------

ELSEWHERE = """
import numpy as np, sys, torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

revision, classifier, clip = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
pinned = dict(trust_remote_code=True, revision=revision)
inputs = AutoFeatureExtractor.from_pretrained("someone/model", **pinned)(clip, 16_000, return_tensors="pt")
arrays = {}
for name, auto_class in {"model": AutoModel, "classifier": AutoModelForAudioClassification}.items():
    model = auto_class.from_pretrained("someone/model", **pinned).eval()
    with torch.no_grad():
        outputs = model(**inputs)
    arrays |= {f"{name}_logits": outputs.logits, f"{name}_enhanced": outputs.enhanced_values}
result = pipeline(model=classifier, trust_remote_code=True)(clip, sampling_rate=16_000)
np.savez(sys.argv[4], audio=result["audio"], score=result["emotion"][0]["score"], **arrays)
"""


def test_what_is_pushed_loads_elsewhere_and_gives_the_same_numbers(hub, exported, speech_clip, tmp_path):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(exported).eval()
    feature_extractor = SparseMeritFeatureExtractor.from_pretrained(exported)
    pipe = SpeechEnhancementAndEmotionPipeline(model=model, feature_extractor=feature_extractor)
    clip = speech_clip(seconds=0.7)
    np.save(tmp_path / "clip.npy", clip)

    command = [sys.executable, "-c", "from modeling_sparse_merit.cli import app; app()", "push", str(exported)]
    pushed = subprocess.run(
        [*command, "someone/model", "--private", "--revision", "v1"],
        env=hub.environment(tmp_path / "ours") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    pipe.push_to_hub("someone/pipeline", token=TOKEN)

    assert pushed.returncode == 0 and pushed.stderr == "", pushed.stderr
    published = hub.model("someone/model")
    assert published.private and len(published.commits) == 2
    assert published.files("main") == {} and published.files("v1") == files_of(exported)
    arguments = ["v1", "someone/pipeline", tmp_path / "clip.npy", tmp_path / "arrays.npz"]
    elsewhere = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, arguments)],
        env=hub.environment(tmp_path / "theirs"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert elsewhere.returncode == 0, elsewhere.stderr
    actual = np.load(tmp_path / "arrays.npz")
    with torch.no_grad():
        expected = model(**feature_extractor(clip, 16_000, return_tensors="pt"))
    output = pipe(clip, sampling_rate=16_000)
    for name in ("model", "classifier"):
        np.testing.assert_array_equal(actual[f"{name}_logits"], expected.logits.numpy())
        np.testing.assert_array_equal(actual[f"{name}_enhanced"], expected.enhanced_values.numpy())
    np.testing.assert_array_equal(actual["audio"], output["audio"])
    assert actual["score"] == output["emotion"][0]["score"]


def test_model_and_feature_extractor_push_themselves_into_one_repository(hub, exported):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(exported)
    model.push_to_hub("someone/parts", token=TOKEN, private=True)
    SparseMeritFeatureExtractor.from_pretrained(exported).push_to_hub("someone/parts", token=TOKEN)

    files = hub.model("someone/parts").files()
    assert hub.model("someone/parts").private
    assert {"README.md", "model.safetensors", "config.json", "preprocessor_config.json"} <= set(files)
    assert "AutoModel" in json.loads(files["config.json"])["auto_map"]
    assert "AutoFeatureExtractor" in json.loads(files["preprocessor_config.json"])["auto_map"]
    code = {path.name for path in exported.glob("*.py")} - {"handler.py"}
    assert code == {name for name in files if name.endswith(".py")}


def test_many_files_are_one_commit_and_hidden_ones_stay_at_home(hub, folder):
    for number in range(300):
        (folder / "extra" / f"{number}.txt").parent.mkdir(exist_ok=True)
        (folder / "extra" / f"{number}.txt").write_text(str(number))
    for hidden in (".env", ".git/config", "extra/__pycache__/x.pyc"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_text("secret")

    assert push(folder).exit_code == 0

    repository = hub.model("someone/model")
    assert len(repository.commits) == 2 and len(repository.files()) == len(files_of(folder)) - 3
    assert not any(b"secret" in content for content in repository.files().values())


def test_a_revision_pins_the_weights_both_configurations_and_the_card(hub, folder, tmp_path):
    first = push_checkpoint(folder, "someone/model", private=True, token=TOKEN).oid
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(folder)
    model.heads["emotion"].classifier.bias.data += 1
    model.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nAnother licence.\n")
    push_checkpoint(folder, "someone/model", token=TOKEN)

    hub.requests.clear()
    pinned = {"revision": first, "token": TOKEN, "cache_dir": tmp_path / "cache"}
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("someone/model", **pinned)
    offline = SpeechEnhancementAndEmotionPipeline.from_pretrained("someone/model", **pinned, local_files_only=True)

    for loaded in (pipe, offline):
        difference = model.heads["emotion"].classifier.bias - loaded.model.heads["emotion"].classifier.bias
        torch.testing.assert_close(difference, torch.ones(4))
    asked = {request.rpartition("/resolve/")[2] for request in hub.requests if "/resolve/" in request}
    assert {f"{first}/{name}" for name in ("config.json", "preprocessor_config.json", "model.safetensors")} <= asked
    assert all(path.startswith(first) for path in asked)


def test_the_command_takes_a_revision(hub, folder, tmp_path, monkeypatch):
    (folder / "call.wav").write_bytes(b"RIFF")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    outputs = [{"file": "call.wav", "emotion": []}]
    (folder / "examples.json").write_text(json.dumps({"model": {"sha256": digest}, "examples": outputs}))
    first = push_checkpoint(folder, "someone/model", token=TOKEN).oid
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA licence.\n")
    push_checkpoint(folder, "someone/model", token=TOKEN)

    def run(*arguments):
        return CliRunner().invoke(app, [*arguments, "--model", "someone/model", "--revision", first])

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    newest = CliRunner().invoke(app, ["info", "--model", "someone/model"])
    assert "mit" in newest.stdout and "mit" not in run("info").stdout
    assert run("export", str(tmp_path / "exported")).exit_code == 0
    assert "A licence." not in (tmp_path / "exported" / "README.md").read_text()
    assert (tmp_path / "exported" / "call.wav").read_bytes() == b"RIFF"
    result = CliRunner().invoke(app, ["info", "--model", str(folder), "--revision", first])
    assert "applies to models on the Hub only" in one_line(result)


def test_pushing_again_adds_a_commit_only_where_something_changed(hub, folder):
    first = push_checkpoint(folder, "someone/model", token=TOKEN)
    again = push_checkpoint(folder, "model", token=TOKEN)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA better card.\n")
    better = push_checkpoint(folder, "someone/model", token=TOKEN)

    assert again.oid == first.oid != better.oid
    assert len(hub.model("someone/model").commits) == 3


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repository", "token", "reason"),
    [
        ("someone/model", "hf_wrong", "The Hub refuses the token (401: Invalid credentials in Authorization header)"),
        ("someone/model", None, "The Hub refuses the token (401: Invalid username or password.)"),
        ("another/model", TOKEN, "This token may not write to another/model (403"),
        ("a/b/c", TOKEN, "'a/b/c' is not a valid name of a repository"),
    ],
)
def test_a_refusal_is_one_line_that_says_why(hub, exported, repository, token, reason):
    assert reason in one_line(push(exported, repository=repository, token=token))
    assert not hub.repositories


def test_a_repository_that_vanishes_meanwhile_is_named(hub, exported):
    hub.on_request = lambda path: hub.repositories.clear() if "preupload" in path else None
    assert "The Hub has no repository someone/model, or this token may not see it (404" in one_line(push(exported))


def test_a_public_repository_is_not_taken_for_a_private_one(hub, exported):
    assert push(exported).exit_code == 0
    assert "someone/model exists and is public" in one_line(push(exported, "--private", "--revision", "secret"))
    assert len(hub.model("someone/model").commits) == 2


def test_an_error_that_has_nothing_to_do_with_the_hub_is_not_taken_for_a_broken_connection():
    with pytest.raises(RuntimeError, match="out of memory"), hub_errors("someone/model"):
        raise RuntimeError("out of memory") from ValueError("too large")


def test_a_missing_model_is_one_line_too(hub):
    result = CliRunner().invoke(app, ["info", "--model", "someone/missing"])
    assert result.exit_code == 2 and "someone/missing" in result.stderr.splitlines()[-1]


# Broken connections --------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_once_within_the_weights_does_no_harm(hub, exported, no_waiting):
    hub.cut = Cut("PUT /lfs/", times=1, after_bytes=10_000)
    assert push(exported).exit_code == 0
    assert hub.received == {f"/lfs/{oid}": 10_000 for oid in hub.blobs}
    assert hub.model("someone/model").files() == files_of(exported)


@pytest.mark.parametrize("request_", ["PUT /lfs/", "POST .*/preupload/", "POST .*/commit/"])
def test_a_connection_that_stays_broken_publishes_nothing_and_the_push_can_be_repeated(
    hub, exported, no_waiting, request_
):
    hub.cut = Cut(request_, after_bytes=100)

    assert f"The connection to {hub.url} broke while pushing to someone/model" in one_line(push(exported))
    assert hub.model("someone/model").messages == NOTHING

    hub.cut = None
    assert push(exported).exit_code == 0
    assert hub.model("someone/model").files() == files_of(exported)
    assert len(hub.model("someone/model").commits) == 2


def test_a_response_that_is_lost_after_the_commit_does_not_lead_to_a_second_one(hub, exported):
    hub.cut = Cut("POST .*/commit/", carried_out=True)
    assert "broke while pushing" in one_line(push(exported))

    hub.cut = None
    assert push(exported).exit_code == 0
    assert len(hub.model("someone/model").commits) == 2


# What is not fit to be published -------------------------------------------------------------------------------------


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def spoil_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "README.md").unlink(), "README.md, the model card, is missing"),
        (lambda folder: (folder / "README.md").write_text("# Card"), "has no metadata"),
        (
            lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"),
            "the metadata of README.md is not valid YAML",
        ),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing or not valid JSON"),
        (lambda folder: edit_json(folder / "config.json", model_type="wavlm"), "has the model type 'wavlm'"),
        (lambda folder: edit_json(folder / "config.json", auto_map={}), "config.json has no auto_map"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
        (lambda folder: (folder / "experts.py").unlink(), "code that auto_map refers to is missing: experts.py"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (truncate_weights, "model.safetensors is damaged"),
        (spoil_weights, "model.safetensors holds NaN or Inf in"),
    ],
)
def test_a_folder_that_is_not_fit_is_refused_before_anything_is_sent(hub, folder, damage, complaint):
    damage(folder)
    assert complaint in one_line(push(folder))
    assert not hub.requests


def test_all_complaints_come_at_once(hub, folder):
    (folder / "README.md").unlink()
    (folder / "model.safetensors").unlink()
    line = one_line(push(folder))
    assert "README.md" in line and "model.safetensors" in line


def test_weights_in_several_files_are_all_looked_at(hub, folder):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1 and "README.md describes other weights" in one_line(push(folder))
    (folder / "README.md").write_text(render_card(folder), encoding="utf-8")
    assert push(folder).exit_code == 0

    shards[1].unlink()
    assert f"{shards[1].name} is missing" in one_line(push(folder))


def test_a_missing_folder_is_named(hub):
    assert "nowhere is not a folder" in one_line(push("nowhere"))
