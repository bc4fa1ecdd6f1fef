from pathlib import Path

import cv2

from mmdiverse.report.comparison import complete_pairs, format_table, plot_comparison


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
