"""The graphs that TensorFlow has traced in this process and that something still holds."""
import gc

from tensorflow.python.framework.func_graph import FuncGraph


def live_graphs() -> list[str]:
    """Their names, sorted."""
    for _ in range(2):  # what a weak dictionary holds goes after its key
        gc.collect()
    return sorted(o.name for o in gc.get_objects() if isinstance(o, FuncGraph))
