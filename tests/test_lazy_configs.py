"""New-style configs say what the older ones of the same names say."""
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import mmdiverse
from mmdiverse.config import load_config, type_name
from mmdiverse.hooks import DiversityHook
from mmdiverse.registry import HOOKS
from tests.processes import run_script

ROOT = Path(__file__).resolve().parents[1]
LAZY = Path(mmdiverse.__file__).parent / 'configs'
TEXT = Path(mmdiverse.__file__).parents[1] / 'configs'
#: MMEngine's names of two initializers differ from those of the classes.
INITIALIZERS = {'TruncNormalInit': 'TruncNormal', 'ConstantInit': 'Constant'}
PAIRS = {
    'deit/deit_small_8xb128_in1k': TEXT / 'deit/deit-small_8xb128_in1k.py',
    'deit/deit_small_diverse_8xb128_in1k': TEXT / 'deit/deit-small_diverse_8xb128_in1k.py',
    'swin_transformer/swin_tiny_16xb64_in1k':
        'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'swin_transformer/swin_tiny_diverse_16xb64_in1k':
        TEXT / 'swin_transformer/swin-tiny_diverse_16xb64_in1k.py',
    '_base_/diversity/official': TEXT / '_base_/diversity/official.py',
    '_base_/diversity/swin': TEXT / '_base_/diversity/swin.py',
}
LEAVES = [name for name in PAIRS if '_base_' not in name]

each_leaf = pytest.mark.parametrize('name', LEAVES)


def load(name: str) -> Config:
    return Config.fromfile(LAZY / f'{name}.py')


def with_names(value: Any) -> Any:
    """A config with the names of types, and without scopes."""
    if isinstance(value, dict):
        plain = {key: with_names(part) for key, part in value.items() if key != '_scope_'}
        if 'type' in plain:
            name = type_name(value)
            plain['type'] = INITIALIZERS.get(name, name)
        return plain
    return [with_names(part) for part in value] if isinstance(value, (list, tuple)) else value


def test_every_new_style_config_has_a_counterpart() -> None:
    shared = {'imagenet_224', 'adamw_bs1024', 'default_runtime'}
    names = {str(path.relative_to(LAZY).with_suffix('')) for path in LAZY.rglob('*.py')
             if path.stem not in {'__init__', *shared}}
    assert names == PAIRS.keys()


@pytest.mark.parametrize('name', PAIRS)
def test_both_styles_say_the_same(name: str) -> None:
    lazy, text = (with_names(cfg.to_dict()) for cfg in (load(name), load_config(PAIRS[name])))
    for helper in ('dataset_type', 'bgr_mean', 'bgr_std', 'train_pipeline', 'test_pipeline',
                   'vis_backends'):
        text.pop(helper, None)
    assert lazy == text


@each_leaf
def test_a_new_style_config_builds_a_model_that_its_terms_fit(name: str) -> None:
    cfg = load(name)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(deepcopy(cfg.model), data_preprocessor=cfg.data_preprocessor))
        hooks = [HOOKS.build(hook) for hook in cfg.get('custom_hooks') or []]
    diversity = [hook for hook in hooks if isinstance(hook, DiversityHook)]
    assert len(diversity) == ('diverse' in name)
    for hook in diversity:
        hook.attach(model)
        assert hook.tap is not None


INHERITS = '''
from mmengine.config import read_base
with read_base():
    from mmdiverse.configs.{module} import *
train_dataloader.update(batch_size=3)
'''
LOADS = '''
import sys
import mmdiverse
from mmengine.config import Config
for path in sys.argv[1:]:
    cfg = Config.fromfile(path)
    hooks = [hook.type.__name__ for hook in cfg.get('custom_hooks') or []]
    print('batches of', cfg.train_dataloader.batch_size, cfg.model.backbone.type.__name__, hooks)
'''


def test_new_style_configs_are_inherited_outside_of_the_clone(tmp_path: Path) -> None:
    script = tmp_path / 'load.py'
    script.write_text(LOADS)
    for number, name in enumerate(LEAVES):
        module = name.replace('/', '.')
        (tmp_path / f'{number}.py').write_text(INHERITS.format(module=module))
    files = [f'{number}.py' for number in range(len(LEAVES))]
    status, printed = run_script([str(script), *files], tmp_path, ROOT)
    assert status == 0, printed
    assert [line for line in printed.splitlines() if line.startswith('batches of')] == [
        "batches of 3 VisionTransformer ['EMAHook']",
        "batches of 3 VisionTransformer ['EMAHook', 'DiversityHook']",
        'batches of 3 SwinTransformer []',
        "batches of 3 SwinTransformer ['DiversityHook']"]
