"""Registries: what they say of a name that does not exist."""
import pytest
from mmengine.registry import HOOKS as HOST_HOOKS
from mmpretrain.registry import MODELS as HOST_MODELS

from mmdiverse.hooks import DiversityHook
from mmdiverse.registry import HOOKS, INHERITED, MODELS


@pytest.mark.parametrize(('name', 'message'), [
    ('DiversityHok', "no hook 'DiversityHok'; did you mean 'mmdiverse.DiversityHook'"),
    ('diversityhook', "no hook 'diversityhook'; did you mean 'mmdiverse.DiversityHook'"),
    ('EMAHok', "no hook 'EMAHok'; did you mean 'EMAHook'"),
    ('Something', r"no hook 'Something'; its own are \['DiversityHook', 'EpochSeedHook'"),
])
def test_a_name_that_does_not_exist_in_the_scope(name: str, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        HOST_HOOKS.build(dict(type=f'mmdiverse.{name}', terms=[]))
    with pytest.raises(KeyError, match=message):  # as in a config of `mmdiverse::`
        HOST_HOOKS.build(dict(type=name, terms=[], _scope_='mmdiverse'))


def test_a_kind_of_which_there_is_nothing() -> None:
    loops = next(registry for registry in INHERITED if registry.name == 'loop')
    with pytest.raises(KeyError) as error:
        loops.get('X')
    assert error.value.args == ("mmdiverse has no loop 'X'", )


def test_what_was_found_before_is_found_still() -> None:
    assert HOST_HOOKS.get('mmdiverse.DiversityHook') is DiversityHook
    assert HOST_HOOKS.get('mmdiverse.hooks.DiversityHook') is DiversityHook
    assert MODELS.get('VisionTransformer') is HOST_MODELS.get('VisionTransformer')
    assert 'DiversityHook' in HOOKS and 'EMAHook' in HOOKS and 'Something' not in HOOKS


def test_the_name_that_is_meant_has_its_scope() -> None:
    assert HOOKS.name_meant_by('DiversityHok') == 'mmdiverse.DiversityHook'
    assert HOOKS.name_meant_by('CheckpointHok') == 'CheckpointHook'
    assert HOOKS.name_meant_by('zzz') is None
