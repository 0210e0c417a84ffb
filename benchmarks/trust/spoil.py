"""Bytes and plain values, spoilt at random as an attacker or a bad disk would."""

import json
import random
import struct
from typing import Any


def spoilt(content: bytes, dice: random.Random) -> bytes:
    """Bytes with some of them turned, cut, doubled or swapped for extreme ones."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) or 1)
        how = dice.randrange(5)
        if how == 0:
            data[at : at + 1] = bytes([dice.randrange(256)])
        elif how == 1:
            del data[at : at + dice.randrange(1, 200)]
        elif how == 2:
            data[at:at] = data[dice.randrange(len(data) or 1) :][: dice.randrange(1, 200)]
        elif how == 3:
            data[at : at + 8] = dice.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, struct.pack("<q", 1 << dice.randrange(63))))
        else:
            data[at:at] = dice.choice((b"\0", b"\n" * 50, b"9" * 400, b"-1", b"NaN", b"../../", b"\xed\xa0\x80", b"[" * 5000, b"1e999"))
    return bytes(data)


WILD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 63,
    10**40,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 100_000,
    "../../etc/passwd",
    "/etc/passwd",
    "\0",
    "\ud800",
    [],
    [[]],
    {},
    [1],
    {"a": {}},
    "手話",
    [None] * 1000,
    "\u202e",
    "%s%n",
    "{0.__class__}",
)


def wild(value: Any, dice: random.Random) -> Any:
    """A plain value with one of its places filled by something that nobody expects there."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(sorted(value))
        if dice.random() < 0.15:
            return {name: one for name, one in value.items() if name != key}
        return value | {key: wild(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        return [*value[:at], wild(value[at], dice), *value[at + 1 :]]
    return dice.choice(WILD)


def as_json(value: Any, dice: random.Random) -> bytes:
    """A plain value, one of its places filled with something wild, as JSON; sometimes its bytes are spoilt too."""
    whole = json.dumps(wild(value, dice)).encode("utf-8", "surrogatepass")
    return spoilt(whole, dice) if dice.random() < 0.3 else whole
