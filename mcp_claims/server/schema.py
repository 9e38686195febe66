"""JSON schemas without what a model does not need: every session pays for each byte of them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema


class CompactSchema(GenerateJsonSchema):
    """Leaves out titles, and the `null` of what may be absent: we never send it and accept it anyway."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        compact = super().model_schema(schema)
        compact.pop("title", None)
        # The docstring is for readers of this code; the tool's description is for the model.
        compact.pop("description", None)
        return compact

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        compact = super().default_schema(schema)
        if compact.get("default", 0) is None:
            del compact["default"]
        return compact


def compact_schema(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    """Return the JSON schema of *model* as arguments (`validation`) or as a result (`serialization`)."""
    return model.model_json_schema(schema_generator=CompactSchema, mode=mode)
