"""How fast does `training.fit.fit` train, against keras.Model.fit and against PyTorch?

    benchmarks/make_pytorch_env.sh
    python -m benchmarks.training --pytorch_python=.venv-pytorch/bin/python

Images of 32x32x3 a second, in batches of 128, on the CPU. Each method trains the same network in a process of its own,
and the first epoch of each, which traces and compiles, does not count. Then the methods take turns, an epoch each in
every round, so that whatever else the machine does meets them alike: the ratios are medians over rounds of the ratio
within a round. On a machine that others use as well only they mean something, and steadier ones come from
--threads=1 --clock=processor: images in a second of the process' own processor time, with nothing to wait for.

    fit       this project's loop and layers
    keras     keras.Model.fit with its defaults, on the same network made of Keras' own layers
    pytorch   the same network in PyTorch: eager, with the images at hand as one tensor, in its default memory format;
              pytorch_channels_last keeps images and kernels as TensorFlow does, pytorch_compiled is torch.compile
"""
import argparse
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
BATCH, CLASSES, SHAPE = 128, 10, (32, 32, 3)
LEARNING_RATE, MOMENTUM = 0.05, 0.9
MEAN, STD = 0.5, 0.25  # of the pixels, for the attack
EPSILON, STEP_SIZE = 8 / 255, 2 / 255
# name: (network, steps of PGD, SGD steps in an epoch, which takes one to five seconds)
CASES = {
    "mlp_2048_2048_1024": ({"model": "mlp", "widths": (2048, 2048, 1024)}, 0, 40),
    "mlp_3x512": ({"model": "mlp", "width": 512, "depth": 3}, 0, 200),
    "resnet18_w16": ({"model": "resnet", "width": 16}, 0, 20),
    "resnet18_w64": ({"model": "resnet", "width": 64}, 0, 4),
    "adversarial_w16": ({"model": "resnet", "width": 16}, 7, 4),
}
PYTORCH = ("pytorch", "pytorch_channels_last", "pytorch_compiled")
METHODS = ("fit", "keras", *PYTORCH)


# --- a process for each method: it says how many parameters it trains, then one line in, one epoch, one line out


def serve(method, case, steps, answers):
    network, attack_steps, _ = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps * BATCH, *SHAPE), dtype=np.float32)
    y = np.eye(CLASSES, dtype=np.float32)[rng.integers(CLASSES, size=len(x))]
    train = serve_pytorch if method in PYTORCH else serve_keras
    train(method, network, attack_steps, x, y, Turns(len(x), answers))


class Turns:
    """Waits for the turn of this process, and tells how many images a second its epoch has taken."""

    def __init__(self, images, answers):
        self.images, self.answers = images, answers

    def begin(self, parameters):
        """After the warm-up."""
        print(json.dumps({"parameters": parameters}), file=self.answers, flush=True)

    def wait(self):
        if not sys.stdin.readline():
            sys.exit(0)
        self.started = clocks()

    def done(self, ended):
        rates = {clock: self.images / (ended[clock] - self.started[clock]) for clock in ended}
        print(json.dumps(rates), file=self.answers, flush=True)


def clocks():
    return {"wall": time.perf_counter(), "processor": time.process_time()}


def serve_keras(method, network, attack_steps, x, y, turns):
    sys.path.insert(0, str(ROOT))
    import keras

    from models import NetworkConfig, build
    from training.attacks import AdversarialModel, AttackConfig
    from training.data import Data
    from training.fit import TrainingConfig, fit

    class Clock(keras.callbacks.Callback):
        """Times from an epoch's begin to its last step: the loop, without what `fit` does once an epoch."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                turns.begin(sum(int(np.prod(v.shape)) for v in self.model.trainable_variables))
            if epoch:
                turns.wait()

        def on_train_batch_end(self, batch, logs=None):
            self.ended = clocks()

        def on_epoch_end(self, epoch, logs=None):
            if epoch:
                turns.done(self.ended)

    model = build(NetworkConfig(**network), SHAPE, CLASSES, seed=0)
    if method == "keras":
        model = of_keras_layers(model)
    if attack_steps:
        attack = AttackConfig(epsilon=EPSILON, step_size=STEP_SIZE, steps=attack_steps)
        model = AdversarialModel(model, attack, mean=MEAN, std=STD)
    if method == "fit":
        data = Data(x, y, x[:BATCH], y[:BATCH], np.full(3, MEAN, np.float32), np.full(3, STD, np.float32))
        config = TrainingConfig(epochs=10**6, batch_size=BATCH, learning_rate=LEARNING_RATE, momentum=MOMENTUM)
        fit(model, data, config, seed=0, callbacks=[Clock()])
        return
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, MOMENTUM),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=BATCH, epochs=10**6, verbose=0, callbacks=[Clock()])


def of_keras_layers(model):
    """The model with Keras' own BatchNormalization, as somebody without this project would write it."""
    import keras

    def of_keras(layer):
        norm = isinstance(layer, keras.layers.BatchNormalization)
        kind = keras.layers.BatchNormalization if norm else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=of_keras)


def serve_pytorch(method, network, attack_steps, x, y, turns):
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = pytorch_mlp(network) if network["model"] == "mlp" else pytorch_resnet(network["width"])
    x, y = torch.tensor(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(y).argmax(1)
    if method == "pytorch_channels_last":
        x, model = x.to(memory_format=torch.channels_last), model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
    network_of = torch.compile(model) if method == "pytorch_compiled" else model
    lowest, highest = (0 - MEAN) / STD, (1 - MEAN) / STD
    radius, length = EPSILON / STD, STEP_SIZE / STD

    def adversarial(images, labels):
        """PGD in inference mode, as AdversarialModel has it; gradients of the images alone."""
        model.eval()
        inside = images.clamp(lowest, highest)  # an image outside of the pixels' range is moved no further out
        low, high = torch.minimum(images, inside), torch.maximum(images, inside)
        low, high = low.clamp(max=lowest), high.clamp(min=highest)
        low, high = torch.maximum(images - radius, low), torch.minimum(images + radius, high)
        moved = torch.clamp(images + radius * (2 * torch.rand_like(images) - 1), low, high)
        for _ in range(attack_steps):
            moved.requires_grad_(True)
            loss = nn.functional.cross_entropy(network_of(moved), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = torch.clamp(moved.detach() + length * gradient.sign(), low, high)
        model.train()
        return moved

    def epoch():
        total, correct = torch.zeros(()), torch.zeros((), dtype=torch.long)
        for chosen in torch.randperm(len(x)).split(BATCH):
            images, labels = x[chosen], y[chosen]
            if attack_steps:
                images = adversarial(images, labels)
            optimizer.zero_grad()
            logits = network_of(images)
            loss = nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                total += loss
                correct += (logits.argmax(1) == labels).sum()
        return float(total) / len(x), int(correct) / len(x)

    epoch()
    turns.begin(sum(p.numel() for p in model.parameters()))
    while True:
        turns.wait()
        epoch()
        turns.done(clocks())


def pytorch_mlp(network):
    from torch import nn

    widths = network.get("widths") or [network["width"]] * network["depth"]
    layers, last = [nn.Flatten()], int(np.prod(SHAPE))
    for width in widths:
        layers += [nn.Linear(last, width), nn.ReLU()]
        last = width
    return nn.Sequential(*layers, nn.Linear(last, CLASSES))


def pytorch_resnet(width):
    """models/resnet.py's default network."""
    import torch
    from torch import nn

    def conv_norm(channels, filters, size, strides):
        conv = nn.Conv2d(channels, filters, size, strides, padding=size // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(filters))

    class Block(nn.Module):
        def __init__(self, channels, filters, strides):
            super().__init__()
            self.first, self.second = conv_norm(channels, filters, 3, strides), conv_norm(filters, filters, 3, 1)
            same = channels == filters and strides == 1
            self.shortcut = nn.Identity() if same else conv_norm(channels, filters, 1, strides)

        def forward(self, x):
            y = self.second(torch.relu_(self.first(x)))
            return torch.relu_(y + self.shortcut(x))

    blocks, last = [], width
    for stage in range(4):
        for index in range(2):
            blocks.append(Block(last, width * 2**stage, 2 if stage and not index else 1))
            last = width * 2**stage
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, CLASSES)]
    return nn.Sequential(conv_norm(SHAPE[2], width, 3, 1), nn.ReLU(inplace=True), *blocks, *head)


# --- the benchmark


class Process:
    """One method at one case; raises RuntimeError where it ends or hangs."""

    def __init__(self, method, case, python, steps, threads, seconds):
        self.method, self.seconds = method, seconds
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        chosen = {name: str(threads) for name in names} if threads else {}
        self.process = subprocess.Popen(
            [python, str(Path(__file__).resolve()), f"--serve={method}", "--cases", case, "--steps", str(steps)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **chosen},
        )  # fmt: skip
        # A full pipe would stop the process: what it has to say goes to a thread's list.
        self.said = []
        threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()

    def answer(self):
        ready, _, _ = select.select([self.process.stdout], [], [], self.seconds)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.close()
            why = f"took more than {self.seconds} s" if not ready else "".join(self.said[-5:]).strip()
            raise RuntimeError(f"{self.method} ended without an answer: {why}")
        return json.loads(line)

    def begin(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()

    def epoch(self):
        self.begin()
        return self.answer()

    def close(self):
        self.process.kill()
        self.process.wait()


def measure(case, methods, pythons, arguments):
    """{method: [images a second of each round]}"""
    steps = arguments.steps or CASES[case][2]
    processes, rates, parameters = {}, {method: [] for method in methods}, {}
    try:
        for method in methods:  # one after the other: compilation would slow down the others' warm-up
            python = pythons[method]
            processes[method] = Process(method, case, python, steps, arguments.threads, arguments.seconds)
            parameters[method] = processes[method].answer()["parameters"]
        if len(set(parameters.values())) > 1:
            raise RuntimeError(f"the networks differ: trainable parameters {parameters}")
        for number in range(arguments.rounds):
            start = number % len(methods)  # whoever comes after another's epoch is not always the same
            for method in (*methods[start:], *methods[:start]):
                rates[method].append(processes[method].epoch()[arguments.clock])
    finally:
        for process in processes.values():
            process.close()
    return rates


def spread(values, digits):
    values = np.asarray(values)
    return f"{np.median(values):.{digits}f} [{values.min():.{digits}f}, {values.max():.{digits}f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each method that are timed (default 7)")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--methods", nargs="*", choices=METHODS, metavar="METHOD", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--pytorch_python", help="python of the environment that make_pytorch_env.sh made")
    parser.add_argument("--steps", type=int, help="SGD steps in an epoch; by default as many as take some seconds")
    parser.add_argument("--threads", type=int, help="of each process; by default what TensorFlow and PyTorch choose")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="what a second is of")
    parser.add_argument("--seconds", type=float, default=600, help="that an epoch, or a warm-up, may take")
    parser.add_argument("--serve", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # libraries may print
        serve(arguments.serve, arguments.cases[0], arguments.steps, answers)
        return
    for name in ("rounds", "steps", "threads"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    methods = arguments.methods or ["fit", "keras", *(PYTORCH[:2] if arguments.pytorch_python else ())]
    if set(methods) & set(PYTORCH) and not arguments.pytorch_python:
        parser.error("PyTorch needs --pytorch_python: see benchmarks/make_pytorch_env.sh")
    pythons = {method: arguments.pytorch_python if method in PYTORCH else sys.executable for method in methods}
    first, others = methods[0], methods[1:]
    print(
        f"Images in a second of {'the wall clock' if arguments.clock == 'wall' else 'processor time'}, "
        f"{arguments.threads or 'all'} threads: median [least, most] of {arguments.rounds} rounds; "
        "ratios are those within a round.\n"
    )
    print("| case | " + " | ".join([*methods, *(f"{first} / {other}" for other in others)]) + " |")
    print("| --- " * (1 + len(methods) + len(others)) + "|")
    for case in arguments.cases:
        rates = measure(case, methods, pythons, arguments)
        cells = [spread(rates[method], 0) for method in methods]
        cells += [spread(np.divide(rates[first], rates[other]), 2) for other in others]
        print("| " + " | ".join([case, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
