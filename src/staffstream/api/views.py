"""How values of the domain are shown to clients: which of their fields, under the types that their classes give.

A view names its fields, so that a new field of a class stays inside until somebody decides to show it.
"""

from collections.abc import Mapping
from types import GenericAlias
from typing import Annotated, Any, Generic, NotRequired, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

Json = dict[str, Any]
T = TypeVar("T")
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_NO_UUIDS = {"user_id"}  # a name that the operator or the host app chose


class View(Generic[T]):
    """The JSON of values of one class. `fields` are copied from the value, `optional` ones only where they are not
    None, and `added` ones are given to `show`. `types` replaces types that the class leaves open. `model` is the type
    that describes the result, `models` that of a list of them.
    """

    def __init__(
        self,
        name: str,
        kind: type[T],
        fields: str,
        *,
        optional: str = "",
        added: Mapping[str, Any] | None = None,
        types: Mapping[str, Any] | None = None,
        doc: str | None = None,
    ) -> None:
        self._declared = (kind, fields, optional, types)
        self._added = dict(added or {})
        self._fields = fields.split()
        self._optional = optional.split()
        annotations = get_type_hints(kind, include_extras=True) | dict(types or {})
        types = {field: _mark_format(field, annotations[field]) for field in self._fields}
        types |= {field: NotRequired[_drop_none(_mark_format(field, annotations[field]))] for field in self._optional}
        self.model = make_model(name, types | self._added, doc or kind.__doc__ or "")
        self.models: Any = GenericAlias(list, (self.model,))

    def extend(self, name: str, added: Mapping[str, Any], doc: str) -> "View[T]":
        """A view with further fields, which are given to `show`."""
        kind, fields, optional, types = self._declared
        return View(name, kind, fields, optional=optional, added=self._added | dict(added), types=types, doc=doc)

    def show(self, value: T, **added: Any) -> Json:
        """The value as JSON."""
        shown = {name: getattr(value, name) for name in self._fields}
        for name in self._optional:
            if (item := getattr(value, name)) is not None:
                shown[name] = item
        return shown | added


def make_model(name: str, fields: dict[str, Any], doc: str) -> Any:
    """A typed dictionary with these fields and no others, for /openapi.json."""
    make: Any = TypedDict  # a type checker takes no fields that are known at run time only
    model = make(name, fields)
    model.__doc__ = doc
    model.__pydantic_config__ = ConfigDict(extra="forbid")
    return model


def _mark_format(name: str, annotation: Any) -> Any:
    """The type with the format of ids and times, which are plain text in Python."""
    if name == "id" or (name.endswith("_id") and name not in _NO_UUIDS):
        marked: Any = Id
    elif name.endswith("_at") or name in ("valid_from", "valid_to"):
        marked = Time
    else:
        return annotation
    return marked | None if type(None) in get_args(annotation) else marked


def _drop_none(annotation: Any) -> Any:
    """The type without None: an optional field is absent instead."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in get_args(annotation) else annotation
