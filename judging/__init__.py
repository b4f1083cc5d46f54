"""How measurements become verdicts: groups of runs, comparisons over seeds, trends, and the words that report them."""
