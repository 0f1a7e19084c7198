# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Runs common tests of transformers on the classes of this package: `python tests/upstream/run.py FOLDER [ARGUMENTS]`.

The tests are part of the source distribution of the transformers that is installed, and are unpacked into FOLDER.
ARGUMENTS are pytest's. A distribution that cannot be downloaded is a failure where CI is set in the environment, and
a message elsewhere.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath

PACKAGE = "transformers_tests"


def download(release: str, folder: Path) -> Path | None:
    """The source distribution of that release of transformers, or None where there is none to be had."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--retries=1", "--no-deps", "--no-binary=transformers"]
    done = subprocess.run([*pip, "--dest", folder, f"transformers=={release}"], check=False)
    path = folder / f"transformers-{release}.tar.gz"
    return path if done.returncode == 0 and path.is_file() else None


def unpack(archive: Path, folder: Path) -> None:
    """
    Writes the modules of `tests/` to `folder/transformers_tests`.

    Raises:
        ValueError: The archive is not that of the installed release, or has no tests.
    """
    release = version("transformers")
    with tarfile.open(archive) as opened:
        members = [member for member in opened.getmembers() if PurePosixPath(member.name).match("*/tests/*.py")]
        if {PurePosixPath(member.name).parts[0] for member in members} != {f"transformers-{release}"}:
            raise ValueError(f"{archive} has no tests of transformers {release}, which is installed. Delete it.")
        package = folder / PACKAGE
        package.mkdir(parents=True, exist_ok=True)
        for member in members:
            (package / PurePosixPath(member.name).name).write_bytes(opened.extractfile(member).read())
    (package / "__init__.py").touch()


def provide(folder: Path) -> bool:
    """Whether the tests of the installed release are in `folder`, now or from an earlier run."""
    stamp, release = folder / "version.txt", version("transformers")
    if stamp.is_file() and stamp.read_text() == release:
        return True
    with tempfile.TemporaryDirectory() as temporary:
        archive = download(release, Path(temporary))
        if archive is None:
            return False
        unpack(archive, folder)
    stamp.write_text(release)
    return True


def main(folder: Path, arguments: list[str]) -> int:
    if not provide(folder):
        print(f"The source distribution of transformers {version('transformers')} could not be downloaded.")
        return 1 if os.environ.get("CI") else 0
    here = Path(__file__).parent
    paths = os.pathsep.join(filter(None, [str(folder.resolve()), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "COMMON_TESTS": "1", "HF_HUB_OFFLINE": "1"}
    # The marks of transformers are not ours, so `--strict-markers` of pyproject.toml is not for them.
    options = ["-o", "addopts=", "-W", "ignore::pytest.PytestUnknownMarkWarning", "-rs"]
    command = [sys.executable, "-m", "pytest", *options, *arguments, str(here)]
    return subprocess.run(command, cwd=here.parents[1], env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
