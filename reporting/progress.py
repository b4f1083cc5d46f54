"""Progress over the grid and over epochs: two bars with ETA on a terminal, plain lines elsewhere."""
import sys
import time

from tqdm import tqdm


class Progress:
    """`total` configs are to be computed; `epoch` is called after each training epoch, `done` after each config."""

    def __init__(self, total, stream=None):
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.total, self.count, self.started = total, 0, time.monotonic()
        self.grid = tqdm(total=total, unit="config", file=self.stream, dynamic_ncols=True, disable=not self.terminal)
        self.epochs, self.stage = None, None

    def start(self, name):
        self.grid.set_description(name)

    def epoch(self, stage, row, epochs):
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

    def skip(self):
        """A config that was finished before."""
        self.total -= 1
        self.grid.total = self.total
        self.grid.refresh()

    def done(self, name, seconds):
        self.close_epochs()
        self.count += 1
        self.grid.update()
        if not self.terminal:
            left = (time.monotonic() - self.started) / self.count * (self.total - self.count)
            self.say(f"[{self.count}/{self.total}] {name}: {seconds:.1f} s, about {left:.0f} s left")

    def say(self, line):
        if self.terminal:
            self.grid.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def close_epochs(self):
        if self.epochs is not None:
            self.epochs.close()
            self.epochs = None

    def close(self):
        self.close_epochs()
        self.grid.close()
