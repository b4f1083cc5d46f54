"""Progress over the grid and over epochs: two bars with ETA on a terminal, plain lines elsewhere.

With several workers there is a line for each running config in place of the bar over epochs.
"""
import sys
import time
from typing import TextIO

from tqdm import tqdm

LINES = 16  # of running configs; a number says how many more there are


def print_line(line: str, stream: TextIO | None = None) -> None:
    """Print a line on stderr, above whatever bars there are."""
    stream = stream or sys.stderr
    tqdm.write(line, file=stream)
    stream.flush()


class Progress:
    """`total` configs are to be computed; `epoch` is called after each training epoch, `done` after each config."""

    def __init__(self, total: int, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.total, self.count, self.started = total, 0, time.monotonic()
        self.grid = tqdm(total=total, unit="config", file=self.stream, dynamic_ncols=True, disable=not self.terminal)
        self.epochs, self.stage, self.failed, self.running, self.lines = None, None, 0, {}, []

    def start(self, name: str) -> None:
        self.grid.set_description(name)

    def epoch(self, stage: str, row: dict, epochs: int) -> None:
        if not self.terminal:
            return
        if self.epochs is None or self.stage != stage:
            self.close_epochs()
            self.epochs = tqdm(
                total=epochs, unit="epoch", file=self.stream, leave=False, position=1, dynamic_ncols=True
            )
            self.stage = stage
        self.epochs.n = row["epoch"]
        self.epochs.set_description(f"  {stage}")
        self.epochs.set_postfix(loss=f"{row['train/loss']:.4g}", refresh=False)
        self.epochs.update(0)

    def others(self, running: dict[str, str]) -> None:
        """What workers are at: {config id: text}."""
        self.running = running
        if not self.terminal:
            return
        texts = [f"  {name}: {text}" for name, text in sorted(running.items())]
        if len(texts) > LINES:
            texts[LINES - 1 :] = [f"  and {len(texts) - LINES + 1} more"]
        while len(self.lines) < len(texts):
            position = len(self.lines) + 1
            self.lines.append(tqdm(bar_format="{desc}", file=self.stream, leave=False, position=position))
        for line, text in zip(self.lines, texts + [""] * len(self.lines)):
            line.set_description_str(text[: (self.grid.ncols or 120) - 1])
        self.count_others()

    def count_others(self) -> None:
        self.grid.set_postfix_str(f"{len(self.running)} running, {self.failed} failed")

    def skip(self, number: int = 1) -> None:
        """Configs that were finished before."""
        self.total -= number
        self.grid.total = self.total
        self.grid.refresh()

    def done(self, name: str, seconds: float | None) -> None:
        """A config ended; seconds: None if it failed."""
        self.close_epochs()
        self.count += 1
        self.failed += seconds is None
        self.running = {other: text for other, text in self.running.items() if other != name}
        if self.failed or self.lines:
            self.count_others()
        self.grid.update()
        if not self.terminal:
            left = (time.monotonic() - self.started) / self.count * (self.total - self.count)
            took = "failed" if seconds is None else f"{seconds:.1f} s"
            others = f", {len(self.running)} running" if self.running else ""
            others += f", {self.failed} failed" if self.failed else ""
            self.say(f"[{self.count}/{self.total}] {name}: {took}, about {left:.0f} s left{others}")

    def say(self, line: str) -> None:
        print_line(line, self.stream)

    def close_epochs(self) -> None:
        if self.epochs is not None:
            self.epochs.close()
            self.epochs = None

    def close(self) -> None:
        self.close_epochs()
        for line in self.lines:
            line.close()
        self.grid.close()
