# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The wheel alone, away from the repository: one name, no logs, and the way from a corpus to a folder for the Hub."""

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modeling_sparse_merit"
LABELS = ["angry", "sad", "happy", "neutral"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from hatchling import build; build.build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_has_one_name_and_no_logs(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"modeling_sparse_merit"}
    assert {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")} <= set(names)
    assert "modeling_sparse_merit/hub/model_card.md" in names and "modeling_sparse_merit/py.typed" in names
    checkpoint = {name.rpartition("/")[2] for name in names if "/checkpoints/tiny/" in name}
    assert checkpoint == {
        "calibration.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "LICENSE-weights",
    }
    assert not [name for name in names if name.endswith((".jsonl", ".log", ".yaml", ".pyc"))]


def test_the_metadata_state_the_licences_of_code_and_weights(wheel):
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = content.read(name).decode()
    (expression,) = re.findall(r"^License-Expression: (.+)$", metadata, re.MULTILINE)
    files = re.findall(r"^License-File: (.+)$", metadata, re.MULTILINE)
    weights = sorted((PACKAGE / "checkpoints").glob("*/LICENSE-weights"))
    assert set(files) == {"LICENSE", *(path.relative_to(ROOT).as_posix() for path in weights)}
    assert [path.parent for path in weights] == sorted(
        path.parent for path in (PACKAGE / "checkpoints").glob("*/config.json")
    )
    stated = [re.search(r"^SPDX-License-Identifier: (.+)$", path.read_text(), re.MULTILINE)[1] for path in weights]
    identifiers = {identifier for each in stated for identifier in each.split(" AND ")}
    assert set(expression.split(" AND ")) == {"Apache-2.0", *identifiers}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs `python` with the installed wheel, in a folder of its own: the repository is not on the path."""
    target, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    variables = {
        "PYTHONPATH": str(target),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }

    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run("-c", "import modeling_sparse_merit; print(modeling_sparse_merit.__file__)")
    assert Path(where.strip()).is_relative_to(target)
    run.folder = folder
    return run


@pytest.fixture(scope="module")
def corpus(installed):
    """Twelve clips of four emotions and four noises, as folders with a `metadata.csv`."""
    generator = np.random.default_rng(0)
    for kind, count in (("speech", 12), ("noise", 4)):
        folder = installed.folder / kind
        folder.mkdir()
        with (folder / "metadata.csv").open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(
                ["file_name", "emotion", "speaker", "split"] if kind == "speech" else ["file_name", "split"]
            )
            for index in range(count):
                split = "dev" if index >= count * 2 // 3 else "train"
                wave = 0.1 * generator.standard_normal(8_000) * (1 + np.sin(np.arange(8_000) / (200 + 50 * index)))
                soundfile.write(folder / f"{index}.wav", wave, 16_000)
                row = (
                    [f"{index}.wav", LABELS[index % 4], split, split] if kind == "speech" else [f"{index}.wav", split]
                )
                writer.writerow(row)
    return installed.folder


@pytest.mark.slow
def test_a_corpus_becomes_a_checkpoint_that_runs_without_the_package(installed, corpus):
    command = ("-m", "modeling_sparse_merit.cli")
    assert "Listen after" in installed(*command, "demo", "-o", "demo")
    installed(*command, "prepare", "folder", "speech", "datasets/speech")
    installed(*command, "prepare", "noise", "noise", "datasets/noise")
    settings = {
        "model": str(Path(installed("-c", "import modeling_sparse_merit as m; print(m.DEFAULT_CHECKPOINT)").strip())),
        "speech": ["datasets/speech"],
        "noise": ["datasets/noise"],
        "labels": LABELS,
        "per_device_train_batch_size": 4,
        "epochs": 1,
        "dataloader_num_workers": 0,
        "output_dir": "run",
    }
    (corpus / "config.yaml").write_text(yaml.safe_dump(settings))
    installed(*command, "train", "config.yaml")
    installed(*command, "export", "exported", "--model", "run/best")
    load = (
        "import json, sys; sys.modules['modeling_sparse_merit'] = None; from transformers import pipeline;"
        "pipe = pipeline(model='exported', trust_remote_code=True); result = pipe('speech/0.wav');"
        "print(json.dumps([result['emotion'][0]['label'], len(result['audio'])]))"
    )
    label, samples = json.loads(installed("-c", load).splitlines()[-1])
    assert label in LABELS and samples == 8_000
