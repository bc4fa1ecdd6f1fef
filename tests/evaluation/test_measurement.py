"""The line of progress, on a terminal and in a file."""
import pytest

from mmdiverse.evaluation import measurement
from mmdiverse.evaluation.measurement import ProgressLine


class Clock:
    """Stands for the time, which passes as a test says."""

    def __init__(self) -> None:
        self.now = 0.

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measurement.time, 'perf_counter', clock.perf_counter)
    return clock


def work(clock: Clock, steps: int, seconds: float) -> None:
    progress = ProgressLine(steps)
    for step in range(steps):
        progress.start(f'step {step}')
        clock.now += seconds
        progress.advance(1)
    progress.end()


def test_a_file_gets_a_line_for_every_tenth(clock: Clock, capsys) -> None:
    work(clock, 1000, 0.01)
    text = capsys.readouterr().err
    assert '\r' not in text
    lines = text.splitlines()
    assert lines[0] == 'step 0, 0 %' and lines[1].startswith('step 1, 0 %')
    assert lines[5].startswith('step 5, ') and lines[9] == 'step 399, 40 %, 0:06 left'
    assert len(lines) == 16 and lines[-1] == 'step 999, 100 %, 0:00 left'


def test_a_file_gets_a_line_every_half_minute(clock: Clock, capsys) -> None:
    work(clock, 1000, 1.)
    lines = capsys.readouterr().err.splitlines()
    assert lines[6] == 'step 34, 4 %, 16:05 left'
    assert 33 <= len(lines) <= 49


def test_work_that_was_done_before_is_no_part_of_the_whole(clock: Clock, capsys) -> None:
    progress = ProgressLine(100)
    progress.skip(90)
    progress.start('rest')
    clock.now += 1.
    progress.advance(5)
    assert capsys.readouterr().err.splitlines() == ['rest, 0 %', 'rest, 50 %, 0:01 left']


def test_a_terminal_has_one_line_that_is_empty_in_the_end(clock: Clock, capsys, monkeypatch
                                                          ) -> None:
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    work(clock, 20, 1.)
    text = capsys.readouterr().err
    assert '\n' not in text and text.count('step 3,') == 2
    assert 'step 19, 0:00 left' in text and text.endswith(f'\r{"":79}\r')
