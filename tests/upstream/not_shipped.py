# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Imported before the common tests of transformers: what they import and its source distribution lacks."""

import sys
from types import ModuleType

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
"""Modules of exporting and generation, and a sample."""

for name, attributes in NOT_SHIPPED.items():
    package = f"transformers_tests.{name.partition('.')[0]}"
    sys.modules[package] = ModuleType(package)
    module = sys.modules[f"transformers_tests.{name}"] = ModuleType(f"transformers_tests.{name}")
    vars(module).update(attributes)
