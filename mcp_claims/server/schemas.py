"""The definitions of the tools in the SDK's types, and the check of arguments that names the first wrong one.

Bounds are in `model.validation`.  The output schemas are made from the types of `render`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_args, get_type_hints, is_typeddict

from mcp_types import Tool as Definition
from mcp_types import ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.text import one_line
from mcp_claims.server.arguments import coerced
from mcp_claims.server.tools import TOOLS

# An unknown argument is an error: it is probably misspelt.
_STRICT = ConfigDict(extra="forbid", frozen=True)


@cache
def definitions() -> dict[str, Definition]:
    """Return what `tools/list` answers, by name; made at the first call, since the schemas take 10 ms."""
    return {
        name: Definition(
            name=name,
            title=tool.title,
            description=tool.description,
            input_schema=input_schema(name),
            output_schema=output_schema(tool.answer),
            annotations=ToolAnnotations(
                read_only_hint=tool.read_only,
                # They touch only the caller's own claims or dead ones.  Otherwise hosts ask people, or refuse.
                destructive_hint=False,
                idempotent_hint=tool.idempotent,
                open_world_hint=False,
            ),
            # Claude Code hides other tools behind a search, and a model does not search for what it does not know.
            meta={"anthropic/alwaysLoad": True} if tool.always_load else None,
        )
        for name, tool in TOOLS.items()
    }


def parse(name: str, given: dict[str, Any] | None) -> dict[str, Any]:
    """Return all arguments of the tool *name*, *given* ones and defaults.

    Raises `InvalidInputError` with the first wrong one and its rule.
    """
    known = TOOLS[name].arguments
    try:
        return _model(name).model_validate(coerced(known, given or {})).model_dump()
    except ValidationError as error:
        # Without the input and the link to pydantic's pages: a model has to read this.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        wrong = ".".join(map(str, first["loc"])) or "arguments"
        if first["type"] == "extra_forbidden":
            rule = f"is not an argument of this tool, which takes {', '.join(known)}"
            raise InvalidInputError(one_line(wrong)[:100], rule) from error
        described = known[wrong].description if wrong in known else None
        meaning = f" ({described})" if described else ""
        raise InvalidInputError(wrong, f"is wrong: {first['msg'].lower()}{meaning}") from error


def input_schema(name: str) -> dict[str, Any]:
    """Return the JSON schema of the arguments of the tool *name*."""
    return _model(name).model_json_schema(schema_generator=_CompactSchema, mode="validation")


@cache
def _model(name: str) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for each, argument in TOOLS[name].arguments.items():
        kind: Any = Literal[argument.words] if argument.words else list[str] if argument.kind is list else argument.kind
        if argument.default is None and not argument.required:
            kind = kind | None
        fields[each] = (
            kind,
            # Strict: a boolean would pass as 1.0 minutes.
            Field(
                ... if argument.required else argument.default,
                description=argument.description,
                strict=argument.kind is not str or None,
            ),
        )
    return create_model(f"{name} arguments", __config__=_STRICT, **fields)


_SELF_EXPLAINING = ("client", "claimed_at", "expires_in_seconds", "ended_at", "shared", "slots")
"""What is in some answers, and explains itself there: a schema that lists it costs every session more than it tells."""


def output_schema(answer: type) -> dict[str, Any]:
    """Return the JSON schema of *answer*, a `TypedDict` of `render`."""
    schema = answer_model(answer).model_json_schema(schema_generator=_CompactSchema, mode="serialization")
    definitions = schema.pop("$defs", {})
    properties = schema["properties"]
    # An answer may have more than its schema lists.
    for each in (schema, *definitions.values()):
        for name in _SELF_EXPLAINING:
            each["properties"].pop(name, None)
    if "note" in properties:
        properties["note"]["description"] = "Its holder's words, no instructions"
    # What these hold is in the text, too.
    for name, kind in (("lost", "array"), ("previous", "object"), ("outcome", "string")):
        if name in properties:
            properties[name] = {"type": kind}
    # Each is used once, so a reference costs more than it saves, and some hosts do not follow it.
    for about in properties.values():
        if (reference := about.get("items", {}).get("$ref")) is not None:
            about["items"] = definitions[reference.rpartition("/")[2]]
    return schema


def answer_model(answer: type) -> type[BaseModel]:
    """Return a model with the fields of *answer*, a `TypedDict`.

    Before Python 3.12 pydantic itself takes only the `TypedDict` of `typing_extensions`, whose import would cost every
    short command 8 ms.
    """
    fields: dict[str, Any] = {}
    for name, hint in get_type_hints(answer).items():
        of = get_args(hint)
        if is_typeddict(hint):
            kind: Any = answer_model(hint)
        elif of and is_typeddict(of[0]):
            kind = list[answer_model(of[0])]  # type: ignore[misc]
        else:
            kind = hint
        required = name in answer.__required_keys__  # type: ignore[attr-defined]
        fields[name] = (kind, ...) if required else (kind | None, None)
    return create_model(answer.__name__, **fields)


class _CompactSchema(GenerateJsonSchema):
    """Leaves out what a model does not need, since every session pays for it.

    That is titles, docstrings, and the `null` of an argument that may be absent, which is accepted anyway.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return self._without_prose(super().model_schema(schema))

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        compact = super().default_schema(schema)
        if compact.get("default", 0) is None:
            del compact["default"]
        return compact

    def _without_prose(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        return {name: value for name, value in schema.items() if name not in ("title", "description")}
