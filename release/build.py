"""Builds what is published into dist/: wheels, a source distribution, and the bill of materials beside them.

On Linux, zig links against the symbols of glibc 2.17, and against musl's where Rust's standard library for
musl can be installed; elsewhere the system's own linker makes one wheel. `make wheel` calls this.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import components

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
GLIBC = "manylinux_2_17"
MUSL = "musllinux_1_2"


def run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run a program, and end if it fails."""
    if subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, check=False).returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}")


def environment_of_the_build() -> dict[str, str]:
    """Variables under which the extension names no path of this machine."""
    import ziglang

    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    moved = {str(ROOT): "dejavec"}
    moved |= {str(sources): "crates" for sources in (cargo / "registry" / "src").glob("*")}
    flags = [f"--remap-path-prefix={here}={there}" for here, there in moved.items()]
    return {
        **os.environ,
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags),
        "CARGO_ZIGBUILD_ZIG_PATH": str(Path(ziglang.__file__).parent / "zig"),
        # The bytes of a wheel depend on the commit, not on the day of the build.
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or last_commit(),
    }


def last_commit() -> str:
    """When the last commit was made, in seconds since 1970; outside a repository, the start of 1980."""
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "315532800"


def add_standard_library(system: str) -> bool:
    """Install Rust's standard library for a system; tell whether it is there."""
    command = ["rustup", "target", "add", system]
    return bool(shutil.which("rustup")) and subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def systems() -> list[tuple[str, str]]:
    """Each target of Rust that a wheel is built for, and the platform that the wheel names."""
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if sys.platform != "linux":
        return []
    found = [(f"{machine}-unknown-linux-gnu", GLIBC)]
    if add_standard_library(f"{machine}-unknown-linux-musl"):
        found.append((f"{machine}-unknown-linux-musl", MUSL))
    else:
        print("no wheel for musl: Rust's standard library for it could not be installed here")
    return found


def main() -> None:
    """Build everything anew."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    version = components.workspace()["version"]
    bill = DIST / f"dejavec-{version}.cdx.json"
    # Cargo fetches the crates here, so that the folder which holds their sources has a name from now on.
    run(sys.executable, ROOT / "release" / "components.py", "--sbom", bill)
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "maturin",
        "build",
        "--release",
        "--locked",
        "--out",
        DIST,
        "--sbom-include",
        bill,
    ]
    build += ["--target-dir", ROOT / "target" / "wheel", "--interpreter", sys.executable]
    environment = environment_of_the_build()
    for target, tag in systems():
        run(*build, "--zig", "--target", target, "--compatibility", tag, environment=environment)
    if sys.platform != "linux":
        run(*build, environment=environment)
    run(sys.executable, "-m", "maturin", "sdist", "--out", DIST, environment=environment)
    for made in sorted(DIST.iterdir()):
        print(f"{made.stat().st_size:>9,} bytes  {made.name}")


if __name__ == "__main__":
    main()
