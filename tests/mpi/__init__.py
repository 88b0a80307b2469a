"""Several ranks under real launchers, and hosts as network namespaces; run by `make test-mpi` with `-m mpi`.

| module | content |
|---|---|
| `hosts` | hosts on this machine: own network, name and shared memory, a switch of a given rate |
| `launch` | the launchers of MPICH, Open MPI and Intel MPI |
"""
