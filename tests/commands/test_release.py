"""What a release needs is checked by programs, and they notice when it is missing."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import check
import components
import pytest

ROOT = Path(__file__).parents[2]
TODAY = datetime.date(2026, 12, 24)


@pytest.fixture(scope="module")
def crates() -> list[components.Crate]:
    return components.crates()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of every file in which a version is written."""
    for name in (
        *(
            "Cargo.toml",
            "Cargo.lock",
            "CITATION.cff",
            "CHANGELOG.md",
            "docs/format.md",
            "rust-toolchain.toml",
        ),
        *("rust/core/fuzz/Cargo.lock", "release/notices.txt"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_version_that_was_forgotten_somewhere_is_named(project: Path) -> None:
    assert check.disagreements(check.versions(project)) == []
    rewrite(
        project / "Cargo.toml",
        '[workspace.package]\nversion = "0.1.0"',
        '[workspace.package]\nversion = "0.2.0"',
    )
    rewrite(project / "CHANGELOG.md", "## 0.1.0", "## Unreleased\n\n## 0.1.0")
    said = check.disagreements(check.versions(project))
    assert [line.partition(":")[0] for line in said] == [
        "Cargo.lock, dejavec-core",
        "Cargo.lock, dejavec-py",
        "rust/core/fuzz/Cargo.lock, dejavec-core",
        "CITATION.cff",
        "docs/format.md, made_by",
    ]
    assert all("expected version 0.2.0, found 0.1.0" in line for line in said)


@pytest.mark.parametrize(
    ("heading", "found"),
    [
        ("0.1.0, 2026-12-24", None),
        ("0.1.0, 2026-12-25", "expected a day until 2026-12-24, found 2026-12-25"),
        ("0.1.0", "found '## 0.1.0'"),
        ("Unreleased", "found '## Unreleased'"),
        ("0.2.0, 2026-12-24", "expected '## 0.1.0, 2026-12-24'"),
    ],
)
def test_a_release_needs_a_dated_changelog(heading: str, found: str | None, tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n\n- Something.\n")
    said = check.changelog(tmp_path, "0.1.0", TODAY)
    assert said == [] if found is None else found in said[0]


def test_a_release_is_of_what_is_committed_and_not_tagged_elsewhere(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@localhost")
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "--message", "one")
    assert check.repository(tmp_path, "1.0.0") == []
    git("tag", "v1.0.0")
    assert check.repository(tmp_path, "1.0.0") == []
    git("commit", "--allow-empty", "--message", "two")
    assert "on another commit" in check.repository(tmp_path, "1.0.0")[0]
    (tmp_path / "new").touch()
    assert "?? new" in check.repository(tmp_path, "1.0.1")[0]


def test_another_toolchain_needs_another_notice(project: Path) -> None:
    assert check.toolchain(project) == []
    rewrite(project / "release" / "notices.txt", "Rust standard library 1.", "Rust standard library 0.")
    assert "found 0." in check.toolchain(project)[0]


def test_what_wheels_contain_by_others_is_allowed_and_listed(crates: list[components.Crate]) -> None:
    oldest = components.workspace()["rust-version"]
    assert components.objections(crates, oldest) == []
    assert components.THIRD_PARTY.read_text() == components.third_party(crates)
    names = {crate.name for crate in crates}
    assert {"pyo3", "sha2", "serde_json"} <= names
    assert not {"syn", "proptest", "criterion", "dejavec-core"} & names


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"licence": "GPL-3.0-only"}, "found GPL-3.0-only"),
        ({"licence": ""}, "found no licence"),
        ({"source": "git+ssh://somewhere"}, "expected crates.io as its source"),
        ({"rust_version": "1.200"}, "expected at most Rust 1.89, found 1.200"),
        ({"folder": ROOT / "rust"}, "expected a file with its licence"),
    ],
)
def test_a_crate_that_must_not_be_used_is_named(
    change: dict[str, Any], said: str, crates: list[components.Crate]
) -> None:
    (objection,) = components.objections([replace(crates[0], **change)], "1.89")
    assert said in objection
    assert objection.startswith(crates[0].name)


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("Unlicense/MIT", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ],
)
def test_one_allowed_choice_is_enough(licence: str, allowed: bool) -> None:
    assert components.is_allowed(licence) is allowed


def test_the_bill_of_materials_is_the_same_for_the_same_components(crates: list[components.Crate]) -> None:
    bill = components.bill_of_materials(crates)
    assert bill == components.bill_of_materials(crates)
    assert not re.search(r"(path|file):|/root|/home", bill)
    assert components.bill_of_materials(crates[1:]) != bill


def test_every_step_of_the_workflows_is_a_target_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [
        step
        for workflow in (ROOT / ".github" / "workflows").glob("*.yml")
        for step in re.findall(r"^\s*(?:- )?run: (.*)$", workflow.read_text(), re.MULTILINE)
    ]
    assert steps
    for step in steps:
        program, target, *rest = step.split()
        assert program == "make", step
        assert target in targets, step
        assert all("=" in word for word in rest), step


def test_the_metadata_names_everything_an_index_asks_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for entry in (
        "authors",
        "classifiers",
        "description",
        "keywords",
        "license",
        "readme",
        "requires-python",
    ):
        assert re.search(rf"^{entry} = ", text, re.MULTILINE), entry
    assert '"Typing :: Typed"' in text
