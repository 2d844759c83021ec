"""Config files: `FILE.py[:ARG]` (code, run as such) or `FILE.json` (data only), and overrides by dotted keys."""

from __future__ import annotations

import difflib
import importlib.machinery
import importlib.util
import inspect
import json
import re
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from pretrainx.core.config import ABSENT
from pretrainx.core.errors import ConfigError
from pretrainx.core.literal import literal


def load(spec: str, overrides: list[tuple[str, str]] = (), complete: bool = True) -> dict[str, Any]:
    """The nested dict of a config file with overrides laid over it; what it means is left to the strict parser.

    Args:
      spec: `FILE.py`, `FILE.py:ARG` (the file has `get_config(arg="")` and gives a ConfigDict), or `FILE.json`.
      overrides: (dotted key, text) pairs such as ("train.steps", "20"); the text is read as a Python literal,
        else as a string. Sections that do not exist are made. References between ConfigDict fields follow.
      complete: whether a required value that is not set is refused; else it is core.config.ABSENT.

    Raises:
      ConfigError: the file is missing or fails, or a key leads through a value that is not a section.
    """
    match = re.fullmatch(r"(.+?\.(?:py|json))(?::(.*))?", spec, flags=re.DOTALL)
    if match is None:
        inside = Path(spec) / "config.json"
        do = (
            f"--config={inside}" if inside.is_file() else "--config=FILE.py, --config=FILE.py:ARG or --config=FILE.json"
        )
        raise ConfigError(
            f"{spec!r} is not a config file", where="--config", why="it ends in neither .py nor .json", do=do
        )
    path, argument = Path(match[1]), match[2] or ""
    if not path.is_file():
        there = [name.name for name in path.parent.glob(f"*{path.suffix}")]
        close = difflib.get_close_matches(path.name, there, n=1)
        why = f"did you mean {str(path.parent / close[0])!r}?" if close else f"{path.parent} has no file of that name"
        raise ConfigError(f"there is no config file {path}", where="--config", why=why, do="name an existing file")
    values = _from_json(path, argument) if path.suffix == ".json" else _from_python(path, argument)
    return _resolved(overridden(values, overrides), "config", complete)


def overridden(values: dict[str, Any], overrides: list[tuple[str, str]]) -> dict[str, Any]:
    """The same dict with (dotted key, text) pairs laid over it, as `load` reads them."""
    for key, text in overrides:
        _put(values, key, literal(text))
    return values


def _from_json(path: Path, argument: str) -> dict[str, Any]:
    if argument:
        raise ConfigError(
            f"{path} takes no argument",
            where="--config",
            why=f"{argument!r} follows a data file",
            do=f"--config={path}",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} is not JSON", where=f"{path}:{error.lineno}", why=error.msg, do="mend it, or name another file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", where=str(path), why=str(error), do="name another file") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds no config",
            where=str(path),
            why=f"an object, not {type(values).__name__}, is needed",
            do="name a run's config.json, or a .py config",
        )
    return values


class _UncachedLoader(importlib.machinery.SourceFileLoader):
    """Compiles each time: byte code is matched by size and second of change, so an edit could go unnoticed."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _from_python(path: Path, argument: str) -> dict[str, Any]:
    name = f"pretrainx_config_file_{path.stem}"
    loader = _UncachedLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module  # dataclasses look their module up
    try:
        loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        do = "mend it: a config file only imports what it needs and defines get_config"
        raise ConfigError(f"{path} failed on import", where=_place(error), why=_message(error), do=do) from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(
            f"{path} has no get_config",
            where=str(path),
            why="a config file defines get_config(arg='') and returns a ConfigDict",
            do="define it, or name another file",
        )
    takes_argument = bool(inspect.signature(get_config).parameters)
    if argument and not takes_argument:
        raise ConfigError(
            f"{path} has no variants",
            where="--config",
            why=f"get_config() takes no {argument!r}",
            do=f"--config={path}",
        )
    try:
        config = get_config(argument) if takes_argument else get_config()
    except ConfigError:
        raise
    except ValueError as error:
        what = f"{path} refuses the argument {argument!r}" if argument else f"get_config of {path} failed"
        raise ConfigError(what, where=_place(error), why=_message(error), do=f"--config={path}[:ARG]") from error
    except Exception as error:
        raise ConfigError(
            f"get_config of {path} failed", where=_place(error), why=_message(error), do="mend it"
        ) from error
    if not isinstance(config, (ConfigDict, Mapping)):
        why = f"get_config returned {type(config).__name__}, not a ConfigDict"
        raise ConfigError(f"{path} gives no config", where=str(path), why=why, do="return the ConfigDict")
    return _unlocked(config)


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"


def _place(error: Exception) -> str:
    """file:line where the exception was raised (or where the syntax is wrong)."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"


def _unlocked(config: Any) -> Any:
    """Nested plain dicts; references between fields are kept, so that an override reaches all that refer to it."""
    if isinstance(config, ConfigDict):
        return {key: _unlocked(value) for key, value in config.items(preserve_field_references=True)}
    if isinstance(config, Mapping):
        return {key: _unlocked(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_unlocked(item) for item in config) if type(config) in (list, tuple) else config
    return config


def _resolved(value: Any, path: str, complete: bool) -> Any:
    if isinstance(value, FieldReference):
        try:
            return _resolved(value.get(), path, complete)
        except RequiredValueError as error:
            if not complete:
                return ABSENT
            raise ConfigError(
                "a required value is not set", where=path, why=str(error), do=f"--{path}=VALUE"
            ) from error
    if isinstance(value, (ConfigDict, Mapping)):
        return {key: _resolved(item, f"{path}.{key}", complete) for key, item in _unlocked(value).items()}
    if type(value) in (list, tuple):
        return type(value)(_resolved(item, f"{path}[{index}]", complete) for index, item in enumerate(value))
    return value


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    if not all((*sections, last)):
        raise ConfigError(
            f"--config.{key} names no key",
            where=f"--config.{key}",
            why="a part of the key is empty",
            do="--config.a.b=value",
        )
    node, path = values, "config"
    for section in sections:
        path += f".{section}"
        if node.get(section) is None:
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            raise ConfigError(
                f"--config.{key} leads through a value",
                where=path,
                why=f"{path} is {node!r}, not a section",
                do=f"override the whole of it with --{path}=VALUE",
            )
    if isinstance(node.get(last), FieldReference):
        node[last].set(value, type_safe=False)
    else:
        node[last] = value
