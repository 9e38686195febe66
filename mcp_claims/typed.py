"""What `typing` has for classes, without importing it: a check on the command line would take an eighth longer.

To type checkers these are the names of `typing` themselves, and what they say holds; at run time they are as little of them
as this package uses.
"""

from __future__ import annotations

__all__ = ["TYPE_CHECKING", "NamedTuple", "Protocol"]

TYPE_CHECKING = False  # Type checkers know it by its name, wherever it comes from.

if TYPE_CHECKING:
    from typing import NamedTuple, Protocol
else:
    from collections import namedtuple

    class Protocol:
        """What others provide without inheriting from it."""

    class _Fields(type):
        """Makes of a class whose annotations are its fields a named tuple that has its methods."""

        def __new__(kind, name, bases, body):
            if not bases:
                return super().__new__(kind, name, bases, body)
            fields = body.pop("__annotations__")
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])  # noqa: PYI024 (it is what that is made of)
            for attribute, value in body.items():
                setattr(made, attribute, value)
            return made

    class NamedTuple(metaclass=_Fields):
        """A class whose fields are annotated, as in `typing`; those with a default come last."""
