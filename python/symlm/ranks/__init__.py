"""A training run on several machines: ranks that MPI starts and connects.

`launch` says whether this process is one of several, `joining` is how it meets the others and leaves them. `library` is
the thread that alone calls MPI, `carrier` what it does for a run, `world` the side of the main thread, `wire` the form
of messages. `engine` is the engine of rank 0, which tells the others what it does, `follower` what those do, `opening`
and `shard` how all come to the same text, `failures` what the others say of an error.
"""
