import json
from pathlib import Path

import cv2
import pytest
from PIL import Image

from mmdiverse.datasets.digit_scenes import write_digit_scenes
from mmdiverse.report.downstream_comparison import format_table, plot_predictions


def result(arm: str, seed: int, better: float = 0.) -> dict:
    similar = dict(token_cosine_absolute=[.2, .4])
    stages = dict(pretraining=dict(accuracy=90. + better, **similar),
                  detection=dict(bbox_mAP=.25 + better / 100, bbox_mAP_50=.5, **similar),
                  segmentation=dict(mIoU=40. - better, **similar))
    if arm == 'random':
        del stages['pretraining']
    return dict(arm=arm, seed=seed, **stages)


RESULTS = [result('plain', 0), result('diverse', 0, 1.),
           result('plain', 1, 2.), result('diverse', 1, 5.)]


def rows(results: list[dict]) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip('|').split('|')]
             for line in format_table(results).splitlines()]
    return {first: rest for first, *rest in cells}


def test_precision_is_in_percent_and_differences_are_over_pairs() -> None:
    assert rows(RESULTS)['detection: bbox mAP (%)'] == ['26.0 ± 1.4', '28.0 ± 2.8', '+2.0 ± 1.4']
    assert rows(RESULTS)['segmentation: mIoU (%)'][2] == '-2.0 ± 1.4'


def test_similarities_of_all_stages_are_means_over_blocks() -> None:
    similar = [row for name, row in rows(RESULTS).items() if 'token similarity' in name]
    assert [row[0] for row in similar] == ['0.300 ± 0.000'] * 3


def test_random_weights_have_a_column_of_their_own_and_no_pretraining() -> None:
    table = rows([*RESULTS, result('random', 0, -20.)])
    assert table['mean of 2 seeds'] == ['plain', 'diverse', 'difference', 'random']
    assert table['pretraining: accuracy (%)'][3] == '-'
    assert table['detection: bbox mAP (%)'][3] == '5.0'


def test_unfinished_pairs_are_left_out() -> None:
    assert 'mean of 1 seed' in rows(RESULTS[:3])
    assert 'nothing to compare' in format_table(RESULTS[:1])


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """What three runs of seed 0 say of two scenes: one box and one label, everywhere."""
    scenes = write_digit_scenes(tmp_path / 'digit_scenes', num_train=1, num_val=2)
    for number, arm in enumerate(('plain', 'diverse', 'random')):
        folder = tmp_path / arm / 'seed0'
        maps = folder / 'segmentation' / 'predictions'
        maps.mkdir(parents=True)
        (folder / 'detection').mkdir()
        (folder / 'detection' / 'predictions.bbox.json').write_text(json.dumps([
            dict(image_id=0, category_id=8, bbox=[10, 10, 12, 20], score=.9 - .7 * number)]))
        for path in (scenes / 'masks' / 'val').iterdir():
            with Image.open(path) as mask:
                Image.new('L', mask.size, number + 1).save(maps / path.name)
    return tmp_path


def drawn(work_dir: Path, results: list[dict]) -> tuple[int, int]:
    path = work_dir / 'picture.png'
    plot_predictions(results, work_dir, path)
    image = cv2.imread(str(path))
    assert image.std() > 5
    return image.shape[:2]


def test_picture_has_a_row_per_scene_and_two_columns_per_model(work_dir: Path) -> None:
    pair = [result('plain', 0), result('diverse', 0)]
    height, width = drawn(work_dir, pair)
    assert height > 400
    assert drawn(work_dir, [*pair, result('random', 0)])[1] == pytest.approx(width * 4 / 3, abs=2)


def test_boxes_below_the_least_score_are_not_drawn(work_dir: Path, monkeypatch) -> None:
    labels: list[str] = []
    monkeypatch.setattr('matplotlib.axes.Axes.text',
                        lambda self, x, y, text, **style: labels.append(text))
    plot_predictions([result('plain', 0), result('diverse', 0)], work_dir, work_dir / 'picture.png')
    assert [label for label in labels if ' ' in label] == ['7 0.90']
