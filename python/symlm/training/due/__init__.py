"""What is due between two updates, a part to a file, all with the protocol of `part`.

weight_hash  the hash of the weights
evaluation   the loss on the held-out text
sample       text from the model
saves        checkpoints, and `best/`
train_log    a line of metrics about the updates
"""
