from pathlib import Path

import cv2
from matplotlib.figure import Figure

from mmdiverse.report.comparison import (
    complete_pairs,
    describe_ends,
    format_table,
    plot_comparison,
)


def result(arm: str, seed: int, accuracy: float) -> dict:
    return dict(arm=arm, seed=seed, metric='accuracy/top1', accuracy=accuracy,
                accuracy_per_epoch=[50., accuracy], loss_per_epoch=[2., 1.], seconds_per_epoch=1.5,
                token_cosine_absolute=[.2, .4], head_cosine=[.5, .5], neuron_cosine_mean=[.1, .3])


RESULTS = [result('plain', 0, 90.), result('diverse', 0, 91.),
           result('plain', 1, 80.), result('diverse', 1, 83.)]


def test_difference_is_over_pairs() -> None:
    row = format_table(RESULTS).splitlines()[2]
    assert '85.00 ± 7.07' in row and '87.00 ± 5.66' in row and '+2.00 ± 1.41' in row


def test_similarities_are_means_over_blocks() -> None:
    assert '0.300' in format_table(RESULTS).splitlines()[3]


def test_one_seed_has_no_spread() -> None:
    assert '±' not in format_table(RESULTS[:2])


def test_unfinished_pairs_are_left_out() -> None:
    assert len(complete_pairs(RESULTS[:3])) == 1
    assert 'nothing to compare' in format_table(RESULTS[:1])


def test_picture_is_written(tmp_path: Path) -> None:
    plot_comparison(RESULTS, tmp_path / 'picture.png', 'title')
    image = cv2.imread(str(tmp_path / 'picture.png'))
    assert image.shape[0] > 500 and image.std() > 5


def curve(arm: str, seed: int, epochs: list[int], last: int) -> dict:
    """A run whose accuracy is ten times its epoch, plus its seed."""
    return {**result(arm, seed, 0.), 'accuracy_epochs': epochs,
            'accuracy_per_epoch': [10. * epoch + seed for epoch in epochs],
            'loss_epochs': [*range(1, last + 1)], 'loss_per_epoch': [1.] * last}


UNEVEN = [curve('plain', 0, [2, 4, 5], 5), curve('diverse', 0, [2, 4, 5], 5),
          curve('plain', 1, [2, 4], 4), curve('diverse', 1, [2], 3)]


def drawn(results: list[dict], tmp_path: Path, monkeypatch) -> Figure:
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **options: (
        figures.append(self), save(self, *args, **options)))
    plot_comparison(results, tmp_path / 'picture.png', 'title')
    return figures[0]


def test_accuracies_are_drawn_at_their_epochs_and_means_where_all_seeds_have_one(
        tmp_path: Path, monkeypatch) -> None:
    accuracy = drawn(UNEVEN, tmp_path, monkeypatch).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in accuracy.lines}
    assert lines['plain'] == [[2., 20.5], [4., 40.5]] and lines['diverse'] == [[2., 20.5]]
    # On their own, the seeds that go further.
    alone = [line.get_xydata().tolist() for line in accuracy.lines if line.get_linewidth() < 1]
    assert alone == [[[2., 20.], [4., 40.], [5., 50.]]] * 2
    # One point makes no line.
    assert [line.get_marker() for line in accuracy.lines if line.get_label() == 'diverse'] == ['o']


def test_different_ends_are_said_in_table_and_picture(tmp_path: Path, monkeypatch) -> None:
    sentence = ('Runs ended after different epochs: plain after 4 (seed 1), 5 (seed 0); '
                'diverse after 3 (seed 1), 5 (seed 0).')
    assert format_table(UNEVEN).splitlines()[-2:] == ['', sentence]
    assert sentence in drawn(UNEVEN, tmp_path, monkeypatch).get_suptitle()
    assert 'ended' not in format_table(UNEVEN[:2]) and 'ended' not in format_table(RESULTS)


def test_seeds_of_one_end_stand_together() -> None:
    assert describe_ends({'plain': {0: 5, 2: 5, 1: 3}, 'diverse': {0: 5}}) == (
        'Runs ended after different epochs: plain after 3 (seed 1), 5 (seeds 0, 2); '
        'diverse after 5 (seed 0).')
    assert describe_ends({'plain': {0: 5}, 'diverse': {0: 5, 1: 5}}) == ''
