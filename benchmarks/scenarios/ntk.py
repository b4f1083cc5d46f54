"""Scenarios of the experiments of run_ntk.py; see benchmarks/scenarios/__init__.py."""
SCENARIOS = []
