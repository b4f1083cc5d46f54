"""How it is trained: data and its corruption, the Keras training loop, regularizers, attacks."""
