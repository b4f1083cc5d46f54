"""Drives any experiment: its protocol, the grid that flags span, the runner, and the command line."""
