# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pictures: signals before and after, emotions over time, use of the experts, and results of evaluations.

Every function returns a `matplotlib.figure.Figure`, which `figure.savefig("a.png")` writes and a notebook shows; the
state of pyplot is neither used nor changed. matplotlib is an optional dependency (extra `demo`): it is imported when a
picture is drawn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` imports, for type checkers and editors
    from .evaluation import plot_confusion as plot_confusion
    from .evaluation import plot_reliability as plot_reliability
    from .evaluation import plot_robustness as plot_robustness
    from .experts import plot_expert_shares as plot_expert_shares
    from .experts import plot_expert_use as plot_expert_use
    from .overview import Overview as Overview
    from .recording import plot_recording as plot_recording
    from .recording import plot_result as plot_result
    from .spectrograms import plot_spectrograms as plot_spectrograms
    from .timeline import plot_timeline as plot_timeline

_MODULE_OF = {
    "Overview": "overview",
    "plot_confusion": "evaluation",
    "plot_expert_shares": "experts",
    "plot_expert_use": "experts",
    "plot_recording": "recording",
    "plot_reliability": "evaluation",
    "plot_result": "recording",
    "plot_robustness": "evaluation",
    "plot_spectrograms": "spectrograms",
    "plot_timeline": "timeline",
}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
