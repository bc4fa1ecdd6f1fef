"""From a config of MMPretrain to a diversified one, and back to its plain twin."""
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook

from .toolboxes import check_toolboxes

PACKAGE = Path(__file__).resolve().parent
#: In an installed package configs lie in `.mim`, as OpenMMLab does; in a bare checkout beside it.
CONFIGS = next(path for path in (PACKAGE / '.mim' / 'configs', PACKAGE.parent / 'configs')
               if path.is_dir())
FRAGMENTS = CONFIGS / '_base_' / 'diversity'
HOOK = 'mmdiverse.DiversityHook'

#: Plain type and the type that takes its place for patch-level mixing.
MIXING_HEADS = {
    'VisionTransformerClsHead': 'mmdiverse.PatchMixingClsHead',
    'LinearClsHead': 'mmdiverse.PatchMixingLinearClsHead',
}
MIXING_AUGMENTS = {'Mixup': 'mmdiverse.PatchMixup', 'CutMix': 'mmdiverse.PatchCutMix'}
MIXING_PREPROCESSOR = 'mmdiverse.PatchMixingDataPreprocessor'
MIXING_LOSS = 'mmdiverse.PatchMixingLoss'


def load_config(name: str | Path) -> Config:
    """Load a config file, or a config that a package ships.

    Args:
        name (str | Path): A path, or ``package::path`` such as
            ``mmpretrain::deit/deit-small_4xb256_in1k.py``.

    Raises:
        FileNotFoundError: If there is no such config.
        ImportError: If it inherits from MMDetection or MMSegmentation, which is not installed.
    """
    try:
        if '::' not in str(name):
            return Config.fromfile(name)
        return Config.fromstring(f'_base_ = [{name!r}]', '.py')
    except ModuleNotFoundError as error:  # of a package whose configs it inherits
        check_toolboxes(str(error).split()[:1])
        raise
    except AssertionError as error:  # by which MMEngine says that it does not know the package
        raise FileNotFoundError(f'no config {name!r}: {error}') from error


def list_fragments() -> list[str]:
    """Names of the diversity fragments that the package ships."""
    return sorted(path.stem for path in FRAGMENTS.glob('*.py'))


def load_fragment(fragment: str) -> ConfigDict:
    """Load the hook config of a diversity fragment.

    Args:
        fragment (str): One of :func:`list_fragments`, or the path of a config file that defines
            ``diversity``.

    Raises:
        FileNotFoundError: If there is no such fragment.
        ValueError: If the file defines no ``diversity``.
    """
    path = FRAGMENTS / f'{fragment}.py' if fragment in list_fragments() else Path(fragment)
    if not path.is_file():
        raise FileNotFoundError(f'no diversity fragment {fragment!r}: expected a config file or '
                                f'one of {list_fragments()}')
    config = Config.fromfile(path)
    if 'diversity' not in config:
        raise ValueError(f'{path} must define `diversity = dict(type={HOOK!r}, ...)`')
    return config.diversity


def diversify(cfg: Config, fragment: str, mixing: bool = False) -> Config:
    """Return a diversified copy of a config; a hook that it has already is replaced.

    Args:
        cfg (Config): Any config of a model with a supported backbone.
        fragment (str): As for :func:`load_fragment`.
        mixing (bool): Also classify every patch; see :func:`add_mixing`. Defaults to False.

    Raises:
        FileNotFoundError: If there is no such fragment.
        ValueError: If ``mixing`` and the model has no patch-mixing counterpart.
    """
    hook = load_fragment(fragment)
    cfg = _without_hook(deepcopy(cfg))
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    return add_mixing(cfg) if mixing else cfg


def plain_twin(cfg: Config) -> Config:
    """Return a copy of a config without diversity: no hook, no patch-level mixing.

    Where the config mixes patches, the twin uses MMPretrain's own Mixup, CutMix, head and label
    smoothing with the same settings.
    """
    return remove_mixing(_without_hook(deepcopy(cfg)))


def is_diversified(cfg: Config) -> bool:
    """Whether a config holds a DiversityHook or mixes patches."""
    check_hooks(cfg)
    return any(type_name(hook) == HOOK for hook in cfg.get('custom_hooks') or []) or \
        _head_type(cfg) in MIXING_HEADS.values()


def add_mixing(cfg: Config) -> Config:
    """Change a config in place so that every patch is classified; see :mod:`mmdiverse.mixing`.

    Handles VisionTransformer with a VisionTransformerClsHead, and SwinTransformer with average
    pooling and a LinearClsHead; Mixup and CutMix.

    Raises:
        ValueError: If the model or an augment is another.
    """
    model = cfg.model
    head = type_name(model.head)
    if head in MIXING_HEADS.values():
        return cfg
    backbone = model.backbone
    expected = {'VisionTransformer': 'VisionTransformerClsHead',
                'SwinTransformer': 'LinearClsHead'}
    if expected.get(type_name(backbone)) != head:
        raise ValueError('patch-level mixing knows these pairs of `model.backbone` and `model.head`'
                         f': {expected}, but got {type_name(backbone)} and {head}')
    if head == 'VisionTransformerClsHead':
        backbone.out_type = 'raw'
        patch_size = backbone.get('patch_size', 16)
    else:
        model.neck = None
        arch = backbone.get('arch', 'tiny')
        stages = len(arch['depths']) if isinstance(arch, dict) else 4
        patch_size = backbone.get('patch_size', 4) * 2**(stages - 1)
    model.head.type = MIXING_HEADS[head]
    model.head.loss = _mixing_loss(model.head.get('loss') or dict(type='CrossEntropyLoss'))
    _replace_augments(cfg, MIXING_AUGMENTS)
    for preprocessor in _preprocessors(cfg):
        if type_name({'type': 'ClsDataPreprocessor', **preprocessor}) != 'ClsDataPreprocessor':
            raise ValueError('patch-level mixing replaces a `data_preprocessor` of type '
                             f'ClsDataPreprocessor, but got {preprocessor.type}')
        preprocessor.type = MIXING_PREPROCESSOR
        preprocessor.patch_size = patch_size
    return cfg


def remove_mixing(cfg: Config) -> Config:
    """Change a config in place so that only images are classified; undoes :func:`add_mixing`."""
    model = cfg.model
    plain = {mixing: head for head, mixing in MIXING_HEADS.items()}
    if _head_type(cfg) not in plain:
        return cfg
    model.head.type = plain[_head_type(cfg)]
    if model.head.type == 'VisionTransformerClsHead':
        model.backbone.pop('out_type', None)
    else:
        model.neck = dict(type='GlobalAveragePooling')
    model.head.loss = {'label_smooth_val': 0., **(model.head.get('loss') or {}),
                       'type': 'LabelSmoothLoss', 'mode': 'original'}
    model.head.loss.pop('image_share', None)
    _replace_augments(cfg, {mixing: augment for augment, mixing in MIXING_AUGMENTS.items()})
    for preprocessor in _preprocessors(cfg):
        preprocessor.pop('type', None)
        preprocessor.pop('patch_size', None)
    return cfg


def type_name(config: dict[str, Any]) -> str:
    """The name of the type of a config, given as text or, in the new style, as a class.

    Args:
        config (dict): With ``type``; without any, the name is empty.

    Returns:
        str: ``mmdiverse.X`` for what is ours, and ``X`` for everything else, whatever its scope.
    """
    kind = config.get('type') or ''
    if not isinstance(kind, str):
        kind = f'{kind.__module__}.{kind.__qualname__}'
    kind = kind.replace('/', '.')
    name = kind.rpartition('.')[-1]
    return f'mmdiverse.{name}' if kind.startswith('mmdiverse.') else name


def _head_type(cfg: Config) -> str:
    return type_name(cfg.model.get('head') or {})


def _mixing_loss(loss: dict[str, Any]) -> dict[str, Any]:
    """The mixing loss with the smoothing and the factor of a plain one."""
    loss = {'mode': 'original', 'use_sigmoid': False, **loss}
    if (type_name(loss), loss['mode']) not in {
            ('LabelSmoothLoss', 'original'), ('CrossEntropyLoss', 'original')} or \
            loss['use_sigmoid']:
        raise ValueError('patch-level mixing replaces a `model.head.loss` of type CrossEntropyLoss,'
                         f" or LabelSmoothLoss with mode='original', but got {loss}")
    kept = {key: loss[key] for key in ('label_smooth_val', 'loss_weight') if key in loss}
    return dict(type=MIXING_LOSS, **kept)


def _without_hook(cfg: Config) -> Config:
    check_hooks(cfg)
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if type_name(hook) != HOOK]
    return cfg


def _preprocessors(cfg: Config) -> list[dict[str, Any]]:
    """The preprocessor's config, wherever it stands; made at the top if it is nowhere."""
    nested = cfg.model.get('data_preprocessor')
    if nested is None and cfg.get('data_preprocessor') is None:
        cfg.data_preprocessor = dict()
    return [config for config in (cfg.get('data_preprocessor'), nested) if config is not None]


def _replace_augments(cfg: Config, types: dict[str, str]) -> None:
    owners = [config.get('batch_augments') for config in _preprocessors(cfg)]
    for owner in (cfg.model.get('train_cfg'), *owners):
        augments = (owner or {}).get('augments') or []
        for augment in [augments] if isinstance(augments, dict) else augments:
            if type_name(augment) not in types:
                raise ValueError(f'`model.train_cfg.augments` must be among {list(types)} for '
                                 f'patch-level mixing, but got {augment["type"]}')
            augment['type'] = types[type_name(augment)]
            if not augment['type'].startswith('mmdiverse.'):
                augment.pop('partner', None)


def check_hooks(cfg: Mapping[str, Any]) -> None:
    """Check that ``custom_hooks`` is a list of hooks.

    Args:
        cfg (Mapping): A config.

    Raises:
        ValueError: If it is none, such as a dict; the message says how to write it.
    """
    hooks = cfg.get('custom_hooks')
    if hooks is None:
        return
    if isinstance(hooks, str) or not isinstance(hooks, Sequence):
        given = f'a dict with the keys {list(hooks)}' if isinstance(hooks, Mapping) else repr(hooks)
        raise ValueError(f'`custom_hooks` must be a list of configs of hooks, but is {given}; '
                         "write `custom_hooks=[dict(type='...', ...)]`, also for one")
    for index, hook in enumerate(hooks):
        if isinstance(hook, Hook):
            continue
        if not isinstance(hook, Mapping):
            raise ValueError(f'`custom_hooks[{index}]` must be the config of a hook, '
                             f"`dict(type='...', ...)`, but is {hook!r}")
        if not hook.get('type'):
            raise ValueError(f'`custom_hooks[{index}]` needs a `type`, but has the keys '
                             f'{list(hook)}')
