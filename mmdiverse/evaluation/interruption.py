"""What ends a tool from outside ends it as Ctrl-C does."""
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptible() -> Iterator[None]:
    """While this lasts, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C (SIGINT) does.

    So does SIGINT where it is ignored, as shells make it for what a script starts in the
    background. A SIGHUP that is ignored stays so, which is what ``nohup`` is for. Handlers that
    somebody else has installed stay, too. Threads other than the main one get no signals; there,
    this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    replaced = {signal.SIGINT: (signal.SIG_IGN, signal.SIG_DFL), signal.SIGTERM: (signal.SIG_DFL,)}
    if hasattr(signal, 'SIGHUP'):  # which Windows has not
        replaced[signal.SIGHUP] = (signal.SIG_DFL,)
    before = {number: signal.signal(number, _interrupt) for number, handlers in replaced.items()
              if signal.getsignal(number) in handlers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def explain_interruption(error: KeyboardInterrupt) -> str:
    """What a tool says that was interrupted, and goes on when it is called again.

    Args:
        error (KeyboardInterrupt): Of Ctrl-C or of :func:`interruptible`.
    """
    by = f' by {error}' if str(error) else ''
    return f'Interrupted{by}. Finished runs are kept; the same command goes on from here.'
