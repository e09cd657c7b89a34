"""Numbers that people write: ``26M`` parameters, ``4.2G`` MACs, ``12 MB``; the way back of `units`."""

from __future__ import annotations

import re
from decimal import Decimal

from archcost.errors import InputError

__all__ = ["quantity"]

_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_TEXT = re.compile(
    r"(?P<number>[0-9][0-9_,]*(?:\.[0-9]*)?|\.[0-9]+)(?P<exponent>[eE][+-]?[0-9]+)?"
    r"\s*(?P<prefix>[kKMGTPE]?)(?P<binary>i?)"
)
_EXAMPLES = {"MACs": "4.2G", "FLOPs": "8.4G", "bytes": "12 MB"}
_WORDS = {
    "parameters": ("params", "parameters"),
    "MACs": ("MAC", "MACs"),
    "FLOPs": ("FLOP", "FLOPs"),
    "bytes": ("B", "byte", "bytes"),
}


def quantity(value: object, unit: str = "", *, what: str = "the number") -> int | float:
    """The number that a text stands for, as an int where it is whole.

    Args:
        value: a number, or a text: digits with ``_`` or ``,`` between them, a decimal point, an exponent, an
            SI prefix (``k``, ``M``, ``G``, ``T``; 1 MB is 10^6 bytes, 1 MiB 2^20) and the unit.
        unit: ``parameters``, ``MACs``, ``FLOPs`` or ``bytes``; by default a number without a unit.
        what: the name of the number in the message.

    Raises:
        InputError: the text cannot be read, or the number is negative, infinite or NaN.
    """
    exact = _exact(value, unit)
    if exact is None or not exact.is_finite() or exact < 0:
        raise InputError(f"{what}: cannot read {value!r}; write {_EXAMPLES.get(unit, '26M')!r} or a number")
    return int(exact) if exact == exact.to_integral_value() else float(exact)


def _exact(value: object, unit: str) -> Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return Decimal(str(value))
    text = value.strip() if isinstance(value, str) else ""
    for word in ("", *_WORDS.get(unit, ())):
        found = _TEXT.fullmatch(text.removesuffix(word).rstrip())
        if found and (not found["binary"] or (unit == "bytes" and found["prefix"])):
            number = Decimal(re.sub("[_,]", "", found["number"]) + (found["exponent"] or ""))
            return number * Decimal(1024 if found["binary"] else 1000) ** _POWERS[found["prefix"]]
    return None
