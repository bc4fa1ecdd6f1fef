"""What a config trains with, beside the authors' recipe or another config."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

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


def _images(cfg: Config, gpus: int) -> int:
    return gpus * cfg.train_dataloader.batch_size * cfg.optim_wrapper.get('accumulative_counts', 1)


def _optimizer(name: str) -> Callable[[Config, int], str]:
    return lambda cfg, gpus: _show(cfg.optim_wrapper.optimizer.get(name, ABSENT))


def _rate(cfg: Config, gpus: int) -> str:
    return f'{cfg.optim_wrapper.optimizer.lr * 512 / _images(cfg, gpus):g} x images / 512'


def _undecayed(cfg: Config, gpus: int) -> str:
    paramwise = cfg.optim_wrapper.get('paramwise_cfg') or {}
    names = [name for name in ('norm', 'bias') if paramwise.get(f'{name}_decay_mult') == 0]
    keys = paramwise.get('custom_keys') or {}
    names += [name for name in ('cls_token', 'pos_embed')
              if keys.get(f'.{name}', {}).get('decay_mult') == 0]
    return ', '.join(names) or 'nothing'


def _clipping(cfg: Config, gpus: int) -> str:
    clip = cfg.optim_wrapper.get('clip_grad')
    return f'norm {clip.get("max_norm")}' if clip else 'none'


def _schedule(kind: str) -> Callable[[Config, int], str]:
    def read(cfg: Config, gpus: int) -> str:
        schedulers = cfg.get('param_scheduler') or []
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if type_name(scheduler) == kind == 'LinearLR':
                start = scheduler.start_factor * cfg.optim_wrapper.optimizer.lr
                return f'{scheduler.end} epochs from {start:g}'
            if type_name(scheduler) == kind:
                return (f'cosine from epoch {scheduler.get("begin", 0)} of '
                        f'{cfg.train_cfg.max_epochs} to {scheduler.eta_min:g}')
        return 'none'
    return read


def _backbone(name: str, default: Any) -> Callable[[Config, int], str]:
    return lambda cfg, gpus: _show(cfg.model.backbone.get(name, default))


def _average(cfg: Config, gpus: int) -> str:
    momenta = [1 - hook.get('momentum', 0.0002) for hook in cfg.get('custom_hooks') or []
               if type_name(hook) == 'EMAHook']
    return ', '.join(f'{momentum:g}' for momentum in momenta) or 'none'


def _loss(cfg: Config, gpus: int) -> str:
    return _show(cfg.model.head.loss.get('label_smooth_val', 0))


def _augment(kind: str, name: str) -> Callable[[Config, int], str]:
    def read(cfg: Config, gpus: int) -> str:
        for augment in (cfg.model.get('train_cfg') or {}).get('augments') or []:
            if type_name(augment) in (kind, MIXING_AUGMENTS[kind]):
                return _show(augment.get(name, 'random' if name == 'partner' else 0.5))
        return 'none'
    return read


def _share_of_cutmix(cfg: Config, gpus: int) -> str:
    settings = cfg.model.get('train_cfg') or {}
    kinds = [type_name(augment).removeprefix('mmdiverse.Patch')
             for augment in settings.get('augments') or []]
    shares = settings.get('probs') or [1 / max(1, len(kinds))] * len(kinds)
    return f'{sum(share for kind, share in zip(kinds, shares) if kind == "CutMix"):g}'


def _pipeline(loader: str, kind: str, show: Callable[[dict], str]) -> Callable[[Config, int], str]:
    def read(cfg: Config, gpus: int) -> str:
        pipeline = cfg[loader].dataset.get('pipeline') or []
        return next((show(step) for step in pipeline if type_name(step) == kind), 'none')
    return read


def _repeats(cfg: Config, gpus: int) -> str:
    sampler = cfg.train_dataloader.get('sampler') or {}
    return str(sampler.get('num_repeats', 3)) if type_name(sampler) == 'RepeatAugSampler' else '1'


def _patches(cfg: Config, gpus: int) -> str:
    return 'every patch and the class token' if type_name(cfg.model.head) in MIXING_HEADS.values() \
        else 'the class token'


def _precision(cfg: Config, gpus: int) -> str:
    kind = type_name(cfg.optim_wrapper) or 'OptimWrapper'
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
    return f'{value:g}' if isinstance(value, float) else str(value)


#: The recipe of DeiT that the authors train with, and their terms; the same for all sizes.
#: Sources: Touvron et al., ICML 2021 (arXiv 2012.12877), table 9 and the defaults of its code;
#: Chen et al., CVPR 2022 (arXiv 2203.06345), and the defaults of theirs.
AUTHORS = (
    Field('images of a step', '1024', 'train_dataloader.batch_size',
          lambda cfg, gpus: str(_images(cfg, gpus))),
    Field('optimizer', 'AdamW', 'optim_wrapper.optimizer.type',
          lambda cfg, gpus: type_name(cfg.optim_wrapper.optimizer)),
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
    Field('epochs', '300', 'train_cfg.max_epochs', lambda cfg, gpus: str(cfg.train_cfg.max_epochs)),
    Field('warm-up', '5 epochs from 1e-06', 'param_scheduler', _schedule('LinearLR')),
    Field('schedule', 'cosine from epoch 0 of 300 to 1e-05', 'param_scheduler',
          _schedule('CosineAnnealingLR'), 'cosine from epoch 5 of 300 to 1e-05',
          'in DeiT the cosine counts the epochs of warm-up too, so that its rate is a little '
          'lower, by 2.5 % half-way; MMPretrain begins it behind the warm-up'),
    Field('drop path', '0.1', 'model.backbone.drop_path_rate', _backbone('drop_path_rate', 0.)),
    Field('dropout', '0', 'model.backbone.drop_rate', _backbone('drop_rate', 0.)),
    Field('average of the weights', '0.99996', 'custom_hooks (EMAHook)', _average),
    Field('label smoothing', '0.1', 'model.head.loss.label_smooth_val', _loss),
    Field('Mixup', '0.8', 'model.train_cfg.augments', _augment('Mixup', 'alpha')),
    Field('CutMix', '1', 'model.train_cfg.augments', _augment('CutMix', 'alpha')),
    Field('share of CutMix', '0.5', 'model.train_cfg.probs', _share_of_cutmix),
    Field('partner in Mixup', 'flip', 'model.train_cfg.augments', _augment('Mixup', 'partner')),
    Field('partner in CutMix', 'flip', 'model.train_cfg.augments', _augment('CutMix', 'partner')),
    Field('repeated augmentation', '3', 'train_dataloader.sampler', _repeats),
    Field('random crop', '224, bicubic', 'train_dataloader.dataset.pipeline',
          _pipeline('train_dataloader', 'RandomResizedCrop',
                    lambda step: f'{step["scale"]}, {step.get("interpolation")}')),
    Field('horizontal flip', '0.5', 'train_dataloader.dataset.pipeline',
          _pipeline('train_dataloader', 'RandomFlip', lambda step: str(step['prob']))),
    Field('RandAugment', '2 of magnitude 9, deviation 0.5', 'train_dataloader.dataset.pipeline',
          _pipeline('train_dataloader', 'RandAugment', lambda step: (
              f'{step["num_policies"]} of magnitude {step["magnitude_level"]}, deviation '
              f'{step["magnitude_std"]}'))),
    Field('random erasing', '0.25, a color for each pixel', 'train_dataloader.dataset.pipeline',
          _pipeline('train_dataloader', 'RandomErasing', lambda step: (
              f'{step["erase_prob"]}, {"a" if step["mode"] == "rand" else "one"} color'
              f'{" for each pixel" if step["mode"] == "rand" else ""}'))),
    Field('shorter side in evaluation', '256, bicubic', 'val_dataloader.dataset.pipeline',
          _pipeline('val_dataloader', 'ResizeEdge',
                    lambda step: f'{step["scale"]}, {step.get("interpolation")}')),
    Field('crop in evaluation', '224', 'val_dataloader.dataset.pipeline',
          _pipeline('val_dataloader', 'CenterCrop', lambda step: str(step['crop_size']))),
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
        except (AttributeError, KeyError, TypeError) as error:
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
            yield from _flatten(part, f'{key}.{name}' if key else str(name))
    elif isinstance(value, list) and all(isinstance(part, dict) for part in value):
        for index, part in enumerate(value):
            yield from _flatten(part, f'{key}[{index}]')
    else:
        yield key, value


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
