# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The runner of the common tests of transformers: what it unpacks, and what it does without a network."""

import importlib.util
import io
import tarfile
from pathlib import Path

import pytest

PATH = Path(__file__).parent / "upstream" / "run.py"
VERSION = "1.2.3"


@pytest.fixture
def run(monkeypatch):
    spec = importlib.util.spec_from_file_location("upstream_run", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "version", lambda name: VERSION)
    return module


def make_archive(folder: Path, version: str) -> Path:
    """A source distribution with a common test, and with files that are none."""
    path = folder / f"transformers-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("tests/test_modeling_common.py", "src/transformers/modeling.py", "README.md"):
            member = tarfile.TarInfo(f"transformers-{version}/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return path


def test_the_tests_of_the_installed_release_are_unpacked_once(run, tmp_path, monkeypatch):
    downloads = []
    monkeypatch.setattr(
        run, "download", lambda release, folder: downloads.append(release) or make_archive(folder, release)
    )
    assert run.provide(tmp_path) and run.provide(tmp_path)
    assert downloads == [VERSION]
    files = sorted(path.name for path in (tmp_path / "transformers_tests").iterdir())
    assert files == ["__init__.py", "test_modeling_common.py"]


def test_another_release_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "download", lambda release, folder: make_archive(folder, "9.9.9"))
    with pytest.raises(ValueError, match="no tests of transformers 1.2.3, which is installed"):
        run.provide(tmp_path)
    assert not (tmp_path / "transformers_tests").exists()


@pytest.mark.parametrize(("is_ci", "expected"), [(True, 1), (False, 0)])
def test_without_a_network_only_continuous_integration_fails(run, tmp_path, monkeypatch, capsys, is_ci, expected):
    monkeypatch.setattr(run, "download", lambda release, folder: None)
    monkeypatch.setenv("CI", "true" if is_ci else "")
    assert run.main(tmp_path, []) == expected
    assert "transformers 1.2.3 could not be downloaded" in capsys.readouterr().out
