"""The run folder: its files, its checkpoints, its metrics.

folder      paths, lock, start, recovery, the checkpoints of one run
contract    versions of the numeric contract
checkpoint  one checkpoint: written completely or not at all, verified before use
metrics     JSON lines: appended, cut back when a run resumes
history     the metrics of a run, to draw
adapters    low-rank adapters of a run, and PEFT's format
"""
