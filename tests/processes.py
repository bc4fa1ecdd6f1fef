"""Processes that tests start."""
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch

#: What takes the longest to import.
IMPORTED = ['mmpretrain.apis', 'mmpretrain.datasets', 'mmpretrain.models', 'mmengine.runner',
            'mmengine._strategy.fsdp', 'timm', 'sklearn.datasets', 'matplotlib.pyplot']


def run_processes(function: Callable[..., None], *args: Any, count: int) -> None:
    """As ``torch.multiprocessing.spawn``, from a process that has imported the hosts before.

    Args:
        function: Called with the number of the process and ``args``.
        args: Its further arguments.
        count: Of processes.
    """
    multiprocessing.set_forkserver_preload(IMPORTED)
    torch.multiprocessing.start_processes(_run, (dict(os.environ), function, args), nprocs=count,
                                          start_method='forkserver')


def _run(rank: int, environment: dict[str, str], function: Callable[..., None], args: tuple
         ) -> None:
    # The process that they are forked from has that of the first test.
    os.environ.clear()
    os.environ.update(environment)
    function(rank, *args)


def run_script(words: list[str], folder: Path, hidden: Path, **environment: str
               ) -> tuple[int, str]:
    """Run a Python script as a user does, in a process that has imported the hosts before.

    Args:
        words: The path of the script and its arguments.
        folder: Where the process stands.
        hidden: A folder that it must not import from.
        environment: Variables that are added.

    Returns:
        tuple[int, str]: Its exit status, and what it printed.
    """
    context = multiprocessing.get_context('forkserver')
    multiprocessing.set_forkserver_preload(IMPORTED)
    with NamedTemporaryFile('r', errors='replace') as printed:
        process = context.Process(target=_run_script, args=(
            words, folder, hidden, {**os.environ, **environment}, printed.name,
            multiprocessing.get_start_method()))
        process.start()
        process.join()
        return process.exitcode, printed.read()


def _run_script(words: list[str], folder: Path, hidden: Path, environment: dict[str, str],
                printed: str, start_method: str) -> None:
    multiprocessing.set_start_method(start_method, force=True)  # for processes of the script
    with open(printed, 'w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = [str(Path(words[0]).parent), *(path for path in sys.path
                                                 if path and Path(path) != hidden)]
    sys.argv[:] = words
    runpy.run_path(words[0], run_name='__main__')
