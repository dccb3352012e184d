"""A papermill engine whose kernels have their own folder, environment and private sockets.

papermill's own engine changes the directory of the whole process, ignores `env`, and leaves a
notebook whose kernel died marked as completed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines

NAME = "fdlab"
_at_work: list[AsyncKernelManager] = []


class KernelEngine(Engine):
    """Runs a notebook in a kernel of its own; registered with papermill as `fdlab`."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man,
        kernel_name: str,
        *,
        kernel_cwd: str,
        kernel_env: dict[str, str],
        start_timeout: int = 60,
        log_output: bool = False,
        **_,
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="fdlab-kernel-") as private:
            manager = AsyncKernelManager(kernel_name=kernel_name)
            manager.connection_file = str(Path(private) / "kernel.json")
            if os.name == "posix":
                # Default ports and socket names collide between kernels started side by side.
                manager.transport, manager.ip = "ipc", str(Path(private) / "socket")
            client = PapermillNotebookClient(
                nb_man,
                km=manager,
                kernel_name=kernel_name,
                startup_timeout=start_timeout,
                log_output=log_output,
            )
            client.owns_km = True  # else the kernel outlives its notebook
            _at_work.append(manager)
            try:
                client.execute(cwd=kernel_cwd, env=kernel_env)
            except DeadKernelError:
                nb_man.nb.metadata.papermill["exception"] = True
                raise
            finally:
                _at_work.remove(manager)


def stop_kernels() -> None:
    """Kill every kernel at work, and with it the workers that watch it; its notebook then fails."""
    for manager in list(_at_work):
        process = getattr(manager.provisioner, "process", None)
        if process is not None and process.poll() is None:
            process.kill()


papermill_engines.register(NAME, KernelEngine)
