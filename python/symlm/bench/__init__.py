"""`symlm bench`: speed end to end, over threads, of each optimisation against its baseline, and beside a peer.

settings   what is measured and how long
cases      which engines take part, and which are compared
engines    an engine for each case, as many at once as memory holds
peers      PyTorch on the same model, in a separate process (`torch_peer` is what runs there); llama.cpp (`llama_peer`)
decode     how fast text is written
tasks      what that measures, and its turns
record     task graphs with the measured time of each task
rounds     turns of all of them, round after round
figures    medians and ratios, and the JSON file
simulate   a recorded update on more workers than the machine has
network    a recorded update on several machines
report     tables
charts     pictures
facts      machine, versions and command, for the JSON file
run        all of it, from the settings to the files
"""
