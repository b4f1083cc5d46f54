"""How fast is analysis.ntk.empirical_ntk, and how much memory does it need?  Against two peers.

    benchmarks/make_neural_tangents_env.sh
    python -m benchmarks.ntk --neural_tangents_python=.venv-neural-tangents/bin/python

The peers are neural-tangents 0.6.5 and tf.GradientTape.jacobian. Same weights and inputs everywhere, agreement checked;
the methods' runs alternate and medians are printed, after a warm-up run that compiles. neural-tangents is the fastest
of its implementations that fit into memory. Peak memory is that of a fresh process per case and method, above its size
after imports and a run on two samples. Prints a Markdown table.
"""

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
from absl import app, flags

CASES = {
    f"mlp-{width}x{depth} n={n}": {"kind": "mlp", "width": width, "depth": depth, "n": n, "outputs": "full"}
    for width, depth in ((256, 3), (1024, 3), (4096, 3), (256, 10), (1024, 10), (4096, 10))
    for n in (20, 100)
}
CASES |= {
    f"resnet18-{width} n={n}": {"kind": "resnet", "width": width, "n": n, "outputs": "full"}
    for width in (16, 64)
    for n in (10, 25)
}
CASES |= {"mlp-1024x3 n=1000 trace": {"kind": "mlp", "width": 1024, "depth": 3, "n": 1000, "outputs": "trace"}}
IMPLEMENTATIONS = [
    i + vmap
    for i in ("STRUCTURED_DERIVATIVES", "NTK_VECTOR_PRODUCTS", "JACOBIAN_CONTRACTION")
    for vmap in ("", "/vmap")
]
LARGEST_PROCESS = 8 * 2**30  # bytes; a method that asks for more is stopped
LARGEST_JACOBIAN = 3e9  # bytes of n * k * parameters above which neural-tangents' Jacobian contraction is left out
LARGEST_TAPE_JACOBIAN = 1e9  # the same for tf.GradientTape.jacobian, which holds it twice and takes seconds
TOLERANCE = 1e-5  # relative difference, all in float32
NOTES = []  # on cases above it

flags.DEFINE_list("cases", ["all"], f"Cases to run, of: {', '.join(CASES)}; or 'all'.")
flags.DEFINE_integer("repeats", 5, "Paired runs per case.", lower_bound=1)
flags.DEFINE_string(
    "neural_tangents_python", None, "Python of the neural-tangents environment; left out when not given."
)
flags.DEFINE_list(
    "implementations", IMPLEMENTATIONS, "neural-tangents' implementations to choose from; /vmap sets vmap_axes=0."
)
flags.DEFINE_float(
    "candidate_seconds", 20, "An implementation that takes longer for a run, compilation included, is out."
)
flags.DEFINE_boolean("jacobian", True, "Also time tf.GradientTape.jacobian (small cases only; it is slow).")
flags.DEFINE_string("worker", None, "Used by the benchmark itself: folder of the case this process serves.")
flags.DEFINE_string("method", None, "Used by the benchmark itself: the method this process serves.")
FLAGS = flags.FLAGS


# --- models, and their description for JAX


def build_model(case):
    import keras

    keras.utils.set_random_seed(0)
    if case["kind"] == "resnet":
        from models import NetworkConfig, build

        return build(NetworkConfig("resnet", width=case["width"], batch_norm=False), (32, 32, 3), 10, seed=0)
    hidden = [
        keras.layers.Dense(case["width"], activation="relu", kernel_initializer="he_normal")
        for _ in range(case["depth"])
    ]
    return keras.Sequential([keras.Input([3072]), *hidden, keras.layers.Dense(10)])


def describe(model):
    """The functional graph as a list of plain operations, and its weights: what JAX needs for the same function."""
    model = getattr(model, "_functional", model)
    operations, weights = [], []
    for layer in model.operations:
        node = layer._inbound_nodes[0]
        entry = {
            "type": type(layer).__name__,
            "inputs": [str(id(t)) for t in node.input_tensors],
            "output": str(id(node.output_tensors[0])),
            "weights": list(range(len(weights), len(weights) + len(getattr(layer, "weights", [])))),
        }
        for key in ("strides", "padding", "use_bias"):
            if hasattr(layer, key):
                entry[key] = getattr(layer, key)
        if hasattr(layer, "activation"):
            entry["activation"] = layer.activation.__name__
        weights += [w.numpy() for w in getattr(layer, "weights", [])]
        operations.append(entry)
    return operations, weights


def jax_function(operations):
    import jax
    from jax import lax

    activations = {"relu": jax.nn.relu, "linear": lambda x: x}

    def apply(params, x):
        values = {}
        for op in operations:
            inputs, w = [values[t] for t in op["inputs"]], [params[i] for i in op["weights"]]
            kind = op["type"]
            if kind == "InputLayer":
                y = x
            elif kind == "Conv2D":
                y = lax.conv_general_dilated(
                    inputs[0], w[0], op["strides"], op["padding"].upper(), dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            elif kind == "Dense":
                y = inputs[0] @ w[0]
            elif kind == "Add":
                y = inputs[0] + inputs[1]
            elif kind in ("ReLU", "Activation"):
                y = activations[op.get("activation", "relu")](inputs[0])
            elif kind == "GlobalAveragePooling2D":
                y = inputs[0].mean((1, 2))
            elif kind == "Flatten":
                y = inputs[0].reshape(len(inputs[0]), -1)
            else:
                raise ValueError(f"the benchmark knows no JAX form of the layer {kind}.")
            if kind in ("Conv2D", "Dense"):
                y = activations[op["activation"]](y + w[1] if op["use_bias"] else y)
            values[op["output"]] = y
        return y

    return apply


# --- one process per method


def neural_tangents_method(folder, case, implementation):
    import jax
    import neural_tangents as nt

    with open(os.path.join(folder, "operations.json")) as file:
        apply = jax_function(json.load(file))
    arrays = np.load(os.path.join(folder, "arrays.npz"))
    params = [arrays[f"weight_{i}"] for i in range(len(arrays.files) - 1)]
    name, _, vmap = implementation.partition("/")
    kernel = jax.jit(
        nt.empirical_ntk_fn(
            apply,
            trace_axes=() if case["outputs"] == "full" else (-1,),
            vmap_axes=0 if vmap else None,
            implementation=getattr(nt.NtkImplementation, name),
        )
    )
    params, x = jax.device_put(params), jax.device_put(arrays["x"])

    def run(x=x):
        theta = np.asarray(kernel(x, None, params))
        # neural-tangents' order is [n, n, k, k]
        return theta.transpose(0, 2, 1, 3) if case["outputs"] == "full" else theta

    return run, x


def keras_method(folder, case, method):
    import tensorflow as tf

    from analysis.ntk import empirical_ntk

    model = build_model(case)
    arrays = np.load(os.path.join(folder, "arrays.npz"))
    model.set_weights([arrays[f"weight_{i}"] for i in range(len(model.weights))])
    x = arrays["x"]
    if method == "empirical_ntk":
        return lambda x=x: empirical_ntk(model, x, outputs=case["outputs"]), x
    variables = [v.value for v in model.trainable_variables]

    @tf.function
    def jacobian(x):
        with tf.GradientTape() as tape:
            f = model(x, training=False)
        return [tf.reshape(j, [len(x) * 10, -1]) for j in tape.jacobian(f, variables)]

    def run(x=x):
        theta = sum(tf.matmul(j, j, transpose_b=True).numpy() for j in jacobian(tf.constant(x))).reshape(
            len(x), 10, len(x), 10
        )
        return theta if case["outputs"] == "full" else np.einsum("iaja->ij", theta) / 10

    return run, x


def serve(folder, method):
    """Worker: one line in, one timed run, one line out."""
    resource.setrlimit(resource.RLIMIT_DATA, (LARGEST_PROCESS, LARGEST_PROCESS))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    with open(os.path.join(folder, "case.json")) as file:
        case = json.load(file)
    prepare = keras_method if method in ("empirical_ntk", "jacobian") else neural_tangents_method
    run, x = prepare(folder, case, method)
    run(x[:2])  # loads and compiles what has nothing to do with the case's size
    baseline = reset_peak()
    for line in sys.stdin:
        start = time.perf_counter()
        theta = run()
        seconds = time.perf_counter() - start
        if line.strip() == "save":
            np.save(os.path.join(folder, f"{method.replace('/', '_')}.npy"), theta)
        print(json.dumps({"seconds": seconds, "bytes": peak() - baseline}), file=out, flush=True)


def reset_peak():
    """Forgets the peak so far (that of the imports) where the system allows it; returns what to subtract, in bytes."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    return peak()


def peak():
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Worker:
    def __init__(self, folder, method):
        python = sys.executable if method in ("empirical_ntk", "jacobian") else FLAGS.neural_tangents_python
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.ntk", f"--worker={folder}", f"--method={method}"],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def run(self, command="run", seconds=600):
        """One timed run; None when it died (out of memory, as a rule) or took longer than allowed."""
        if self.process.poll() is not None:
            return None
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            self.process.kill()
            self.process.wait()
        line = self.process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


# --- the benchmark


def matmul_rate():
    """GFLOP/s of a large float32 product, the best of several."""
    import tensorflow as tf

    a, best = tf.random.normal([3000, 3000]), 0
    for _ in range(6):
        start = time.perf_counter()
        tf.matmul(a, a).numpy()
        best = max(best, 2 * 3000**3 / (time.perf_counter() - start) / 1e9)
    return best


def float64_kernel(case, model, x):
    import keras

    from analysis.ntk import empirical_ntk

    keras.config.set_dtype_policy("float64")
    wide = build_model(case)
    keras.config.set_dtype_policy("float32")
    wide.set_weights(model.get_weights())
    return empirical_ntk(wide, x.astype(np.float64), outputs=case["outputs"])


def operation_count(model, x, outputs):
    """Floating-point operations of empirical_ntk, in all samples as one block: TensorFlow's own count of its graph."""
    import tensorflow as tf
    from tensorflow.compat.v1.profiler import ProfileOptionBuilder, profile

    from analysis import ntk

    recording = ntk._recording(model, x[:2])
    recording.pass_ = recording._pass  # traced into the same graph, where the number of samples is known
    contract = tf.function(lambda x: recording._contract(recording._factors(x), None, outputs == "trace"))
    graph = contract.get_concrete_function(tf.TensorSpec(x.shape, x.dtype)).graph
    return profile(graph, options={**ProfileOptionBuilder.float_operation(), "output": "none"}).total_float_ops


def measure(name, case, folder):
    """Prints a case's row of the table: times, memory, and how far the methods' kernels differ."""
    model = build_model(case)
    x = write_case(case, model, folder)
    jacobian_bytes = case["n"] * 10 * model.count_params() * 4
    methods = ["empirical_ntk"]
    if FLAGS.jacobian and jacobian_bytes < LARGEST_TAPE_JACOBIAN:
        methods.append("jacobian")
    implementation = None
    if FLAGS.neural_tangents_python:
        implementation = fastest_implementation(name, folder, jacobian_bytes)
        methods.append(implementation)
    times, memory = run_in_turn(methods, folder)
    implementation = implementation if implementation in times else None
    kernels = {m: np.load(os.path.join(folder, f"{m.replace('/', '_')}.npy")) for m in times}
    difference = largest_difference(kernels)
    if difference > TOLERANCE:
        exact = float64_kernel(case, model, x)
        errors = ", ".join(f"{m} {np.linalg.norm(k - exact) / np.linalg.norm(exact):.0e}" for m, k in kernels.items())
        NOTES.append(f"{name}: relative error against empirical_ntk of the same network in float64: {errors}.")
    operations = operation_count(model, x, case["outputs"]) / 1e9
    print("| " + " | ".join(cells(name, times, memory, implementation, operations, difference)) + " |", flush=True)


def write_case(case, model, folder):
    """Writes what the workers read: the network as operations and weights, its inputs, the case; returns the inputs."""
    operations, weights = describe(model)
    x = np.random.default_rng(1).standard_normal([case["n"], *model.input_shape[1:]]).astype(np.float32)
    np.savez(os.path.join(folder, "arrays.npz"), x=x, **{f"weight_{i}": w for i, w in enumerate(weights)})
    for file_name, value in (("operations.json", operations), ("case.json", case)):
        with open(os.path.join(folder, file_name), "w") as file:
            json.dump(value, file)
    return x


def fastest_implementation(name, folder, jacobian_bytes):
    """The implementation of neural-tangents that takes the least time; one that may not have its memory is left out."""
    candidates = [
        i
        for i in FLAGS.implementations
        if not i.startswith("JACOBIAN_CONTRACTION") or jacobian_bytes < LARGEST_JACOBIAN
    ]
    seconds = {}
    for candidate in candidates:
        with Worker(folder, candidate) as worker:
            runs = [worker.run(seconds=FLAGS.candidate_seconds) for _ in range(2)]
            runs += [worker.run() for _ in range(2) if runs[-1] and runs[-1]["seconds"] < 1]
            if runs[-1]:
                seconds[candidate] = min(r["seconds"] for r in runs[1:])
    if not seconds:
        raise RuntimeError(
            f"no implementation of neural-tangents finished {name!r} within {FLAGS.candidate_seconds:g} s."
        )
    return min(seconds, key=seconds.get)


def run_in_turn(methods, folder):
    """({method: seconds of its runs}, {method: bytes}), the methods' runs alternating; without those that died."""
    times, memory = {}, {}
    workers = {m: Worker(folder, m) for m in methods}
    try:
        for method in methods:
            saved = workers[method].run("save")
            if saved:  # else it asked for more memory than it may have
                times[method], memory[method] = [], saved["bytes"]
        for _ in range(FLAGS.repeats):
            for method in times:
                times[method].append(workers[method].run()["seconds"])
    finally:
        for worker in workers.values():
            worker.__exit__()
    return times, memory


def largest_difference(kernels):
    """The largest relative difference (Frobenius) of empirical_ntk's kernel from another's; nan where there is none."""
    ours = kernels["empirical_ntk"]
    return max(
        (np.linalg.norm(ours - k) / np.linalg.norm(k) for m, k in kernels.items() if m != "empirical_ntk"),
        default=float("nan"),
    )


def cells(name, times, memory, implementation, operations, difference):
    """The texts of a row.  implementation: of neural-tangents, None without one.  operations: in 10^9."""
    median = {m: float(np.median(t)) for m, t in times.items()}
    gib = {m: max(b, 0) / 2**30 for m, b in memory.items()}  # a peak below the start is none
    ratio = (
        float(np.median(np.divide(times["empirical_ntk"], times[implementation]))) if implementation else float("nan")
    )
    return [
        name,
        f"{median['empirical_ntk']:.3f}",
        f"{median[implementation]:.3f}" if implementation else "-",
        f"{ratio:.2f}",
        f"{operations:.2f}",
        f"{operations / median['empirical_ntk']:.0f}",
        f"{median['jacobian']:.2f}" if "jacobian" in median else "-",
        f"{gib['empirical_ntk']:.3f}",
        f"{gib[implementation]:.3f}" if implementation else "-",
        f"{gib['jacobian']:.2f}" if "jacobian" in gib else "-",
        f"{difference:.0e}" + (" (!)" if difference > TOLERANCE else ""),
        (implementation or "-").lower(),
    ]


def main(_):
    if FLAGS.worker:
        serve(FLAGS.worker, FLAGS.method)
        return
    names = list(CASES) if FLAGS.cases == ["all"] else FLAGS.cases
    if unknown := set(names) - set(CASES):
        raise app.UsageError(f"unknown cases {sorted(unknown)}; allowed: {', '.join(CASES)}.")
    print(f"| matrix products in float32, GFLOP/s |\n| --- |\n| {matmul_rate():.0f} |\n")
    print(f"Seconds: medians of {FLAGS.repeats} paired runs. Peak GiB.\n")
    print(
        "| case | empirical_ntk | neural-tangents | ratio | GFLOP | GFLOP/s | tape.jacobian | GiB "
        "| GiB, neural-tangents | GiB, tape.jacobian | relative difference | its best implementation |\n|" + "---|" * 12
    )
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, CASES[name], folder)
    print("\nGFLOP and GFLOP/s are empirical_ntk's, counted in its graph; the rate is over all of its time.")
    print(
        f"neural-tangents: the fastest of {', '.join(FLAGS.implementations)};\nleft out are those that need more than "
        f"{LARGEST_PROCESS / 2**30:g} GiB, or {FLAGS.candidate_seconds:g} s for a run with compilation, and Jacobian\n"
        f"contraction above {LARGEST_JACOBIAN / 1e9:g} GB of Jacobian. tape.jacobian: '-' above "
        f"{LARGEST_TAPE_JACOBIAN / 1e9:g} GB of Jacobian.\n"
        f"(!): relative difference (Frobenius, float32) above {TOLERANCE:g}."
    )
    for note in NOTES:
        print(note)


if __name__ == "__main__":
    app.run(main)
