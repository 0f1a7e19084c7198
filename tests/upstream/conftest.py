# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Common tests of transformers, from its source distribution, on the classes of this package: `make test-upstream`."""

import os
import sys
from types import ModuleType

FOLDER = os.environ.get("TRANSFORMERS_TESTS")
"""Where `run.py` unpacked `transformers_tests`; without it, nothing here is collected."""
collect_ignore_glob = [] if FOLDER else ["test_*.py"]

NOT_SHIPPED = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {
            "return_dict": False,
            "output_hidden_states": True,
            "output_attentions": True,
            "dtype": "float16",
            "chunk_size_feed_forward": 5,
            "architectures": ["SparseMeritModel"],
            "id2label": {0: "calm", 1: "busy"},
            "label2id": {"calm": 0, "busy": 1},
        }
    },
}
"""What the common tests import from folders that the source distribution lacks: exporting, generation, a sample."""


def provide_what_is_not_shipped() -> None:
    for name, attributes in NOT_SHIPPED.items():
        package = f"transformers_tests.{name.partition('.')[0]}"
        sys.modules[package] = ModuleType(package)
        module = sys.modules[f"transformers_tests.{name}"] = ModuleType(f"transformers_tests.{name}")
        vars(module).update(attributes)


if FOLDER:
    sys.path.insert(0, FOLDER)
    provide_what_is_not_shipped()
