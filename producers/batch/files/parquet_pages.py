"""What a reader of Parquet must hold: the pages of column chunks, by their own headers. Pure, but for reading them.

The footer says how large columns are, and whoever writes a bomb writes the footer too. A reader makes room for what the
header of each page says, which is a struct of Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from typing import Any, BinaryIO, Final, NamedTuple

_HEADER_BYTES: Final = 16 * 2**10
"""Of one page. Those with more hold long texts as their least and largest values."""
_MOST_HEADER_BYTES: Final = 2**20
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_DELTA_BYTE_ARRAY: Final = 7
"""An encoding in which each text may repeat all of the one before."""
_TYPE, _PLAIN_BYTES, _PACKED_BYTES, _OF_DATA, _OF_DATA_V2 = 1, 2, 3, 5, 8
_VALUES: Final = 1
_ENCODING: Final = {_OF_DATA: 2, _OF_DATA_V2: 4}
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12
_MOST_LEVELS: Final = 8


class Held(NamedTuple):
    """What a reader holds of one column chunk at a time, in bytes."""

    page: int
    """Its largest page of data, unpacked."""
    dictionary: int
    repeating: int
    """Its largest page, unpacked, of which each text may be as long as all of the page."""
    pages: int
    """How many there are."""


class Strange(ValueError):
    """Something stands in the place of a page's header."""


def held_of(source: BinaryIO, begin: int, size: int, values: int, most_pages: int) -> Held:
    """Of a column chunk that begins at this byte, has so many bytes in the file, and so many values.

    It counts pages up to `most_pages` and one more. Raises: Strange; OSError.
    """
    page = dictionary = repeating = pages = seen = 0
    at, end = begin, begin + size
    while at < end and seen < values and pages <= most_pages:
        header, length = _header(source, at, end)
        kind, plain, packed = (_number(header, name) for name in (_TYPE, _PLAIN_BYTES, _PACKED_BYTES))
        pages += 1
        at += length + packed
        if kind == _DICTIONARY:
            dictionary = max(dictionary, plain)
        else:
            page = max(page, plain)
        if kind in (_DATA, _DATA_V2):
            name = _OF_DATA if kind == _DATA else _OF_DATA_V2
            own = header.get(name)
            if not isinstance(own, dict):
                raise Strange
            seen += _number(own, _VALUES)
            if _number(own, _ENCODING[name]) == _DELTA_BYTE_ARRAY:
                repeating = max(repeating, plain)
    return Held(page, dictionary, repeating, pages)


def _number(struct: dict[int, Any], name: int) -> int:
    found = struct.get(name)
    if not isinstance(found, int) or found < 0:
        raise Strange
    return found


def _header(source: BinaryIO, at: int, end: int) -> tuple[dict[int, Any], int]:
    """(the header as fields by number, its bytes)"""
    size = _HEADER_BYTES
    while True:
        source.seek(at)
        data = source.read(min(size, end - at))
        try:
            return _struct(data, 0, 0)
        except IndexError:
            if len(data) < size or size >= _MOST_HEADER_BYTES:
                raise Strange from None
            size = _MOST_HEADER_BYTES


def _struct(data: bytes, at: int, level: int) -> tuple[dict[int, Any], int]:
    """(the fields of a struct by number, where what follows it begins). Raises: IndexError where it is cut; Strange."""
    if level > _MOST_LEVELS:
        raise Strange
    found: dict[int, Any] = {}
    number = 0
    while (begin := data[at]) & 0x0F:
        at += 1
        if begin >> 4:
            number += begin >> 4
        else:
            number, at = _integer(data, at)
        found[number], at = _value(data, at, begin & 0x0F, level)
    return found, at + 1


def _value(data: bytes, at: int, kind: int, level: int) -> tuple[Any, int]:
    if kind in _BOOLEANS:
        return kind == 1, at
    if kind == _BYTE:
        return data[at], at + 1
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind == _STRUCT:
        return _struct(data, at, level + 1)
    if kind in _LISTS:
        return None, _after_list(data, at, level)
    if kind == _DOUBLE:
        at += 8
    elif kind == _BINARY:
        size, at = _varint(data, at)
        at += size
    else:
        raise Strange
    if at > len(data):
        raise IndexError
    return None, at


def _after_list(data: bytes, at: int, level: int) -> int:
    count, kind = data[at] >> 4, data[at] & 0x0F
    at += 1
    if count == 15:
        count, at = _varint(data, at)
    for _ in range(count):
        # Of booleans in lists, each takes a byte.
        at = at + 1 if kind in _BOOLEANS else _value(data, at, kind, level + 1)[1]
        if at > len(data):
            raise IndexError
    return at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(10):
        byte = data[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise Strange
