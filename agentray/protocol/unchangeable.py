"""Values that nobody can change: agents of one process share them; all others travel as copies."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_ATOMS = frozenset(
    {str, int, float, complex, bool, type(None), bytes, Decimal, UUID}
    | {datetime, date, time, timedelta, timezone, ZoneInfo}
)

_MAX_CLASSES = 4096
_fields: dict[type[BaseModel], tuple[str, ...] | None] = {}
"""The fields of a class that have to be looked at in each model; None: all of them can be set."""


def is_unchangeable_model(model: BaseModel) -> bool:
    """Whether a model is frozen, and so is all that is in it.

    Fields that pydantic lets only hold plain values, as those of most events, are not looked at:
    it costs a tenth of a microsecond then.
    """
    cls = type(model)
    try:
        fields = _fields[cls]
    except KeyError:
        fields = _look_at(cls)
    if not fields:
        return fields is not None
    values = model.__dict__
    return all(_is_unchangeable(values.get(name)) for name in fields)


def _look_at(cls: type[BaseModel]) -> tuple[str, ...] | None:
    if len(_fields) >= _MAX_CLASSES:
        _fields.clear()  # of notebooks, where classes are made anew
    found = None
    if cls.model_config.get("frozen") and not _has_more(cls):
        rewritten = _rewritten(cls)
        known = cls.model_fields.items()
        found = tuple(n for n, f in known if n in rewritten or not _is_plain(f))
    _fields[cls] = found
    return found


_SURE = frozenset({str, int, bool, type(None), UUID, datetime, date})
_sure: dict[type[BaseModel], bool] = {}


def has_sure_json(cls: type[BaseModel]) -> bool:
    """Whether what pydantic writes of a model is its JSON without a further look.

    So it is where fields hold nothing that has none, such as NaN, and no code of the user's says
    how they are written.
    """
    try:
        return _sure[cls]
    except KeyError:
        pass
    if len(_sure) >= _MAX_CLASSES:
        _sure.clear()
    told = cls.__pydantic_decorators__
    plain = is_plain_class(cls) and not (
        told.field_serializers or told.model_serializers or told.computed_fields
    )
    fields = cls.model_fields.values()
    _sure[cls] = plain and all(_only(field.annotation, _SURE) for field in fields)
    return _sure[cls]


def is_plain_class(cls: type[BaseModel]) -> bool:
    """Whether no model of a class holds anything that can be changed."""
    return (_fields[cls] if cls in _fields else _look_at(cls)) == ()


def _has_more(cls: type[BaseModel]) -> bool:
    """Whether models of a class hold more than its fields, which pydantic does not freeze."""
    return cls.model_config.get("extra") == "allow" or bool(cls.__private_attributes__)


def _rewritten(cls: type[BaseModel]) -> set[str]:
    """Return the fields that may hold what a validator of the user's returns, which may be all."""
    decorators = cls.__pydantic_decorators__
    after = [v.info for v in decorators.field_validators.values() if v.info.mode != "before"]
    named = {name for info in after for name in info.fields}
    if "*" in named or any(v.info.mode != "before" for v in decorators.model_validators.values()):
        return set(cls.model_fields)
    return named


def _is_plain(field: FieldInfo) -> bool:
    """Whether a field can hold plain values only. What it begins with is not validated."""
    made = field.is_required() or field.default_factory is not None
    begins = made or _is_unchangeable(field.default)
    return begins and not field.metadata and _only_plain(field.annotation)


def _only_plain(annotation: Any) -> bool:
    return get_origin(annotation) is Literal or _only(annotation, _ATOMS)


def _only(annotation: Any, atoms: frozenset[Any]) -> bool:
    if annotation in atoms:
        return True
    union = get_origin(annotation) in (Union, UnionType)
    return union and all(_only(each, atoms) for each in get_args(annotation))


def _is_unchangeable(value: object) -> bool:
    kind = type(value)
    if kind in _ATOMS:
        return True
    if isinstance(value, BaseModel):
        return is_unchangeable_model(value)
    if isinstance(value, tuple | frozenset):
        items = cast("Iterable[object]", value)
        # Named tuples have no attributes but their items; other subclasses may.
        bare = kind is tuple or kind is frozenset or not hasattr(items, "__dict__")
        return bare and all(map(_is_unchangeable, items))
    return isinstance(value, Enum)
