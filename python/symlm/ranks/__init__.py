"""A training run on several machines: ranks that MPI starts and connects.

`launch` says whether this process is one of several, `world` is the thread that alone calls MPI, `engine` the engine of rank
0, which tells the others what it does, `follower` what those do.
"""
