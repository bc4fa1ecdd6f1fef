"""Models by name, through this package and through MMPretrain."""
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmpretrain.apis.model import ModelHub
from torch import Tensor

import mmdiverse
from mmdiverse.model_hub import register_models

from .runs import CONFIGS, DIGITS, same_state

NAME = 'deit-nano_diverse_digits'
PATH = DIGITS / f'{NAME}.py'


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint of the nano DeiT, and the state dict in it."""
    state = mmdiverse.get_model(NAME).state_dict()
    path = tmp_path / 'weights.pth'
    torch.save(state, path)
    return path, state


def test_a_name_builds_the_model_of_its_config() -> None:
    model = mmdiverse.get_model(NAME)
    assert type(model.head).__name__ == 'PatchMixingClsHead' and not model.training
    assert model(torch.zeros(1, 3, 16, 16), mode='tensor').shape == (1, 10)


def test_mmpretrain_knows_the_names_afterwards() -> None:
    names = mmdiverse.list_models('*nano_diverse*')
    assert names == ['deit-nano_diverse_digits', 'swin-nano_diverse_digits',
                     'vit-nano_diverse_digits']
    assert mmpretrain.list_models('*nano_diverse*') == names
    assert type(mmpretrain.get_model(NAME).head).__name__ == 'PatchMixingClsHead'


@pytest.mark.parametrize('metafile', sorted(path for path in CONFIGS.glob('*/metafile.yml')
                                            if path.parent.name != 'downstream'),
                         ids=lambda path: path.parent.name)
def test_a_name_of_each_metafile_leads_to_its_config(metafile: Path) -> None:
    register_models()
    model = load(metafile)['Models'][0]
    found = Path(ModelHub.get(model['Name']).config.filename)
    assert found.resolve() == CONFIGS.parent / model['Config']


def test_models_of_mmpretrain_are_listed_and_excluded_as_there() -> None:
    names = mmdiverse.list_models('deit-small', exclude_patterns=['*diverse'], task=None)
    assert 'deit-small_4xb256_in1k' in names and 'deit-small_8xb128_in1k' in names
    assert not any('diverse' in name for name in names)


def test_registering_again_changes_nothing() -> None:
    names = mmdiverse.list_models()
    register_models()
    assert mmdiverse.list_models() == names


def test_options_reach_the_config() -> None:
    assert mmdiverse.get_model(NAME, backbone=dict(drop_path_rate=0.5)) \
        ._config.model.backbone.drop_path_rate == 0.5


def test_weights_are_loaded(weights) -> None:
    path, state = weights
    assert same_state(mmdiverse.get_model(NAME, pretrained=str(path)).state_dict(), state)


def test_released_weights_are_loaded(weights, monkeypatch) -> None:
    path, state = weights
    register_models()
    monkeypatch.setitem(ModelHub._models_dict[NAME].data, 'Weights', str(path))
    assert same_state(mmdiverse.get_model(NAME, pretrained=True).state_dict(), state)


@pytest.mark.parametrize('load', [str, Path, Config.fromfile])
def test_weights_that_a_config_names_are_loaded(load, weights, tmp_path) -> None:
    path, state = weights
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {str(PATH)!r}\nload_from = {str(path)!r}\n')
    assert same_state(mmdiverse.get_model(load(config), pretrained=True).state_dict(), state)


@pytest.mark.parametrize(('model', 'named'), [
    (NAME, NAME),
    ('deit-small_8xb128_in1k', 'deit-small_8xb128_in1k'),
    (str(PATH), str(PATH)),
    (PATH, str(PATH)),
    (Config.fromfile(PATH), str(PATH)),
    (Config({'model': {}}), 'this config'),
])
def test_a_model_without_released_weights_is_refused(model, named) -> None:
    with pytest.raises(ValueError) as error:
        mmdiverse.get_model(model, pretrained=True)
    assert str(error.value).startswith(
        f'pretrained=True, but there are no released weights of {named}: pass the path or URL')


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match='Failed to find model "deit-none_digits"'):
        mmdiverse.get_model('deit-none_digits', pretrained=True)
