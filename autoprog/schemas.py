"""JSON Schemas of the files that users write, for editors: completion, hints and errors while typing.

They say which keys there are and which values each of them takes. Laws between keys are checked when a
file is read.
"""

from __future__ import annotations

import json
from typing import Any

from autoprog.recipe import RECIPES, Recipe
from autoprog.schedule import GrowthSchedule
from autoprog.space import SpaceFile
from autoprog.starters import DECISIONS

__all__ = ["KINDS", "modeline", "schema_of", "schema_text"]

KINDS = ("space", "schedule", "recipe")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of file."""
    body = {"space": _space, "schedule": _schedule, "recipe": _recipe}[kind]()
    return {"$schema": _DIALECT, **body, "title": f"autoprog {kind}"}


def schema_text(kind: str) -> str:
    """Return the JSON Schema as the text of a file."""
    return json.dumps(schema_of(kind), indent=1) + "\n"


def modeline(path: str) -> str:
    """Return the comment by which YAML language servers find a file's schema."""
    return f"# yaml-language-server: $schema={path}\n"


def _schedule() -> dict[str, Any]:
    return GrowthSchedule.model_json_schema()


def _space() -> dict[str, Any]:
    body = SpaceFile.model_json_schema()
    body["$defs"]["Recipe"] = Recipe.model_json_schema()
    body["properties"]["recipe"] = {"$ref": "#/$defs/Recipe"}
    properties = body["$defs"]["Decisions"]["properties"]
    for key, meaning in DECISIONS.items():
        properties[key]["description"] = meaning
    return body


def _recipe() -> dict[str, Any]:
    body = Recipe.model_json_schema()
    meaning = "recipe whose values the keys of this file replace"
    base = {"enum": [*RECIPES, None], "default": None, "description": meaning}
    body["properties"] = {"base": base, **body["properties"]}
    body["type"] = ["object", "null"]  # a starter, in which all is commented out, is a valid file
    return body
