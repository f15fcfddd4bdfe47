"""What a release needs and a program can see.

python release/check.py             versions agree, wherever one is written
python release/check.py --release   also: the changelog has today's version with a date, all is committed,
                                    and the version has no tag yet
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def versions(root: Path) -> dict[str, str]:
    """Where a version of the project is written, and which one is."""
    found = {
        "Cargo.toml": tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    }
    for lock in ("Cargo.lock", "rust/core/fuzz/Cargo.lock"):
        for package in tomllib.loads((root / lock).read_text())["package"]:
            if package["name"] in ("dejavec-core", "dejavec-py"):
                found[f"{lock}, {package['name']}"] = package["version"]
    found["CITATION.cff"] = one(r"^version: (\S+)$", root / "CITATION.cff")
    found["CHANGELOG.md, first heading"] = one(r"^## (\S+?)(?:, .*)?$", root / "CHANGELOG.md")
    found["docs/format.md, made_by"] = one(r'"made_by": "dejavec (\S+)"', root / "docs" / "format.md")
    return found


def one(pattern: str, file: Path) -> str:
    """The first group of the first match in a file; empty if there is none."""
    found = re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def toolchain(root: Path) -> list[str]:
    """Objections to what is said of Rust: the notices name the standard library that is linked."""
    linked = tomllib.loads((root / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    named = one(r"^Rust standard library (\S+):", root / "release" / "notices.txt")
    return [] if linked == named else [f"release/notices.txt: expected Rust {linked}, found {named}"]


def disagreements(found: dict[str, str]) -> list[str]:
    """Objections to versions: all must be that of Cargo.toml; the changelog may be ahead of them."""
    expected = found["Cargo.toml"]
    return [
        f"{where}: expected version {expected}, found {version or 'none'}"
        for where, version in found.items()
        if version != expected and not (where.startswith("CHANGELOG") and version == "Unreleased")
    ]


def changelog(root: Path, version: str, today: datetime.date) -> list[str]:
    """Objections to the changelog of a version that is about to be released."""
    headings = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    first = headings[0] if headings else ""
    dated = re.fullmatch(rf"{re.escape(version)}, (\d{{4}}-\d\d-\d\d)", first)
    if not dated:
        return [f"CHANGELOG.md: expected '## {version}, {today}' as its first heading, found '## {first}'"]
    if datetime.date.fromisoformat(dated[1]) > today:
        return [f"CHANGELOG.md: expected a day until {today}, found {dated[1]}"]
    return []


def repository(root: Path, version: str) -> list[str]:
    """Objections to the state of the work tree and to its tags."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
        ).stdout.strip()

    said = []
    if changed := git("status", "--porcelain"):
        said.append(f"expected everything to be committed, found\n{changed}")
    # On the public host this runs for the tag itself.
    tagged = git("tag", "--list", f"v{version}")
    if tagged and git("rev-list", "-n", "1", tagged) != git("rev-parse", "HEAD"):
        said.append(f"expected no tag v{version} on another commit, found one")
    return said


def main() -> None:
    """Check, and name everything that is amiss."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", action="store_true", help="also check what only a release needs")
    arguments = parser.parse_args()
    found = versions(ROOT)
    said = disagreements(found) + toolchain(ROOT)
    if arguments.release:
        version = found["Cargo.toml"]
        said += changelog(ROOT, version, datetime.datetime.now(datetime.UTC).date())
        said += repository(ROOT, version)
    if said:
        sys.exit("\n".join(said))
    print(f"version {found['Cargo.toml']}, wherever one is written")


if __name__ == "__main__":
    main()
