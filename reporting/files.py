"""Files are written whole or not at all, and a damaged one is noticed when it is read."""
import fcntl
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np


@contextmanager
def atomic(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file beside `path` for writing, and move it into place once it is complete and on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, mode) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide results from colleagues
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def only_one(path: str | Path) -> Iterator[None]:
    """Hold the lock file at `path`, which is there as long as its process lives; BlockingIOError if another holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        stream = open(path, "a+")  # noqa: SIM115 - held open, and locked, while the caller works
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            stream.close()
            raise
        if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
            break
        stream.close()  # its last holder has just removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        stream.close()


def read_text(path: str | Path) -> str:
    """The text of a file; ValueError, in one line that names it, if it is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}") from error


def plain(value: Any) -> Any:
    """JSON form of a number or container: NumPy types as Python's, non-finite numbers as null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def split_arrays(measures: dict) -> tuple[dict, dict[str, np.ndarray]]:
    """(numbers, arrays) of measures: an array with no axis is a number."""
    arrays = {k: v for k, v in measures.items() if isinstance(v, np.ndarray) and v.ndim}
    return {k: v for k, v in measures.items() if k not in arrays}, arrays


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def write_json(path: str | Path, value: dict) -> None:
    value = plain(value)
    with atomic(path) as stream:
        json.dump({**value, "sha256": digest(value)}, stream, indent=1)


def read_json(path: str | Path) -> dict:
    """The content of a file made by write_json; ValueError if it is not what was written."""
    try:
        value = json.loads(Path(path).read_text())
        checksum = value.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__})") from error
    if checksum != digest(value):
        raise ValueError(f"{path} is damaged (its checksum does not match)")
    return value


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray], **meta: Any) -> None:
    """Save named arrays, and metadata as JSON, in one .npz."""
    with atomic(path, "wb") as stream:
        np.savez(stream, meta=np.array(json.dumps(meta)), **arrays)


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, metadata) of a file made by write_arrays; ValueError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(str(arrays.pop("meta")))
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and json each have their own
        raise ValueError(f"{path} is damaged ({type(error).__name__})") from error
