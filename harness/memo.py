"""What the configs of one run share: results kept by the content of a config, for as long as the run lives."""
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting import files
from training import reuse


class Memo:
    """`once(key, function)` computes a value the first time that its key is seen, and hands it on after that.

    A key is a name followed by whatever decides the value: configs, numbers, texts. Configs count by their content, and
    a .keras file by its bytes, so that a model saved again is another one. An error is raised again, not computed
    again. A value that may hold a model keeps it from later configs (training/reuse.py).
    """

    def __init__(self):
        self._known = {}

    def once(self, key: Any, function: Callable) -> Any:
        """function() of the first call with this key."""
        key = json.dumps(content(key), sort_keys=True)
        if key not in self._known:
            try:
                self._known[key] = reuse.shared(function), None
            except ValueError as error:
                self._known[key] = None, error
        value, error = self._known[key]
        if error is not None:
            raise error
        return value


def content(value: Any) -> Any:
    """JSON form of what decides a value: dataclasses by class and fields, a .keras file by the digest of its bytes."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: content(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(name): content(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [content(inner) for inner in value]
    if isinstance(value, str):
        return model_content(value)
    return files.plain(value)


def model_content(name: str) -> str:
    """A model's name, or the digest of its file: of a person's own .keras file the content counts, not the folder."""
    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if name.endswith(".keras") else name
