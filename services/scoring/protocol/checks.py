"""The protocol's errors, and JSON that is checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Self

from maskfer.errors import InputError


class ProtocolError(InputError):
    """A message that the live protocol does not allow."""


class UnsupportedProtocol(ProtocolError):
    """The other side speaks another version of the protocol."""


class Fields:
    """A JSON object of somebody else's; `where` names it in errors. What is read from it is checked."""

    def __init__(self, values: Any, *, where: str) -> None:
        if not isinstance(values, dict):
            raise ProtocolError(f"{where}: is {show(values)}, expected a JSON object")
        self._values: dict[str, Any] = values
        self._where = where

    @classmethod
    def parse(cls, message: str, *, where: str) -> Self:
        """Read a text message."""
        try:
            values = json.loads(message)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{where}: is not JSON") from error
        return cls(values, where=where)

    def only(self, known: Iterable[str]) -> None:
        """Raise where there is a key besides `known`."""
        expected = list(known)
        unknown = sorted(set(self._values) - set(expected))
        if unknown:
            raise ProtocolError(f"{self._where}: unknown key {show(unknown[0])}, expected of {expected}")

    def value(self, name: str) -> Any:
        """Return what stands there; None for nothing."""
        return self._values.get(name)

    def inner(self, name: str) -> Fields:
        """Return an object inside this one."""
        return Fields(self.value(name), where=f"{self._where}: {name}")

    def objects(self, name: str) -> list[Fields]:
        """Return a list of objects."""
        items = self.value(name)
        if not isinstance(items, list):
            raise self._wrong(name, "a list")
        return [Fields(item, where=f"{self._where}: {name}") for item in items]

    def text(self, name: str) -> str:
        """Return a text."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """Return a list of one or more texts."""
        value = self.value(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of names")
        return tuple(value)

    def flag(self, name: str) -> bool | None:
        """Return true or false; None where it is left out."""
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def integer(self, name: str, *, low: int, high: int) -> int:
        """Return a whole number in [low, high]."""
        value = self.value(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(name, f"a whole number in [{low}, {high}]")
        return value

    def number(self, name: str, *, low: float, high: float) -> float:
        """Return a number in [low, high]; NaN is none."""
        value = self.value(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(name, f"a number in [{low}, {high}]")
        return float(value)

    def shares(self, name: str) -> dict[str, float]:
        """Return an object of numbers in [0, 1] that add up to 1."""
        inner = self.inner(name)
        # A float32 share that stands alone may pass 1 by a rounding error.
        shares = {key: min(1.0, inner.number(key, low=0.0, high=1.0 + 1e-5)) for key in inner._values}
        if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-3):
            raise self._wrong(name, "shares that add up to 1")
        return shares

    def _wrong(self, name: str, expected: str) -> ProtocolError:
        # A key may be the sender's own, and hold anything.
        key = name if name.isidentifier() and len(name) <= 40 else show(name)
        return ProtocolError(f"{self._where}: {key} is {show(self.value(name))}, expected {expected}")


def dump(fields: dict[str, Any]) -> str:
    """Return a text message."""
    return json.dumps(fields, separators=(",", ":"), allow_nan=False)


def show(value: Any) -> str:
    """Return a value of somebody else's for a message: short and on one line."""
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
