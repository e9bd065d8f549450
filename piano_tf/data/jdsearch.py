"""Search lists of JDsearch: real product searches at an online shop, with candidates and labels.

Source: J. Liu, Z. Dou, G. Tang, S. Xu, JDsearch, SIGIR 2023 (arXiv 2305.14810),
https://github.com/rucliujn/JDsearch; CC BY-NC-SA 4.0. `user_behavior_data.txt` and
`product_meta_data.txt` are read as published: a header, then tab-separated columns, `_` between
the entries of a list and 0x18 between the terms of a text. Every word, product and category is a
number. Each line is the last search of another user, with all that the user did before.

What the data says:

* query, history_query: the terms, with spaces between; "" for what was done without a query (-1).
* history: the published entries, newest first; they are published oldest first.
* item_brand, item_category_1 to _4, item_shop: the published ids, "" where unknown (-1) or where
  the product has no metadata, as its publisher says happens. history_item_*: the same.

What is our own design:

* list_id and user_id: the number of the line below the header, from 0. There are no ids of users,
  and no user has two lists.
* click: label 1 (click), 2 (cart) or 3 (purchase); conversion: label 3, for only a purchase is what
  the shop lives on, and a cart is on the way there. In the history ORD (purchase) is a
  `conversion`; CLICK, CART and FLW (follow) are clicks.
* history_age: from the intervals between an entry and the next, the last of them up to the search,
  in seconds. The publisher names no unit; in seconds the longest published histories are just
  under a year, in milliseconds they would be hours and in minutes decades.
* Order: the published candidates begin with those that have a label, so their order is not that
  of the shop, and to keep it would give the labels away. Candidates are ordered by BM25 of the
  query against the terms of the products' names, equal scores by product number; initial_score is
  that score. The collection is the list itself: what tells its candidates apart weighs most.
* timestamp: none is published. It is the CRC-32 of the line, so that lists come in an order that
  says nothing, and a split by share is one of users drawn at random, whatever the file's order.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import reprlib
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from piano_tf.data.bm25 import BM25
from piano_tf.data.source import Source
from piano_tf.errors import LogError
from piano_tf.features import CLICK, CONVERSION, FeatureSpec, FeatureType

# Feature -> its column in the metadata.
_FEATURES = {
    "brand": "brand_id",
    "category_1": "cate_id_1",
    "category_2": "cate_id_2",
    "category_3": "cate_id_3",
    "category_4": "cate_id_4",
    "shop": "shop_id",
}
_STRINGS: tuple[tuple[str, FeatureType], ...] = tuple((name, "string") for name in _FEATURES)

SPEC = FeatureSpec(dataset="jdsearch", initial_score=True, item=_STRINGS, history_item=_STRINGS)

_BEHAVIOUR = "user_behavior_data.txt"
_BEHAVIOUR_HEADER = (
    "query",
    "candidate_wid_list",
    "candidate_label_list",
    "history_qry_list",
    "history_wid_list",
    "history_type_list",
    "history_time_list",
)
_PRODUCTS = "product_meta_data.txt"
_PRODUCTS_HEADER = (
    "wid",
    "name",
    "brand_id",
    "brand_name",
    *(f"cate_{part}_{level}" for level in (1, 2, 3, 4) for part in ("id", "name")),
    "shop_id",
)
_TERM_SEPARATOR = "\x18"
_ENTRY_SEPARATOR = "_"
_UNKNOWN = "-1"
_PURCHASE = 3
_LABELS = {"0.0": 0, "1.0": 1, "2.0": 2, "3.0": _PURCHASE}
_ACTIONS = {"CLICK": CLICK, "CART": CLICK, "FLW": CLICK, "ORD": CONVERSION}
_NUMBER = re.compile(r"[0-9]+")
_TERMS = re.compile(rf"[0-9]+(?:{_TERM_SEPARATOR}[0-9]+)*")
_PAST_TERMS = re.compile(rf"{_UNKNOWN}|{_TERMS.pattern}")
_LABEL = re.compile("|".join(map(re.escape, _LABELS)))
_ACTION = re.compile("|".join(_ACTIONS))
_EXPECTED = {
    _NUMBER: "a number in digits",
    _TERMS: "numbers with 0x18 between",
    _PAST_TERMS: "-1 or numbers with 0x18 between",
    _LABEL: f"one of {', '.join(_LABELS)}",
    _ACTION: f"one of {', '.join(_ACTIONS)}",
}
_SECONDS_PER_DAY = 86_400
_LISTS_PER_BATCH = 500


def read(input_dir: Path) -> Source:
    """Reads the published files line by line.

    The metadata goes into a SQLite file in the folder for temporary files while lists are read,
    about as large as the metadata itself; memory holds one batch, however long the files are.

    Args:
      input_dir: Folder that holds `user_behavior_data.txt` and `product_meta_data.txt`.

    Returns:
      Lists of schema `SPEC.arrow_schema`, at most 500 a batch in the order of the file; their
      number is not known beforehand.

    Raises:
      LogError: A file or its header is missing; once read, a line does not hold what the publisher
        describes.
      PianoError: bm25s is not installed.
    """
    behaviour, products = Path(input_dir) / _BEHAVIOUR, Path(input_dir) / _PRODUCTS
    next(_lines(behaviour, _BEHAVIOUR_HEADER), None)
    next(_lines(products, _PRODUCTS_HEADER), None)
    return Source(spec=SPEC, batches=_batches(behaviour, products))


def _batches(behaviour: Path, products: Path) -> Iterator[pa.RecordBatch]:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "products.sqlite"
        with contextlib.closing(_Products(file, products)) as known:
            lists = (
                _list(_Line(row, fields, behaviour), zlib.crc32(line), known)
                for row, line, fields in _lines(behaviour, _BEHAVIOUR_HEADER)
            )
            while part := list(itertools.islice(lists, _LISTS_PER_BATCH)):
                yield pa.RecordBatch.from_pylist(part, schema=SPEC.arrow_schema)


class _Products:
    """The products' names and features, in a SQLite file rather than in memory.

    Args:
      file: The SQLite file to make; the owner of the folder removes it.
      source: The published metadata.
    """

    def __init__(self, file: Path, source: Path) -> None:
        self._db = sqlite3.connect(file)
        # Scratch data: a crash loses the file together with the unfinished log it is for.
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        columns = ("name", *_FEATURES)
        self._db.execute(f"CREATE TABLE products (wid TEXT PRIMARY KEY, {', '.join(columns)})")
        insert = f"INSERT INTO products VALUES ({', '.join('?' * (1 + len(columns)))})"
        for row, _, fields in _lines(source, _PRODUCTS_HEADER):
            line = _Line(row, fields, source)
            features = (line.text(column) for column in _FEATURES.values())
            known = ("" if value == _UNKNOWN else value for value in features)
            wid = line.text("wid", _NUMBER)
            try:
                self._db.execute(insert, (wid, line.text("name"), *known))
            except sqlite3.IntegrityError as error:
                raise line.fault(
                    f"got {wid} once more, expected each product once", "wid"
                ) from error

    def close(self) -> None:
        self._db.close()

    def find(self, wids: Sequence[str]) -> list[tuple[str, ...]]:
        """Name and features of each product, in the order asked for; "" where there are none."""
        rows = self._db.execute(
            "SELECT * FROM products WHERE wid IN (SELECT value FROM json_each(?))",
            (json.dumps(wids),),
        )
        found = {wid: values for wid, *values in rows}
        missing = ("",) * (1 + len(_FEATURES))
        return [tuple(found.get(wid, missing)) for wid in wids]


class _Line:
    """The columns of one line, each checked as it is read.

    Args:
      row: Number of the line below the header.
      fields: Column -> text.
      path: The file.
    """

    def __init__(self, row: int, fields: Mapping[str, str], path: Path) -> None:
        self.row = row
        self._fields = fields
        self._path = path

    def fault(self, message: str, column: str) -> LogError:
        return LogError(message, column=column, row=self.row, source=str(self._path))

    def text(self, column: str, pattern: re.Pattern[str] | None = None) -> str:
        """The text of a column."""
        value = self._fields[column]
        if pattern is not None and not pattern.fullmatch(value):
            raise self.fault(f"got {reprlib.repr(value)}, expected {_EXPECTED[pattern]}", column)
        return value

    def entries(self, column: str, pattern: re.Pattern[str], number: int | None) -> list[str]:
        """The entries of a list, as many as `number` where that is given."""
        text = self._fields[column]
        entries = text.split(_ENTRY_SEPARATOR) if text else []
        for place, value in enumerate(entries):
            if not pattern.fullmatch(value):
                raise self.fault(
                    f"got {reprlib.repr(value)} at position {place}, expected {_EXPECTED[pattern]}",
                    column,
                )
        if number is not None and len(entries) != number:
            raise self.fault(f"got {len(entries)} entries, expected {number}", column)
        return entries


def _list(line: _Line, timestamp: int, products: _Products) -> dict[str, Any]:
    """One shown list, in the contract's columns."""
    query = _terms(line.text("query", _TERMS))
    candidates = line.entries("candidate_wid_list", _NUMBER, None)
    labels = line.entries("candidate_label_list", _LABEL, len(candidates))
    if not candidates:
        raise line.fault("got no candidate, expected at least one", "candidate_wid_list")
    past = line.entries("history_wid_list", _NUMBER, None)
    past_queries = line.entries("history_qry_list", _PAST_TERMS, len(past))
    past_types = line.entries("history_type_list", _ACTION, len(past))
    intervals = line.entries("history_time_list", _NUMBER, len(past) + 1)
    times = np.cumsum([int(seconds) for seconds in intervals])  # Of the entries, then the search's.

    known = products.find(candidates)
    scores = BM25([_terms(name) for name, *_ in known]).scores(query)
    order = sorted(range(len(candidates)), key=lambda i: (-scores[i], int(candidates[i])))
    label = [_LABELS[labels[i]] for i in order]
    past.reverse()
    return {
        "list_id": str(line.row),
        "user_id": str(line.row),
        "query": " ".join(query),
        "timestamp": timestamp,
        "item_id": [candidates[i] for i in order],
        "initial_score": [float(scores[i]) for i in order],
        **_features("item", [known[i] for i in order]),
        "history_query": [
            "" if terms == _UNKNOWN else " ".join(_terms(terms)) for terms in reversed(past_queries)
        ],
        "history_item_id": past,
        "history_action": [_ACTIONS[kind] for kind in reversed(past_types)],
        "history_age": ((times[-1] - times[-2::-1]) / _SECONDS_PER_DAY).tolist(),
        **_features("history_item", products.find(past)),
        CLICK: [int(value > 0) for value in label],
        CONVERSION: [int(value == _PURCHASE) for value in label],
    }


def _terms(text: str) -> list[str]:
    return text.split(_TERM_SEPARATOR) if text else []


def _features(prefix: str, known: Iterable[tuple[str, ...]]) -> dict[str, list[str]]:
    """The features of some products, under the names of their columns."""
    rows = [values[1:] for values in known]
    return {f"{prefix}_{name}": [row[i] for row in rows] for i, name in enumerate(_FEATURES)}


def _lines(path: Path, header: tuple[str, ...]) -> Iterator[tuple[int, bytes, dict[str, str]]]:
    """Number, bytes and columns of every line below the header line."""
    try:
        lines = path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LogError(
            "no such file; expected it as published in JDsearch", source=str(path)
        ) from error
    with lines:
        first = next(lines, b"").removesuffix(b"\n")
        if first != "\t".join(header).encode():
            raise LogError(
                f"got the header {reprlib.repr(first)}, expected {' '.join(header)} with tabs "
                "between",
                source=str(path),
            )
        for row, line in enumerate(lines):
            line = line.removesuffix(b"\n")
            try:
                values = line.decode().split("\t")
            except UnicodeDecodeError as error:
                raise LogError(f"is not UTF-8 ({error})", row=row, source=str(path)) from error
            if len(values) != len(header):
                raise LogError(
                    f"got {len(values)} tab-separated fields, expected {len(header)}",
                    row=row,
                    source=str(path),
                )
            yield row, line, dict(zip(header, values, strict=True))
