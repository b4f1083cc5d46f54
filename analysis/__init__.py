"""What is measured: pure functions on a Keras model or on arrays. They know nothing of flags, files or experiments."""
