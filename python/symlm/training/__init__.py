"""A training run, from its settings to its last checkpoint.

trainer           `Trainer`: the life of a run on one screen
session           opening a run, reading its text, setting it up
opening           where a run lies, its checkpoint, whether it is the same run
initial           beginning with the weights of another model
contract_changes  rules that a version of the contract changed, and for which runs
extend            more updates for a finished run
schedule          limits turned into step numbers
resources         memory and disk, and whether they are enough
plan              memory, disk and time before the start
speed             the processor by itself, and updates of a run on it
loop              updates, and the order of what is due between them
due               what is due, a part to a file
running           a session with its engine, which all parts share
progress          how far it has come
journal           lines of metrics and samples
saving            checkpoints, written beside the updates
nan_policy        what follows from NaN and infinity, as step numbers
nan_guard         carrying that out
bundle            what is kept of an update that failed
trace             which worker ran which task when
"""
