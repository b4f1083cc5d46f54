"""The desk of a grid over many workers: an actor of Ray beside the driver, in a process of its own.

It imports no TensorFlow: with it the desk took seconds to begin, while all workers waited, and as much memory as one of
them.
"""
import shutil
from pathlib import Path

from reporting import files


class Desk:
    """On the driver's machine: where workers say what they are at, and files pass to nodes without the run folder."""

    def __init__(self, folder: str | Path):
        self.folder, self.running, self.lines, self.apart = Path(folder), {}, [], set()

    def begin(self, identity: str, node: str, shares: bool) -> None:
        self.running[identity] = "begins"
        if not shares and node not in self.apart:
            self.apart.add(node)
            self.lines.append(f"{node} does not share {self.folder}: results and checkpoints come back through Ray.")

    def tell(self, identity: str, text: str) -> None:
        if identity in self.running:
            self.running[identity] = text

    def say(self, line: str) -> None:
        self.lines.append(line)

    def end(self, identity: str) -> None:
        self.running.pop(identity, None)

    def news(self) -> tuple[dict[str, str], list[str]]:
        """({config id: what it is at}, lines since the last call)."""
        lines, self.lines = self.lines, []
        return dict(self.running), lines

    def fetch(self, identity: str) -> dict[str, bytes]:
        """{path in the run folder: bytes} of a config's checkpoints."""
        found = (self.folder / "runs" / identity / "checkpoint").glob("*.npz")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def keep(self, identity: str, contents: dict[str, bytes]) -> None:
        """Write {path in the run folder: bytes} of a config; a result goes last, as it says that the rest is there."""
        for name in sorted(contents, key=lambda name: Path(name).name == "result.json"):
            with files.atomic(self.folder / name, "wb") as stream:
                stream.write(contents[name])
        if f"runs/{identity}/result.json" in contents:
            for name in ("checkpoint", "failed.txt"):
                path = self.folder / "runs" / identity / name
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
