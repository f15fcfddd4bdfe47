"""`dejavec map`: the principal components of what counts, in a page that needs nothing else, or a picture."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dejavec import EmbeddingCache
from dejavec.cli import mapping
from dejavec.cli.main import main
from dejavec.cli.mapping import principal_components

TEXTS = [f"text {number}" for number in range(39)] + ["</script><script>document.title='broken'</script>"]
LABELS = ["<left>" if number % 2 else "right" for number in range(40)]
VECTORS = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    with EmbeddingCache(tmp_path / "cache", model="toy@1") as cache:
        cache.put(TEXTS, VECTORS)
    rows = ({"text": text, "side": label} for text, label in zip(TEXTS, LABELS, strict=True))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "cache"


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found
    result: dict[str, Any] = json.loads(found[1])
    return result


def words(cache: Path, name: str) -> list[str]:
    texts = str(cache.parent / "texts.jsonl")
    return ["map", str(cache), str(cache.parent / name), "--texts", texts, "--labels", "side"]


def test_a_page_has_every_point_with_its_text_and_label(cache: Path) -> None:
    assert main(words(cache, "map.html")) == 0
    data = data_of(cache.parent / "map.html")
    assert data["texts"] == TEXTS
    assert [data["names"][at] for at in data["labels"]] == LABELS
    points, _ = principal_components(VECTORS.copy())
    drawn = np.array(data["points"]).reshape(-1, 2)
    for axis in (0, 1):
        assert np.corrcoef(points[:, axis], drawn[:, axis])[0, 1] > 0.99999
    page = (cache.parent / "map.html").read_text()
    assert not re.search(r"(src|href)=|https?://|@import", page)
    label = re.search(r'role="img"[^>]*aria-label="([^"]+)"', page)
    assert label
    assert html.unescape(label[1]).startswith(
        "A scatter plot of 40 vectors by their two principal components"
    )
    assert "<left> (20)" in html.unescape(label[1])


def test_components_are_those_of_numpys_decomposition() -> None:
    points, parts = principal_components(VECTORS.copy())
    centred = VECTORS - VECTORS.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(points), np.abs(centred @ axes[:2].T), atol=1e-4)
    assert np.allclose(parts, (values**2 / (values**2).sum())[:2], atol=1e-5)


def test_more_rows_than_a_page_draws_are_a_sample_that_is_always_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mapping, "_SAMPLE", 10)
    assert main([*words(cache, "one.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["points"], found["texts"]) == (40, 10, 10)
    assert main(words(cache, "two.html")) == 0
    assert (cache.parent / "one.html").read_bytes() == (cache.parent / "two.html").read_bytes()
    assert set(data_of(cache.parent / "one.html")["texts"]) < set(TEXTS)


def test_rare_labels_share_one_colour(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mapping, "_MOST_LABELS", 1)
    assert main([*words(cache, "map.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == {"other": 20, "<left>": 20}


def test_multi_vector_items_are_drawn_by_their_means(tmp_path: Path) -> None:
    items = [np.stack([row, row + 2]) for row in VECTORS]
    for name, vectors in (("ragged", items), ("dense", VECTORS + 1)):
        with EmbeddingCache(tmp_path / name, keep_texts=True) as cache:
            cache.put(TEXTS, vectors)
        assert main(["map", str(tmp_path / name), str(tmp_path / f"{name}.html")]) == 0
    drawn = [np.array(data_of(tmp_path / f"{name}.html")["points"]) for name in ("ragged", "dense")]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


def test_a_picture_has_words_too(cache: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    assert main(words(cache, "map.png")) == 0
    with Image.open(cache.parent / "map.png") as picture:
        assert picture.size == (1600, 1200)
        assert picture.text["Description"].startswith("A scatter plot of 40 vectors")  # type: ignore[attr-defined]


def test_what_cannot_be_drawn_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scipy = pytest.importorskip("scipy.sparse")
    for name, vectors in (("few", VECTORS[:2]), ("sparse", scipy.csr_array(np.eye(4)))):
        with EmbeddingCache(tmp_path / name) as cache:
            cache.put(TEXTS[: vectors.shape[0]], vectors)
    assert main(["map", str(tmp_path / "few"), str(tmp_path / "map.html")]) == 1
    assert "expected three rows or more, found 2" in capsys.readouterr().err
    assert main(["map", str(tmp_path / "sparse"), str(tmp_path / "map.html")]) == 1
    assert "found sparse ones" in capsys.readouterr().err
    assert main(["map", str(tmp_path / "few"), str(tmp_path / "map.pdf")]) == 2
    assert main(["map", str(tmp_path / "few"), str(tmp_path / "map.html"), "--labels", "side"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few", "sparse"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_shows_the_text_and_label_of_a_point(cache: Path) -> None:
    assert main(words(cache, "map.html")) == 0
    browser = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=900,700",
        "--dump-dom",
    ]
    address = (cache.parent / "map.html").as_uri() + "#point=39"
    done = subprocess.run([*browser, address], capture_output=True, text=True, check=True, timeout=60)
    shown = re.search(r'<div id="tip"[^>]*>(.*?)</div>', done.stdout, re.DOTALL)
    assert shown
    assert html.unescape(shown[1]) == f"<b><left></b>{TEXTS[39]}"
    assert "broken" not in re.findall("<title>(.*?)</title>", done.stdout)[0]
    assert done.stdout.count('aria-pressed="true"') == 2
