"""From a config of MMPretrain to a diversified one, and back to its plain twin."""
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.utils import to_2tuple

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
#: What the options of a plain loss must be, where ``MIXING_LOSS`` has none of the name.
MIXED_LOSSES = {
    'CrossEntropyLoss': dict(
        use_sigmoid=(False, None), use_soft=(True, False), reduction=('mean', ),
        class_weight=(None, ), pos_weight=(None, )),
    'LabelSmoothLoss': dict(
        mode=('original', ), use_sigmoid=(False, None), reduction=('mean', ),
        class_weight=(None, ), pos_weight=(None, )),
}
#: Options of a plain loss that ``MIXING_LOSS`` has too.
KEPT_OF_LOSS = ('label_smooth_val', 'loss_weight')
#: Options of an embedding that change how many pixels a token stands for.
PATCH_OPTIONS = ('kernel_size', 'stride', 'padding', 'dilation', 'input_size')
#: Where a diversified config keeps what its plain twin has and no rule gives back: for each key
#: what it replaced (``plain``), and what by (``here``).
TWIN = 'plain_twin'
#: As MMEngine writes numbers that Python has no name for.
BARE_NUMBERS = {'inf': "float('inf')", 'nan': "float('nan')"}
#: All that :func:`diversify` changes lies below these keys.
CHANGED = ('custom_hooks', 'data_preprocessor', 'model')
#: Stands for a key that a config lacks.
ABSENT = object()


def load_config(name: str | Path) -> Config:
    """Load a config file, or a config that a package ships.

    Args:
        name (str | Path): A path, or ``package::path`` such as
            ``mmpretrain::deit/deit-small_4xb256_in1k.py``.

    A config that a run has written without mmdiverse is read as well where it holds an infinite
    number; see :func:`mmdiverse.compat.write_readable_configs`.

    Raises:
        FileNotFoundError: If there is no such config.
        ImportError: If it inherits from MMDetection or MMSegmentation, which is not installed.
    """
    try:
        if '::' not in str(name):
            return _read(Path(name))
        return Config.fromstring(f'_base_ = [{name!r}]', '.py')
    except ModuleNotFoundError as error:  # of a package whose configs it inherits
        check_toolboxes(str(error).split()[:1])
        raise
    except AssertionError as error:  # by which MMEngine says that it does not know the package
        raise FileNotFoundError(f'no config {name!r}: {error}') from error


def _read(path: Path) -> Config:
    try:
        return Config.fromfile(path)
    except NameError as error:
        if not any(f"name '{name}' is" in str(error) for name in BARE_NUMBERS):
            raise
    text = path.read_text(encoding='utf-8')
    lines = [f'{name} = {value}' for name, value in BARE_NUMBERS.items()]
    values = Config.fromstring('\n'.join([*lines, text]), '.py').to_dict()
    return Config({key: value for key, value in values.items() if key not in BARE_NUMBERS},
                  cfg_text=text, filename=str(path))


def readable_text(cfg: Config) -> str:
    """The text of a config file that says what a config does.

    Args:
        cfg (Config): Any.

    Raises:
        ValueError: If it holds something that is not what it was after it was written and read; the
            message names the key.
    """
    try:
        text = cfg.pretty_text
    except (SyntaxError, TypeError):  # by which MMEngine says that this is no Python
        text = None
    found = cfg.to_dict()
    if text is not None and _reads_as(text, found):
        return text
    key, value = next(_unreadable(found), ('', found))
    raise ValueError(f'the config cannot be written into a file: `{key}` ({value!r}, of type '
                     f'{type(value).__name__}) would not be read as what it is; state it by text, '
                     'numbers, lists and dicts')


def _reads_as(text: str, expected: dict[str, Any]) -> bool:
    try:
        return _equal(Config.fromstring(text, '.py').to_dict(), expected)
    except Exception:  # whatever it is that the text says
        return False


def _unreadable(config: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Keys and values that cannot be written and read, each as deep as it can be told."""
    for name, value in config.items():
        try:
            readable = _reads_as(Config(dict(value={name: value})).pretty_text,
                                 dict(value={name: value}))
        except (SyntaxError, TypeError):
            readable = False
        if readable:
            continue
        parts = dict(enumerate(value)) if isinstance(value, (list, tuple)) else value
        inner = list(_unreadable(parts, f'{prefix}{name}.')) if isinstance(parts, dict) else []
        yield from inner or [(f'{prefix}{name}', value)]


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two configs hold the same; what is not a number is equal to itself here."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)) and type(ours) is type(theirs):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    return bool(ours == theirs) or (ours != ours and theirs != theirs)


def list_fragments() -> list[str]:
    """Names of the diversity fragments that the package ships."""
    return sorted(path.stem for path in FRAGMENTS.glob('*.py'))


def load_fragment(fragment: str) -> ConfigDict:
    """Load the hook config of a diversity fragment; whatever else the file defines is left out.

    Args:
        fragment (str): One of :func:`list_fragments`, or the path of a config file that defines
            ``diversity``.

    Raises:
        FileNotFoundError: If there is no such fragment.
        ValueError: If the file defines no ``diversity``, or not that of a DiversityHook.
    """
    path = _fragment_path(fragment)
    diversity = Config.fromfile(path).get('diversity')
    if not _is_ours(diversity):
        raise ValueError(f'{path} must define `diversity = dict(type={HOOK!r}, ...)`'
                         + ('' if diversity is None else f', but got {diversity!r}'))
    return diversity


def left_out_of_fragment(fragment: str) -> list[str]:
    """What the file of a fragment defines beside ``diversity``, which is all that is taken.

    Args:
        fragment (str): As for :func:`load_fragment`.

    Returns:
        list[str]: Keys; none of a fragment that the package ships.

    Raises:
        FileNotFoundError: If there is no such fragment.
    """
    return sorted(Config.fromfile(_fragment_path(fragment)).keys() - {'diversity'})


def _fragment_path(fragment: str) -> Path:
    path = FRAGMENTS / f'{fragment}.py' if fragment in list_fragments() else Path(fragment)
    if not path.is_file():
        raise FileNotFoundError(f'no diversity fragment {fragment!r}: expected a config file or '
                                f'one of {list_fragments()}')
    return path


def diversify(cfg: Config, fragment: str, mixing: bool = False) -> Config:
    """Return a diversified copy of a config; a hook that it has already is replaced.

    :func:`plain_twin` gives the config back. What it could not tell from the copy alone, such as a
    loss that mixing replaced, is kept there under ``plain_twin``.

    Args:
        cfg (Config): Any config of a model with a supported backbone.
        fragment (str): As for :func:`load_fragment`.
        mixing (bool): Also classify every patch; see :func:`add_mixing`. Defaults to False.

    Raises:
        FileNotFoundError: If there is no such fragment.
        ValueError: If the hooks are no list, or if ``mixing`` and the model has no patch-mixing
            counterpart.
    """
    hook = load_fragment(fragment)
    plain = plain_twin(cfg)
    cfg = _without_hook(deepcopy(cfg))
    cfg.custom_hooks = [*_hooks(cfg), hook]
    if mixing:
        _mix(cfg)
    return _note_twin(cfg, plain)


def plain_twin(cfg: Config) -> Config:
    """Return a copy of a config without diversity: no hook, no patch-level mixing.

    Of a config that :func:`diversify` made it is the config that was diversified. Of one that mixes
    patches otherwise, the twin uses MMPretrain's own Mixup, CutMix, head and label smoothing with
    the same settings.

    Raises:
        ValueError: If the hooks are no list, or the config mixes patches and nothing says which
            token of its backbone the plain head takes.
    """
    return _recall_twin(_unmix(_without_hook(deepcopy(cfg))), cfg)


def diversity_hooks(cfg: Config) -> list[dict[str, Any]]:
    """The configs of a config's DiversityHooks.

    Raises:
        ValueError: If its ``custom_hooks`` are no list.
    """
    return [hook for hook in _hooks(cfg) if _is_ours(hook)]


def is_diversified(cfg: Config) -> bool:
    """Whether a config holds a DiversityHook or mixes patches."""
    return bool(diversity_hooks(cfg)) or _mixes(cfg)


def add_mixing(cfg: Config) -> Config:
    """Change a config in place so that every patch is classified; see :mod:`mmdiverse.mixing`.

    Handles VisionTransformer with a VisionTransformerClsHead on the class token, and
    SwinTransformer with average pooling and a LinearClsHead; Mixup and CutMix; cross-entropy, with
    or without smoothed labels. What the mixing parts have no option for is refused.

    Raises:
        ValueError: If the model or an augment is another, or an option could not be kept; the
            message names the key.
    """
    plain = plain_twin(cfg)
    return _note_twin(_mix(cfg), plain)


def remove_mixing(cfg: Config) -> Config:
    """Change a config in place so that only images are classified; undoes :func:`add_mixing`.

    Raises:
        ValueError: As for :func:`plain_twin`.
    """
    if not _mixes(cfg):
        return cfg
    mixed = deepcopy(cfg)
    notes = cfg.pop(TWIN, None) or {}
    hooks = {key: note for key, note in notes.items() if key == 'custom_hooks'}
    mixed[TWIN] = {key: note for key, note in notes.items() if key not in hooks}
    _recall_twin(_unmix(cfg), mixed)
    if hooks:  # which stay, so that their note does too
        cfg[TWIN] = hooks
    return cfg


def two_sides(key: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of an option that may be one number for both.

    Args:
        key (str): The option, for the message.
        value (int | Sequence[int]): One positive number, or two.

    Raises:
        ValueError: If it is neither.
    """
    sides = to_2tuple(value)
    if not (isinstance(sides, (tuple, list)) and len(sides) == 2 and
            all(isinstance(side, int) and side > 0 for side in sides)):
        raise ValueError(f'`{key}` must be a positive number of pixels, or two, but got {value!r}')
    return tuple(sides)


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


def _hooks(cfg: Config) -> list[Any]:
    check_hooks(cfg)
    return list(cfg.get('custom_hooks') or [])


def _without_hook(cfg: Config) -> Config:
    hooks = _hooks(cfg)
    others = [hook for hook in hooks if not _is_ours(hook)]
    if len(others) == len(hooks):
        return cfg
    if others:
        cfg.custom_hooks = others
    else:
        cfg.pop('custom_hooks')
    return cfg


def _is_ours(hook: Any) -> bool:
    return isinstance(hook, dict) and type_name(hook) == HOOK


def _mixes(cfg: Config) -> bool:
    return type_name((cfg.get('model') or {}).get('head') or {}) in MIXING_HEADS.values()


def _mix(cfg: Config) -> Config:
    """Change a config in place so that it mixes patches."""
    if _mixes(cfg):
        return cfg
    model = cfg.get('model') or {}
    backbone, head = (model.get(part) for part in ('backbone', 'head'))
    kinds = tuple(type_name(part) if isinstance(part, dict) else None for part in (backbone, head))
    expected = {'VisionTransformer': 'VisionTransformerClsHead',
                'SwinTransformer': 'LinearClsHead'}
    if kinds not in expected.items():
        raise ValueError('patch-level mixing knows these pairs of `model.backbone` and `model.head`'
                         f': {expected}, but got {kinds[0]} and {kinds[1]}')
    if kinds[0] == 'VisionTransformer':
        pixels = _prepare_vit(model)
    else:
        pixels = _prepare_swin(model)
    if head.get('cal_acc'):
        _refuse('model.head.cal_acc', True, 'training labels are mixed, so that no accuracy is '
                'measured on them; set it to False')
    head.type = MIXING_HEADS[kinds[1]]
    head.loss = _mixing_loss(head)
    _replace_augments(cfg, MIXING_AUGMENTS)
    for preprocessor in _preprocessors(cfg):
        if type_name({'type': 'ClsDataPreprocessor', **preprocessor}) != 'ClsDataPreprocessor':
            raise ValueError('patch-level mixing replaces a `data_preprocessor` of type '
                             f'ClsDataPreprocessor, but got {preprocessor.type}')
        preprocessor.type = MIXING_PREPROCESSOR
        preprocessor.patch_size = pixels[0] if pixels[0] == pixels[1] else pixels
    return cfg


def _refuse(key: str, value: Any, why: str) -> None:
    raise ValueError(f'patch-level mixing cannot keep `{key}` ({value!r}): {why}, or train without '
                     '`--mixing`')


def _prepare_vit(model: dict[str, Any]) -> tuple[int, int]:
    """Let a ViT hand all tokens to its head; returns the pixels of a token."""
    backbone = model.backbone
    taken = backbone.get('out_type', 'cls_token')
    if taken != 'cls_token':
        _refuse('model.backbone.out_type', taken, 'its head classifies the class token and, with '
                "the same weights, every patch; set 'cls_token'")
    if not backbone.get('with_cls_token', True):
        _refuse('model.backbone.with_cls_token', False, 'its head classifies the class token; '
                'leave it out')
    if model.get('neck') is not None:
        _refuse('model.neck', model.neck, 'its head takes all tokens from the backbone; leave it '
                'out')
    _check_patch_cfg(backbone)
    backbone.out_type = 'raw'
    return two_sides('model.backbone.patch_size', backbone.get('patch_size', 16))


def _prepare_swin(model: dict[str, Any]) -> tuple[int, int]:
    """Leave the pooling of a Swin to its head; returns the pixels of a token of the head's."""
    backbone, neck = model.backbone, model.get('neck')
    pools = isinstance(neck, dict) and type_name(neck) == 'GlobalAveragePooling'
    if not pools or neck.get('dim', 2) != 2:
        _refuse('model.neck', neck, 'its head averages the patches by itself, as '
                "dict(type='GlobalAveragePooling') does; set that")
    _check_patch_cfg(backbone)
    stages = backbone.get('stage_cfgs') or []
    for stage in [stages] if isinstance(stages, dict) else stages:
        for name in stage.keys() & {'downsample', 'downsample_cfg'}:
            _refuse(f'model.backbone.stage_cfgs.{name}', stage[name], 'each stage must halve rows '
                    'and columns; leave it out')
    model.neck = None
    arch = backbone.get('arch', 'tiny')
    last = (len(arch['depths']) if isinstance(arch, dict) else 4) - 1
    # The head takes the last of the stages that are handed out; between two stages sides halve.
    mergings = max(backbone.get('out_indices', (3, )))
    if backbone.get('out_after_downsample') and mergings < last:
        mergings += 1
    rows, columns = two_sides('model.backbone.patch_size', backbone.get('patch_size', 4))
    return rows * 2**mergings, columns * 2**mergings


def _check_patch_cfg(backbone: dict[str, Any]) -> None:
    for name, value in (backbone.get('patch_cfg') or {}).items():
        if name in PATCH_OPTIONS:
            _refuse(f'model.backbone.patch_cfg.{name}', value, 'patches must be what '
                    '`model.backbone.patch_size` says; leave it out')


def _mixing_loss(head: dict[str, Any]) -> dict[str, Any]:
    """The mixing loss with the smoothing and the factor of a plain one."""
    loss = head.get('loss') or dict(type='CrossEntropyLoss')
    options = MIXED_LOSSES.get(type_name(loss))
    known = ('patch-level mixing replaces a `model.head.loss` of type CrossEntropyLoss, or '
             "LabelSmoothLoss with mode='original', ")
    if options is None:
        raise ValueError(f'{known}but got {dict(loss)}')
    options = {**options, 'type': (loss['type'], ), 'num_classes': (None, head.get('num_classes'))}
    for name, value in loss.items():
        if name not in KEPT_OF_LOSS and value not in options.get(name, ()):
            raise ValueError(f'{known}and cannot keep `model.head.loss.{name}` ({value!r}): leave '
                             'it out, or train without `--mixing`')
    kept = {name: loss[name] for name in KEPT_OF_LOSS if name in loss}
    return dict(type=MIXING_LOSS, **kept)


def _unmix(cfg: Config) -> Config:
    """Change a config in place so that it does not mix patches, by rules alone."""
    if not _mixes(cfg):
        return cfg
    model = cfg.model
    plain = {mixing: head for head, mixing in MIXING_HEADS.items()}
    model.head.type = plain[type_name(model.head)]
    if model.head.type == 'LinearClsHead':
        model.neck = dict(type='GlobalAveragePooling')
    elif type_name(model.backbone) == 'VisionTransformer':
        model.backbone.pop('out_type', None)
    elif 'out_type' in model.backbone:
        model.backbone.out_type = 'cls_token'
    else:  # all tokens, and MMPretrain's head would classify each
        model.neck = dict(type='mmdiverse.ClassTokenNeck')
    model.head.loss = {'label_smooth_val': 0., **(model.head.get('loss') or {}),
                       'type': 'LabelSmoothLoss', 'mode': 'original'}
    model.head.loss.pop('image_share', None)
    _replace_augments(cfg, {mixing: augment for augment, mixing in MIXING_AUGMENTS.items()})
    for preprocessor in _preprocessors(cfg):
        preprocessor.pop('type', None)
        preprocessor.pop('patch_size', None)
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
            if not isinstance(augment, dict) or type_name(augment) not in types:
                kind = augment['type'] if isinstance(augment, dict) else type(augment).__name__
                raise ValueError(f'`model.train_cfg.augments` must be among {list(types)} for '
                                 f'patch-level mixing, but got {kind}')
            augment['type'] = types[type_name(augment)]
            if not augment['type'].startswith('mmdiverse.'):
                augment.pop('partner', None)


def _note_twin(cfg: Config, plain: Config) -> Config:
    """Note in a diversified config what the rules for its plain twin do not give back."""
    cfg.pop(TWIN, None)
    here, wanted = cfg.to_dict(), plain.to_dict()
    found = _unmix(_without_hook(deepcopy(cfg))).to_dict()
    notes = {}
    for key in _differences(*({name: each[name] for name in CHANGED if name in each}
                              for each in (wanted, found))):
        values = {'here': _value_at(here, key), 'plain': _value_at(wanted, key)}
        notes[key] = {name: value for name, value in values.items() if value is not ABSENT}
    if notes:
        cfg[TWIN] = notes
    return cfg


def _recall_twin(twin: Config, cfg: Config) -> Config:
    """Put into the plain twin that rules make of a config what the config notes of it.

    A value that was changed since then is no longer what replaced the noted one, so that the rule's
    is right.
    """
    here = cfg.to_dict()
    for key, note in (here.get(TWIN) or {}).items():
        if _value_at(here, key) == note.get('here', ABSENT):
            *parents, name = key.split('.')
            owner = twin
            for parent in parents:
                owner = owner[parent]
            if 'plain' in note:
                owner[name] = note['plain']
            else:
                owner.pop(name, None)
    twin.pop(TWIN, None)
    return twin


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Keys of what differs, dicts of one type by their parts and everything else as a whole."""
    for name in {**ours, **theirs}:
        own, other = (each.get(name, ABSENT) for each in (ours, theirs))
        if own == other:
            continue
        alike = isinstance(own, dict) and isinstance(other, dict) and \
            own.get('type') == other.get('type')
        if alike:
            yield from (f'{name}.{key}' for key in _differences(own, other))
        else:
            yield name


def _value_at(config: Any, key: str) -> Any:
    for name in key.split('.'):
        if not isinstance(config, dict) or name not in config:
            return ABSENT
        config = config[name]
    return config


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
