# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A plugin of pytest that runs the code blocks of README.md and docs/, but for the tutorials: `make test-docs`.

The blocks of a page run in order in one folder, which holds a noisy recording, labelled clips and noises, and take a
loopback Hub for the real one. Data with a title (```yaml title="x.yaml") become files. A block that cannot run says
why on the line above it: <!-- skip: next "needs a microphone" -->. Blocks in any other language are errors.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import yaml
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from tests import hub_server
from tests.conftest import ROOT, TINY, make_speech

NOISY_RECORDING = ROOT / "modeling_sparse_merit" / "demo" / "noisy_speech.flac"
EMOTIONS = ("angry", "sad", "neutral", "angry", "sad", "angry", "neutral", "angry")
SPEAKERS = ("ann,train",) * 4 + ("bob,dev",) * 2 + ("cem,test",) * 2
SECONDS_FOR_A_BLOCK = 900


def run_bash(example: Example) -> str | None:
    """Runs the commands; the first that fails ends the block."""
    command = ["bash", "-euo", "pipefail", "-c", str(example.parsed)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_FOR_A_BLOCK)
    return None if result.returncode == 0 else f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"


def read_json(example: Example) -> None:
    """Reads JSON."""
    json.loads(str(example.parsed))


def read_yaml(example: Example) -> None:
    """Reads YAML."""
    yaml.safe_load(str(example.parsed))


EVALUATORS = {
    "python": PythonEvaluator(),
    "bash": run_bash,
    "json": read_json,
    "yaml": read_yaml,
    "csv": lambda example: None,
    "bibtex": lambda example: None,
}


def evaluate(example: Example) -> str | None:
    """Writes a block into the file that its title names, if it has one, and runs or reads it."""
    language, _, title = example.region.lexemes["arguments"].partition(" title=")
    if language not in EVALUATORS:
        return f"a block in {language!r} is neither run nor skipped: expected one of {', '.join(EVALUATORS)}"
    if title:
        Path(title.strip('"')).write_text(str(example.parsed), encoding="utf-8")
    return EVALUATORS[language](example)


def parse_blocks(document: Document) -> Iterator[Region]:
    """Finds every fenced block, whatever its language."""
    for region in FencedCodeBlockLexer(".*?", {"language": "arguments", "source": "source"})(document):
        region.parsed, region.evaluator = region.lexemes["source"], evaluate
        yield region


pytest_collect_file = Sybil(
    [SkipParser(), parse_blocks],
    path=str(ROOT),
    patterns=["*.md"],
    excludes=["docs/tutorials/*.md"],  # tests/tutorials.py executes their notebooks
    fixtures=["page_folder"],
).pytest()


@pytest.fixture(scope="session")
def user_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hub_server.HubServer]:
    """A Hub with `USER/MODEL`, for this process, which has yet to import its client, and those that it starts."""
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch, hub_server.HubServer() as server:
        patch.setattr(hub_server, "USER", "USER")
        home = server.environment(tmp_path_factory.mktemp("home"))
        for name, value in (home | {"PYTHONPATH": str(ROOT), "PATH": commands, "OMP_NUM_THREADS": "1"}).items():
            patch.setenv(name, value)
        from modeling_sparse_merit.hub.export import export_checkpoint

        folder = export_checkpoint(TINY, tmp_path_factory.mktemp("export") / "model")
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        server.repositories["models", "USER/MODEL"] = hub_server.Repository(commits=[files])
        yield server


@pytest.fixture(scope="module")
def page_folder(user_hub: hub_server.HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of the blocks of a page."""
    folder, before = tmp_path_factory.mktemp("page"), Path.cwd()
    write_recordings(folder)
    os.chdir(folder)
    yield folder
    os.chdir(before)
    shutil.rmtree(folder)


def write_recordings(folder: Path) -> None:
    """Writes what pages name: call.wav, recordings/, more/, calls/ with its metadata.csv, and noises/."""
    noisy, rate = soundfile.read(NOISY_RECORDING, dtype="float32")
    for name in ("recordings", "more", "calls", "noises/train", "noises/dev", "noises/test"):
        (folder / name).mkdir(parents=True)
    for name in ("call.wav", "recordings/first.wav", "more/second.mp3"):
        soundfile.write(folder / name, noisy, rate)
    for index in range(len(EMOTIONS)):
        soundfile.write(folder / "calls" / f"{index}.wav", make_speech(2.0, seed=index), 16_000)
    rows = (f"{index}.wav,{emotion},{SPEAKERS[index]}\n" for index, emotion in enumerate(EMOTIONS))
    (folder / "calls" / "metadata.csv").write_text("file_name,emotion,speaker,split\n" + "".join(rows))
    for index, split in enumerate(("train", "dev", "test")):
        soundfile.write(folder / "noises" / split / "noise.wav", make_speech(3.0, seed=100 + index), 16_000)
