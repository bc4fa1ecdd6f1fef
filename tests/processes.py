"""Processes that tests start."""
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch

#: What takes the longest to import.
IMPORTED = ['mmpretrain.apis', 'mmpretrain.datasets', 'mmpretrain.models', 'mmengine.runner',
            'mmengine._strategy.fsdp']


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
