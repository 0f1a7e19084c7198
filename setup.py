# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The build. Its settings are in pyproject.toml; this file adds the one thing that cannot be said there: the template
of the model card stands at the top of the repository, outside the package, and an installed package needs it."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithTemplate(build_py):
    """Puts a copy of the template into the package that is built."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable installation finds the template where it stands
            self.copy_file("model_card.md", str(Path(self.build_lib) / "modeling_sparse_merit"))


setup(cmdclass={"build_py": BuildWithTemplate})
