"""FILE: every format gives the same texts, and says in one sentence what is wrong with it; `dejavec plan`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dejavec import EmbeddingCache
from dejavec.cli import table_file
from dejavec.cli.main import main
from dejavec.cli.table_file import TableFile
from dejavec.errors import DejavecError

TEXTS = ["first", "zweiter, mit Komma", "第三", 'say "four"', "", "first"]
LABELS = ["a", "b", "c", "d", "e", "f"]


def write(directory: Path, form: str) -> Path:
    """Write the texts and labels in a format."""
    path = directory / f"texts{form}"
    rows = [{"label": label, "text": text} for label, text in zip(LABELS, TEXTS, strict=True)]
    if form == ".txt":
        path.write_bytes(
            "".join(f"{text}\r\n" if at % 2 else f"{text}\n" for at, text in enumerate(TEXTS)).encode()
        )
    elif form == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif form in (".csv", ".tsv"):
        import csv

        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["label", "text"], delimiter="\t" if form == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif form == ".parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        datasets = pytest.importorskip("datasets")
        path = directory / "saved"
        datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


@pytest.mark.parametrize("form", [".txt", ".jsonl", ".csv", ".tsv", ".parquet", "data set"])
def test_every_format_gives_the_same_texts_in_blocks(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_file, "BLOCK", 4)
    table = TableFile(write(tmp_path, form))
    assert [text for block in table.texts() for text in block] == TEXTS
    assert [len(block) for block in table.texts()] == [4, 2]
    if form != ".txt":
        blocks = list(TableFile(table.file, others=("label",)).blocks())
        assert [label for block in blocks for label in block["label"]] == LABELS


def test_lines_come_from_standard_input_as_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("eins\n第二\n".encode()), encoding="ascii"))
    assert list(TableFile(Path("-")).texts()) == [["eins", "第二"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"title": "b"}\n', "expected a column 'text', found title"),
        ("a.jsonl", b'{"text": 1}\n', "row 1: expected a text in the column 'text', found int 1"),
        ("a.jsonl", b'{"text": null}\n', "found null"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: expected a JSON object, found a list"),
        ("a.jsonl", b'{"text": "a"\n', "line 1: expected a JSON object, found Expecting"),
        ("a.csv", b"title,body\na,b\n", "expected a column 'text', found title, body"),
        ("a.csv", b'text\n"a', "unexpected end of data"),
        ("a.txt", b"gr\xfcn\n", "expected UTF-8, found the bytes b'\\xfcn"),
        ("a.parquet", b"none", "a.parquet"),
        ("a.doc", b"", "found the suffix '.doc'"),
        ("a.txt/b.txt", None, "No such file or directory"),
        ("saved", "directory", "save_to_disk"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(
    name: str, content: bytes | str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content == "directory":
        (tmp_path / name).mkdir()
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    assert main(["plan", str(tmp_path / "cache"), str(tmp_path / name)]) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_data_set_of_several_splits_names_them(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_list([{"text": "a"}])
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "both")
    with pytest.raises(
        DejavecError, match=r"found the splits train, test; give one of them, such as .*train"
    ):
        list(TableFile(tmp_path / "both").blocks())
    assert list(TableFile(tmp_path / "both" / "train").texts()) == [["a"]]


def test_a_missing_package_is_one_sentence_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, ".parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["plan", str(tmp_path / "cache"), str(path)]) == 1
    assert capsys.readouterr().err == (
        f"dejavec: {path}: expected the package pyarrow, found none; pip install pyarrow\n"
    )


def test_a_plan_counts_what_a_run_would_find_add_take_and_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\none\nfour\nfour\n")
    words = [
        "plan",
        str(tmp_path / "cache"),
        str(tmp_path / "texts.txt"),
        "--rate",
        "60/min",
        "--price",
        "2/1k",
    ]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        **{"items": 6, "hits": 0, "misses": 4, "duplicates": 2, "bytes": None},
        **{"text_bytes": 15, "tokens": 4, "seconds": 4.0, "cost": 0.008},
    }
    assert not (tmp_path / "cache").exists()

    with EmbeddingCache(tmp_path / "cache", model="toy@1") as cache:
        cache.put(["one", "two"], np.eye(2, dtype=np.float32))
        expected = vars(cache.plan((tmp_path / "texts.txt").read_text().splitlines()))
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in expected} == expected
    assert (found["hits"], found["misses"], found["bytes"], found["tokens"]) == (3, 2, 96, 3)
    assert main(words) == 0
    assert "time           2.0 s" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "value"), [("--rate", "0/s"), ("--rate", "fast"), ("--price", "1/0")])
def test_an_amount_that_is_none_is_a_wrong_call(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "cache", "texts.txt", option, value]) == 2
    assert f"found '{value}'" in capsys.readouterr().err
