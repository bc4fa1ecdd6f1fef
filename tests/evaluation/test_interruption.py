import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mmdiverse.evaluation.interruption import explain_interruption, interruptible

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers_as_in_a_new_process() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    assert signal.getsignal(number) != signal.SIG_DFL  # which would end all tests
    signal.raise_signal(number)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_a_process_interrupt_it(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt) as interruption, interruptible():
        send(number)
    assert explain_interruption(interruption.value) == (
        f'Interrupted by {number.name}. Finished runs are kept; the same command goes on from '
        'here.')
    assert signal.getsignal(number) == signal.SIG_DFL


def test_sigint_interrupts_what_a_script_has_started_in_the_background() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt), interruptible():
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_ctrl_c_is_explained_without_its_signal() -> None:
    with pytest.raises(KeyboardInterrupt) as interruption, interruptible():
        send(signal.SIGINT)
    assert explain_interruption(interruption.value).startswith('Interrupted. Finished')


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        send(signal.SIGHUP)


def test_handlers_of_others_stay() -> None:
    received = []

    def note(number: int, frame: Any) -> None:
        received.append(number)

    signal.signal(signal.SIGTERM, note)
    with interruptible():
        send(signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_other_threads_change_nothing() -> None:
    found = []

    def look() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
