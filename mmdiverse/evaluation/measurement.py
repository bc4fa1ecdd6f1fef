"""What benchmarks share: clock, peak memory, names of machine and versions, a file of results."""
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mmengine
import mmpretrain
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ..version import __version__

Result = dict[str, Any]
#: Between two lines of progress in a file, at most.
SECONDS_TO_LINE = 30.
#: Parts of the work that have a line of their own at its beginning.
FIRST_LINES = 6


def time_call(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, all its work on a GPU included."""
    _synchronize(device)
    start = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of at least two values."""
    return tuple(statistics.quantiles(values, n=4))


def peak_memory(function: Callable[[], Any], device: torch.device) -> int:
    """Most memory that tensors take during a call, above what they took before it.

    On a GPU this is what PyTorch's allocator counts. On a CPU the profiler reports every tensor's
    allocation and release, but neither the release of what was allocated before the call, nor what
    libraries take behind PyTorch's back.

    Args:
        function (Callable): What to call.
        device (torch.device): Where its tensors are.

    Returns:
        int: Bytes.
    """
    if device.type == 'cuda':
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        _synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # Else the profiler writes lines of its own to stderr, each time.
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events()
              if event.name() == '[memory]' and event.device_type() == DeviceType.CPU]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Memory of tensors that share none.

    Args:
        tensors (Iterable[Tensor]): Of any shapes.

    Returns:
        int: Bytes.
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def machine_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    name = platform.processor()
    if name in ('', platform.machine()):  # Linux gives the architecture alone
        try:
            lines = Path('/proc/cpuinfo').read_text().splitlines()
        except OSError:
            lines = []
        name = next((line.partition(':')[2].strip() for line in lines
                     if line.startswith('model name')), name)
    return name or platform.machine()


def describe_machine(device: torch.device) -> Result:
    """What a figure depends on beside its settings: machine, threads and versions."""
    return dict(device=device.type, machine=machine_name(device), threads=torch.get_num_threads(),
                versions=dict(python=platform.python_version(), torch=str(torch.__version__),
                              mmengine=mmengine.__version__, mmpretrain=mmpretrain.__version__,
                              mmdiverse=__version__))


class ResultsFile:
    """Results by name, in a JSON file that is written anew whenever one is added.

    Results that the file holds already are kept, if they were found with the same settings.

    Args:
        path (Path, optional): The file; None to keep the results in memory alone.
        settings (dict): What the results depend on; written in front of them.
        restart (bool): Forget what the file holds. Defaults to False.

    Attributes:
        results (dict[str, dict]): By name.

    Raises:
        ValueError: If the file holds something else, or results of other settings.
        OSError: If it cannot be read, or its folder not be made.
    """

    def __init__(self, path: Path | None, settings: Result, restart: bool = False) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))  # as they will be read
        self.results: dict[str, Result] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not restart:
            self.results = self._read(path)

    def _read(self, path: Path) -> dict[str, Result]:
        try:
            kept = json.loads(path.read_text(encoding='utf-8'))
            results = kept.pop('results')
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f'--out {path} should hold results of this benchmark, but cannot be '
                             f'read as such ({error!r}); choose another file, or add --restart to '
                             'overwrite it') from None
        changed = sorted(key for key in {*kept, *self.settings}
                         if kept.get(key) != self.settings.get(key))
        if changed:
            raise ValueError(f'--out {path} holds results that were found with another '
                             f'{", ".join(changed)}; choose another file, or add --restart to '
                             'overwrite it')
        return results

    def add(self, name: str, result: Result) -> None:
        """Keep a result, and write the file in one step, so that it is never half there."""
        self.results[name] = result
        if self.path is not None:
            draft = self.path.with_suffix('.tmp')
            draft.write_text(json.dumps({**self.settings, 'results': self.results}, indent=2)
                             + '\n', encoding='utf-8')
            draft.replace(self.path)


class ProgressLine:
    """A line on stderr that says what is being measured and how long all of it may take yet.

    On a terminal the line is written over. In a file or a pipe it would never end: there, the first
    parts of the work have a line each, so that one sees it begin; then a new line comes with every
    tenth of the work, and at least every half minute.

    Args:
        total (float): Work in all, in any unit.
    """

    def __init__(self, total: float) -> None:
        self.left = total
        self._label = ''
        self._done = self._seconds = 0.
        self._last = 0.
        self._tenths = 0
        self._lines = 0
        self._shown = ''
        self._line_at = -math.inf

    def start(self, label: str) -> None:
        """Begin another part of the work."""
        self._label = label
        self._last = time.perf_counter()
        self._write()

    def skip(self, work: float) -> None:
        """Take out work that was done before."""
        self.left -= work

    def advance(self, work: float) -> None:
        """Count work as done."""
        now = time.perf_counter()
        self._seconds += now - self._last
        self._last = now
        self._done += work
        self.left -= work
        self._write()

    def end(self) -> None:
        """Leave the line empty."""
        if sys.stderr.isatty():
            self._write_over('')

    def _write(self) -> None:
        left = ''
        if self._done:
            seconds = round(max(self.left, 0.) * self._seconds / self._done)
            left = f', {seconds // 60}:{seconds % 60:02d} left'
        if sys.stderr.isatty():
            self._write_over(f'{self._label}{left}')
            return
        share = self._done / (self._done + max(self.left, 0.)) if self._done else 0.
        # Sums of shares of the work may miss a tenth by a rounding error.
        tenths = int(10 * share + 1e-9)
        now = time.perf_counter()
        is_first = self._lines < FIRST_LINES and self._label != self._shown
        if is_first or tenths > self._tenths or now - self._line_at >= SECONDS_TO_LINE:
            self._tenths, self._line_at = tenths, now
            self._lines += 1
            self._shown = self._label
            print(f'{self._label}, {100 * share:.0f} %{left}', file=sys.stderr, flush=True)

    @staticmethod
    def _write_over(text: str) -> None:
        # Erase the rest of a longer line.
        print(f'\r{text:79}\r', end='', file=sys.stderr, flush=True)
