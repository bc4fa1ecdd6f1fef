"""MMPretrain's analyze_logs.py, through our tool, on the log of a diversified run."""
import runpy
import sys
from pathlib import Path

import cv2
import pytest
from matplotlib import pyplot

from tests.runs import digits_config, train

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis' / 'analyze_logs.py'


@pytest.fixture(scope='module')
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two epochs, of which a term with a schedule takes part in the first alone."""
    folder = tmp_path_factory.mktemp('logged')
    cfg = digits_config('deit-nano_digits', folder, epochs=2, batches=4)
    cfg.default_hooks.logger.interval = 1
    once = dict(type='MultiStepParamScheduler', milestones=[1], gamma=0.)
    cfg.custom_hooks = [
        dict(type='mmdiverse.DiversityHook', gradient_interval=2, terms=[
            dict(type='CosineLoss', on='patch', weight=0.5),
            dict(type='CosineLoss', on='weight', weight=0.5, schedule=once)]),
        dict(type='mmdiverse.RedundancyHook', interval=2)]
    train(cfg)
    path, = folder.glob('*/vis_data/scalars.json')
    return path


def analyze(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, words)])
    runpy.run_path(str(TOOL), run_name='__main__')


def draw(log: Path, keys: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
         ) -> dict[str, list[float]]:
    """The values of every curve that is drawn."""
    curves: dict[str, list[float]] = {}

    def plot(x: list[float], y: list[float], label: str, **style: object) -> list:
        curves[label.removeprefix('scalars_')] = [value for value in y if value == value]
        return original(x, y, label=label, **style)

    original = pyplot.plot
    monkeypatch.setattr(pyplot, 'plot', plot)
    analyze(monkeypatch, 'plot_curve', log, '--keys', *keys, '--out', out)
    pyplot.close('all')
    assert cv2.imread(str(out)).std() > 0
    return curves


def test_values_weighted_values_and_shares_of_terms_are_drawn(log: Path, tmp_path: Path,
                                                              monkeypatch) -> None:
    keys = ['loss', 'patch_cosine', 'loss_patch_cosine', 'patch_cosine_gradient_share']
    curves = draw(log, keys, tmp_path / 'curves.png', monkeypatch)
    assert [*curves] == keys and all(len(curve) == 8 for curve in curves.values())
    assert curves['loss_patch_cosine'][0] == pytest.approx(0.5 * curves['patch_cosine'][0])


def test_a_term_that_stopped_is_drawn_as_far_as_it_goes(log: Path, tmp_path: Path,
                                                        monkeypatch) -> None:
    keys = ['weight_cosine', 'weight_cosine_weight', 'weight_cosine_gradient_share']
    curves = draw(log, keys, tmp_path / 'curves.png', monkeypatch)
    assert [len(curves[key]) for key in keys] == [4, 4, 4]


def test_measures_and_accuracy_are_drawn_of_one_log(log: Path, tmp_path: Path, monkeypatch) -> None:
    keys = ['accuracy/top1', 'redundancy/token_cosine_absolute']
    curves = draw(log, keys, tmp_path / 'curves.png', monkeypatch)
    assert [len(curves[key]) for key in keys] == [2, 4]


def test_an_unknown_key_is_answered_with_those_there_are(log: Path, tmp_path: Path, monkeypatch
                                                         ) -> None:
    with pytest.raises(ValueError, match='Invalid key "nothing".*weight_cosine'):
        draw(log, ['nothing'], tmp_path / 'curves.png', monkeypatch)


def test_time_of_steps_is_told(log: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    analyze(monkeypatch, 'cal_train_time', log)
    text = capsys.readouterr().out
    assert 'slowest epoch' in text and 'average iter time: 0.' in text
