"""Whether a plain dict is what a TypedDict says."""

from __future__ import annotations

import types
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)


def conforms(value: Any, kind: Any, at: str = "answer") -> None:
    """Assert that ``value`` has the type's members, with their types, and no others."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        _members(value, kind, at)
    elif origin in (Union, types.UnionType):
        assert any(_fits(value, each) for each in arguments), f"{at}: {value!r} is no {kind}"
    elif origin is Literal:
        assert value in arguments, f"{at}: {value!r} is none of {arguments}"
    elif origin is list:
        assert isinstance(value, list), f"{at}: {value!r} is no list"
        for number, item in enumerate(value):
            conforms(item, arguments[0], f"{at}[{number}]")
    else:
        assert type(value) is (origin or kind), f"{at}: {value!r} is no {kind}"


def _members(value: Any, kind: Any, at: str) -> None:
    # Not __required_keys__: with annotations as text, Python 3.11 finds no NotRequired in them.
    hints = get_type_hints(kind, include_extras=True)
    needed = {name for name, hint in hints.items() if get_origin(hint) is not NotRequired}
    assert type(value) is dict, f"{at}: {value!r} is no object"
    assert needed - value.keys() == set(), f"{at} lacks members of {kind.__name__}"
    assert value.keys() - hints.keys() == set(), f"{at} has members that {kind.__name__} lacks"
    for name, hint in get_type_hints(kind).items():
        if name in value:
            conforms(value[name], hint, f"{at}.{name}")


def _fits(value: Any, kind: Any) -> bool:
    try:
        conforms(value, kind)
    except AssertionError:
        return False
    return True
