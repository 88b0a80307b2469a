"""The operating system, the machine, and files as bytes.

machine  threads, memory, instruction sets, versions
mpi      which MPI is there, found without loading it here
calls    what Linux, macOS and Windows call differently
signals  Ctrl-C, SIGTERM and SIGHUP as an orderly stop
reading  small files that may hold anything: bounded, typed, never executed
output   all of something on standard output
files    files that are on the disk when the call returns; hashes
target   refusing at the start what could not be written at the end
names    names and texts of any bytes: how they stand in files and in messages
version  the version of the installed package
"""
