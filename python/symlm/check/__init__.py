"""Updates of a run computed again.

replay  one update
verify  many, compared with what the run recorded
"""
