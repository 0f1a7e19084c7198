# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Tries an installed release away from the repository: `python tests/rehearse_release.py BIN`.

BIN is the folder of programs of an environment that holds the wheel alone. The demo runs without network; then a
checkpoint is exported, pushed to a Hub on this machine and loaded back from there by transformers alone.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from hub_server import HubServer

ROOT = Path(__file__).parents[1]
LOAD = """
import sys
sys.modules["modeling_sparse_merit"] = None  # what is loaded must not need the package
from transformers import pipeline

pipe = pipeline(model="someone/model", trust_remote_code=True)
result = pipe(sys.argv[1])
print(result["emotion"][0]["label"], len(result["audio"]), "samples")
"""
VERSION = "import modeling_sparse_merit as package; print(package.__version__, package.__file__)"


def rehearse(programs: Path, folder: Path, hub: HubServer) -> None:
    """
    Args:
        programs: folder of `python` and `sparse-merit`.
        folder: an empty folder.
        hub: what takes the place of the Hub.

    Raises:
        subprocess.CalledProcessError: a step failed; its output is on the terminal.
        ValueError: the package comes from elsewhere, or the changelog has no entry for its version.
    """
    environment = hub.environment(folder / "home") | {"OMP_NUM_THREADS": "1"}

    def run(*command: str | Path, **variables: str) -> str:
        command = (programs / command[0], *command[1:])
        print("$", *command, flush=True)
        done = subprocess.run(command, cwd=folder, env=environment | variables, stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        done.check_returncode()
        return done.stdout

    version, _, path = run("python", "-c", VERSION).strip().partition(" ")
    if Path(path).is_relative_to(ROOT / "modeling_sparse_merit"):
        raise ValueError(f"{programs} runs {path}; expected the installed wheel.")
    if f"## [{version}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise ValueError(f"CHANGELOG.md has no entry for version {version}: add `## [{version}] - DATE`.")
    run("sparse-merit", "demo", "--output", "demo", HF_HUB_OFFLINE="1")
    run("sparse-merit", "export", "exported", HF_HUB_OFFLINE="1")
    run("sparse-merit", "push", "exported", "someone/model")
    run("python", "-c", LOAD, folder / "demo" / "noisy_speech.flac")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory, HubServer() as server:
        rehearse(Path(sys.argv[1]).absolute(), Path(directory), server)
