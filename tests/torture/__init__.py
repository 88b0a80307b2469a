"""A fault campaign on the installed program: kills, damaged files, full disks.

`python -m torture` in the folder `tests` (or `make torture`) starts real runs as a user does, does them harm, and
asks each time whether what was promised has held: nothing lost, nothing silently wrong, a clear error where it must
end. Nothing here looks into the program: checkpoints are checked by hashes computed here, and results by comparison
with a run that nobody disturbed.

| module | content |
|---|---|
| `lab` | the small training, its processes, what a run folder looks like, and the truth to compare with |
| `watch` | sees files as they appear, to strike inside a write |
| `kills` | SIGKILL at any instant, resume, and so on until the run is finished |
| `corruptions` | one damaged file, then `train --resume auto`, `generate`, `eval` |
| `disk` | a disk that is or becomes full, then has room again |
| `report` | one line for each case, the table |
"""
