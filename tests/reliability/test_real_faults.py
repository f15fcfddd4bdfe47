"""Faults of a real system below the built package: a typed error or a completed run, and a good cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import run, start, vectors

import dejavec
from dejavec import EmbeddingCache
from dejavec.cli.main import main

pytestmark = pytest.mark.slow

# With it the process stops at the traced calls alone, and no signal can be sent there.
QUICK = "--seccomp-bpf"

GROUPS, ROWS = 2, 10
MOST_CALLS = 90
"""More calls of one kind than the script below makes."""

# Stores groups, tells what became of each, and then encodes all: that must work whatever fails.
STORING = f"""
    cache = EmbeddingCache(path, model="toy@1", keep_texts={{keeps_texts}})
    groups = [[f"{{{{group}}}}:{{{{number}}}}" for number in range({ROWS})] for group in range({GROUPS})]
    for number, group in enumerate(groups):
        try:
            cache.put(group, vectors(group))
            print("stored", number, flush=True)
        except DejavecError:
            print("refused", number, flush=True)
    texts = sum(groups, [])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
    assert len(warned) <= 1, warned
    try:
        cache.close()
    except DejavecError:
        print("not closed")
"""


def check_stored(path: Path, output: str, *, keeps_texts: bool) -> None:
    """What was stored is there, bit for bit, nothing is wrong, and the cache takes the rest."""
    stored = [int(line.split()[1]) for line in output.splitlines() if line.startswith("stored")]
    with EmbeddingCache(path, model="toy@1", keep_texts=keeps_texts) as cache:
        kept = set(cache.texts().to_pylist()) if keeps_texts else set()
        for group in range(GROUPS):
            texts = [f"{group}:{number}" for number in range(ROWS)]
            found, held = cache.get(texts)
            assert found.all() or group not in stored, (group, output)
            assert kept.issuperset(texts) or not keeps_texts or group not in stored, (group, output)
            if found.any():
                assert held[found].tobytes() == vectors(texts)[found].tobytes()
            assert cache.encode(texts, vectors).tobytes() == vectors(texts).tobytes()
        report = cache.verify()
        assert report["damaged"] == report["problems"] == report["damaged_texts"] == [], report


def _traces(strace: str) -> bool:
    command = [strace, QUICK, "-f", "-qq", "-o", os.devnull, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def strace() -> str:
    """The path of strace, where it may trace."""
    found = shutil.which("strace")
    if found is None or not _traces(found):
        # What checks a change must not leave these tests out.
        assert "CI" not in os.environ, "strace must be there and may trace"
        pytest.skip("strace is not there or may not trace")
    return found


def each_call_fails(
    strace: str, directory: Path, call: str, fault: Callable[[int], str], *, keeps_texts: bool
) -> int:
    """Run the script once for each call of a kind that it makes, with a fault there; return how often."""
    for number in range(1, MOST_CALLS):
        path, log = directory / f"{number}", directory / f"{number}.log"
        options = ["-f", "-qq", "-o", str(log), "-e", f"trace={call}", "-e", f"inject={call}:{fault(number)}"]
        if "signal" not in fault(number):
            options.append(QUICK)
        done = start(STORING.format(keeps_texts=keeps_texts), path, under=[strace, *options])
        told = log.read_text()
        killed = "killed by SIGKILL" in told
        assert done.returncode == (-9 if killed else 0), (number, done.stdout, done.stderr)
        check_stored(path, done.stdout, keeps_texts=keeps_texts)
        if not killed and "INJECTED" not in told:
            return number - 1
    raise AssertionError(f"more than {MOST_CALLS} calls of {call}")


@pytest.mark.parametrize("keeps_texts", [False, True])
@pytest.mark.parametrize(
    ("call", "error", "at_least"),
    [
        ("fdatasync", "EIO", 9),
        ("fsync", "EIO", 3),
        ("pwrite64", "ENOSPC", 10),
        ("rename", "EIO", 1),
        ("flock", "ENOLCK", 4),
    ],
)
def test_a_call_that_the_system_refuses_costs_no_vector(
    strace: str, tmp_path: Path, call: str, error: str, at_least: int, *, keeps_texts: bool
) -> None:
    def fault(number: int) -> str:
        # Once, or from then on.
        return f"error={error}:when={number}{'+' * (number % 2)}"

    assert each_call_fails(strace, tmp_path, call, fault, keeps_texts=keeps_texts) >= at_least


@pytest.mark.parametrize("keeps_texts", [False, True])
@pytest.mark.parametrize(("call", "at_least"), [("fdatasync", 9), ("pwrite64", 10), ("rename", 1)])
def test_a_process_killed_at_any_call_loses_nothing_that_it_stored(
    strace: str, tmp_path: Path, call: str, at_least: int, *, keeps_texts: bool
) -> None:
    fault = "signal=KILL:when={}".format
    assert each_call_fails(strace, tmp_path, call, fault, keeps_texts=keeps_texts) >= at_least


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts file systems, where that is possible."""
    mounted: list[Path] = []

    def attach(*options: str, source: str) -> Path:
        place = tmp_path / f"mounted {len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", *options, source, str(place)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield attach
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_image(path: Path) -> str:
    with path.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(path)], check=True)
    return str(path)


FULL = """
    texts = [f"text {number}" for number in range(4_000)]
    with EmbeddingCache(path, model="toy@1", chunk_rows=100) as cache:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
        assert len(warned) == 1, warned
        assert "No space left" in str(warned[0].message), warned
        held = len(cache)
        assert 100 <= held < 4_000, held
    with EmbeddingCache(path, model="toy@1") as cache:
        assert len(cache) == held
        report = cache.verify()
        assert report["damaged"] == report["problems"] == [], report
    os.unlink(arguments[0])
    with EmbeddingCache(path, model="toy@1") as cache:
        calls.clear()
        assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
        assert sum(map(len, calls)) == 4_000 - held
        assert len(cache) == 4_000
"""


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_file_system_costs_no_vector_and_takes_them_when_there_is_room(
    tmp_path: Path, mount: Any, kind: str
) -> None:
    if kind == "tmpfs":
        place = mount("-t", "tmpfs", "-o", "size=16m", source="tmpfs")
    else:
        place = mount("-o", "loop", source=make_image(tmp_path / "image"))
    status = os.statvfs(place)
    filler = place / "filler"
    filler.write_bytes(bytes(status.f_bavail * status.f_frsize - (640 << 10)))
    run(FULL, place / "cache", filler)


FAILS_FOR_A_WHILE = """
    from pathlib import Path
    ballast, first, second, reads = arguments
    place = Path(path).parent
    views = []
    def read():
        # Who keeps what is read maps it, and the system keeps what is mapped.
        if reads == "True":
            view = EmbeddingCache(path, mode="r").vectors
            views.append((view, view.copy()))
    texts = [f"text {number}" for number in range(2_000)]
    cache = EmbeddingCache(path, model="toy@1", durability=first)
    cache.put(["before"], vectors(["before"]))
    cache.sync()
    for _ in range(1_500):  # So that each block of the journal has its room.
        for change in (lambda: (place / "file").touch(), lambda: (place / "file").unlink()):
            change()
            directory = os.open(place, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
    read()
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    try:
        cache.put(texts, vectors(texts))
        read()
        cache.sync()
    except DejavecError:
        print("failed")
    for name in ("keys.bin", "commit"):
        # As the system does by itself after a while.
        file = os.open(f"{path}/{name}", os.O_RDWR)
        try:
            os.fdatasync(file)
        except OSError:
            print(name)
        os.close(file)
    os.unlink(ballast)
    cache = EmbeddingCache(path, model="toy@1", durability=second)
    cache.put(texts, vectors(texts))
    cache.close()
    assert all((view == copy).all() for view, copy in views)
"""


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("second", ["commit", "close"])
@pytest.mark.parametrize("first", ["commit", "close"])
def test_what_is_acknowledged_after_a_sync_that_failed_is_there_after_a_remount(
    tmp_path: Path, mount: Any, first: str, second: str, reads: bool
) -> None:
    below = mount("-t", "tmpfs", "-o", "size=40m", source="tmpfs")
    image = below / "image"
    with image.open("wb") as file:
        file.truncate(200 << 20)
    options = ["-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=0,nodiscard", "-m", "0"]
    subprocess.run(["mkfs.ext4", "-q", *options, str(image)], check=True)
    place = mount("-o", "loop", source=str(image))
    output = run(FAILS_FOR_A_WHILE, place / "cache", below / "ballast", first, second, reads)
    assert output.split() == ["failed", "keys.bin"]
    subprocess.run(["umount", str(place)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    texts = [f"text {number}" for number in range(2_000)]
    with EmbeddingCache(place / "cache", mode="r") as cache:
        found, held = cache.get(texts)
        assert found.all()
        assert held.tobytes() == vectors(texts).tobytes()


def test_a_read_only_file_system_is_read_and_completes_a_run(tmp_path: Path, mount: Any) -> None:
    place = mount("-t", "tmpfs", "-o", "size=4m", source="tmpfs")
    texts = [f"text {number}" for number in range(20)]
    with EmbeddingCache(place / "cache", model="toy@1") as cache:
        cache.encode(texts[:10], vectors)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with EmbeddingCache(place / "cache", model="toy@1") as cache:
        assert cache.get(texts)[0].sum() == 10
        with pytest.warns(dejavec.DejavecWarning, match="could not be written"):
            assert cache.encode(texts, vectors).tobytes() == vectors(texts).tobytes()


def test_a_fuse_file_system_is_written_and_its_rows_are_copied(tmp_path: Path) -> None:
    if shutil.which("fuse2fs") is None:
        pytest.skip("fuse2fs is not there")
    place = tmp_path / "mounted"
    place.mkdir()
    command = ["fuse2fs", "-o", "fakeroot", make_image(tmp_path / "image"), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        texts = [f"text {number}" for number in range(5_000)]
        expected = vectors(texts)
        for _ in range(2):
            with EmbeddingCache(place / "cache", model="toy@1") as cache:
                assert cache.encode(texts, vectors).tobytes() == expected.tobytes()
                assert len(cache) == len(texts)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_directory_that_may_not_be_written_is_read_and_completes_a_run(tmp_path: Path) -> None:
    run(
        """
        texts = [f"text {number}" for number in range(20)]
        import shutil, tempfile
        os.chdir(tempfile.mkdtemp())  # Anybody may pass through the directories above it.
        with EmbeddingCache("cache", model="toy@1") as cache:
            cache.encode(texts[:10], model)
        if os.getuid() == 0:
            # Nothing is forbidden to root, so go on as somebody else whose files these are.
            for place in (".", "cache", *(f"cache/{name}" for name in os.listdir("cache"))):
                os.chown(place, 65534, 65534)
            os.setgid(65534)
            os.setuid(65534)
        for name in os.listdir("cache"):
            os.chmod(f"cache/{name}", 0o400)
        os.chmod("cache", 0o500)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            cache = EmbeddingCache("cache", model="toy@1")
            calls.clear()
            assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
            assert calls == [texts[10:]]
        assert len(warned) == 1 and "Permission denied" in str(warned[0].message), warned
        os.chmod("cache", 0o700)
        shutil.rmtree(os.getcwd())
        """,
        tmp_path / "cache",
    )


def test_too_few_descriptors_are_a_typed_error_and_cost_nothing(tmp_path: Path) -> None:
    output = run(
        """
        import resource
        texts = [f"text {number}" for number in range(10)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for spare in range(12):
            used = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
            try:
                with EmbeddingCache(f"{path}/{spare}", model="toy@1") as cache:
                    cache.put(texts, vectors(texts))
                print("stored")
            except DejavecError as error:
                print("refused", error.found)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with EmbeddingCache(f"{path}/{spare}", model="toy@1") as cache:
                assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
                assert len(cache) == 10
        """,
        tmp_path / "caches",
    )
    assert "refused Too many open files" in output
    assert output.splitlines()[-1] == "stored"


INTERRUPTED = """
    import fcntl, threading
    texts = [f"text {number}" for number in range(50)]
    cache = EmbeddingCache(path, model="toy@1")
    cache.put(texts[:10], vectors(texts[:10]))
    long = [chr(97 + number) * 10_000_000 for number in range(20)]
    class Own(Exception):
        pass
    def raise_own(*_):
        raise Own
    lock = open(f"{path}/LOCK", "rb")
    for handler, expected in ((signal.default_int_handler, KeyboardInterrupt), (raise_own, Own)):
        signal.signal(signal.SIGINT, handler)
        if arguments[0] == "waiting":
            fcntl.flock(lock, fcntl.LOCK_EX)
        # The thread comes to run when the main one works without the interpreter's lock.
        interrupter = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
        try:
            interrupter.start()
            if arguments[0] == "waiting":
                cache.put(texts, vectors(texts))
            else:
                cache.encode(long, model)
        except expected:
            print("interrupted")
        fcntl.flock(lock, fcntl.LOCK_UN)
    assert calls == []
    with cache:
        assert len(cache) == 10
        assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
        report = cache.verify()
        assert report["damaged"] == report["problems"] == [], report
"""


@pytest.mark.parametrize("step", ["hashing", "waiting"])
def test_a_signal_while_hashing_or_waiting_raises_what_its_handler_raises(tmp_path: Path, step: str) -> None:
    assert run(INTERRUPTED, tmp_path / "cache", step).split() == ["interrupted"] * 2


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_an_interrupt_while_committing_comes_after_the_commit(strace: str, tmp_path: Path, call: str) -> None:
    script = """
    texts = [f"text {number}" for number in range(30)]
    cache = EmbeddingCache(path, model="toy@1")
    try:
        for start in range(0, 30, 10):
            cache.put(texts[start : start + 10], vectors(texts[start : start + 10]))
    except KeyboardInterrupt:
        print("interrupted", len(cache))
    found, held = cache.get(texts)
    assert found.sum() == len(cache) and len(cache) % 10 == 0
    assert held[found].tobytes() == vectors(texts)[found].tobytes()
    assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
    cache.close()
    """
    for number in (5, 8, 9, 12):
        options = ["-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
        inject = ["-e", f"inject={call}:signal=INT:when={number}"]
        done = start(script, tmp_path / f"{number}", under=[strace, *options, *inject])
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("interrupted"), (number, done.stdout)


@pytest.mark.parametrize("name", ["vectors.npy", "keys.bin", "commit", "meta.json"])
def test_a_file_cut_between_two_batches_of_a_reader_gives_an_error_or_the_right_vectors(
    tmp_path: Path, name: str
) -> None:
    texts = [f"text {number}" for number in range(3_000)]
    expected = vectors(texts)
    with EmbeddingCache(tmp_path / "cache", model="toy@1") as cache:
        cache.put(texts, expected)
    size = (tmp_path / "cache" / name).stat().st_size
    reader = EmbeddingCache(tmp_path / "cache", mode="r")
    assert reader.get(texts)[0].all()
    refused = 0
    for left in (size - 1, size // 2, 100, 0):
        os.truncate(tmp_path / "cache" / name, left)
        for refreshes in (False, True, False):
            try:
                result: Any = reader.refresh() if refreshes else reader.get(texts)
            except dejavec.DejavecError:
                refused += 1
            else:
                if not refreshes:
                    found, held = result
                    assert held[found].tobytes() == expected[found].tobytes()
    assert refused
    assert main(["verify", str(tmp_path / "cache")]) == 1


def test_a_cache_that_is_made_anew_under_an_open_writer_takes_its_rows(tmp_path: Path) -> None:
    first = EmbeddingCache(tmp_path / "cache", model="toy@1")
    first.put(["a", "b"], vectors(["a", "b"]))
    shutil.rmtree(tmp_path / "cache")
    with EmbeddingCache(tmp_path / "cache", model="toy@1") as second:
        second.put(["c"], vectors(["c"]))
        assert first.put(["d"], vectors(["d"])) == 1
        second.refresh()
        for cache in (first, second):
            found, held = cache.get(["a", "b", "c", "d"])
            assert found.tolist() == [False, False, True, True]
            assert held[2:].tobytes() == vectors(["c", "d"]).tobytes()
    first.close()


def test_where_the_rows_cannot_be_mapped_vectors_are_read_and_stored(tmp_path: Path) -> None:
    script = """
    import resource
    cache = EmbeddingCache(path, model="toy@1", durability="close")
    texts = [f"text {i}" for i in range(50_000)]
    wide = np.ones((len(texts), 1024), np.float32) * np.arange(len(texts), dtype=np.float32)[:, None]
    cache.put(texts, wide)
    cache.close()
    cache = EmbeddingCache(path, model="toy@1")
    size = int(open("/proc/self/statm").read().split()[0]) * 4096
    # Less than the 200 MB of the rows.
    resource.setrlimit(resource.RLIMIT_AS, (size + (120 << 20), resource.RLIM_INFINITY))
    assert cache.get(["text 7"])[1].tolist() == [[7.0] * 1024]
    assert cache.put(["text 8", "new"], np.full((2, 1024), 8, np.float32)) == 1
    assert cache.get(["new"])[1].tolist() == [[8.0] * 1024]
    try:
        cache.vectors
    except DejavecError as error:
        print(error)
    """
    message = run(script, tmp_path / "cache")
    assert "out of memory" in message
    assert "vectors.npy" in message


def move_and_link(path: Path, elsewhere: Path) -> None:
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def copy_and_link(path: Path, elsewhere: Path) -> None:
    shutil.copytree(path, elsewhere)
    shutil.rmtree(path)
    path.symlink_to(elsewhere)


def restore_a_backup(path: Path, elsewhere: Path) -> None:
    shutil.copytree(path, elsewhere)
    shutil.rmtree(path)
    shutil.copytree(elsewhere, path)


@pytest.mark.parametrize("change", [move_and_link, copy_and_link, restore_a_backup])
@pytest.mark.parametrize("synced", [True, False])
def test_a_directory_that_is_moved_or_restored_under_an_open_writer_takes_its_rows(
    tmp_path: Path, change: Callable[[Path, Path], None], synced: bool
) -> None:
    path = tmp_path / "cache"
    cache = EmbeddingCache(path, model="toy@1", durability="close")
    cache.put(["a", "b"], vectors(["a", "b"]))
    if synced:
        cache.sync()
    change(path, tmp_path / "elsewhere")
    cache.put(["c"], vectors(["c"]))
    assert cache.encode(["d"], vectors).tobytes() == vectors(["d"]).tobytes()
    if synced or change is move_and_link:
        # The files are the same, wherever they lie.
        cache.close()
    else:
        with pytest.raises(dejavec.errors.StorageError, match="moved, replaced or removed"):
            cache.close()
    with EmbeddingCache(path, model="toy@1") as again:
        found, held = again.get(["c", "d"])
        assert found.all()
        assert held.tobytes() == vectors(["c", "d"]).tobytes()
