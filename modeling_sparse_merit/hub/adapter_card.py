# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The model card of adapters, filled from the files in their folder, and the name of the adapted checkpoint.

adapter_config.json, adapter_model.safetensors, config.json    the adapters
training.yaml, dev_results.json                                what the training recorded
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from ..files import replacing
from ..models.sparse_merit.sources import HUB_ID, embedded_folder, embedded_name
from .card_mark import marked, read_mark
from .files import read_json, weight_files, weights_sha256
from .model_card import DEV_SCORES, pipeline_tag_of, tags_of

ADAPTER_CONFIG = "adapter_config.json"
RECORDS = ("training.yaml", "dev_results.json")

TEMPLATE = """\
---
{{ metadata }}
---

# Adapters of {{ title }}

Low-rank adapters (LoRA, [arXiv 2106.09685](https://arxiv.org/abs/2106.09685)) for {{ tasks | join(" and ") }} with
*Sparse MERIT* ([arXiv 2509.08470](https://arxiv.org/abs/2509.08470)). They modify the checkpoint below and do not work
without it.

| these adapters | |
| --- | --- |
| adapted checkpoint | {{ base }} |
| rank, alpha | {{ adapter.r }}, {{ adapter.lora_alpha }} |
| fully trained modules, stored here | {{ whole | join(", ") or "nothing" }} |
| size | {{ "{:,}".format(parameters) }} parameters |
{% if "emotion" in tasks %}
| emotions | {{ labels | join(", ") }} |
{% endif %}

## Use

The package `modeling-sparse-merit` merges the adapters into their checkpoint when it loads them:

```python
from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline

pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("USER/ADAPTERS")
result = pipe("call.wav")
```

```bash
sparse-merit enhance call.wav --model USER/ADAPTERS
sparse-merit export DIR --model USER/ADAPTERS  # a merged checkpoint, which runs without this package and without peft
```

Unmerged, as a `PeftModel`, to continue training or to disable them (`pip install 'modeling-sparse-merit[train]'`):

```python
from modeling_sparse_merit.training.lora import load_adapted

model = load_adapted("USER/ADAPTERS")
```

## Training

{% if training %}
Settings that differ from the defaults of `sparse-merit train`:

```yaml
{{ training | trim }}
```
{% else %}
The settings are not recorded: no `training.yaml` is next to the adapters.
{% endif %}

### Scores on the dev set

{% if dev_results %}
After epoch {{ dev_results.epoch }} (step {{ dev_results.step }}), the best on these scores:

| score | value |
| --- | --- |
{% for name, value in dev_results.dev.items() if name in dev_scores %}
| {{ name }} | {{ "%.3f" | format(value) }} |
{% endfor %}
{% else %}
Not measured: no `dev_results.json` is next to the adapters.
{% endif %}

## Licence, limits and misuse

Licence, limits and misuse of the checkpoint, as stated in its card, apply to these adapters too. So does the licence
of the speech that they were trained on.
{% if "emotion" in tasks %}
In the European Union it is prohibited to use AI systems that infer emotions in the areas of workplace and education
institutions, except for medical or safety reasons: Article 5(1)(f) of
[Regulation (EU) 2024/1689](https://eur-lex.europa.eu/eli/reg/2024/1689/oj).
{% endif %}
"""


def render_adapter_card(folder: str | os.PathLike) -> str:
    """Fills the card of adapters from the files in their folder.

    Args:
        folder: folder of the adapters, written by a training run.

    Returns:
        The text of the repository's `README.md`, with the same final comment as `render_card`.

    Raises:
        FileNotFoundError: the folder holds no adapters.
        ValueError: a file is damaged or lacks a field.
    """
    folder = Path(folder)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        text = environment.from_string(TEMPLATE).render(_facts(folder))
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise ValueError(f"A file in {folder} lacks a field that the card needs ({error}). Train again.") from error
    return marked(text, weights_sha256(folder) or "", [name for name in RECORDS if (folder / name).exists()])


def name_base(folder: str | os.PathLike, base: str) -> None:
    """Writes the name of the adapted checkpoint into the configuration of adapters, and into an unedited card.

    Args:
        folder: folder of the adapters.
        base: a Hub id, or the name of an embedded checkpoint.

    Raises:
        FileNotFoundError: the folder holds no adapters.
        ValueError: `base` is neither a Hub id nor an embedded checkpoint.
    """
    folder = Path(folder)
    if not is_public(base):
        raise ValueError(f"{base!r} is not a Hub id: give the Hub id of the adapted checkpoint, name/model.")
    config = read_json(folder / ADAPTER_CONFIG) | {"base_model_name_or_path": embedded_name(base) or base}
    with replacing(folder / ADAPTER_CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    mark = read_mark(folder / "README.md")
    if mark is not None and not mark.is_edited:
        with replacing(folder / "README.md") as temporary:
            temporary.write_text(render_adapter_card(folder), encoding="utf-8")


def is_public(base: str) -> bool:
    """Whether a name is a Hub id or that of an embedded checkpoint, so that others can load it."""
    return embedded_folder(base) is not None or (HUB_ID.fullmatch(base) is not None and not Path(base).exists())


def _facts(folder: Path) -> dict[str, Any]:
    """The variables of the template."""
    config, adapter = read_json(folder / "config.json"), read_json(folder / ADAPTER_CONFIG)
    base = str(adapter["base_model_name_or_path"])
    training, dev_results = folder / "training.yaml", folder / "dev_results.json"
    return {
        "metadata": _metadata(base, config).to_yaml(),
        "title": base if is_public(base) else Path(base).name,
        "base": _described(base),
        "adapter": adapter,
        "whole": _parts(adapter.get("modules_to_save") or []),
        "parameters": _count(folder),
        "tasks": config["tasks"],
        "labels": [config["id2label"][index] for index in sorted(config["id2label"], key=int)],
        "training": training.read_text(encoding="utf-8") if training.exists() else None,
        "dev_results": read_json(dev_results) if dev_results.exists() else None,
        "dev_scores": DEV_SCORES,
    }


def _metadata(base: str, config: dict[str, Any]) -> ModelCardData:
    """The metadata of the card; `base_model` accepts Hub ids only."""
    on_hub = is_public(base) and embedded_folder(base) is None
    return ModelCardData(
        base_model=base if on_hub else None,
        library_name="peft",
        license=licence_of(embedded_folder(base) or base),
        pipeline_tag=pipeline_tag_of(config),
        tags=[*tags_of(config), "lora"],
    )


def licence_of(folder: str | os.PathLike) -> str | None:
    """The licence stated in the card of a local folder; None without one."""
    card = Path(folder) / "README.md"
    return ModelCard(card.read_text(encoding="utf-8")).data.get("license") if card.is_file() else None


def _described(base: str) -> str:
    if (folder := embedded_folder(base)) is not None:
        return f"`{embedded_name(folder)}`, inside the package, SHA-256 of its weights {weights_sha256(folder)}"
    return f"[{base}](https://huggingface.co/{base})" if is_public(base) else f"`{Path(base).name}`, not published"


def _parts(modules: list[str]) -> list[str]:
    """Fully trained modules, by their names in `lora_train_modules`."""
    words = [name.split(".") for name in modules]
    parts = {"routers" if "routers" in word else word[1] if word[0] == "heads" else "experts" for word in words}
    return sorted(parts)


def _count(folder: Path) -> int:
    total = 0
    for file in weight_files(folder):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    return total
