"""Updates of a run computed again, and one whose weights are known.

replay  one update
verify  many, compared with what the run recorded
prove   a small run that has the same hash on every machine
"""
