"""From the checkpoint of a classifier to the backbone of a detector or segmentor."""
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from .config import type_name
from .conversion import HEADS, convert
from .evaluation.model_loading import choose_weights, read_checkpoint, split_scheme

PREFIX, TIMM_PREFIX = 'backbone.', 'backbone.timm_model.'
#: Types of an `init_cfg` that loads a checkpoint.
PRETRAINED = ('Pretrained', 'PretrainedInit')
#: Parameters that LoRAModel adds.
ADAPTER = re.compile(r'\.lora_(down|up)\.')
#: Keys that name the checkpoint of a whole model.
WHOLE = ('load_from', 'model.pretrained', 'model.init_cfg')
#: What becomes of a weight. Those of the last three keep a checkpoint from being used.
STATUSES = ('loaded', 'resized', 'new', 'missing', 'mismatched', 'unexpected')
FAILURES = STATUSES[3:]


class WeightFit(NamedTuple):
    """What becomes of one weight when a backbone is loaded.

    Attributes:
        name (str): Key in the backbone.
        status (str): ``'loaded'``; ``'resized'`` (a table of positions); ``'new'``, of the
            feature-map output or made by the backbone itself, which no classifier has;
            ``'missing'`` from the checkpoint; ``'mismatched'`` in its shape; or ``'unexpected'``,
            for which the backbone has no place.
        shape (tuple[int, ...] | None): In the backbone.
        source_shape (tuple[int, ...] | None): In the checkpoint.
    """

    name: str
    status: str
    shape: tuple[int, ...] | None
    source_shape: tuple[int, ...] | None


class Pretrained(NamedTuple):
    """A checkpoint that a part of a model starts from.

    Attributes:
        key (str): The config key that says so, such as ``model.backbone.init_cfg``.
        module (nn.Module): What is loaded.
        checkpoint (str): Path or URL.
        prefix (str | None): Of the keys that are loaded; None for all.
    """

    key: str
    module: nn.Module
    checkpoint: str
    prefix: str | None


def find_pretrained(model: nn.Module, cfg: Mapping[str, Any] | None = None) -> list[Pretrained]:
    """Every checkpoint that a model or a part of it starts from, by its ``init_cfg``.

    Args:
        model (nn.Module): As built, before its weights are initialized.
        cfg (Mapping[str, Any], optional): Of the model, for the names of keys.
    """
    found = []
    for name, module in model.named_modules():
        init = getattr(module, 'init_cfg', None)
        place = '.'.join(filter(None, ('model', name)))
        options = cfg or {}
        for part in filter(None, name.split('.')):
            options = options.get(part) or {} if isinstance(options, Mapping) else {}
        if isinstance(init, Mapping):
            found += _pretrained_of_init(module, init, f'{place}.init_cfg')
        elif isinstance(init, (list, tuple)):
            for index, each in enumerate(init):
                found += _pretrained_of_init(module, each, f'{place}.init_cfg[{index}]')
        if isinstance(options, Mapping) and options.get('pretrained'):
            # MMPretrain turns it into an `init_cfg`.
            found = [each._replace(key=f'{place}.pretrained')
                     if each.module is module and each.checkpoint == options['pretrained']
                     else each for each in found]
    return found


def _pretrained_of_init(module: nn.Module, init: Any, key: str) -> Iterator[Pretrained]:
    """What an ``init_cfg`` and those that override it for a part load."""
    if not isinstance(init, Mapping):
        return
    if type_name(init) in PRETRAINED and isinstance(init.get('checkpoint'), (str, Path)):
        yield Pretrained(key, module, str(init['checkpoint']), init.get('prefix'))
    overrides = init.get('override') or []
    for each in [overrides] if isinstance(overrides, Mapping) else overrides:
        part = getattr(module, str(each.get('name')), None) if isinstance(each, Mapping) else None
        if isinstance(part, nn.Module):
            yield from _pretrained_of_init(part, each, f'{key}.override')


def fit_weights(module: nn.Module, state: Mapping[str, Tensor]) -> list[WeightFit]:
    """Say of every weight of a module whether a state dict fills it, as the module itself loads it.

    Args:
        module (nn.Module): Left as it is.
        state (Mapping[str, Tensor]): With the keys of the module.

    Returns:
        list[WeightFit]: First all weights of the module, then those that it has no place for.

    Raises:
        ValueError: If MMPretrain cannot resize its tables of positions.
    """
    copy = deepcopy(module)
    return list(_fits(copy, set(copy.state_dict()), dict(state)))


def check_pretrained(source: Pretrained) -> tuple[bool, str]:
    """Count the parameters that a checkpoint fills, and say which it does not.

    Args:
        source (Pretrained): The checkpoint, and what is to be loaded from it.

    Returns:
        tuple[bool, str]: Whether it fills all, and a text.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If it is none, or fills fewer than half of the parameters: MMEngine would go on
            with random ones.
    """
    try:
        if split_scheme(source.checkpoint)[0] is not None:
            content = load_from_weights(source.checkpoint)
        else:
            content = read_checkpoint(source.checkpoint)
        if not isinstance(content, Mapping):
            raise ValueError(f'{source.checkpoint} is no checkpoint: expected a dict of tensors, '
                             f'but got a {type(content).__name__}')
        state = _state_as_loaded(content, source.prefix)
        fits = fit_weights(source.module, _behind_adapters(state, source.module))
    except (OSError, ValueError) as error:
        raise type(error)(f'`{source.key}`: {error}') from error
    # Adapters begin anew.
    parameters = {name for name, _ in source.module.named_parameters()
                  if not ADAPTER.search(name)}
    filled = [fit for fit in fits if fit.name in parameters and fit.status in ('loaded', 'resized')]
    kind, prefix = type(source.module).__name__, source.prefix
    text = (f'{len(filled)} of the {len(parameters)} parameters of {kind} are in '
            f'{source.checkpoint}' + (f' below {prefix!r}' if prefix else ''))
    others = [fit for fit in fits if fit.status in FAILURES and not ADAPTER.search(fit.name)]
    if len(filled) < len(parameters) / 2 and source.key != 'load_from' and \
            _loads_by_itself(source.module):
        return False, (f'`{source.key}`: {kind} reads {source.checkpoint} by rules of its own, '
                       'which are not checked')
    if len(filled) < len(parameters) / 2:
        raise ValueError(f'`{source.key}`: {text}{_name_weights(others)}, so MMEngine would train '
                         f'from random weights: {_advise(source, content)}')
    resized = sum(fit.status == 'resized' for fit in filled)
    text += f', {resized} of them resized' * bool(resized) + _name_weights(others)
    return len(filled) == len(parameters), f'`{source.key}`: {text}'


def _loads_by_itself(module: nn.Module) -> bool:
    """Whether a module may translate a checkpoint, as backbones of MMDetection do."""
    owner = next((kind for kind in type(module).__mro__ if 'init_weights' in vars(kind)), nn.Module)
    return not owner.__module__.startswith(
        ('torch.', 'mmengine.', 'mmpretrain.', 'mmdiverse.'))


def _behind_adapters(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Weights by the names that they have in a module whose layers LoRAModel has wrapped."""
    moved = {name.replace('.original_layer.', '.'): name for name in module.state_dict()}
    return {moved.get(key, key): value for key, value in state.items()}


def _state_as_loaded(content: Mapping[str, Any], prefix: str | None) -> dict[str, Tensor]:
    """The weights that MMEngine sees in a checkpoint."""
    state = _weights_of(content)
    if prefix is None:
        return {key.removeprefix('module.'): value for key, value in state.items()}
    start = prefix if prefix.endswith('.') else f'{prefix}.'
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def _weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    state = content.get('state_dict', content)
    items = state.items() if isinstance(state, Mapping) else ()
    return {str(key): value for key, value in items if isinstance(value, Tensor)}


def _name_weights(fits: list[WeightFit], shown: int = 2) -> str:
    """The first weights of each status, in words."""
    text = ''
    for status in FAILURES:
        names = [fit.name for fit in fits if fit.status == status]
        if names:
            more = f' and {len(names) - shown} more' * (len(names) > shown)
            status = 'of another shape' if status == 'mismatched' else status
            text += f'; {status}: {", ".join(names[:shown])}{more}'
    return text


def _advise(source: Pretrained, content: Mapping[str, Any]) -> str:
    """What to change where few weights of a checkpoint are found."""
    own = {name: value.shape for name, value in source.module.named_parameters()}
    places = {'': content, **{str(key): value for key, value in content.items()
                              if isinstance(value, Mapping)}}
    found, prefix, place = max((*_find_prefix(own, weights), name)
                               for name, weights in places.items())
    if found < len(own) / 2:
        for name, child in source.module.named_children():
            parts = {key: value.shape for key, value in child.named_parameters()}
            found, prefix = _find_prefix(parts, _weights_of(content))
            if parts and found == len(parts) and not prefix and source.key in WHOLE:
                return (f'they are those of `{name}` alone: set '
                        f"`model.{name}.init_cfg=dict(type='Pretrained', checkpoint=...)` instead")
        return ('is it a checkpoint of another architecture? Weights with the keys of timm or of '
                'the authors are converted by tools/convert_checkpoint.py')
    text = f'{found} are there'
    if place not in ('', 'state_dict'):
        return f'{text} below {place!r}, where MMEngine does not look: save them as `state_dict`'
    if source.key == 'load_from':
        return text + f', with {prefix + "."!r} before their keys: save them without' * bool(prefix)
    if source.key.endswith('.pretrained'):
        place = source.key.removesuffix('.pretrained')
        return (f"{text}: set `{place}.init_cfg=dict(type='Pretrained', checkpoint=..., "
                f'prefix={prefix!r})` in place of `{source.key}`')
    if prefix == (source.prefix or '').removesuffix('.'):
        return text
    key = f'{source.key}.prefix'
    return f'{text}: set `{key}={prefix!r}`' if prefix else f'{text}: leave out `{key}`'


def _find_prefix(own: dict[str, torch.Size], weights: Mapping[str, Any]) -> tuple[int, str]:
    """What stands in checkpoint keys before those of a module, and for how many."""
    counts = Counter()
    for key, value in weights.items():
        parts = str(key).split('.')
        for cut in range(len(parts) if isinstance(value, Tensor) else 0):
            if own.get('.'.join(parts[cut:])) == value.shape:
                counts['.'.join(parts[:cut])] += 1
    prefix, found = next(iter(counts.most_common(1)), ('', 0))
    return found, prefix


def read_pretrained(checkpoint: str) -> dict[str, Tensor]:
    """The weights of a classifier that a checkpoint name says, with MMPretrain's keys.

    Those of timm's models inside MMPretrain (``backbone.timm_model.``) are given the keys of
    MMPretrain's own, which give feature maps.

    Args:
        checkpoint (str): Path or URL; with ``ema:`` before it, the averaged weights that EMAHook
            saved, with ``model:`` those that were trained. A checkpoint with both needs one.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no checkpoint of a classifier, or it is not said which weights of two.
    """
    which, path = split_scheme(checkpoint)
    content = read_checkpoint(path)
    if isinstance(content, dict) and 'ema_state_dict' in content and which is None:
        raise ValueError(f'{path} holds the averaged weights of EMAHook and those that were '
                         f'trained; say which: ema:{path} or model:{path}')
    # As MMEngine loads it: what a wrapper put in front of the names stays.
    state = choose_weights(content, which, path)
    state = state if isinstance(state, dict) else {}
    if not any(key.startswith(PREFIX) for key in state):
        raise ValueError(
            f'{path} holds no weight whose key starts with {PREFIX!r}, but {list(state)[:3]} and '
            'so on: is it a checkpoint of MMPretrain? Weights with the keys of timm or of the '
            'authors of DeiT and Swin are converted by tools/convert_checkpoint.py')
    timm = {key.removeprefix(TIMM_PREFIX): value for key, value in state.items()
            if key.startswith(TIMM_PREFIX)}
    return convert(timm).state if timm else state


def load_from_weights(filename: str, map_location: Any = None) -> dict[str, Any]:
    """MMEngine's loader of what starts with ``ema:`` or ``model:``; see :func:`read_pretrained`."""
    return dict(state_dict=read_pretrained(filename))


def check_transfer(cfg: Config, checkpoint: str | None = None) -> list[WeightFit]:
    """Say of every weight of a backbone whether a checkpoint fills it.

    Args:
        cfg (Config): Of a detector or segmentor.
        checkpoint (str, optional): As for :func:`read_pretrained`. Defaults to that of the
            backbone's ``init_cfg``.

    Returns:
        list[WeightFit]: First all weights of the backbone, then those that it has no place for.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If there is none, it is not a classifier's, the backbone gives no feature maps,
            or MMPretrain cannot resize its tables of positions.
    """
    options = deepcopy(backbone_config(cfg))
    checkpoint = checkpoint or pretrained_of(cfg)
    if checkpoint is None:
        raise ValueError('the backbone starts from random weights: name a checkpoint, or set '
                         "`model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
                         f'prefix={PREFIX!r})`')
    options.pop('init_cfg', None)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        backbone = MODELS.build(options)
        # What the backbone of a classifier has: further `out_indices` add norms to a Swin.
        options['out_indices'] = (backbone.num_layers - 1, )
        of_classifier = MODELS.build(options).state_dict().keys()
    check_feature_maps(backbone)
    state = {key.removeprefix(PREFIX): value for key, value in read_pretrained(checkpoint).items()
             if key.startswith(PREFIX)}
    return list(_fits(backbone, of_classifier, state))


def backbone_config(cfg: Config) -> dict:
    """The config of a detector's or segmentor's backbone.

    Raises:
        ValueError: If there is none.
    """
    backbone = (cfg.get('model') or {}).get('backbone')
    if not backbone:
        raise ValueError('expected the config of a detector or segmentor, with `model.backbone`')
    return backbone


def pretrained_of(cfg: Config) -> str | None:
    """The checkpoint that the backbone of a config starts from, if any."""
    init = backbone_config(cfg).get('init_cfg') or []
    for each in [init] if isinstance(init, dict) else init:
        if type_name(each) in PRETRAINED:
            return each.get('checkpoint')
    return None


def check_average_fits(cfg: Config) -> None:
    """Check that EMAHook can load the averaged weights that a run of a classifier starts from.

    MMPretrain's hook loads the average of a checkpoint as a whole, and stops with an error of torch
    where the head is for another number of classes. Under ``ema:`` the average comes as the weights
    of the model, whose head may differ. A download is left to the run.

    Args:
        cfg (Config): Of a training run.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If it holds an average with another number of classes than the config.
    """
    path = str(cfg.get('load_from') or '')
    averages = any(_is_hosts_average(hook, cfg.get('default_scope'))
                   for hook in cfg.get('custom_hooks') or [])
    if not path or not averages or cfg.get('resume') or '://' in path or split_scheme(path)[0]:
        return
    content = read_checkpoint(path)
    if not isinstance(content, dict) or 'ema_state_dict' not in content:
        return
    wanted = (cfg.model.get('head') or {}).get('num_classes')
    for key in HEADS.values():
        found = content['state_dict'].get(f'{key}.weight')
        if found is not None and wanted is not None and len(found) != wanted:
            raise ValueError(
                f'{path} holds averaged weights of EMAHook for {len(found)} classes, but '
                f'`model.head.num_classes` is {wanted}, and EMAHook loads an average only as a '
                f"whole: set `load_from='ema:{path}'`, which starts from the average without its "
                'head')


def _is_hosts_average(hook: Any, scope: str | None) -> bool:
    """Whether it is MMPretrain's EMAHook; MMEngine's own loads an average only to resume."""
    if not isinstance(hook, Mapping) or type_name(hook) != 'EMAHook':
        return False
    kind = hook['type']
    if not isinstance(kind, str):
        return kind.__module__.startswith('mmpretrain.')
    return kind.startswith('mmpretrain.') or '.' not in kind and scope in (None, 'mmpretrain')


def check_feature_maps(backbone: nn.Module) -> None:
    """Check that a backbone gives feature maps, as necks take them.

    Raises:
        ValueError: If a ViT gives its class token, or all tokens.
    """
    out_type = getattr(backbone, 'out_type', 'featmap')
    if out_type != 'featmap':
        raise ValueError(f"{type(backbone).__name__} gives `out_type='{out_type}'`, but a detector "
                         "or segmentor needs feature maps: set `model.backbone.out_type='featmap'`")


def _fits(backbone: nn.Module, of_classifier: set[str], state: dict[str, Tensor]
          ) -> Iterator[WeightFit]:
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    buffers = {name for name, _ in backbone.named_buffers()}
    mismatched, unexpected = _load(backbone, state)
    for key, shape in shapes.items():
        if key in mismatched:
            status = 'mismatched'
        elif key in given and (key not in buffers or given[key] == shape):
            status = 'loaded' if given[key] == shape else 'resized'
        else:
            status = 'missing' if key in of_classifier and key not in buffers else 'new'
        yield WeightFit(key, status, shape, given.get(key))
    for key in unexpected:
        yield WeightFit(key, 'unexpected', None, given.get(key))


def _load(backbone: nn.Module, state: dict[str, Tensor]) -> tuple[set[str], list[str]]:
    """Load what fits, and return the keys of another shape and those without a place."""
    try:
        return set(), backbone.load_state_dict(state, strict=False).unexpected_keys
    except (AttributeError, ImportError, NotImplementedError) as error:
        wanted, found = (_window_size(tables) for tables in (backbone.state_dict(), state))
        raise ValueError(
            f'the checkpoint has windows of {found}, but the backbone windows of {wanted}, and '
            f'MMPretrain cannot resize the tables of positions here ({type(error).__name__}: '
            f'{str(error).strip().splitlines()[0]}). Set `model.backbone.window_size={found}`, or '
            "install 'scipy<1.14'") from error
    except RuntimeError as error:
        mismatched = set(re.findall(r'size mismatch for (\S+):', str(error)))
        if not mismatched:
            raise
        rest = {key: value for key, value in state.items() if key not in mismatched}
        return mismatched, backbone.load_state_dict(rest, strict=False).unexpected_keys


def _window_size(state: dict[str, Tensor]) -> int | None:
    """The side of the windows, which have ``(2 w - 1) ** 2`` relative positions."""
    tables = [value for key, value in state.items() if 'relative_position_bias_table' in key]
    return (math.isqrt(len(tables[0])) + 1) // 2 if tables else None


def check_loaded(backbone: nn.Module, fits: list[WeightFit], checkpoint: str) -> None:
    """Check that a backbone has the weights of a checkpoint.

    Raises:
        RuntimeError: If one that fits is not what the checkpoint holds.
    """
    state, own = read_pretrained(checkpoint), backbone.state_dict()
    for fit in fits:
        if fit.status == 'loaded' and not torch.equal(own[fit.name].cpu(),
                                                      state[PREFIX + fit.name].cpu()):
            raise RuntimeError(
                f'`{fit.name}` of the backbone is not what {checkpoint} holds, though it fits: set '
                "`model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
                f'prefix={PREFIX!r})`, and nothing that initializes it afterwards')


def describe_failures(fits: list[WeightFit], checkpoint: str, shown: int = 4) -> str | None:
    """One line on the weights that keep a checkpoint from being used; None if there are none."""
    failures = [fit for fit in fits if fit.status in FAILURES]
    if not failures:
        return None
    named = ', '.join(f'{fit.name} ({fit.status})' for fit in failures[:shown])
    more = f' and {len(failures) - shown} more' * (len(failures) > shown)
    return (f'{checkpoint} does not fill the backbone as it is: {named}{more}. Change '
            '`model.backbone` to that of the classifier, or the checkpoint '
            '(tools/downstream/check_transfer.py lists all weights)')
