"""The claims of run_local_minima.py: one module a claim; affine_start.py is what those from an affine optimum share."""
