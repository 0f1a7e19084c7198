# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Classes of settings: what their constructor accepts, and what its errors say."""

import pickle
import subprocess
import sys
from dataclasses import asdict, field, replace
from enum import Enum
from typing import Annotated, ClassVar, Literal

import pytest

from modeling_sparse_merit.fields import (
    Count,
    Names,
    NonNegative,
    Number,
    Positive,
    PositiveCount,
    Probability,
    checked_dataclass,
    read_yaml,
    require,
    unknown_names,
)


class Shape(Enum):
    ROUND = "round"
    FLAT = "flat"


@checked_dataclass
class Recipe:
    RENAMED: ClassVar[dict[str, str]] = {"heat": "degrees"}

    eggs: Count = 2
    people: PositiveCount = 4
    offset: Number = 0.0
    butter: NonNegative = 0.0
    degrees: Positive = 180.0
    chance: Probability = 0.5
    spices: Names = field(default_factory=list)
    pan: Literal["iron", "steel"] | None = None
    shape: Shape = "round"
    sweet: bool = False
    name: str | None = None
    costs: Annotated[dict[str, Positive], "{item: price}"] = field(default_factory=dict)

    def __post_init__(self):
        require(self, "butter", self.butter or not self.sweet, "some, as the cake is `sweet`")


def error_of(**given) -> str:
    with pytest.raises(ValueError) as error:
        Recipe(**given)
    assert error.value.__cause__ is None and error.value.__suppress_context__
    return str(error.value)


def test_valid_values_are_kept():
    recipe = Recipe(eggs=3, degrees=200, spices=["mint"], pan="iron", shape="flat", sweet="yes", butter=1)
    assert (recipe.eggs, recipe.degrees, recipe.pan, recipe.shape, recipe.sweet) == (3, 200.0, "iron", "flat", True)
    assert replace(recipe, eggs=0).eggs == 0 and pickle.loads(pickle.dumps(recipe)) == recipe
    assert asdict(Recipe())["shape"] == "round"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("eggs", -1, "a whole number of at least 0"),
        ("eggs", True, "a whole number of at least 0"),
        ("eggs", 2.5, "a whole number of at least 0"),
        ("people", 0, "a whole number of at least 1"),
        ("offset", float("nan"), "a finite number"),
        ("offset", "1e-3", "a finite number"),
        ("butter", -0.1, "a finite number of at least 0"),
        ("degrees", 0, "a finite number above 0"),
        ("degrees", float("inf"), "a finite number above 0"),
        ("chance", 1.5, "a number from 0 to 1"),
        ("spices", "mint", "a list of names"),
        ("spices", ["mint", 3], "a list of names"),
        ("pan", "clay", "one of ['iron', 'steel'], or null"),
        ("shape", "square", "one of ['round', 'flat']"),
        ("sweet", "rather", "true or false"),
        ("name", 3, "text, or null"),
    ],
)
def test_an_error_has_the_field_the_value_and_what_was_expected(name, value, expected):
    assert error_of(**{name: value}) == f"`{name}` is {value!r}; expected {expected}."


def test_an_error_names_the_entry_of_a_mapping_and_every_field_once():
    assert error_of(costs={"egg": 1, "salt": 0}) == "`costs.salt` is 0; expected {item: price}."
    message = error_of(eggs=-1, spices=[1, 2])
    assert (
        message == "`eggs` is -1; expected a whole number of at least 0. `spices` is [1, 2]; expected a list of names."
    )


def test_fields_are_checked_against_each_other():
    assert error_of(sweet=True) == "`butter` is 0.0; expected some, as the cake is `sweet`."


def test_an_unknown_name_is_told_its_new_or_its_nearest_one():
    assert error_of(egs=1) == "`egs` is unknown; did you mean `eggs`?"
    assert error_of(heat=1) == "`heat` is now called `degrees`."
    assert (
        unknown_names(["eggs", "xyz", "uvw"], ["eggs", "pan"]) == "`xyz`, `uvw`: unknown; expected some of eggs, pan."
    )
    assert unknown_names(["eggs"], ["eggs", "pan"]) == ""


def test_a_file_holds_a_mapping(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("eggs: 3\nspices: [mint]\n", "utf-8")
    assert read_yaml(path) == {"eggs": 3, "spices": ["mint"]}
    path.write_text("# nothing yet\n", "utf-8")
    assert read_yaml(path) == {}
    path.write_text("spices: [mint\n", "utf-8")
    with pytest.raises(ValueError, match="settings.yaml is not valid YAML"):
        read_yaml(path)
    for text in ("- eggs\n", "3: eggs\n"):
        path.write_text(text, "utf-8")
        with pytest.raises(ValueError, match="expected a mapping of fields, such as 'seed: 0'"):
            read_yaml(path)


def test_the_core_does_not_import_pydantic():
    code = (
        "import sys; sys.modules['pydantic'] = None; import modeling_sparse_merit, modeling_sparse_merit.cli;"
        "from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
