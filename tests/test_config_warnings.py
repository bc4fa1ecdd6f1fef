"""What configs lose without a word: hooks of their bases, and terms that nothing uses."""
import re
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdiverse.config import diversify, load_config
from mmdiverse.config_warnings import config_warnings

ROOT = Path(__file__).resolve().parents[1]
# Those of a single level are made as `diverse` is; those of other toolboxes need these.
CONFIGS = [path for folder in ('configs', 'mmdiverse/configs')
           for path in sorted((ROOT / folder).rglob('[!_]*.py'))
           if not {'_base_', 'downstream'} & {*path.parts}
           and not re.search('diverse-(patch|attention|weight)_', path.stem)]
NANO = "_base_ = ['mmdiverse::digits/deit-nano_diverse_digits.py']\n"
PLAIN = "_base_ = ['mmdiverse::digits/deit-nano_digits.py', 'mmdiverse::_base_/diversity/{}.py']\n"
EMA = "dict(type='EMAHook', momentum=1e-3)"
DIVERSITY = "dict(type='mmdiverse.DiversityHook', terms=[dict(type='CosineLoss', on='patch')])"
UNUSED = '`diversity` is defined, but used nowhere, so that no diversity is trained'
STALE = '`diversity` is changed, but `custom_hooks` has it as it was before'


@pytest.fixture(autouse=True)
def known_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MMEngine find each config of a package once; it reads hundreds of files each time."""
    monkeypatch.setattr(Config, '_get_cfg_path', staticmethod(_get_cfg_path))


_get_cfg_path = cache(Config._get_cfg_path)


def warnings_of(tmp_path: Path, *texts: str, **options: object) -> list[str]:
    """Of the last of some config files, which inherit one another by name."""
    for index, text in enumerate(texts):
        path = tmp_path / f'config_{index}.py'
        path.write_text(text)
    cfg = load_config(path)
    cfg.merge_from_dict(options)
    return config_warnings(cfg)


@pytest.mark.parametrize('text', [
    f'custom_hooks = [{EMA}]', f'custom_hooks = ({EMA}, )', f'custom_hooks = [{EMA}, {EMA}]'])
def test_terms_of_a_base_that_are_dropped_are_told_of(text: str, tmp_path: Path) -> None:
    warning, = warnings_of(tmp_path, NANO + text)
    assert warning.startswith('`custom_hooks` replaces that of ')
    assert warning.endswith(
        'deit-nano_diverse_digits.py, and drops its mmdiverse.DiversityHook; to keep it, repeat '
        'it: `custom_hooks = [*_base_.custom_hooks, ...]`')


@pytest.mark.parametrize('base', ['{{ fileDirname }}/config_0.py', '{{$FIRST:config_0.py}}'])
def test_bases_may_be_named_by_variables(base: str, tmp_path: Path) -> None:
    warning, = warnings_of(tmp_path, f'custom_hooks = [{DIVERSITY}]',
                           f"_base_ = ['{base}']\ncustom_hooks = [{EMA}]")
    assert 'config_0.py, and drops its mmdiverse.DiversityHook' in warning


def test_every_hook_of_every_base_is_told_of(tmp_path: Path) -> None:
    found = warnings_of(
        tmp_path,
        f"_base_ = ['mmdiverse::digits/deit-nano_digits.py']\ncustom_hooks = [{EMA}]",
        f"_base_ = ['./config_0.py']\ncustom_hooks = [*_base_.custom_hooks, {DIVERSITY}]",
        "_base_ = ['./config_1.py']\ncustom_hooks = [dict(type='EmptyCacheHook')]",
        "_base_ = './config_2.py'\nmodel = dict(head=dict(topk=(1, )))")  # nor has it the last
    assert [warning.split('drops its ')[1].split(';')[0] for warning in found] == [
        'EMAHook', 'mmdiverse.DiversityHook']


@pytest.mark.parametrize('text', [
    '', 'custom_hooks = []', 'custom_hooks = None', f'custom_hooks = [{DIVERSITY}]',
    f'custom_hooks = [*_base_.custom_hooks, {EMA}]', f'custom_hooks = [_base_.diversity, {EMA}]'])
def test_hooks_that_are_kept_replaced_or_given_up_are_no_matter(text: str, tmp_path: Path) -> None:
    assert warnings_of(tmp_path, NANO + text) == []


def test_terms_that_nothing_uses_are_told_of(tmp_path: Path) -> None:
    for text in ('', f'custom_hooks = [{EMA}]', 'custom_hooks = []'):
        warning, = warnings_of(tmp_path, PLAIN.format('all') + text)
        assert warning.startswith(UNUSED)
    assert warnings_of(tmp_path, f'diversity = {DIVERSITY}')[0].startswith(UNUSED)
    assert warnings_of(tmp_path, "diversity = dict(type='Mine')\nmodel = 1") == []


def test_terms_that_are_changed_in_vain_are_told_of(tmp_path: Path) -> None:
    warning, = warnings_of(tmp_path, NANO + 'diversity = dict(gradient_interval=7)')
    assert warning.startswith(STALE)
    warning, = warnings_of(tmp_path, NANO, **{'diversity.gradient_interval': 7})
    assert warning.startswith(STALE)
    assert warnings_of(tmp_path, PLAIN.format('all') + 'custom_hooks = [dict(_base_.diversity, '
                                                       'gradient_interval=7)]') == []


def test_a_config_of_a_package_is_read_by_name() -> None:
    name = 'mmdiverse::digits/deit-nano_diverse_digits.py'
    cfg = load_config(name)
    assert config_warnings(cfg, name) == []
    cfg.diversity = None
    cfg.custom_hooks = [dict(type='EmptyCacheHook')]
    warning, = config_warnings(cfg, name)
    assert 'drops its mmdiverse.DiversityHook' in warning


def test_lazy_configs_are_read(tmp_path: Path) -> None:
    base = ('from mmengine.hooks import EMAHook\nfrom mmdiverse.hooks import DiversityHook\n'
            'custom_hooks = [dict(type=EMAHook), dict(type=DiversityHook, terms=[])]\n')
    child = ('from mmengine.config import read_base\nfrom mmengine.hooks import EMAHook\n'
             'with read_base():\n    from .config_0 import *\n')
    assert warnings_of(tmp_path, base, child) == []
    warning, = warnings_of(tmp_path, base, child + 'custom_hooks = [dict(type=EMAHook)]\n')
    assert 'config_0.py, and drops its mmdiverse.DiversityHook' in warning


def test_a_fragment_of_the_command_line_takes_the_place_of_terms(tmp_path: Path) -> None:
    (tmp_path / 'a.py').write_text(NANO)
    cfg = load_config(tmp_path / 'a.py')
    assert config_warnings(diversify(cfg, 'official')) == []


def test_the_configs_that_are_shipped_lose_nothing() -> None:
    assert len(CONFIGS) > 40
    found = {path: config_warnings(load_config(path)) for path in CONFIGS}
    assert not {path: warnings for path, warnings in found.items() if warnings}
