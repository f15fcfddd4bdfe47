"""What a wheel contains that others wrote: licences, and a software bill of materials.

python release/components.py                 writes THIRD-PARTY.txt anew
python release/components.py --check         whether it is current, and every crate is allowed
python release/components.py --sbom FILE     writes a bill of materials: CycloneDX, JSON

The facts are cargo's: crates that are linked into the extension on one of the systems below. What cargo does
not know (Rust's standard library, the unwinder that zig links) stands in release/notices.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
THIRD_PARTY = ROOT / "THIRD-PARTY.txt"
NOTICES = ROOT / "release" / "notices.txt"
EXTENSION = "dejavec-py"
SYSTEMS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-apple-darwin",
    "x86_64-apple-darwin",
)
ALLOWED = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "MIT", "Unicode-3.0", "Zlib"})
"""Licences of which a crate must offer one; each asks for no more than its text and its notices."""
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
"""How Cargo.lock names crates.io, wherever crates were fetched from."""


@dataclass(frozen=True)
class Crate:
    """A crate as cargo knows it.

    Attributes:
        folder: where its source lies.
        checksum: SHA-256 of its archive, as Cargo.lock has it.
    """

    name: str
    version: str
    licence: str
    source: str | None
    rust_version: str | None
    folder: Path
    checksum: str

    def texts(self) -> list[str]:
        """The texts of its licences and notices, one each."""
        names = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|COPYRIGHT|UNLICENSE)", re.IGNORECASE)
        files = sorted(path for path in self.folder.iterdir() if path.is_file() and names.match(path.name))
        return [tidy(path.read_text(encoding="utf-8")) for path in files]


def tidy(text: str) -> str:
    """A text without white space at the ends of its lines and around it."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def cargo_metadata(system: str) -> dict[str, Any]:
    """What cargo resolves for one system."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", system]
    metadata: dict[str, Any] = json.loads(
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    )
    return metadata


def linked(metadata: dict[str, Any]) -> set[str]:
    """The crates, by cargo's identifiers, that end up in the extension: no build scripts, no macros."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found: set[str] = set()
    waiting = [identifier for identifier, package in packages.items() if package["name"] == EXTENSION]
    while waiting:
        identifier = waiting.pop()
        runs_here = not any("proc-macro" in target["kind"] for target in packages[identifier]["targets"])
        if identifier not in found and runs_here:
            found.add(identifier)
            waiting.extend(
                needed["pkg"]
                for needed in nodes[identifier]["deps"]
                if any(kind["kind"] is None for kind in needed["dep_kinds"])
            )
    return found


def checksums() -> dict[tuple[str, str], str]:
    """SHA-256 of each crate's archive."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))
    return {
        (package["name"], package["version"]): package["checksum"]
        for package in lock["package"]
        if "checksum" in package
    }


def crates() -> list[Crate]:
    """Every crate of others that some wheel contains, in the order of their names."""
    archive = checksums()
    found = {}
    for system in SYSTEMS:
        metadata = cargo_metadata(system)
        wanted = linked(metadata)
        for package in metadata["packages"]:
            name, version = package["name"], package["version"]
            if package["id"] in wanted and (name, version) in archive:
                found[name, version] = Crate(
                    name,
                    version,
                    package["license"] or "",
                    package["source"],
                    package["rust_version"],
                    Path(package["manifest_path"]).parent,
                    archive[name, version],
                )
    return [found[key] for key in sorted(found)]


def objections(found: list[Crate], oldest_rust: str) -> list[str]:
    """Why crates must not be used; empty if all may."""
    said = []
    for crate in found:
        where = f"{crate.name} {crate.version}"
        if not is_allowed(crate.licence):
            allowed = ", ".join(sorted(ALLOWED))
            said.append(f"{where}: expected one of {allowed}, found {crate.licence or 'no licence'}")
        if crate.source != REGISTRY:
            said.append(f"{where}: expected crates.io as its source, found {crate.source}")
        if numbers(crate.rust_version or "1.0") > numbers(oldest_rust):
            said.append(f"{where}: expected at most Rust {oldest_rust}, found {crate.rust_version}")
        if not crate.texts():
            said.append(f"{where}: expected a file with its licence, found none")
    return said


def is_allowed(licence: str) -> bool:
    """Whether an SPDX expression lets somebody choose allowed licences alone."""
    words = re.findall(r"[()]|[^\s()]+", licence.replace("/", " OR ").replace(" WITH ", "-WITH-"))
    python = [
        {"OR": "or", "AND": "and", "(": "(", ")": ")"}.get(word, str(word in ALLOWED)) for word in words
    ]
    return bool(words) and bool(eval(" ".join(python)))


def numbers(version: str) -> tuple[int, ...]:
    """A version to compare, its three numbers."""
    parts = [int(part) for part in version.split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


def workspace() -> dict[str, Any]:
    """What Cargo.toml says of all our crates."""
    package: dict[str, Any] = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"][
        "package"
    ]
    return package


def third_party(found: list[Crate]) -> str:
    """The text of THIRD-PARTY.txt: each crate, then each text once, with the crates that it belongs to."""
    owners: dict[str, list[str]] = {}
    for crate in found:
        for text in crate.texts():
            owners.setdefault(text, []).append(f"{crate.name} {crate.version}")
    lines = [
        "dejavec is licensed under the Apache License 2.0; see LICENSE. Its wheels also contain what others",
        "wrote, listed here. Written by `make third-party`.",
        "",
        *(f"{crate.name} {crate.version}: {crate.licence}" for crate in found),
        "",
        tidy(NOTICES.read_text(encoding="utf-8")),
    ]
    for text, names in sorted(owners.items(), key=lambda item: item[1]):
        lines += ["", "-" * 80, ", ".join(names), "-" * 80, "", text]
    return "\n".join(lines) + "\n"


def outside_cargo() -> list[tuple[str, str, str]]:
    """Name, version and licence of each component that release/notices.txt describes."""
    described = NOTICES.read_text(encoding="utf-8")
    return re.findall(r"^(\S[^:\n]*?) (\d\S*): ([^\n]+)$", described, re.MULTILINE)


def bill_of_materials(found: list[Crate]) -> str:
    """A bill of materials in CycloneDX 1.6, the same bytes for the same components."""
    version = workspace()["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    components: list[dict[str, Any]] = [
        {
            "type": "library",
            "bom-ref": f"pkg:cargo/{crate.name}@{crate.version}",
            "name": crate.name,
            "version": crate.version,
            "scope": "required",
            "hashes": [{"alg": "SHA-256", "content": crate.checksum}],
            "licenses": [{"expression": crate.licence.replace("/", " OR ")}],
            "purl": f"pkg:cargo/{crate.name}@{crate.version}",
        }
        for crate in found
    ]
    for name, number, licence in outside_cargo():
        # What has a space in its name is no crate.
        kind = "generic" if " " in name else "cargo"
        purl = f"pkg:{kind}/{name.replace(' ', '-')}@{number}"
        components.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": number,
                "scope": "required",
                "licenses": [{"expression": licence}],
                "purl": purl,
            }
        )
    # What pip installs beside the wheel, in any version that it allows.
    for requirement in project["dependencies"]:
        name, allowed = re.fullmatch(r"([a-z0-9-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        components.append(
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{name}",
                "name": name,
                "scope": "required",
                "purl": f"pkg:pypi/{name}",
                "description": f"Not in the wheel: pip installs {name}{allowed} beside it.",
            }
        )
    own = f"pkg:pypi/dejavec@{version}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": own,
                "name": "dejavec",
                "version": version,
                "description": project["description"],
                "licenses": [{"expression": project["license"]}],
                "purl": own,
            }
        },
        "components": components,
        "dependencies": [{"ref": own, "dependsOn": sorted(part["bom-ref"] for part in components)}],
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}"
    return json.dumps(document, indent=1) + "\n"


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is amiss")
    parser.add_argument("--sbom", type=Path, metavar="FILE", help="write a bill of materials instead")
    arguments = parser.parse_args()
    found = crates()
    if said := objections(found, workspace()["rust-version"]):
        sys.exit("\n".join(said))
    if arguments.sbom:
        arguments.sbom.write_text(bill_of_materials(found), encoding="utf-8")
    elif not arguments.check:
        THIRD_PARTY.write_text(third_party(found), encoding="utf-8")
    elif not THIRD_PARTY.is_file() or THIRD_PARTY.read_text(encoding="utf-8") != third_party(found):
        sys.exit("THIRD-PARTY.txt: expected the crates and texts of Cargo.lock; run `make third-party`")


if __name__ == "__main__":
    main()
