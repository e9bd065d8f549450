"""The adapter against files made by hand, BM25's formula and the published sample."""

from __future__ import annotations

import functools
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bm25_reference import bm25

from piano_tf import cli
from piano_tf.data import jdsearch
from piano_tf.data.logs import check_log, write_log
from piano_tf.data.splits import ByShare
from piano_tf.data.validation import checked
from piano_tf.errors import LogError

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "jdsearch"
BEHAVIOUR, PRODUCTS = "user_behavior_data.txt", "product_meta_data.txt"
BEHAVIOUR_HEADER = (
    "query candidate_wid_list candidate_label_list "
    "history_qry_list history_wid_list history_type_list history_time_list"
)
PRODUCTS_HEADER = (
    "wid name brand_id brand_name cate_id_1 cate_name_1 cate_id_2 cate_name_2 "
    "cate_id_3 cate_name_3 cate_id_4 cate_name_4 shop_id"
)
DAY = 86_400
FEATURES = ("brand", "category_1", "category_2", "category_3", "category_4", "shop")

# Columns of a line are written here with |, terms with +.
PLAIN = "1|11_12|1.0_0.0|-1|13|CLICK|0_60"
NAMES = {"11": "1+2+3", "12": "1+1+5+6", "13": "2+2", "14": "9", "9": "9"}


def product(wid: str, shop: str = "70") -> str:
    """A product whose brand is 1wid, and its categories 2wid to 5wid."""
    levels = "|".join(f"{level + 1}{wid}|8+9" for level in (1, 2, 3, 4))
    return f"{wid}|{NAMES[wid]}|1{wid}||{levels}|{shop}"


ALL = [product(wid) for wid in NAMES]


def write(folder: Path, behaviour: Sequence[str], products: Sequence[str] = ALL) -> Path:
    folder.mkdir(exist_ok=True)
    for name, header, rows in (
        (BEHAVIOUR, BEHAVIOUR_HEADER, behaviour),
        (PRODUCTS, PRODUCTS_HEADER, products),
    ):
        lines = [header.replace(" ", "\t"), *(encoded(row) for row in rows)]
        (folder / name).write_text("".join(line + "\n" for line in lines), newline="")
    return folder


def encoded(row: str) -> str:
    return row.replace("|", "\t").replace("+", "\x18")


def lists(folder: Path) -> list[dict[str, Any]]:
    source = jdsearch.read(folder)
    return [row for batch in checked(source.batches, source.spec) for row in batch.to_pylist()]


def features(group: str, *wids: str) -> dict[str, list[str]]:
    """Columns of `product`'s features; "" for a product without metadata."""
    values = [[*(f"{n}{wid}" for n in range(1, 6)), "70"] if wid else [""] * 6 for wid in wids]
    return {f"{group}_{name}": [row[i] for row in values] for i, name in enumerate(FEATURES)}


def approx(values: Sequence[float]) -> Any:
    return pytest.approx(list(values), rel=1e-5)


def test_lists_made_by_hand(tmp_path: Path) -> None:
    behaviour = [
        # Cart, purchase, click, none; product 15 has no metadata, so no term of the query.
        "1+2|15_11_12_13|2.0_3.0_1.0_0.0|3+4_-1_7_-1|11_13_16_13|ORD_CLICK_CART_FLW|0_43200_60_0_86400",
        "9|14_9|0.0_0.0||||0",
    ]
    first, second = lists(write(tmp_path, behaviour))
    names = {"11": ["1", "2", "3"], "12": ["1", "1", "5", "6"], "13": ["2", "2"], "15": []}
    scores = dict(zip(names, bm25(list(names.values()), ["1", "2"]), strict=True))
    order = sorted(names, key=lambda wid: -scores[wid])
    assert order[-1] == "15"
    assert first == {
        "list_id": "0",
        "user_id": "0",
        "query": "1 2",
        "timestamp": zlib.crc32(encoded(behaviour[0]).encode()),
        "item_id": order,
        "initial_score": approx([scores[wid] for wid in order]),
        **features("item", *order[:3], ""),
        "history_query": ["", "7", "", "3 4"],
        "history_item_id": ["13", "16", "13", "11"],
        "history_action": ["click", "click", "click", "conversion"],
        "history_age": approx([1, 1, 1 + 60 / DAY, 1.5 + 60 / DAY]),
        **features("history_item", "13", "", "13", "11"),
        "click": [{"15": 1, "11": 1, "12": 1, "13": 0}[wid] for wid in order],
        "conversion": [{"15": 0, "11": 1, "12": 0, "13": 0}[wid] for wid in order],
    }
    assert second["list_id"] == second["user_id"] == "1"
    assert second["item_id"] == ["9", "14"]  # Equal scores stand by number, not as texts.
    assert len(set(second["initial_score"])) == 1
    assert second["click"] == second["conversion"] == [0, 0]
    assert second["history_item_id"] == second["history_query"] == second["history_age"] == []


def test_an_unknown_shop_is_empty(tmp_path: Path) -> None:
    products = [product("11", shop="-1"), product("12")]
    (row,) = lists(write(tmp_path, [PLAIN], products))
    assert dict(zip(row["item_id"], row["item_shop"], strict=True)) == {"11": "", "12": "70"}


@pytest.mark.parametrize("seed", range(5))
def test_the_published_order_says_nothing(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = list(zip(NAMES, ["0.0", "1.0", "2.0", "3.0", "0.0"], strict=True))
    found = []
    for _ in range(2):
        wids, labels = zip(*rng.permutation(pairs).tolist(), strict=True)
        line = f"2+9|{'_'.join(wids)}|{'_'.join(labels)}||||0"
        (row,) = lists(write(tmp_path, [line]))
        del row["timestamp"]
        found.append(row)
    assert found[0] == found[1]


def test_the_order_of_lines_says_nothing(tmp_path: Path) -> None:
    lines = [f"{number}|11|0.0||||0" for number in range(200)]
    times = [row["timestamp"] for row in lists(write(tmp_path, lines))]
    assert len(set(times)) == 200
    reversed_times = [row["timestamp"] for row in lists(write(tmp_path, lines[::-1]))]
    assert reversed_times == times[::-1]
    rises = np.mean(np.diff(times) > 0)
    assert 0.4 < rises < 0.6


def test_many_lists_come_in_batches_and_split_by_share(tmp_path: Path) -> None:
    lines = [f"{number}|11_12|0.0_1.0||||0" for number in range(1200)]
    source = jdsearch.read(write(tmp_path / "input", lines))
    assert [batch.num_rows for batch in source.batches] == [500, 500, 200]
    source = jdsearch.read(tmp_path / "input")
    write_log(source, tmp_path / "logs", source.rule or ByShare(0.25, 0.25))
    assert check_log(tmp_path / "logs").lists == {"train": 600, "validation": 300, "test": 300}


def test_the_command_writes_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "input", [f"{number}|11|0.0||||0" for number in range(20)])
    arguments = ["jdsearch", "--input", str(folder), "--output", str(tmp_path / "logs")]
    monkeypatch.setattr(sys, "argv", ["piano", "logs", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert check_log(tmp_path / "logs").lists == {"train": 16, "validation": 2, "test": 2}


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    batches = jdsearch.read(write(tmp_path / "input", [PLAIN] * 600)).batches
    next(batches)
    assert any(scratch.iterdir())
    list(batches)
    assert not any(scratch.iterdir())
    with pytest.raises(LogError):
        lists(write(tmp_path / "input", [PLAIN, "truncated"]))
    assert not any(scratch.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1|11_12|1.0_0.0|-1|13", "row 1: got 5 tab-separated fields, expected 7"),
        (PLAIN + "|", "row 1: got 8 tab-separated fields, expected 7"),
        ("", "row 1: got 1 tab-separated fields, expected 7"),
        ("1 2|11|0.0||||0", "column 'query', row 1: got '1 2', expected numbers with 0x18 between"),
        ("|11|0.0||||0", "column 'query', row 1: got ''"),
        ("1+|11|0.0||||0", r"column 'query', row 1: got '1\x18', expected numbers with 0x18"),
        ("1|11,12|0.0_0.0||||0", "column 'candidate_wid_list', row 1: got '11,12' at position 0"),
        ("1||||||0", "column 'candidate_wid_list', row 1: got no"),
        ("1|11_|0.0_0.0||||0", "column 'candidate_wid_list', row 1: got '' at position 1"),
        (
            "1|11_12|0.0_4.0||||0",
            "column 'candidate_label_list', row 1: got '4.0' at position 1, expected one of 0.0, "
            "1.0, 2.0, 3.0",
        ),
        ("1|11|1||||0", "column 'candidate_label_list', row 1: got '1' at position 0"),
        ("1|11_12|0.0||||0", "column 'candidate_label_list', row 1: got 1 entries, expected 2"),
        ("1|11|0.0|-2|13|CLICK|0_1", "column 'history_qry_list', row 1: got '-2' at position 0"),
        ("1|11|0.0|1_1|13|CLICK|0_1", "column 'history_qry_list', row 1: got 2 entries, expected"),
        ("1|11|0.0|1|x|CLICK|0_1", "column 'history_wid_list', row 1: got 'x' at position 0"),
        (
            "1|11|0.0|1|13|BUY|0_1",
            "column 'history_type_list', row 1: got 'BUY' at position 0, expected one of CLICK, "
            "CART, FLW, ORD",
        ),
        ("1|11|0.0|1|13||0_1", "column 'history_type_list', row 1: got 0 entries, expected 1"),
        ("1|11|0.0|1|13|ORD|0", "column 'history_time_list', row 1: got 1 entries, expected 2"),
        ("1|11|0.0|1|13|ORD|0_-5", "column 'history_time_list', row 1: got '-5' at position 1"),
        ("1|11|0.0|1|13|ORD|0_1.5", "column 'history_time_list', row 1: got '1.5' at position 1"),
        ("1|11|0.0||||", "column 'history_time_list', row 1: got 0 entries, expected 1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, [PLAIN, line])
    with pytest.raises(LogError) as error:
        lists(tmp_path)
    said = str(error.value)
    assert said.startswith(str(tmp_path / BEHAVIOUR))
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("15|1+2|3", "row 5: got 3 tab-separated fields, expected 13"),
        (product("11"), "column 'wid', row 5: got 11 once more, expected each product once"),
        (product("11").replace("11|", "x|", 1), "column 'wid', row 5: got 'x', expected a number"),
    ],
)
def test_a_malformed_product_is_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, [PLAIN], [*ALL, line])
    with pytest.raises(LogError) as error:
        lists(tmp_path)
    assert str(error.value).startswith(str(tmp_path / PRODUCTS))
    assert message in str(error.value)


@pytest.mark.parametrize("name", [BEHAVIOUR, PRODUCTS])
def test_a_file_that_is_not_as_published_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, [PLAIN]) / name
    good = path.read_bytes()
    path.write_bytes(good + b"\xff" + good.split(b"\n")[1] + b"\n")
    with pytest.raises(LogError, match=rf"{re.escape(str(path))}, row \d: is not UTF-8"):
        lists(tmp_path)
    path.write_bytes(good.replace(b"\t", b",", 1))
    with pytest.raises(LogError, match="got the header"):
        jdsearch.read(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(LogError, match="got the header b''"):
        jdsearch.read(tmp_path)
    path.unlink()
    with pytest.raises(LogError, match=re.escape(f"{path}: no such file")):
        jdsearch.read(tmp_path)


# --- the published sample ---


@functools.cache
def published() -> tuple[list[list[str]], dict[str, list[str]], list[dict[str, Any]]]:
    """The fields of every line, those of every product, and the lists."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"needs the JDsearch sample in {PUBLISHED}")

    def rows(name: str) -> list[list[str]]:
        lines = (PUBLISHED / name).read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]
        return [line.split("\t") for line in lines]

    return rows(BEHAVIOUR), {row[0]: row for row in rows(PRODUCTS)}, lists(PUBLISHED)


def test_published_lists_hold_what_the_lines_hold() -> None:
    raw, products, got = published()
    assert len(got) == len(raw) == 3
    for (query, wids, labels, queries, past, kinds, intervals), row in zip(raw, got, strict=True):
        label = dict(zip(wids.split("_"), labels.split("_"), strict=True))
        assert row["query"].split() == query.split("\x18")
        assert sorted(row["item_id"]) == sorted(label)
        assert row["click"] == [int(label[wid] != "0.0") for wid in row["item_id"]]
        assert row["conversion"] == [int(label[wid] == "3.0") for wid in row["item_id"]]
        assert np.less_equal(row["conversion"], row["click"]).all()
        assert row["item_brand"] == [products[wid][2] for wid in row["item_id"]]

        steps = [int(step) for step in intervals.split("_")]
        ages = [sum(steps[place + 1 :]) / DAY for place in range(len(steps) - 1)]
        assert row["history_item_id"] == past.split("_")[::-1]
        assert row["history_age"] == approx(ages[::-1])
        assert (np.diff(row["history_age"]) >= 0).all()
        assert row["history_age"][0] > 0
        assert row["history_query"].count("") == queries.split("_").count("-1")
        assert row["history_action"].count("conversion") == kinds.split("_").count("ORD")
    longest = max(age for row in got for age in row["history_age"])
    assert 300 < longest < 366  # Days, if the intervals are seconds.


def test_published_order_tells_the_labels_and_ours_is_bm25() -> None:
    raw, products, got = published()
    for fields, row in zip(raw, got, strict=True):
        labels = [float(label) for label in fields[2].split("_")]
        assert labels == sorted(labels, reverse=True)
        assert sum(labels) > 0
        assert row["click"] != sorted(row["click"], reverse=True)

        names = [products[wid][1].split("\x18") for wid in row["item_id"]]
        assert row["initial_score"] == approx(bm25(names, fields[0].split("\x18")))
        scored = zip(row["initial_score"], row["item_id"], strict=True)
        keys = [(-score, int(wid)) for score, wid in scored]
        assert keys == sorted(keys)
