"""Scenarios of the experiments of run_norm.py; see benchmarks/scenarios/__init__.py."""
SCENARIOS = []
