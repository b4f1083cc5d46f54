"""Scenarios of the experiments of run_rank.py; see benchmarks/scenarios/__init__.py."""
SCENARIOS = []
