"""The claims of run_ntk.py, one module a claim; constancy.py and limit_networks.py are what several of them share."""
