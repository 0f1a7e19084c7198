# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Versions of the packages that results depend on."""

from importlib.metadata import PackageNotFoundError, version

from .. import __version__

PACKAGES = (
    *("torch", "transformers", "datasets", "numpy", "scipy", "soundfile", "soxr", "audiomentations"),
    *("pesq", "pystoi", "scikit-learn"),
)


def package_versions() -> dict[str, str | None]:
    """Versions by name; None for a package that is not installed."""
    return {"modeling-sparse-merit": __version__, **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
