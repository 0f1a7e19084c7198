# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Training survives what machines do to it: kills at any moment, SIGTERM, full disks, NaN, and damaged clips."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Audio
from safetensors.torch import load_file
from test_training import one_thread, small_tables, train_command, write_config  # noqa: F401

from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.files import OutputError
from modeling_sparse_merit.training import balancing, checkpoints
from modeling_sparse_merit.training import run as training_run

EPOCHS = 3  # of 5 steps with 2 clips each
CHANGES = {"epochs": EPOCHS, "per_device_train_batch_size": 2, "average_decay": 0.5, "save_steps": 1}


@pytest.fixture(scope="module")
def config(tables, tmp_path_factory) -> Path:
    """A run with a checkpoint after every step; half of the units of its classifier are dropped at random."""
    return write_config(tmp_path_factory.mktemp("config") / "config.yaml", tables, **CHANGES)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The undisturbed run, with all of its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    training_run.main([str(config), "--output_dir", str(folder), "--save_total_limit", "100"])
    return folder


def assert_same(folder: Path, whole: Path) -> None:
    """Weights, their average, the best model and the logged means are equal, bit by bit."""
    last = f"checkpoint-{EPOCHS}"
    for file in (f"{last}/model.safetensors", f"{last}/average.safetensors", "best/model.safetensors"):
        expected, weights = load_file(whole / file), load_file(folder / file)
        assert expected.keys() == weights.keys()
        assert all(torch.equal(weights[name], weight) for name, weight in expected.items()), file
    assert logged(folder) == {number: entry for number, entry in logged(whole).items() if number in logged(folder)}


def logged(folder: Path) -> dict[tuple[int, bool], dict]:
    """The last entry of each epoch in the log, of training and of validation."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {(line["epoch"], "train/total" in line): line for line in lines}


def test_a_run_goes_on_in_the_middle_of_an_epoch_as_if_nothing_had_happened(config, whole, tmp_path):
    names = {path.name for path in whole.glob("checkpoint-*")}
    assert {"checkpoint-0-1", "checkpoint-0-4", "checkpoint-1", "checkpoint-1-7", "checkpoint-3"} <= names
    for name in ("checkpoint-0-3", "checkpoint-1-6", "checkpoint-2-14"):
        shutil.copytree(whole / name, tmp_path / name / name)
        training_run.main([str(config), "--output_dir", str(tmp_path / name)])
        assert_same(tmp_path / name, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 2, "task_balancing": "uncertainty"},
        {"frozen_epochs": 2, "epochs": 1, "dataloader_num_workers": 2},
        {"frozen_epochs": 2, "epochs": 1, "feature_cache": "features", "feature_cache_rounds": 1},
        {"sampling": "class_balanced", "class_weights": "none", "mixed_precision": "bf16"},
    ],
)
def test_a_run_of_any_kind_goes_on_in_the_middle_of_an_epoch(tables, tmp_path, monkeypatch, changes):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "config.yaml", tables, **{**CHANGES, **changes})
    training_run.main([str(config), "--output_dir", "whole", "--save_total_limit", "100"])
    for checkpoint in sorted((tmp_path / "whole").glob("checkpoint-*-*")):
        shutil.copytree(checkpoint, tmp_path / "resumed" / checkpoint.name)
        training_run.main([str(config), "--output_dir", "resumed"])
        assert_same(tmp_path / "resumed", tmp_path / "whole")
        shutil.rmtree(tmp_path / "resumed")


def test_a_run_that_is_killed_before_its_validation_validates_when_it_resumes(config, whole, tmp_path):
    run = Path(shutil.copytree(whole / "checkpoint-2", tmp_path / "run" / "checkpoint-2"))
    progress = checkpoints.load_progress(run)
    assert not progress.to_validate and progress.best_score is not None
    (run / "progress.json").write_text(json.dumps({"epoch": 2, "step": progress.step, "to_validate": True}))
    training_run.main([str(config), "--output_dir", str(tmp_path / "run")])
    assert [entry for entry in logged(tmp_path / "run") if not entry[1]] == [(2, False), (3, False)]


def test_a_validation_of_the_second_stage_is_repeated_in_that_stage(tables, tmp_path):
    config = write_config(tmp_path / "config.yaml", tables, **{**CHANGES, "frozen_epochs": 1, "epochs": 2})
    training_run.main([str(config), "--output_dir", str(tmp_path / "whole"), "--save_total_limit", "100"])
    run = Path(shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "run" / "checkpoint-2"))
    before = json.loads((tmp_path / "whole" / "checkpoint-1" / "progress.json").read_text())
    progress = {**json.loads((run / "progress.json").read_text()), "to_validate": True}
    score = {name: before[name] for name in ("best_score", "waited")}
    (run / "progress.json").write_text(json.dumps({**progress, **score}))
    training_run.main([str(config), "--output_dir", str(tmp_path / "run")])
    for file in ("checkpoint-3/model.safetensors", "checkpoint-3/average.safetensors"):
        expected, weights = load_file(tmp_path / "whole" / file), load_file(tmp_path / "run" / file)
        assert all(torch.equal(weights[name], weight) for name, weight in expected.items()), file


def test_a_run_resumes_within_an_epoch_with_as_many_processes_as_before(config, whole, tmp_path):
    run = Path(shutil.copytree(whole / "checkpoint-0-3", tmp_path / "checkpoint-0-3"))
    progress = json.loads((run / "progress.json").read_text())
    (run / "progress.json").write_text(json.dumps({**progress, "processes": 2}))
    with pytest.raises(ValueError, match="within an epoch of 2 processes; expected as many, not 1"):
        training_run.main([str(config), "--output_dir", str(tmp_path)])


def start(config: Path, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(train_command(config, folder), env=one_thread(), stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_nothing(config, whole, tmp_path, kills):
    """Each kill comes at a random moment after the run has come one step further."""
    generator, killed = random.Random(kills), 0
    for _ in range(kills):
        before = checkpoints.newest_checkpoint(tmp_path / "run")
        if before is not None and before.name == f"checkpoint-{EPOCHS}":
            shutil.rmtree(tmp_path / "run")  # it came to its end: once more from the start
            before = None
        process = start(config, tmp_path / "run")
        deadline = time.monotonic() + 300
        while checkpoints.newest_checkpoint(tmp_path / "run") == before and process.poll() is None:
            assert time.monotonic() < deadline
        time.sleep(generator.uniform(0, 0.3))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        if (newest := checkpoints.newest_checkpoint(tmp_path / "run")) is not None:
            load_file(newest / "model.safetensors")
            checkpoints.load_progress(newest)
    assert killed >= kills / 2
    training_run.main([str(config), "--output_dir", str(tmp_path / "run")])
    assert_same(tmp_path / "run", whole)


def test_a_sigterm_saves_and_leaves_with_status_143(config, whole, tmp_path):
    process = start(config, tmp_path)
    wait_for(tmp_path / "checkpoint-0-2", process)
    process.terminate()
    messages = process.communicate()[1]
    assert process.returncode == 143, messages[-3000:]
    newest = checkpoints.newest_checkpoint(tmp_path)
    assert f"SIGTERM: the run ends at {newest}, and resumes there" in messages
    training_run.main([str(config), "--output_dir", str(tmp_path)])
    assert_same(tmp_path, whole)


LIMITED = """
import resource, signal, sys
from modeling_sparse_merit.cli import app
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
app(["train", *sys.argv[2:]])
"""


@pytest.mark.parametrize("limit", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_full_disk_keeps_the_last_checkpoint(config, whole, tmp_path, limit):
    """Writing fails at a file of that many bytes: the scheduler's, or only the weights and the optimizer's."""
    pytest.importorskip("resource", reason="the size of files cannot be limited here")
    shutil.copytree(whole / "checkpoint-1", tmp_path / "checkpoint-1")
    command = [sys.executable, "-c", LIMITED, str(limit), str(config), "--output_dir", str(tmp_path)]
    done = subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    message = " ".join(done.stderr.split())
    assert "could not be written" in message and f"{tmp_path / 'checkpoint-1'} is complete" in message
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    training_run.main([str(config), "--output_dir", str(tmp_path)])
    assert_same(tmp_path, whole)


def test_a_full_disk_is_an_error_of_its_own(tmp_path):
    with pytest.raises(OutputError, match="could not be written .*There is no checkpoint yet. Free disk space"):
        with training_run.write_errors(tmp_path / "best", lambda: None):
            raise OSError(28, "No space left on device")
    with pytest.raises(RuntimeError, match="other"), training_run.write_errors(tmp_path, lambda: None):
        raise RuntimeError("other")


@pytest.mark.parametrize("step", [3, 7])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_names_of_its_clips(config, tmp_path, monkeypatch, step):
    original, calls = balancing.FixedWeights.backward, []

    def backward(self, outputs):
        calls.append(outputs)
        if len(calls) == step:
            outputs.loss = outputs.loss * torch.nan
        return original(self, outputs)

    monkeypatch.setattr(balancing.FixedWeights, "backward", backward)
    with pytest.raises(FloatingPointError) as raised:
        training_run.main([str(config), "--output_dir", str(tmp_path)])
    message = str(raised.value)
    assert f"step {step} (epoch {1 + (step - 1) // 5}) is not finite: total nan, enhancement" in message
    assert message.count(".wav") == 2 and "clip" in message
    newest = checkpoints.newest_checkpoint(tmp_path)
    assert checkpoints.load_progress(newest).step == step - 1 and str(newest) in message
    assert all(weight.isfinite().all() for weight in load_file(newest / "model.safetensors").values())
    monkeypatch.undo()
    training_run.main([str(config), "--output_dir", str(tmp_path)])  # it resumes there
    assert checkpoints.load_progress(tmp_path / f"checkpoint-{EPOCHS}").epoch == EPOCHS


def test_a_clip_that_was_damaged_later_is_named_counted_and_left_out(config, tables, tmp_path, caplog):
    rows = read_dataset(tables["speech"]).cast_column("audio", Audio(decode=False))
    path = next(Path(row["audio"]["path"]) for row in rows if row["split"] == "train")
    content = path.read_bytes()
    path.write_bytes(content[:60])
    try:
        training_run.main([str(config), "--epochs", "2", "--output_dir", str(tmp_path)])
    finally:
        path.write_bytes(content)
    assert f"{path} is left out: " in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["train/damaged_clips"] for line in lines if "train/total" in line] == [1, 1]
