"""What a config trains with, beside the authors' recipe or another config."""
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmpretrain.registry import MODELS, OPTIMIZERS

from .config import (
    HOOK,
    MIXING_AUGMENTS,
    MIXING_HEADS,
    MIXING_PREPROCESSOR,
    TWIN,
    load_config,
    type_name,
)

#: MMPretrain's own DeiT-S, for 4 GPUs.
MMPRETRAIN = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
#: Stands for a key that a config lacks.
ABSENT = '(absent)'


@dataclass(frozen=True)
class Difference:
    """Something that two recipes do not share.

    Attributes:
        name (str): What it is: a field of the authors' recipe, or a config key.
        ours (str): What the config has.
        theirs (str): What it is compared with has.
        why (str): Why it differs; empty where that is not known.
        key (str): The config key that changes it.
        inherited (bool): Whether MMPretrain's own DeiT-S has it as the config. Defaults to False.
    """

    name: str
    ours: str
    theirs: str
    why: str
    key: str
    inherited: bool = False


@dataclass(frozen=True)
class Field:
    """A setting of the authors' recipe.

    Attributes:
        name (str): In words.
        theirs (str): What the authors train with.
        key (str): The config key that changes it.
        read (Callable): What a config has, from it and the number of GPUs.
        known (str, optional): What MMPretrain can do at best, where that is not the same.
        why (str): Why.
    """

    name: str
    theirs: str
    key: str
    read: Callable[[Config, int], str]
    known: str | None = None
    why: str = ''


def _part(cfg: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """What stands below some keys; empty where one is missing or None."""
    for key in path.split('.'):
        cfg = cfg.get(key) or {}
    return cfg


def _wrapper(cfg: Config) -> Mapping[str, Any]:
    return cfg.get('optim_wrapper') or {}


def _images(cfg: Config, gpus: int) -> int:
    return gpus * cfg.train_dataloader.get('batch_size', 1) * \
        _wrapper(cfg).get('accumulative_counts', 1)


def _default(registry: Registry, part: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """What a type takes for an option that its config does not state."""
    kind = part.get('type')
    if isinstance(kind, str):
        kind = registry.get(kind)
    for each in getattr(kind, '__mro__', ()):  # options may be handed on to a parent
        option = inspect.signature(each.__init__).parameters.get(name)
        if option is not None and option.default is not option.empty:
            return option.default
    return otherwise


def _option(cfg: Config, name: str) -> Any:
    optimizer = _part(cfg, 'optim_wrapper.optimizer')
    if name in optimizer:
        return optimizer[name]
    return _default(OPTIMIZERS, optimizer, name, ABSENT)


def _optimizer(name: str) -> Callable[[Config, int], str]:
    return lambda cfg, gpus: _show(_option(cfg, name))


def _rate(cfg: Config, gpus: int) -> str:
    rate = _option(cfg, 'lr')
    return ABSENT if rate == ABSENT else f'{rate * 512 / _images(cfg, gpus):g} x images / 512'


#: A parameter of each kind, as MMPretrain names it.
PARAMETERS = dict(norm=('backbone.layers.0.ln1.weight', 'backbone.stages.0.blocks.0.norm1.weight'),
                  bias=('backbone.layers.0.attn.qkv.bias', 'backbone.stages.0.blocks.0.ffn.bias'),
                  cls_token=('backbone.cls_token', ), pos_embed=('backbone.pos_embed', ))


def _undecayed(cfg: Config, gpus: int) -> str:
    paramwise = _wrapper(cfg).get('paramwise_cfg') or {}
    custom = paramwise.get('custom_keys') or {}
    names = []
    for kind, parameters in PARAMETERS.items():
        # Of several keys MMEngine takes the longest.
        keys = [key for key in custom if any(key in parameter for parameter in parameters)]
        if keys:
            factor = custom[max(keys, key=len)].get('decay_mult')
        else:
            factor = paramwise.get(f'{kind}_decay_mult')
            if factor is None and kind in ('norm', 'bias'):
                factor = paramwise.get('flat_decay_mult')
        if factor == 0:
            names.append(kind)
    return ', '.join(names) or 'nothing'


def _clipping(cfg: Config, gpus: int) -> str:
    clip = _wrapper(cfg).get('clip_grad')
    if not clip:
        return 'none'
    return f'norm {clip["max_norm"]}' if 'max_norm' in clip else \
        ', '.join(f'{key} {_show(value)}' for key, value in clip.items())


def _schedulers(cfg: Config) -> list[Mapping[str, Any]]:
    schedulers = cfg.get('param_scheduler') or []
    return schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]


def _warm_up(cfg: Config, gpus: int) -> str:
    for scheduler in _schedulers(cfg):
        if type_name(scheduler) == 'LinearLR':
            unit = 'epochs' if scheduler.get('by_epoch', True) else 'iterations'
            start, rate = scheduler.get('start_factor', 1 / 3), _option(cfg, 'lr')
            start = f'{start:g} of the rate' if rate == ABSENT else f'{start * rate:g}'
            return f'{scheduler.get("end", "all")} {unit} from {start}'
    return 'none'


def _schedule(cfg: Config, gpus: int) -> str:
    others = []
    for scheduler in _schedulers(cfg):
        kind = type_name(scheduler)
        if kind == 'CosineAnnealingLR':
            unit = 'epoch' if scheduler.get('by_epoch', True) else 'iteration'
            key = 'max_epochs' if unit == 'epoch' else 'max_iters'
            last = _part(cfg, 'train_cfg').get(key, ABSENT)
            end, ratio = scheduler.get('eta_min') or 0., scheduler.get('eta_min_ratio')
            end = f'{end:g}' if ratio is None else f'{ratio:g} of the rate'
            return f'cosine from {unit} {scheduler.get("begin", 0)} of {last} to {end}'
        others += [kind] * (kind != 'LinearLR')
    return ', '.join(others) or 'none'


def _epochs(cfg: Config, gpus: int) -> str:
    loop = _part(cfg, 'train_cfg')
    if 'max_epochs' not in loop and 'max_iters' in loop:
        return f'{loop["max_iters"]} iterations'
    return str(loop.get('max_epochs', ABSENT))


def _backbone(name: str) -> Callable[[Config, int], str]:
    def read(cfg: Config, gpus: int) -> str:
        part = cfg.model.get('backbone') or cfg.model
        if type_name(part) == 'LoRAModel':
            part = part['module']
        value = part[name] if name in part else _default(MODELS, part, name, 0.)
        return _show(value)
    return read


def _average(cfg: Config, gpus: int) -> str:
    momenta = [1 - hook.get('momentum', 0.0002) for hook in cfg.get('custom_hooks') or []
               if type_name(hook) == 'EMAHook']
    return ', '.join(f'{momentum:g}' for momentum in momenta) or 'none'


def _loss(cfg: Config, gpus: int) -> str:
    return _show(_part(cfg, 'model.head.loss').get('label_smooth_val', 0))


def _augments(cfg: Config) -> tuple[list[Mapping[str, Any]], list[float]]:
    """What mixes the images of a batch, and how often each."""
    # The preprocessor's own win, as in ImageClassifier.
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    settings = preprocessor.get('batch_augments') or cfg.model.get('train_cfg') or {}
    augments, shares = settings.get('augments') or [], settings.get('probs')
    augments = [augments] if isinstance(augments, Mapping) else list(augments)
    if isinstance(shares, (int, float)):
        shares = [shares]
    return augments, shares or [1 / max(1, len(augments))] * len(augments)


def _augment(kind: str, name: str) -> Callable[[Config, int], str]:
    def read(cfg: Config, gpus: int) -> str:
        for augment in _augments(cfg)[0]:
            if type_name(augment) in (kind, MIXING_AUGMENTS[kind]):
                return _show(augment.get(name, 'random' if name == 'partner' else ABSENT))
        return 'none'
    return read


def _share_of_cutmix(cfg: Config, gpus: int) -> str:
    augments, shares = _augments(cfg)
    kinds = [type_name(augment).removeprefix('mmdiverse.Patch') for augment in augments]
    return f'{sum(share for kind, share in zip(kinds, shares) if kind == "CutMix"):g}'


def _pipeline(loader: str, kind: str, show: Callable[[dict], str]) -> Callable[[Config, int], str]:
    def read(cfg: Config, gpus: int) -> str:
        dataset = _part(cfg, f'{loader}.dataset')
        while 'pipeline' not in dataset and (dataset.get('dataset') or dataset.get('datasets')):
            dataset = dataset.get('dataset') or dataset['datasets'][0]
        pipeline = dataset.get('pipeline') or []
        return next((show(step) for step in pipeline if type_name(step) == kind), 'none')
    return read


def _size(step: Mapping[str, Any], key: str = 'scale') -> str:
    return f'{_show(step.get(key, ABSENT))}, {step.get("interpolation", "bilinear")}'


def _randaugment(step: Mapping[str, Any]) -> str:
    return (f'{step.get("num_policies", ABSENT)} of magnitude '
            f'{step.get("magnitude_level", ABSENT)}, deviation {step.get("magnitude_std", 0.)}')


def _erasing(step: Mapping[str, Any]) -> str:
    by_pixel = step.get('mode', 'const') == 'rand'
    return f'{step.get("erase_prob", 0.5)}, ' + (
        'a color for each pixel' if by_pixel else 'one color')


def _repeats(cfg: Config, gpus: int) -> str:
    sampler = cfg.train_dataloader.get('sampler') or {}
    return str(sampler.get('num_repeats', 3)) if type_name(sampler) == 'RepeatAugSampler' else '1'


def _patches(cfg: Config, gpus: int) -> str:
    return 'every patch and the class token' if \
        type_name(cfg.model.get('head') or {}) in MIXING_HEADS.values() else 'the class token'


#: Wrappers that train in half precision, and the type that each takes by itself.
MIXED = {'AmpOptimWrapper': 'float16', 'mmdiverse.AutocastOptimWrapper': 'bfloat16'}


def _precision(cfg: Config, gpus: int) -> str:
    kind = type_name(_wrapper(cfg)) or 'OptimWrapper'
    if kind in MIXED:
        return f'mixed ({_wrapper(cfg).get("dtype") or MIXED[kind]})'
    return 'float32' if kind == 'OptimWrapper' else f'mixed ({kind})'


def _terms(level: str) -> Callable[[Config, int], str]:
    def read(cfg: Config, gpus: int) -> str:
        terms = [term for hook in cfg.get('custom_hooks') or [] if type_name(hook) == HOOK
                 for term in hook.terms if term.get('on') == level and term.get('weight')]
        return '; '.join(map(describe_term, terms)) or 'none'
    return read


def describe_term(term: dict) -> str:
    """A diversity term in a line, its options by name.

    Args:
        term (dict): As in the config of a :class:`~mmdiverse.hooks.DiversityHook`.
    """
    options = ', '.join(f'{key} {value}' for key, value in sorted(term.items())
                        if key not in ('type', 'on'))
    return f'{type_name(term).removeprefix("mmdiverse.")} ({options})'


def _show(value: Any) -> str:
    if isinstance(value, list):
        value = tuple(value)
    return f'{value:g}' if isinstance(value, float) else str(value)


#: The recipe of DeiT that the authors train with, and their terms; the same for all sizes.
#: Sources: Touvron et al., ICML 2021 (arXiv 2012.12877), table 9 and the defaults of its code;
#: Chen et al., CVPR 2022 (arXiv 2203.06345), and the defaults of theirs.
AUTHORS = (
    Field('images of a step', '1024', 'train_dataloader.batch_size',
          lambda cfg, gpus: str(_images(cfg, gpus))),
    Field('optimizer', 'AdamW', 'optim_wrapper.optimizer.type',
          lambda cfg, gpus: type_name(_part(cfg, 'optim_wrapper.optimizer')) or ABSENT),
    Field('learning rate', '0.0005 x images / 512', 'optim_wrapper.optimizer.lr', _rate),
    Field('betas', '(0.9, 0.999)', 'optim_wrapper.optimizer.betas', _optimizer('betas')),
    Field('epsilon', '1e-08', 'optim_wrapper.optimizer.eps', _optimizer('eps')),
    Field('weight decay', '0.05', 'optim_wrapper.optimizer.weight_decay',
          _optimizer('weight_decay')),
    Field('not decayed', 'norm, bias, cls_token, pos_embed', 'optim_wrapper.paramwise_cfg',
          _undecayed),
    Field('gradient clipping', 'none', 'optim_wrapper.clip_grad', _clipping),
    Field('precision', 'mixed (float16)', 'optim_wrapper.type', _precision, 'float32',
          'no choice of the recipe: `tools/train.py --amp` trains in mixed precision'),
    Field('epochs', '300', 'train_cfg.max_epochs', _epochs),
    Field('warm-up', '5 epochs from 1e-06', 'param_scheduler', _warm_up),
    Field('schedule', 'cosine from epoch 0 of 300 to 1e-05', 'param_scheduler', _schedule,
          'cosine from epoch 5 of 300 to 1e-05',
          'in DeiT the cosine counts the epochs of warm-up too, so that its rate is a little '
          'lower, by 2.5 % half-way; MMPretrain begins it behind the warm-up'),
    Field('drop path', '0.1', 'model.backbone.drop_path_rate', _backbone('drop_path_rate')),
    Field('dropout', '0', 'model.backbone.drop_rate', _backbone('drop_rate')),
    Field('average of the weights', '0.99996', 'custom_hooks (EMAHook)', _average),
    Field('label smoothing', '0.1', 'model.head.loss.label_smooth_val', _loss),
    Field('Mixup', '0.8', 'model.train_cfg.augments', _augment('Mixup', 'alpha')),
    Field('CutMix', '1', 'model.train_cfg.augments', _augment('CutMix', 'alpha')),
    Field('share of CutMix', '0.5', 'model.train_cfg.probs', _share_of_cutmix),
    Field('partner in Mixup', 'flip', 'model.train_cfg.augments', _augment('Mixup', 'partner')),
    Field('partner in CutMix', 'flip', 'model.train_cfg.augments', _augment('CutMix', 'partner')),
    Field('repeated augmentation', '3', 'train_dataloader.sampler', _repeats),
    Field('random crop', '224, bicubic', 'train_dataloader.dataset.pipeline',
          _pipeline('train_dataloader', 'RandomResizedCrop', _size)),
    Field('horizontal flip', '0.5', 'train_dataloader.dataset.pipeline',
          _pipeline('train_dataloader', 'RandomFlip',
                    lambda step: _show(step.get('prob', ABSENT)))),
    Field('RandAugment', '2 of magnitude 9, deviation 0.5', 'train_dataloader.dataset.pipeline',
          _pipeline('train_dataloader', 'RandAugment', _randaugment)),
    Field('random erasing', '0.25, a color for each pixel', 'train_dataloader.dataset.pipeline',
          _pipeline('train_dataloader', 'RandomErasing', _erasing)),
    Field('shorter side in evaluation', '256, bicubic', 'val_dataloader.dataset.pipeline',
          _pipeline('val_dataloader', 'ResizeEdge', _size)),
    Field('crop in evaluation', '224', 'val_dataloader.dataset.pipeline',
          _pipeline('val_dataloader', 'CenterCrop',
                    lambda step: _show(step.get('crop_size', ABSENT)))),
    Field('classified', 'every patch and the class token', 'model.head.type', _patches),
    Field('terms of patches',
          'CosineLoss (diagonal True, form signed, layers -1, weight 0.5); '
          "ContrastiveLoss (layers ['embed', -1], weight 0.5)", 'custom_hooks (DiversityHook)',
          _terms('patch')),
    Field('terms of attention',
          'CosineLoss (diagonal True, form signed, layers 0, weight 0.0001)',
          'custom_hooks (DiversityHook)', _terms('attention')),
    Field('terms of weights',
          'ConditionalOrthogonalityLoss (layers all, method official, reduction sum, weight '
          '0.0005)', 'custom_hooks (DiversityHook)', _terms('weight')),
)


def diff_authors(cfg: Config, gpus: int = 8) -> list[Difference]:
    """What a config does not share with the authors' recipe for DeiT.

    Args:
        cfg (Config): Of a ViT or DeiT on ImageNet.
        gpus (int): How many will train. Defaults to 8.

    Returns:
        list[Difference]: With a reason where the config does what MMPretrain can do at best.

    Raises:
        ValueError: If the config lacks a part that the recipe speaks of.
    """
    differences, base = [], load_config(MMPRETRAIN)
    for field in AUTHORS:
        try:
            ours = field.read(cfg, gpus)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f'expected a config that trains a ViT or DeiT classifier, but its '
                             f'{field.name} (`{field.key}`) cannot be read: '
                             f'{type(error).__name__}: {error}') from error
        if ours != field.theirs:
            why = field.why if ours == field.known else ''
            differences.append(Difference(field.name, ours, field.theirs, why, field.key,
                                          inherited=ours == field.read(base, 4)))
    return differences


def diff_configs(cfg: Config, other: Config) -> list[Difference]:
    """Every config key that differs between two configs.

    Args:
        cfg (Config): One.
        other (Config): The other, such as its plain twin.

    Returns:
        list[Difference]: With a reason where a key belongs to diversity.
    """
    ours, theirs = (dict(_flatten(each.to_dict())) for each in (cfg, other))
    return [Difference(key, _show(ours.get(key, ABSENT)), _show(theirs.get(key, ABSENT)),
                       _reason(key, ours), key)
            for key in {**theirs, **ours} if ours.get(key, ABSENT) != theirs.get(key, ABSENT)]


def _flatten(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            if name == 'type' and part:
                yield (f'{key}.type' if key else 'type'), type_name({'type': part})
            elif name != '_scope_':  # MMEngine's mark of a base in a package
                yield from _flatten(part, f'{key}.{name}' if key else str(name))
    elif isinstance(value, list) and all(isinstance(part, dict) for part in value):
        for index, part in enumerate(value):
            yield from _flatten(part, f'{key}[{index}]')
    else:
        yield key, list(value) if isinstance(value, tuple) else value


def _reason(key: str, ours: dict[str, Any]) -> str:
    """Why a diversified config has a key."""
    item = key.partition('.')[0]
    if key.startswith('diversity.') or ours.get(f'{item}.type') == HOOK:
        return 'diversity terms'
    if key.startswith(f'{TWIN}.'):
        return 'kept for the plain twin'
    mixes = MIXING_PREPROCESSOR in (ours.get('data_preprocessor.type'),
                                    ours.get('model.data_preprocessor.type'))
    if mixes and key.startswith((
            'data_preprocessor.', 'model.data_preprocessor.', 'model.head.', 'model.neck',
            'model.backbone.out_type', 'model.train_cfg.augments')):
        return 'patch-level mixing'
    return ''
