"""What is done to good input: damage to bytes, and odd values in trees of plain data."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

NUMBERS = (
    *range(5),
    *(2**n - 1 for n in (7, 8, 16, 31, 32)),
    *(2**n for n in (7, 8, 12, 15, 24, 31)),
    44_100,
)
"""Values at which sizes, rates and counts go wrong."""

NAMES = (
    *("", " ", ".", "..", "../", "../../../up", "/", "\\", "a/b", "~", "-", "-rf", "--out", ".wav"),
    *(";touch x", "$(touch x)", "`touch x`", "|", "&", "*", "?", "[a]", "%s", "<b>", "'", '"', "CON"),
    *("\0", "\n", "\r\n", "\t", "\x1b[31m", "\u202e", "\u200b", "é", "e\u0301", "😀", "\ud800", "\udcff"),
    *("a" * 300, "ü" * 200, "song", "Song", "file:", "http://192.0.2.1/", "concat:a|b", "pipe:0"),
    *("{", "}", "{}", "{0}", "{stem}", "{track}", "{ext}", "{title}", "{artist}", "{album}", "{weights}"),
    *("{track!r}", "{stem:>99999999}", "{stem.__class__}", "{track[0]}", "{x}"),
)  # fmt: skip
"""Pieces of names of files, of tags and of templates."""

_TAG = re.compile(rb"[A-Za-z][A-Za-z0-9 ]{3}")


def name(rng: random.Random, pieces: int = 4) -> str:
    """A name that a friendly person would not choose."""
    return "".join(rng.choices(NAMES, k=rng.randint(1, pieces)))


def damaged(rng: random.Random, data: bytes, other: bytes = b"") -> tuple[bytes, str]:
    """Bytes after one to four kinds of damage, and what these were.

    Args:
        other: a file of another kind, parts of which are put in.
    """
    names = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.choice(_DAMAGE)
        data = kind(rng, data, other)
        names.append(kind.__name__.strip("_"))
    return data, "+".join(names)


def _place(rng: random.Random, data: bytes) -> int:
    """A position: anywhere, in the header, or behind the name of a chunk, a box or a page."""
    how = rng.random()
    if how < 0.5:
        tags = [match.end() for match in _TAG.finditer(data)]
        if tags:
            return rng.choice(tags) + rng.choice((-8, 0, 0, 0, 4, 8, 12))
    return rng.randrange(min(len(data), 256 if how < 0.8 else len(data)) or 1)


def _slice(rng: random.Random, data: bytes) -> slice:
    start = max(_place(rng, data), 0)
    return slice(start, start + rng.choice((1, 2, 4, 16, 100, 1000, 10_000)))


def _truncate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: max(_place(rng, data), 0)]


def _flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    found = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 8, 100))):
        found[_place(rng, data) % len(found)] ^= 1 << rng.randrange(8)
    return bytes(found)


def _header(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A number of the header, or of a chunk's, is another one."""
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    start = max(_place(rng, data), 0)
    number = (rng.choice(NUMBERS) * rng.choice((1, 1, -1))) % 256**size
    return data[:start] + number.to_bytes(size, order) + data[start + size :]


def _cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    part = _slice(rng, data)
    return data[: part.start] + data[part.stop :]


def _repeat(rng: random.Random, data: bytes, other: bytes) -> bytes:
    part = _slice(rng, data)
    return data[: part.stop] + data[part] * rng.choice((1, 2, 50)) + data[part.stop :]


def _fill(rng: random.Random, data: bytes, other: bytes) -> bytes:
    part = _slice(rng, data)
    length = len(data[part])
    filling = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return data[: part.start] + filling + data[part.stop :]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: max(_place(rng, data), 0)] + other[max(_place(rng, other), 0) :]


def _join(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return rng.choice(
        (other + data, data + other, data + data, rng.randbytes(50) + data, data + rng.randbytes(50))
    )


_DAMAGE: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    *(_truncate, _flip, _flip, _header, _header, _header, _cut, _repeat, _fill, _splice, _join),
)


def odd(rng: random.Random) -> Any:
    """A value of plain data that is seldom right."""
    return rng.choice(
        (
            *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, -(2**70), 10**400, 0.5, -0.0, 1e308, 1e-320),
            *(float("inf"), float("-inf"), float("nan"), [], {}, [[]], {"": {}}, [None] * 1000, "x" * 10_000),
            *(name(rng), name(rng), name(rng), nested(rng.choice((2, 50)))),
        )
    )  # fmt: skip


def nested(depth: int) -> Any:
    found: Any = 0
    for level in range(depth):
        found = [found] if level % 2 else {"a": found}
    return found


def twisted(rng: random.Random, tree: Any, leaf: Callable[[random.Random], Any] = odd) -> Any:
    """A copy of a tree with one to three places that are odd, missing or too many."""
    found = [_copy(tree)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(found))
        parent, key = rng.choice(places)
        how = rng.random()
        if how < 0.6:
            parent[key] = leaf(rng)
        elif how < 0.75 and parent is not found:
            del parent[key]
        elif how < 0.9:
            other, there = rng.choice(places)
            parent[key] = _copy(other[there])
        elif isinstance(parent, dict):
            parent[name(rng)] = leaf(rng)
        else:
            parent.insert(key, leaf(rng))
    return found[0]


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return type(tree)((key, _copy(value)) for key, value in tree.items())
    return [_copy(value) for value in tree] if type(tree) is list else tree


def _places(tree: Any) -> Any:
    """All places in a tree, as what holds them and their key or number there."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict) or type(value) is list:
            yield from _places(value)


def text(rng: random.Random, tree: Any, write: Callable[[Any], str] = json.dumps) -> tuple[bytes, str]:
    """A tree as text that is odd in its values, in its bytes, or in both."""
    how = rng.random()
    if how < 0.06:
        depth = rng.choice((500, 970, 5000, 200_000))
        opened, closed = rng.choice((("[", "]"), ('{"a":', "}"), ("- ", ""), ("{a: ", "}")))
        return (opened * depth + "1" + closed * depth).encode(), f"nested {depth} deep"
    content = (write(twisted(rng, tree)) if how < 0.8 else write(tree)).encode("utf-8", "surrogatepass")
    if how < 0.6:
        return content, "odd values"
    if how < 0.7:
        coding = rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32"))
        return content.decode(errors="replace").encode(coding, "replace"), coding
    content, damage = damaged(rng, content, b'{"a": [1, "\\ud800", 1e999, NaN, -Infinity]}')
    return content, damage
