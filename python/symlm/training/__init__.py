"""A training run, from its settings to its last checkpoint.

trainer     `Trainer`: the life of a run on one screen
session     opening a run, reading its text, setting it up
opening     where a run lies, its checkpoint, whether it is the same run
initial     beginning with the weights of another model
extend      more updates for a finished run
schedule    limits turned into step numbers
resources   memory and disk, and whether they are enough
plan        memory, disk and time before the start
speed       the processor by itself, and updates of a run on it
loop        updates, and what is due between them
saving      checkpoints, written beside the updates
nan_policy  what to do about NaN and infinity
bundle      what is kept of an update that failed
trace       which worker ran which task when
"""
