"""What lies in dist/ is what users can install: `make wheel` makes it and runs these tests.

Each environment holds the wheel and what it requires alone. Pythons that this machine lacks, and that uv
cannot fetch, are skipped by name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email.message import Message
from email.parser import Parser
from pathlib import Path

import components
import pytest
from installing import DIST, ROOT, UV, native, run
from pages import blocks

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# What needs no more than dejavec requires.
SLICE = ("commands/test_command_line.py", "cache/test_decorator.py", "reliability/test_fresh_reads.py")
OWN = ["click", "dejavec", "markdown-it-py", "mdurl", "numpy", "pygments", "rich", "tqdm"]
"""What an environment holds: dejavec, what it requires, and what rich requires."""
LARGEST = 2_000_000
"""Bytes that a wheel may have."""

wheels = pytest.mark.parametrize("wheel", sorted(DIST.glob("*.whl")), ids=lambda wheel: wheel.name)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="a promise of wheels for Linux")


def extension(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("dejavec/_core.abi3.so")


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def source() -> Path:
    (archive,) = DIST.glob("*.tar.gz")
    return archive


@functools.cache
def interpreter(version: str) -> str | None:
    """A Python of this version: of this machine, or one that uv can fetch."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    for command in ("find", "install"):
        if command == "install":
            subprocess.run([*UV, "python", "install", version], capture_output=True, check=False)
        found = subprocess.run(
            [*UV, "python", "find", "--no-python-downloads", version],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd="/",
        )
        if found.returncode == 0:
            return found.stdout.strip()
        # pyenv's are on the PATH only as programs that choose one of them.
        below = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        for path in sorted(below.glob(f"{version}.*/bin/python{version}")):
            return str(path)
    return None


@pytest.fixture(scope="session")
def pytest_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory from which any Python imports pytest, so that no environment holds it."""
    target = tmp_path_factory.mktemp("pytest")
    pinned = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if re.match(r"(pytest|pytest-timeout)==", line)
    ]
    run(*UV, "pip", "install", "--python", sys.executable, "--target", target, *pinned)
    return target


Environment = Callable[[str, Path, str], Path]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Makes an environment with one archive and the lowest or highest versions of what it needs."""

    def make(version: str, archive: Path, resolution: str) -> Path:
        found = interpreter(version)
        if found is None:
            pytest.skip(f"no Python {version} on this machine, and none could be fetched")
        made = tmp_path / "environment"
        run(*UV, "venv", "--python", found, made)
        # NumPy is never built: its lowest version is the lowest that has a wheel for this Python.
        binary = ["--only-binary", ":all:"]
        if archive.suffix != ".whl":
            binary += ["--no-binary", "dejavec"]
        run(
            *(
                *UV,
                "pip",
                "install",
                "--python",
                made / "bin/python",
                *binary,
                "--resolution",
                resolution,
                archive,
            ),
            env={**os.environ, "CARGO_TARGET_DIR": str(ROOT / "target" / "wheel" / "source")},
        )
        return made

    return make


def try_out(environment: Path, pytest_alone: Path, where: Path) -> None:
    """Run the quick start, the command line and some tests with what an environment holds."""
    python = environment / "bin/python"
    own = (
        "from importlib.metadata import distributions as all_; print(*sorted(d.name.lower() for d in all_()))"
    )
    assert run(python, "-c", own).split() == OWN

    quick_start = next(blocks(ROOT / "README.md", "python"))
    assert run(python, "-c", "print(__import__('dejavec').__file__)", cwd=where).startswith(str(environment))
    assert run(python, "-c", quick_start.source, cwd=where) == quick_start.output

    command = environment / "bin/dejavec"
    assert run(command, "--version").split()[-1] == metadata(native())["Version"]
    assert "2 rows" in run(command, "verify", "embeddings", cwd=where)
    assert "toy-model@v1" in run(command, "ls", ".", cwd=where)
    assert '"toy-model"' in run(python, "-m", "dejavec", "stats", "embeddings", cwd=where)

    said = run(
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not type_checker"),
        *(f"tests/{name}" for name in SLICE),
        env={**os.environ, "PYTHONPATH": str(pytest_alone), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
    )
    versions = run(
        python, "-c", "import numpy, sys; print(sys.version.split()[0], 'numpy', numpy.__version__)"
    )
    print(f"Python {versions.strip()}: {said.splitlines()[-1]}")


@pytest.mark.parametrize("resolution", ["lowest", "highest"])
@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_works_with_what_it_requires_alone(
    version: str, resolution: str, environment: Environment, pytest_alone: Path, tmp_path: Path
) -> None:
    try_out(environment(version, native(), resolution), pytest_alone, tmp_path)


def test_the_source_distribution_builds_and_works(
    environment: Environment, pytest_alone: Path, tmp_path: Path
) -> None:
    try_out(environment("3.11", source(), "highest"), pytest_alone, tmp_path)


@wheels
def test_one_wheel_serves_every_python_from_3_11_on(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name
    assert metadata(wheel)["Requires-Python"] == ">=3.11"


@on_linux
def test_the_audit_finds_no_newer_glibc_than_the_wheel_names() -> None:
    said = " ".join(run(sys.executable, "-m", "auditwheel", "show", native()).split())
    assert f'following platform tag: "manylinux_2_17_{platform.machine()}"' in said
    assert max(map(int, re.findall(r"GLIBC_2\.(\d+)", said))) <= 17


@on_linux
def test_the_wheel_for_musl_needs_nothing_but_musl() -> None:
    from elftools.elf.elffile import ELFFile

    found = list(DIST.glob("*musllinux*.whl"))
    if not found:
        pytest.skip("Rust's standard library for musl could not be installed")
    with zipfile.ZipFile(found[0]) as archive, archive.open("dejavec/_core.abi3.so") as file:
        tags = ELFFile(file).get_section_by_name(".dynamic").iter_tags("DT_NEEDED")
        assert [tag.needed for tag in tags] == ["libc.so"]


@on_linux
@wheels
def test_the_extension_is_stripped_and_the_wheel_small(wheel: Path) -> None:
    from io import BytesIO

    from elftools.elf.elffile import ELFFile

    sections = {section.name for section in ELFFile(BytesIO(extension(wheel))).iter_sections()}
    assert not {name for name in sections if name.startswith(".debug") or name == ".symtab"}
    assert wheel.stat().st_size < LARGEST


@wheels
def test_a_wheel_holds_all_of_the_package_and_its_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packed = {path.relative_to(ROOT / "python").as_posix() for path in (ROOT / "python").rglob("*.py*")}
    assert {name for name in packed if not name.endswith(".pyc")} | {"dejavec/py.typed"} <= names
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {
        "LICENSE",
        "THIRD-PARTY.txt",
    }


@wheels
def test_a_wheel_names_no_path_of_the_machine_that_built_it(wheel: Path) -> None:
    # The build's own folders, and any folder of crates.
    forbidden = [str(ROOT).encode(), str(Path.home()).encode() + b"/", b"registry/src", b"index.crates.io"]
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not [path for path in forbidden if path in content], name


@wheels
def test_every_crate_that_the_extension_names_is_in_the_list_of_third_parties(wheel: Path) -> None:
    named = re.findall(
        rb"(?:crates|/rust/deps)/([a-z][A-Za-z0-9_-]*?)-(\d+\.\d+\.\d+)[^/]*/", extension(wheel)
    )
    assert named
    listed = components.THIRD_PARTY.read_text()
    assert {f"{name.decode()} {version.decode()}: " for name, version in named} <= {
        line[: line.index(": ") + 2] for line in listed.splitlines() if ": " in line
    }


@wheels
def test_the_bill_of_materials_in_a_wheel_is_the_one_beside_it(wheel: Path) -> None:
    (beside,) = DIST.glob("*.cdx.json")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if "/sboms/" in name)
        assert archive.read(name) == beside.read_bytes()


def test_the_bill_of_materials_is_cyclonedx_and_names_every_crate_with_its_digest() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    (beside,) = DIST.glob("*.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(beside.read_text()) is None
    named = {
        (part["name"], part.get("version")): part for part in json.loads(beside.read_text())["components"]
    }
    for crate in components.crates():
        assert named[crate.name, crate.version]["hashes"][0]["content"] == crate.checksum


def test_the_source_distribution_is_complete() -> None:
    with tarfile.open(source()) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = set(run("git", "ls-files", "python", "rust/core/src", "rust/py/src", cwd=ROOT).split())
    assert tracked <= names
    assert {"Cargo.lock", "LICENSE", "THIRD-PARTY.txt", "README.md", "pyproject.toml"} <= names


def test_the_metadata_says_what_an_index_shows() -> None:
    fields = metadata(native())
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Author"] == "dejavec developers"
    assert "Typing :: Typed" in fields.get_all("Classifier", [])
    assert set(fields["Keywords"].split(",")) >= {"cache", "embeddings", "mteb"}
    assert fields["Description-Content-Type"].startswith("text/markdown")


def test_sizes_and_digests_are_told() -> None:
    for made in sorted(DIST.iterdir()):
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        print(f"{made.stat().st_size:>9,} bytes  sha256 {digest}  {made.name}")
