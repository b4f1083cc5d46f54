"""The claims of run_rank.py: one module a claim; rank_edits.py and layer_spectra.py are what they share."""
