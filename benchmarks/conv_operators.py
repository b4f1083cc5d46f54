"""Time of all singular values of a ResNet-18's convolutions: analysis.conv_operators against plain NumPy.

    python benchmarks/conv_operators.py

Plain NumPy is the FFT of the kernel over all frequencies and numpy.linalg.svd of each of them. Runs are paired: both
go once over all kernels in each repetition, in turn, and the ratio is the median over the repetitions. NumPy's BLAS may
lose much time to its own threads on a busy machine: --blas_threads=1 gives it (and nothing else) one thread.
"""
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from absl import app, flags
from threadpoolctl import threadpool_limits

from analysis.conv_operators import model_operators, rank_max, singular_values
from benchmarks.tables import head, row
from models import NetworkConfig, build

flags.DEFINE_integer("width", 64, "channels of the first stage; 64: ResNet-18", lower_bound=1)
flags.DEFINE_integer("image_size", 32, "height and width of the images; 32: CIFAR", lower_bound=16)
flags.DEFINE_integer("repeats", 3, "paired runs over all kernels", lower_bound=1)
flags.DEFINE_enum("numpy_dtype", "float32", ["float32", "float64"], "precision in which NumPy takes the kernels")
flags.DEFINE_integer("blas_threads", 0, "threads of NumPy's BLAS; 0: as many as it likes", lower_bound=0)
flags.DEFINE_bool("edits", False, "time rank_max on all kernels too")
FLAGS = flags.FLAGS


def numpy_singular_values(kernel, size, strides):
    """Full spectrum by numpy.fft and numpy.linalg.svd, descending; strides as further input channels."""
    (s, t), (kh, kw) = strides, kernel.shape[:2]
    phases = [kernel[a::s, b::t] for a in range(s) for b in range(t) if a < kh and b < kw]
    matrices = [np.fft.fft2(k, (size[0] // s, size[1] // t), axes=(0, 1)) for k in phases]  # [n/s, m/t, in, out] each
    values = np.linalg.svd(np.concatenate(matrices, axis=2), compute_uv=False)
    values = np.sort(values.ravel())[::-1]
    count = size[0] // s * (size[1] // t) * min(s * t * kernel.shape[2], kernel.shape[3])
    return np.pad(values, (0, count - len(values)))  # phases without a tap have singular values 0


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def main(_):
    model = build(NetworkConfig("resnet", width=FLAGS.width), (FLAGS.image_size,) * 2 + (3,), 10, seed=0)
    operators = {name: op for name, op in model_operators(model, pad=True).items() if op.kind == "conv"}
    kernels = {name: op.kernel for name, op in operators.items()}
    # Libraries are loaded and threads started once, outside of the time.
    singular_values(kernels["stage1_block1_conv1"], 4)

    ours = {name: [] for name in operators}
    plain, edits, worst = {name: [] for name in operators}, [], 0.0
    for _ in range(FLAGS.repeats):
        for name, op in operators.items():
            values, seconds = timed(lambda name=name, op=op: singular_values(kernels[name], **op.arguments))
            ours[name].append(seconds)
            kernel = kernels[name].astype(FLAGS.numpy_dtype)
            with threadpool_limits(FLAGS.blas_threads or None, user_api="blas"):
                expected, seconds = timed(
                    lambda k=kernel, op=op: numpy_singular_values(k, op.operator_size, op.strides)
                )
            plain[name].append(seconds)
            worst = max(worst, np.abs(values - expected).max() / expected[0])
        if FLAGS.edits:
            edits.append(
                timed(lambda: [rank_max(kernels[n], cap=1.5, **op.arguments) for n, op in operators.items()])[1][0]
            )

    # [wall or cpu, repeats]
    ours, plain = ({name: np.transpose(t) for name, t in times.items()} for times in (ours, plain))
    head("convolution", "input", "kernel", "ours, s", "NumPy, s", "ratio")
    for name, op in operators.items():
        shape, size = "x".join(map(str, kernels[name].shape)), "x".join(map(str, op.operator_size))
        row(f"{name} /{op.strides[0]}", size, shape, *medians(ours[name][0], plain[name][0]))
    totals = [np.sum(list(times.values()), axis=0) for times in (ours, plain)]
    row("all", "", "", *medians(*(t[0] for t in totals)))
    row("all, processor time", "", "", *medians(*(t[1] for t in totals)))
    print(f"\nLargest difference: {worst:.1e} of the largest singular value; median of {FLAGS.repeats} paired runs.")
    if edits:
        print(f"rank_max on all kernels: {np.median(edits):.2f} s.")


def medians(ours, plain):
    """Medians of both, and of their ratio, as text."""
    return f"{np.median(ours):.3f}", f"{np.median(plain):.3f}", f"{np.median(np.divide(ours, plain)):.2f}"


if __name__ == "__main__":
    app.run(main)
