"""A training run, from its settings to its last checkpoint.

trainer     `Trainer`: the order of everything
opening     a new run, or an old one at the right checkpoint
initial     beginning with the weights of another model
extend      more updates for a finished run
schedule    limits turned into step numbers
plan        memory, disk and time before the start
loop        updates, and what is due between them
saving      checkpoints, written beside the updates
nan_policy  what to do about NaN and infinity
bundle      what is kept of an update that failed
trace       which worker ran which task when
"""
