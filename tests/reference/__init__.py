"""An independent reference in float64 NumPy, written to be read: the oracle that the Rust core is compared with.

Nothing here imports symlm or follows the core's order of operations: agreement to rounding error is the point.

`layers`     each operation of a Llama model, forward and backward
`model`      the whole model: logits, loss, every gradient
`adapters`   low-rank adapters: merged weights, gradients of the factors
`optimizer`  schedules, clipping by the global norm, AdamW
`philox`     the counter-based random generator
`symmetry`   the twelve sectors of a batch and the tree that folds them
"""
