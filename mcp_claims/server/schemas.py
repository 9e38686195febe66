"""What the tools take.  Types are checked here; the rules for keys, notes and TTLs are those of `rules`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.validation import DEFAULT_NAMESPACE, DEFAULT_TTL, MAX_TTL, one_line


class Arguments(BaseModel):
    """Arguments of a tool; one that the tool does not have is an error, since it would be a misspelt one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyArguments(Arguments):
    """A key in a namespace."""

    key: str
    namespace: str = DEFAULT_NAMESPACE
    session: str | None = None


class TryClaimArguments(KeyArguments):
    """Arguments of `try_claim`."""

    key: Annotated[str, Field(description="The event, spelt alike by all, e.g. vercel/next.js#4521:checks_failed")]
    # A boolean would pass as 1.0 minutes if it were not refused here.
    ttl_minutes: Annotated[
        float,
        Field(
            description=f"Until it frees itself: 1/60 to {MAX_TTL.total_seconds() / 60:.0f}",
            strict=True,
        ),
    ] = DEFAULT_TTL.total_seconds() / 60
    note: Annotated[str | None, Field(description="For the others, at most 500 characters")] = None
    session: Annotated[str | None, Field(description="What open_session returned")] = None
    wait_seconds: Annotated[float, Field(description="If held, up to 300", strict=True)] = 0
    redo: Annotated[bool, Field(description="Claim though it is done", strict=True)] = False
    keep_alive: Annotated[bool, Field(description="Renewed for you, for hours", strict=True)] = False


class LookArguments(KeyArguments):
    """Arguments of `is_claimed_by_other`."""

    generation: Annotated[
        int | None, Field(description="Is this grant still in force? Ask before you push or merge", strict=True)
    ] = None


class ReleaseArguments(KeyArguments):
    """Arguments of `release`."""

    outcome: Annotated[
        Literal["done", "failed", "abandoned"] | None, Field(description="done: nobody is to do it again")
    ] = None
    note: str | None = None
    retention_hours: Annotated[float | None, Field(description="Hours that the outcome is known", strict=True)] = None


class OpenSessionArguments(Arguments):
    """Arguments of `open_session`."""

    label: Annotated[str | None, Field(description="For people who read claims")] = None


class ListArguments(Arguments):
    """Arguments of `list_claims`."""

    namespace: Annotated[str | None, Field(description="Only this one")] = None
    mine: Annotated[bool, Field(strict=True)] = False
    cursor: str | None = None
    session: str | None = None


class PruneArguments(Arguments):
    """Arguments of `prune`."""

    namespace: Annotated[str | None, Field(description="Only this one")] = None


A = TypeVar("A", bound=Arguments)


def parse(model: type[A], arguments: dict[str, Any] | None) -> A:
    """Check *arguments*; raise `InvalidInputError` that names the first wrong one and says what it has to be."""
    try:
        return model.model_validate(arguments or {})
    except ValidationError as error:
        # Without the input and the link to pydantic's pages: a model has to read this.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"])) or "arguments"
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise InvalidInputError(
                one_line(name)[:100], f"is not an argument of this tool, which takes {known}"
            ) from error
        described = getattr(model.model_fields.get(name), "description", None)
        meaning = f" ({described})" if described else ""
        raise InvalidInputError(name, f"is wrong: {first['msg'].lower()}{meaning}") from error
