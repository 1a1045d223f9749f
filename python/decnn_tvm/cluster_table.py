# SPDX-License-Identifier: Apache-2.0
"""Reading one table of a cluster file: typed values, and one clear error for anything else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar, overload

from decnn_tvm.errors import InputError
from decnn_tvm.quantities import parse_rate, parse_size, parse_time
from decnn_tvm.runtime.credentials import COORDINATOR

T = TypeVar("T")
D = TypeVar("D")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_REQUIRED: Any = object()


class Table:
    """A table of a file, whose keys are taken one by one.

    Parameters
    ----------
    where : str
        What messages call it.
    values : dict
        The keys that nobody has taken yet.
    """

    def __init__(self, where: str, values: dict[str, Any]) -> None:
        self._where, self._values = where, dict(values)
        self._known: list[str] = []

    def wrong(self, what: str, remedy: str) -> InputError:
        """Return the error that says what is wrong in this table."""
        return InputError(f"{self._where}: {what}; {remedy}.")

    def end(self) -> None:
        """Refuse keys that nobody took."""
        if self._values:
            known = ", ".join(self._known)
            raise self.wrong(f"unknown key {sorted(self._values)[0]!r}", f"expected only {known}")

    def table(self, key: str) -> Table:
        """Take a table, empty where there is none."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            raise self.wrong(f"{key} = {value!r}", f"expected a table [{key}]")
        return Table(f"{self._where}: [{key}]", value)

    def tables(self, key: str, label: str) -> list[Table]:
        """Take all tables ``[[key]]``; messages show the value of `label`."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.wrong(f"{key} = {value!r}", f"expected tables under [[{key}]]")
        return [
            Table(f"{self._where}: [[{key}]] {place} ({label} = {entry.get(label)!r})", entry)
            for place, entry in enumerate(value, 1)
        ]

    @overload
    def text(self, key: str) -> str: ...
    @overload
    def text(self, key: str, default: D) -> str | D: ...
    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        """Take a text that is not empty."""
        value = self._take(key, default)
        if value is not default and (not isinstance(value, str) or not value):
            raise self.wrong(f"{key} = {value!r}", "expected a text in quotes")
        return value

    def name(self, key: str) -> str:
        """Take a name that fits a folder, and is not the coordinator's."""
        value = self.text(key)
        if not _NAME.fullmatch(value) or value == COORDINATOR:
            raise self.wrong(
                f"{key} = {value!r}",
                f"expected letters, digits, '-', '_' and '.', and not {COORDINATOR!r}",
            )
        return value

    @overload
    def address(self, key: str) -> str: ...
    @overload
    def address(self, key: str, default: D) -> str | D: ...
    def address(self, key: str, default: Any = _REQUIRED) -> Any:
        """Take ``host:port``."""
        value = self.text(key, default)
        host, _, port = str(value).rpartition(":")
        known = host and port.isdecimal() and len(port) < 6 and 0 < int(port) < 1 << 16
        if value is not default and not known:
            raise self.wrong(f"{key} = {value!r}", "expected host:port, such as 192.168.1.11:9100")
        return value

    def text_or_table(self, key: str, default: str) -> str | Mapping[str, Any]:
        """Take a text, or a table as it is."""
        if isinstance(self._values.get(key), dict):
            return dict(self._take(key, {}))
        return self.text(key, default)

    def pair(self, key: str, names: Set[str]) -> tuple[str, str] | None:
        """Take two different ones of `names`, None where the key is absent."""
        value = self._take(key, None)
        if value is None:
            return None
        known = isinstance(value, list) and all(isinstance(name, str) for name in value)
        if not known or len(value) != 2 or len(set(value)) != 2 or not set(value) <= names:
            raise self.wrong(
                f"{key} = {value!r}", f"expected two different ones of {', '.join(sorted(names))}"
            )
        return value[0], value[1]

    def size(self, key: str, default: D) -> int | D:
        """Take bytes, written as `parse_size` reads them."""
        return self._quantity(key, parse_size, default)

    def rate(self, key: str, default: D = _REQUIRED) -> float | D:
        """Take bits per second, written as `parse_rate` reads them."""
        return self._quantity(key, parse_rate, default)

    def time(self, key: str) -> float:
        """Take seconds, written as `parse_time` reads them."""
        return self._quantity(key, parse_time, _REQUIRED)

    def _quantity(self, key: str, parse: Callable[[str], T], default: D) -> T | D:
        value = self.text(key, default)
        if value is default:
            return default
        try:
            return parse(str(value))
        except ValueError as error:
            raise self.wrong(f"{key} = {error}", "in quotes") from error

    def _take(self, key: str, default: Any) -> Any:
        self._known.append(key)
        if key not in self._values and default is _REQUIRED:
            raise self.wrong(f"no {key}", f"add {key} = …")
        return self._values.pop(key, default)
