"""The claims of run_norm.py: one module a claim; norm_measures.py is shared, randomization_verdict.py part of one."""
