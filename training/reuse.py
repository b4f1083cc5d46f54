"""Configs of one architecture share a built model, and with it every graph that was traced of it.

Of a small config's time nearly all is tracing and compiling. So a grid lends a model to one config at a time, and the
next one that asks for the same network gets it with the variables of a freshly built one: its numbers are those of a
fresh model to the bit. A model that was changed in more than its variables, that something of the run may still hold,
or whose config failed, is never lent again. Outside of `lending` every model is built anew.
"""
import contextlib
import dataclasses
import gc
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras
import numpy as np
import pandas as pd

from analysis.keras_internals import all_layers, empty_compiled, structure

MODELS = 8  # models at rest that are kept, of architectures that come again with the next look, or a nested axis
BYTES = 2**28  # of variables in all models at rest; the last one stays whatever its size
ROUNDS = 10  # configs after which the collector looks for what they left, where no model was let go
COMPILED = 10  # times that models were let go, after which TensorFlow's cache of compiled graphs is emptied of theirs
# Layers of other packages may keep something beside their variables.
KNOWN = ("keras", "models")


class _Shelf:
    """Models of this process: those at rest, and those lent to the config that is being measured."""

    def __init__(self):
        self.rest, self.lent, self.open = [], [], False
        self.found, self.rounds, self.litter, self.gone = False, 0, 0, 0

    def take(self, key):
        """A model at rest with this key, or None."""
        for i, (known, model, _) in enumerate(self.rest):
            if known == key:
                del self.rest[i]
                return model
        return None

    def lend(self, key, model):
        self.lent.append((key, model, structure(model)))

    def give_back(self):
        """Models as they were lent, to be lent again; too many go, those longest at rest first."""
        for key, model, before in self.lent:
            if structure(model) == before:
                self.rest.append((key, model, _size(model)))
            else:
                self.litter = BYTES
        most = max(MODELS, len(self.lent))
        while len(self.rest) > most or (len(self.rest) > 1 and sum(size for *_, size in self.rest) > BYTES):
            del self.rest[0]
            self.litter = BYTES

    def sweep(self):
        """Let the collector look for models and graphs that refer to each other, if there may be any of weight.

        It takes as long as a tenth of a small config. Where no model was found at rest, the config made its own.
        What TensorFlow compiled of a graph outlives it, 1 MiB for a small network. It cannot be let go of alone, and
        each graph that is still in use takes some 70 ms to compile again, so it goes more seldom.
        """
        self.rounds += 1
        gone = not self.found or self.litter >= BYTES
        if gone or self.rounds >= ROUNDS:
            self.gone += gone
            self.rounds = self.litter = 0
            gc.collect()
        if self.gone >= COMPILED:
            self.gone = 0
            empty_compiled()


_shelf = _Shelf()


@contextlib.contextmanager
def lending() -> Iterator[None]:
    """Around one config: models that `network` hands out within it are free for the next config after it."""
    _shelf.lent, _shelf.open, _shelf.found = [], True, False
    try:
        yield
        _shelf.give_back()
    except BaseException:
        _shelf.litter = BYTES
        raise
    finally:
        _shelf.lent, _shelf.open = [], False
        _shelf.sweep()


def network(key: Hashable, build: Callable) -> keras.Model:
    """build(), a Keras model; within `lending` perhaps one that another config had, with the variables of build().

    key: hashable, whatever decides the model but the values of its variables.
    """
    fresh = build()
    if not _shelf.open or not all(type(layer).__module__.split(".")[0] in KNOWN for layer in all_layers(fresh)):
        _shelf.litter = BYTES
        return fresh
    model = _shelf.take(key)
    if model is None:
        _shelf.litter = BYTES
        model = fresh
    else:
        for variable, value in zip(model.variables, fresh.variables, strict=True):
            variable.assign(value)
        _shelf.found = True
        _shelf.litter += 4 * _size(model)  # the fresh one, and what the config makes of that size
    _shelf.lend(key, model)
    return model


def shared(function: Callable) -> Any:
    """function(), whose value outlives the config: models that were lent meanwhile are kept out, if it may hold one."""
    count = len(_shelf.lent)
    value = function()
    if not _plain(value):
        del _shelf.lent[count:]
    return value


def clear() -> None:
    """Let all models at rest go."""
    _shelf.rest.clear()
    gc.collect()


def _size(model):
    return sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in model.variables)


def _plain(value):
    """Is it made of numbers, texts and arrays alone?"""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(_plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, (list, tuple, set)):
        return all(map(_plain, value))
    if isinstance(value, np.ndarray):
        return value.dtype != object
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, pd.DataFrame))
