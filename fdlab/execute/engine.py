"""A papermill engine whose kernels have their own folder, environment and private sockets.

papermill's own engine changes the directory of the whole process, ignores `env`, and leaves a
notebook whose kernel died marked as completed, without a copy.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines

from fdlab.core.files import write_text
from fdlab.training import cluster

NAME = "fdlab"
_at_work: list[AsyncKernelManager] = []
_awaited: list[Future] = []  # notebooks at work on a cluster


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
        kernels: list[AsyncKernelManager] = _at_work,
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
            kernels.append(manager)
            try:
                client.execute(cwd=kernel_cwd, env=kernel_env)
            except DeadKernelError as error:  # papermill writes and raises what a cell shows
                nb_man.nb.metadata.papermill["exception"] = True
                _show_error(nb_man.nb, error)
            finally:
                kernels.remove(manager)


def run_notebook(
    source: Path, target: Path, parameters: dict[str, Any], folder: Path, environment: dict
) -> None:
    """Execute a notebook, in a kernel of this machine or, where `$FDLAB_DASK` names a scheduler, of
    one of its workers; raises what papermill raises.

    folder: where the kernel works. environment: the kernel's; on another machine fdlab's part of it
    over that machine's own.
    """
    if not os.environ.get(cluster.VARIABLE):
        return _run_here(source, target, parameters, folder, environment, _at_work)
    plain = {"source": str(source), "target": str(target), "folder": str(folder)}
    task = cluster.make_task(
        "fdlab.execute.engine:run_sent",
        plain | {"parameters": parameters},
        needs=[source, target.parent],
        environment=environment,
        alone=False,
    )
    with cluster.open_crew() as crew:
        crew.count()  # says so where there are none
        future = crew.submit(task)
        _awaited.append(future)
        try:
            future.result()
        except Exception as error:
            if future not in _awaited:
                raise RuntimeError("its kernel was stopped") from None
            raise cluster.explain(error, source.stem, crew.address) from None
        finally:
            if future in _awaited:
                _awaited.remove(future)
    cluster.await_file(target)


def run_sent(
    source: str, target: str, parameters: dict[str, Any], folder: str, environment: dict[str, str]
) -> None:
    """On a cluster's worker: execute a notebook in a kernel there, whose runs go to the workers."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(cluster.OWN)}
    own |= environment | {cluster.VARIABLE: cluster.find_scheduler()}
    kernels: list[AsyncKernelManager] = []
    with cluster.watching(lambda reason: stop_kernels(kernels)):
        _run_here(Path(source), Path(target), parameters, Path(folder), own, kernels)


def _run_here(
    source: Path,
    target: Path,
    parameters: dict[str, Any],
    folder: Path,
    environment: dict[str, str],
    kernels: list[AsyncKernelManager],
) -> None:
    """`target` appears whole, also where the notebook ends with an error, or never began."""
    with tempfile.TemporaryDirectory(prefix="fdlab-notebook-") as private:
        beside = Path(private) / target.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                papermill.execute_notebook(
                    source,
                    beside,
                    parameters=parameters,
                    engine_name=NAME,
                    kernel_name="python3",
                    language="python",
                    progress_bar=False,
                    request_save_on_cell_execute=False,
                    kernel_cwd=str(folder),
                    kernel_env=environment,
                    kernels=kernels,
                )
        except papermill.PapermillExecutionError:
            with suppress(OSError):
                _keep_copy(beside, target)
            raise
        except Exception as error:
            with suppress(OSError):
                _keep_copy(source, target, f"{type(error).__name__}: {error}")
            raise
        _keep_copy(beside, target)


def _keep_copy(path: Path, target: Path, error: str = "") -> None:
    """Put an executed notebook into its place, or one that could not be executed: with why."""
    notebook = nbformat.read(path, as_version=4)
    if error:
        notebook.cells.insert(0, nbformat.v4.new_raw_cell(f"This notebook was not run: {error}"))
    notebook.metadata.setdefault("papermill", {})["output_path"] = str(target)
    write_text(target, nbformat.writes(notebook))


def stop_kernels(kernels: list[AsyncKernelManager] = _at_work) -> None:
    """Kill every kernel at work, and with it the workers that watch it; its notebook then fails.

    Those of a cluster are given up, and their workers do the same.
    """
    if kernels is _at_work:
        while _awaited:
            _awaited.pop().cancel()
    for manager in list(kernels):
        process = getattr(manager.provisioner, "process", None)
        if process is not None and process.poll() is None:
            process.kill()


def _show_error(notebook: NotebookNode, error: Exception) -> None:
    """As the output of the cell that was at work, or of the first."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    started = [cell for cell in cells if cell.metadata.papermill.get("start_time")]
    output = {"ename": type(error).__name__, "evalue": str(error), "traceback": [str(error)]}
    (started or cells[:1])[-1].outputs.append(new_output("error", **output))


papermill_engines.register(NAME, KernelEngine)
