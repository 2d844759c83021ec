"""Strict configuration: nested mappings become frozen dataclasses once, at the edge, and every problem is told at once.

A schema is a dataclass whose annotations are the types. Field metadata narrows them:

    {"choices": (...)}                 the value is one of these
    {"min": n}, {"max": n}             inclusive limits
    {"above": n}, {"below": n}         exclusive limits
    {"table": {name: dataclass}}       a section whose key `name` selects its dataclass; beside it
    {"default_name": name}             is the choice where `name` is left out

Limits and choices on a tuple hold for each item, and a table on `tuple[..., ...]` makes each item such a section.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pretrainx.core.errors import ConfigError, nearest

ABSENT = "(absent)"
_REFUSED = object()  # stands for a value that has at least one problem, so that its siblings are still looked at
_SCALARS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "none"}


def parse(schema: type, values: Any, where: str = "config") -> Any:
    """Turns a nested mapping (dict or ConfigDict) into an instance of the dataclass `schema`.

    Keys that are left out take the field's default; a section that has no default is made from its own defaults.
    Where the default of a section is an instance, keys left out of a given section come from that instance.

    Raises:
      ConfigError: its `why` lists every problem, one per line, each with its path. What a dataclass refuses in
        `__post_init__` (ConfigError or ValueError) is one of them.
      TypeError: the schema itself cannot be used, a fault of the program rather than of the values.
    """
    reader = _Reader(_sections_of_keys(schema, where))
    instance = reader.section(schema, values, where)
    if reader.problems:
        count = len(reader.problems)
        raise ConfigError(
            f"the configuration has {count} problem{'s' if count > 1 else ''}",
            where=where,
            why="\n".join(reader.problems),
            do="correct the config file, or override with --config.SECTION.KEY=VALUE",
        )
    return instance


def as_dict(instance: Any) -> dict[str, Any]:
    """The JSON-able form of a parsed instance: `parse(type(instance), as_dict(instance)) == instance`."""
    plain = {}
    for field in _fields(type(instance)):
        plain[field.name] = _plain(getattr(instance, field.name), field.metadata.get("table"))
    return plain


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(path, old value, new value) of every leaf that differs, sorted by path; a key of one side only is ABSENT."""
    before, after = dict(flatten(old)), dict(flatten(new))
    paths = sorted(before.keys() | after.keys())
    pairs = ((path, before.get(path, ABSENT), after.get(path, ABSENT)) for path in paths)
    return [(path, left, right) for path, left, right in pairs if left != right]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every leaf; items of a list of sections are `path[0]`, `path[1]`, ..."""
    for name, value in values.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        sections = isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, path)
        elif sections:
            yield from flatten({f"{path}[{index}]": item for index, item in enumerate(value)})
        else:
            yield path, list(value) if isinstance(value, tuple) else value


def _plain(value: Any, table: Mapping[str, type] | None) -> Any:
    if isinstance(value, tuple):
        return [_plain(item, table) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    if table is None:
        return as_dict(value)
    return {"name": _name_in(table, type(value)), **as_dict(value)}


def _name_in(table: Mapping[str, type], kind: type) -> str:
    for name, candidate in table.items():
        if candidate is kind:
            return name
    raise TypeError(f"{kind.__name__} is not in the table of names: {', '.join(table)}")


def _fields(schema: type) -> list[dataclasses.Field]:
    if not (isinstance(schema, type) and dataclasses.is_dataclass(schema)):
        raise TypeError(f"the schema {schema!r} is not a dataclass")
    return [field for field in dataclasses.fields(schema) if field.init]


@functools.lru_cache(maxsize=32)
def _sections_of_keys(schema: type, where: str) -> dict[str, list[str]]:
    """{key: sections that have it}, over the whole schema, tables included: where a misplaced key belongs."""
    found: dict[str, list[str]] = {}

    def visit(schema: type, path: str, above: tuple[type, ...], note: str) -> None:
        if schema in above:  # a mixture may hold itself
            return
        hints = typing.get_type_hints(schema)
        for field in _fields(schema):
            found.setdefault(field.name, []).append(path + note)
            table = field.metadata.get("table") or {}
            for name, option in table.items():
                visit(option, f"{path}.{field.name}", (*above, schema), f" (name {name!r})")
            for option in () if table else _dataclasses_in(hints[field.name]):
                visit(option, f"{path}.{field.name}", (*above, schema), "")

    visit(schema, where, (), "")
    return found


def _dataclasses_in(annotation: Any) -> list[type]:
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _dataclasses_in(part)]


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _describe(annotation: Any) -> str:
    """What a person should write for this annotation."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if _is_union(annotation):
        return " or ".join(_describe(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        parts = typing.get_args(annotation)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return f"a list (each item {_describe(parts[0])})"
        return f"a list of {len(parts)} ({', '.join(_describe(part) for part in parts)})"
    return "a section"


def _mapping(value: Any) -> dict | None:
    """A dict or a ConfigDict as a dict, None for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.to_dict() if hasattr(value, "to_dict") else None


class _Reader:
    """Walks schema and values together and keeps a list of problems instead of stopping at the first."""

    def __init__(self, sections_of_keys: dict[str, list[str]]):
        self.problems: list[str] = []
        self.sections_of_keys = sections_of_keys

    def refuse(self, path: str, problem: str) -> Any:
        self.problems.append(f"{path}: {problem}")
        return _REFUSED

    def section(self, schema: type, values: Any, path: str, base: Any = None) -> Any:
        """An instance of `schema`; keys left out are those of `base` if it is one, else the defaults."""
        fields = {field.name: field for field in _fields(schema)}
        given = _mapping(values)
        if given is None:
            return self.refuse(path, f"expected a section with the keys {', '.join(fields)}; got {_show(values)}")
        for key in (key for key in given if key not in fields):
            self.unknown_key(key, fields, path)
        hints = typing.get_type_hints(schema)
        arguments = {}
        for name, field in fields.items():
            here = f"{path}.{name}"
            default = getattr(base, name) if type(base) is schema else _default(field)
            if name in given:
                arguments[name] = self.value(hints[name], given[name], here, field.metadata, default)
            elif default is not dataclasses.MISSING:
                arguments[name] = default
            else:
                arguments[name] = self.left_out(hints[name], here, field.metadata)
        if any(argument is _REFUSED for argument in arguments.values()):
            return _REFUSED
        try:
            return schema(**arguments)
        except ConfigError as error:
            return self.refuse(path, " ".join(filter(None, (error.what + ";", error.why, error.do))).rstrip("; "))
        except ValueError as error:
            return self.refuse(path, str(error))

    def unknown_key(self, key: Any, fields: Mapping[str, Any], path: str) -> None:
        if not isinstance(key, str):
            self.refuse(path, f"the key {key!r} is not a string")
            return
        elsewhere = [section for section in self.sections_of_keys.get(key, ()) if section != path]
        close = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
        hints = [f"did you mean {close[0]!r}?"] if close else []
        if elsewhere:
            hints.append(f"{key!r} is a key of {' and of '.join(dict.fromkeys(elsewhere))}")
        self.refuse(f"{path}.{key}", "unknown key, " + ("; ".join(hints) or nearest(key, fields)))

    def left_out(self, annotation: Any, path: str, metadata: Mapping[str, Any]) -> Any:
        """A field without a default: a section may stand on its own defaults, anything else is missing."""
        if "table" in metadata and typing.get_origin(annotation) is not tuple:
            return self.named(metadata, {}, path, None)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            return self.section(annotation, {}, path)
        return self.refuse(path, f"missing; it has no default: give {_describe(annotation)}")

    def value(self, annotation: Any, value: Any, path: str, metadata: Mapping[str, Any], base: Any) -> Any:
        if _is_union(annotation):
            return self.union(annotation, value, path, metadata, base)
        if typing.get_origin(annotation) is tuple:
            return self.sequence(annotation, value, path, metadata)
        if "table" in metadata:
            return self.named(metadata, value, path, base)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            return self.section(annotation, value, path, base)
        if annotation not in _SCALARS or annotation is type(None):
            raise TypeError(f"{path}: the schema's annotation {annotation!r} has no strict reading")
        if value is None and "none" in metadata.get("choices", ()):
            value = "none"  # what a command line and a config file read as no value is the name of a choice here
        parsed, problem = _scalar(annotation, value)
        problem = problem or _outside(parsed, metadata)
        return self.refuse(path, problem) if problem else parsed

    def union(self, annotation: Any, value: Any, path: str, metadata: Mapping[str, Any], base: Any) -> Any:
        parts = typing.get_args(annotation)
        if value is None and type(None) in parts:
            return None
        parts = [part for part in parts if part is not type(None)]
        if len(parts) == 1 or "table" in metadata:
            return self.value(parts[0], value, path, metadata, base)
        if any(_dataclasses_in(part) for part in parts):
            raise TypeError(f"{path}: a union of dataclasses needs a table of names")
        for part in parts:
            attempt = _Reader(self.sections_of_keys)
            parsed = attempt.value(part, value, path, metadata, base)
            if not attempt.problems:
                return parsed
        return self.refuse(path, f"expected {_describe(annotation)}; got {_show(value)}")

    def sequence(self, annotation: Any, value: Any, path: str, metadata: Mapping[str, Any]) -> Any:
        if not isinstance(value, (list, tuple)):
            return self.refuse(path, f"expected {_describe(annotation)}; got {_show(value)}")
        parts = typing.get_args(annotation)
        if len(parts) == 2 and parts[1] is Ellipsis:
            parts = (parts[0],) * len(value)
        if len(parts) != len(value):
            return self.refuse(path, f"expected {_describe(annotation)}; got {len(value)} items")
        items = [
            self.value(part, item, f"{path}[{index}]", metadata, None)
            for index, (part, item) in enumerate(zip(parts, value, strict=True))
        ]
        return _REFUSED if any(item is _REFUSED for item in items) else tuple(items)

    def named(self, metadata: Mapping[str, Any], values: Any, path: str, base: Any) -> Any:
        """A section of a table: `name` selects the dataclass, the other keys are its fields."""
        table = metadata["table"]
        given = _mapping(values)
        if given is None:
            return self.refuse(path, f"expected a section such as {{'name': {min(table)!r}}}; got {_show(values)}")
        name = given.pop("name", None)
        if name is None and dataclasses.is_dataclass(base):
            name = _name_in(table, type(base))
        if name is None:
            name = metadata.get("default_name")
        if name is None:
            return self.refuse(f"{path}.name", f"missing; one of {', '.join(sorted(table))}")
        if not isinstance(name, str) or name not in table:
            return self.refuse(f"{path}.name", f"unknown name {name!r}, {nearest(str(name), table)}")
        if any(field.name == "name" for field in _fields(table[name])):
            raise TypeError(f"{path}: {table[name].__name__} has a field 'name', which the table needs for itself")
        return self.section(table[name], given, path, base)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _scalar(kind: type, value: Any) -> tuple[Any, str]:
    """(the value as `kind`, "") or (None, the problem). Nothing is converted but an integer to a float."""
    expected = f"expected {_SCALARS[kind]}; got {_show(value)}"
    truth = isinstance(value, bool)
    if kind is bool and truth or kind is str and isinstance(value, str):
        return value, ""
    if kind in (bool, str) or truth or isinstance(value, str) or not isinstance(value, numbers.Real):
        return None, expected + _unquoted(kind, value)
    if kind is int and isinstance(value, numbers.Integral):
        return int(value), ""
    try:
        number = float(value)
    except OverflowError:
        return None, f"{expected}, which is too large"
    if not math.isfinite(number):
        return None, f"expected a finite number; got {_show(value)}"
    if kind is int:
        return None, expected + (f": write {int(number)}" if number.is_integer() else "")
    return number, ""


def _unquoted(kind: type, value: Any) -> str:
    """Advice where a string holds what was meant, as in `steps = "1000"`."""
    if kind in (int, float) and isinstance(value, str):
        try:
            kind(value)
        except ValueError:
            return ""
        return f": write {value.strip()} without quotes"
    return ""


def _outside(value: Any, metadata: Mapping[str, Any]) -> str:
    """The problem of a value that is outside its field's choices or limits, else an empty string."""
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        hint = nearest(value, choices) if isinstance(value, str) else "known: " + ", ".join(map(str, choices))
        return f"{value!r} is not a choice, {hint}"
    if "min" in metadata and value < metadata["min"]:
        return f"{value!r} is below the least value {metadata['min']}"
    if "max" in metadata and value > metadata["max"]:
        return f"{value!r} is above the largest value {metadata['max']}"
    if "above" in metadata and not value > metadata["above"]:
        return f"{value!r} must be above {metadata['above']}"
    if "below" in metadata and not value < metadata["below"]:
        return f"{value!r} must be below {metadata['below']}"
    return ""


def _show(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if value is None else f"{text} ({type(value).__name__})"
