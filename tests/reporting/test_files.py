"""reporting/files.py: files are whole or absent, and damage is seen."""
import errno
import os
import re

import numpy as np
import pytest

from reporting import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())

def test_atomic_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a" / "x.txt"
    with files.atomic(path) as stream:
        stream.write("old")
    with pytest.raises(RuntimeError), files.atomic(path) as stream:
        stream.write("new and long" * 10_000)
        raise RuntimeError
    assert path.read_text() == "old" and names(path.parent) == ["x.txt"]


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_json(tmp_path / "x.json", {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(tmp_path / "x.json", {"a": 2})
    assert files.read_json(tmp_path / "x.json") == {"a": 1} and names(tmp_path) == ["x.json"]


def test_files_can_be_read_by_others(tmp_path):
    files.write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o644


def test_json_keeps_numbers_to_the_bit(tmp_path):
    numbers = {"a": 0.1 + 0.2, "b": 5e-324, "c": np.float64(1) / 3, "d": 2**60, "e": [np.float32(0.1)], "f": "ü"}
    files.write_json(tmp_path / "x.json", numbers)
    assert files.read_json(tmp_path / "x.json") == files.plain(numbers)
    assert files.plain(numbers)["e"] == [float(np.float32(0.1))]


def test_every_truncated_or_changed_json_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"loss": 1.25, "values": [1, 2, 3]})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
            files.read_json(path)
    for place in range(len(whole)):
        for bit in (0, 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            try:
                content = files.read_json(path)
            except ValueError:
                continue
            assert content == {"loss": 1.25, "values": [1, 2, 3]}, place  # white space changed, at most
    for text in ("[1]", "3", "null", "{}"):
        path.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            files.read_json(path)


def test_arrays_keep_bits_and_metadata_and_damage_is_noticed(tmp_path):
    path = tmp_path / "x.npz"
    arrays = {"a/b": np.random.default_rng(0).standard_normal((3, 4)), "n": np.array([np.nan, 1], np.float32)}
    files.write_arrays(path, arrays, stage="s", rows=[{"loss": np.pi}])
    again, meta = files.read_arrays(path)
    assert meta == {"stage": "s", "rows": [{"loss": np.pi}]} and set(again) == set(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
        assert again[name].dtype == value.dtype
    whole = path.read_bytes()
    position = whole.index(arrays["a/b"].tobytes()) + 5
    for damaged in (whole[:-100], whole[:50], b"", whole[:position] + b"\x00\xff" + whole[position + 2 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
            files.read_arrays(path)
