"""Our stand-in for `typing.NamedTuple`: the same as that, as far as it is used here."""

from __future__ import annotations

import pickle
import typing
from datetime import UTC, datetime

import pytest

from mcp_claims import answers, overview, record
from mcp_claims.record import Holder, Moment, OriginalHolder
from mcp_claims.stores import base
from mcp_claims.typed import NamedTuple

TUPLES = [
    each
    for module in (record, answers, overview, base)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, tuple) and each.__module__ == module.__name__
]


def test_all_named_tuples_of_the_core_are_looked_at_here() -> None:
    assert {record.Claim, record.Holder, answers.Attempt, overview.Pruned, base.Swap} <= set(TUPLES)


@pytest.mark.parametrize("ours", TUPLES, ids=lambda ours: ours.__name__)
def test_fields_defaults_and_names_are_those_that_the_class_says(ours: typing.Any) -> None:
    hints = (
        typing.get_type_hints(ours, vars(typing) | {"datetime": datetime}) if "__annotations__" in vars(ours) else {}
    )
    assert hints == {}  # Fields are no attributes of the class that tools would take for something else.
    assert ours.__module__.startswith("mcp_claims.") and ours.__qualname__ == ours.__name__
    assert ours.__doc__ and not ours.__doc__.startswith(f"{ours.__name__}(")


def test_a_class_is_what_typing_makes_of_the_same_words() -> None:
    body = """
class Made(NamedTuple):
    "What it is."
    first: int
    second: str = "2"
    third: str | None = None

    def joined(self) -> str:
        return f"{self.first}{self.second}"

    @property
    def shown(self) -> str:
        return "shown"

    def __eq__(self, other: object) -> bool:
        return other == "whatever"
"""
    made = []
    for name in (NamedTuple, typing.NamedTuple):
        names: dict[str, typing.Any] = {"NamedTuple": name, "__name__": "somewhere"}
        exec(compile(body, "made", "exec", dont_inherit=True), names)  # noqa: S102 (our own words)
        made.append(names["Made"])
    ours, theirs = made
    assert ours._fields == theirs._fields and ours._field_defaults == theirs._field_defaults
    assert (ours.__module__, ours.__name__, ours.__qualname__, ours.__doc__) == (
        theirs.__module__,
        theirs.__name__,
        theirs.__qualname__,
        theirs.__doc__,
    )
    for each in made:
        one = each(1)
        assert (one.joined(), one.shown, one._replace(first=3).joined(), repr(one)) == (
            "12",
            "shown",
            "32",
            "Made(first=1, second='2', third=None)",
        )
        assert one.__eq__("whatever") and not hasattr(one, "__dict__")
        with pytest.raises(AttributeError):
            one.first = 2
        with pytest.raises(TypeError):
            each()


def test_they_are_pickled_and_extended_as_others_are() -> None:
    moment = Moment(datetime.now(UTC), 1.0, "boot")
    assert pickle.loads(pickle.dumps(moment)) == moment
    original = OriginalHolder("rig:1", 1)
    assert Holder in type(original).__mro__ and original.is_on("rig")
    assert (
        type(original._replace(pid=2)) is OriginalHolder
        and type(pickle.loads(pickle.dumps(original))) is OriginalHolder
    )
