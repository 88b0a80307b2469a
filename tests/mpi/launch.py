"""Launchers: how MPICH's, Open MPI's and Intel MPI's start ranks, on this machine or on `hosts`.

The wheels bring a launcher each, of the same name, so each is in a separate virtual environment; the tests run with
the interpreter of one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from symlm.system.mpi import describe_mpi

from .hosts import INTERFACE, Hosts

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Launcher:
    """`kind` is mpich, openmpi or intel."""

    kind: str
    path: Path

    @classmethod
    def here(cls) -> Launcher:
        """The launcher of the environment that runs this; RuntimeError if there is none."""
        found = describe_mpi()
        if found is None:
            raise RuntimeError("mpi4py is not installed in this environment")
        kinds = {"MPICH": "mpich", "Open": "openmpi", "Intel(R)": "intel"}
        kind = kinds[found["library"].split()[0]]
        # Intel's mpirun is a script that looks for this in PATH.
        return cls(kind, BIN / "mpiexec.hydra" if kind == "intel" else Path(found["launchers"]["mpirun"]))

    def words(self, ranks: int, command: Sequence[object], hosts: Hosts | None = None) -> list[str]:
        """The command line for `ranks` processes of `command`, spread over the hosts in turn."""
        own = self._on(ranks, hosts) if hosts is not None else self._here()
        return [str(self.path), *own, "-n", str(ranks), *map(str, command)]

    def several(self, commands: Sequence[Sequence[object]], hosts: Hosts | None = None) -> list[str]:
        """The command line for one process of each command, the first one rank 0."""
        own = self._on(len(commands), hosts) if hosts is not None else self._here()
        words = [str(self.path), *own]
        for number, command in enumerate(commands):
            words += [*([":"] if number else []), "-n", "1", *map(str, command)]
        return words

    def environment(self, hosts: Hosts | None = None) -> dict[str, str]:
        """Variables that the processes need. With hosts, what travels between them does so by TCP."""
        if self.kind == "openmpi":
            common = {
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                # On hosts the command line says more: this alone would fill the first one with all ranks.
                "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
                "PRTE_MCA_hwloc_default_binding_policy": "none",
                # More ranks than processors: one that waits leaves the processor to the others.
                "OMPI_MCA_mpi_yield_when_idle": "1",
            }
            if hosts is not None:
                # Its folders are named by numbers of processes, which are the same at every site.
                common["TMPDIR"] = str(hosts.temporary)
            tcp = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self", "OMPI_MCA_btl_tcp_if_include": INTERFACE}
            return {**common, **(tcp if hosts is not None else {})}
        if self.kind == "intel":
            tcp = {"I_MPI_FABRICS": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": INTERFACE}
            return {"I_MPI_PIN": "0", **(tcp if hosts is not None else {})}
        return {"FI_PROVIDER": "tcp", "FI_TCP_IFACE": INTERFACE, "MPIR_CVAR_NOLOCAL": "1"} if hosts is not None else {}

    def _here(self) -> list[str]:
        return []

    def _on(self, ranks: int, hosts: Hosts) -> list[str]:
        used = hosts.hosts[: min(len(hosts), ranks)]
        if self.kind == "openmpi":
            slots = [ranks // len(used) + (index < ranks % len(used)) for index in range(len(used))]
            named = ",".join(f"{host.name}:{count}" for host, count in zip(used, slots, strict=True))
            return ["--prtemca", "plm_ssh_agent", str(hosts.agent), "--prtemca", "prte_if_include", INTERFACE,
                    "--host", named, "--map-by", "node:oversubscribe"]  # fmt: skip
        named = ",".join(host.name for host in used)
        return ["-launcher", "ssh", "-launcher-exec", str(hosts.agent), "-iface", INTERFACE, "-hosts", named, "-ppn",
                "1"]  # fmt: skip
