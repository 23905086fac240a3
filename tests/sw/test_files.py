"""Files are whole or not there, and what was there before is not lost."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zeroskip.sw import files


@pytest.fixture
def old(tmp_path):
    """A file that is there already."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def listing(path):
    return sorted(each.name for each in path.parent.iterdir())


@pytest.mark.parametrize("content", ["new \N{GREEK SMALL LETTER PI}", b"new\0", "", b""])
def test_content(tmp_path, content):
    for _ in range(2):
        files.write(str(tmp_path / "file"), content)
    found = (tmp_path / "file").read_bytes()
    assert found == (content if isinstance(content, bytes) else content.encode())
    assert listing(tmp_path / "file") == ["file"]


def test_array(tmp_path):
    array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    files.save_array(tmp_path / "y.npy", array)
    np.save(tmp_path / "z.npy", array)
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "z.npy").read_bytes()


def test_nothing_is_to_be_seen_before_the_end(old):
    with old.open() as reader:
        with files.beside(old) as part:
            part.write_text("new")
            assert old.read_text() == "old"
        assert old.read_text() == "new"
        assert reader.read() == "old", "whoever has opened it reads what was there"


def test_failure(old):
    def work():
        with files.beside(old) as part:
            part.write_text("ne")
            raise RuntimeError("halfway")
    with pytest.raises(RuntimeError, match="halfway"):
        work()
    assert (old.read_text(), listing(old)) == ("old", ["file.txt"])


def test_file_too_large(old, limit):
    with limit(100), pytest.raises(OSError, match=r"File too large: '.*/file\.txt'"):
        files.write(old, "x" * 101)
    assert (old.read_text(), listing(old)) == ("old", ["file.txt"])


def test_array_too_large(tmp_path, limit):
    with limit(5000), pytest.raises(OSError, match=r"File too large: '.*/y\.npy'"):
        files.save_array(tmp_path / "y.npy", np.zeros(5000))
    assert not list(tmp_path.iterdir())


def test_of_several_files_all_or_none(old, limit):
    other = old.with_name("other")
    with limit(100), pytest.raises(OSError, match="'.*/other'"):
        files.write_all({old: "new", other: "x" * 101})
    assert (old.read_text(), listing(old)) == ("old", ["file.txt"])
    files.write_all({old: "new", other: "too"})
    assert (old.read_text(), other.read_text()) == ("new", "too")


def test_kill_in_the_middle(old):
    script = ("import os, sys; from zeroskip.sw.files import beside\n"
              "with beside(sys.argv[1]) as part:\n"
              "    part.write_text('ne'); os.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", script, old], check=False).returncode == -9
    assert old.read_text() == "old"


def test_full_disk(old, monkeypatch):
    """A stand-in: to replace a device of the system would be a way to fail that hurts."""
    def fail(path, content):
        with path.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/file\.txt'"):
        files.write(old, "new")
    assert (old.read_text(), listing(old)) == ("old", ["file.txt"])


def test_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write(tmp_path / "pipe", "through")
    assert os.read(reader, 10) == b"through"
    os.close(reader)
    assert listing(tmp_path / "pipe") == ["pipe"]


def test_link_stays_one(old):
    link = old.with_name("link")
    link.symlink_to(old.name)
    files.write(link, "new")
    assert link.is_symlink()
    assert old.read_text() == "new"


def test_mode(old):
    before = os.umask(0o027)
    try:
        files.write(old.with_name("made"), "")
    finally:
        os.umask(before)
    assert stat.S_IMODE(old.with_name("made").stat().st_mode) == 0o640
    old.chmod(0o604)
    files.write(old, "new")
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


def test_file_that_must_not_be_written(old, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) != str(old))
    with pytest.raises(PermissionError, match=r"'.*/file\.txt'"):
        files.write(old, "new")
    assert old.read_text() == "old"


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*/none/file'"):
        files.write(tmp_path / "none" / "file", "")


def test_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="'.*/input'"), files.beside(tmp_path / "output"):
        (tmp_path / "input").read_text()
