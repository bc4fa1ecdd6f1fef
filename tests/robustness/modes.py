"""The modes of training that MMEngine offers, and the gradients that a run takes in each.

Every run takes two optimizer steps over the same sixteen images at a learning rate of 0, so that
whatever a mode does to batches and processes, its gradients can be laid beside those of any other.
"""
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import FUNCTIONS
from mmengine.runner import FlexibleRunner, Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmdiverse.taps import build_tap
from mmdiverse.terms import DiversityTerm
from tests.runs import digits_config

FAMILIES = ('deit', 'swin')
LEVELS = {
    'patch': [dict(type='CosineLoss', on='patch', weight=20.),
              dict(type='ContrastiveLoss', on='patch', layers=[-2, -1], weight=20.)],
    'attention': [dict(type='CosineLoss', on='attention', layers='all', weight=20.),
                  dict(type='RankCollapseLoss', on='attention', layers=-1, heads='outputs',
                       weight=20.)],
    'weight': [dict(type='ConditionalOrthogonalityLoss', on='weight', weight=5.),
               dict(type='CosineLoss', on='weight', matrices=['fc1', 'proj'], weight=100.)],
}
Gradients = dict[str, Tensor | None]

IMAGES, BATCH = 16, 8
_numbers = count()
CLIP = 0.01
WRAPPERS = ('_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')
SHARDED = "'weight_[a-z_]*': the weight of .* is sharded away.*SHARD_GRAD_OP"
# Of torch's DDP, for any parameter that is also used outside the part that is run twice.
READY_TWICE = 'mark a variable ready only once.*static_graph'
NO_GRADIENT = "'attention_[a-z_]*': what was captured of .* has no gradient.*checkpointing"


@dataclass(frozen=True)
class Mode:
    """A way to train.

    Attributes:
        name: In the table of the documentation.
        options: Options of the config; by the names of families where they differ.
        processes: Of a distributed run; 0 for one that is not.
        accumulate: Backward passes of a step.
        tolerance: Relative error of the gradient of any parameter.
        families: Models to which the mode applies.
        refused: By level, the error that a run must end with.
        expected: The gradients that the mode should give, of those of a plain run.
        frozen: Whether some parameters have none.
        around: Made around a run.
        needs: What has to be there: ``'a GPU'`` or the name of a package.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    processes: int = 0
    accumulate: int = 1
    tolerance: float = 1e-5
    families: tuple[str, ...] = FAMILIES
    refused: dict[str, str] = field(default_factory=dict)
    expected: Callable[[Gradients], Gradients] = lambda gradients: gradients
    frozen: bool = False
    around: Callable[[], AbstractContextManager] = nullcontext
    needs: str = ''

    def __str__(self) -> str:
        return self.name


# What a mode takes

def clipped(gradients: Gradients) -> Gradients:
    norm = torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()
    assert norm > 2 * CLIP
    return {name: None if g is None else g * CLIP / norm for name, g in gradients.items()}


@contextmanager
def checkpoints_not_reentrant() -> Iterator[None]:
    """MMEngine and MMPretrain leave the variant to torch, whose default is the re-entrant one."""
    from torch.utils.checkpoint import checkpoint
    other = partial(checkpoint, use_reentrant=False)
    with patch('mmengine.runner.activation_checkpointing.checkpoint', other), \
            patch('torch.utils.checkpoint.checkpoint', other):
        yield


@contextmanager
def compiled_afresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def is_block(module: nn.Module, **_: Any) -> bool:
    """Policy of FSDP: a unit for each transformer block, and what checkpoints them."""
    return type(module).__name__ in ('TransformerEncoderLayer', 'SwinBlock')


def wrap_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    return recurse or is_block(module)


for policy in (is_block, wrap_blocks):
    FUNCTIONS.register_module(module=policy, force=True)


def ddp(**options: Any) -> dict[str, Any]:
    return {'launcher': 'pytorch', 'model_wrapper_cfg': {
        'type': 'MMDistributedDataParallel', 'device_ids': None, 'broadcast_buffers': False,
        **options}}


def fsdp(sharding: str, checkpointing: bool = False, **options: Any) -> dict[str, Any]:
    # On a CPU the unit's device has to be named; MMEngine takes a GPU by its number.
    device = {} if torch.cuda.is_available() else {'device_id': 'cpu'}
    strategy = {'type': 'FSDPStrategy', 'state_dict_cfg': 'full', 'model_wrapper': {
        'type': 'MMFullyShardedDataParallel', 'sharding_strategy': sharding,
        'auto_wrap_policy': 'wrap_blocks', **device, **options}}
    if checkpointing:
        strategy['activation_checkpointing'] = {'check_fn': 'is_block'}
    return {'launcher': 'pytorch', 'strategy': strategy}


def deepspeed(stage: int) -> dict[str, Any]:
    return {
        'launcher': 'pytorch',
        'strategy': {'type': 'DeepSpeedStrategy', 'zero_optimization': {'stage': stage},
                     'config': {'zero_allow_untested_optimizer': True},
                     'train_micro_batch_size_per_gpu': BATCH // 2},
        'optim_wrapper': {'type': 'DeepSpeedOptimWrapper'}}


def autocast(dtype: str) -> dict[str, Any]:
    # From its default of 65,536 the scale would first have to fall, and steps be left out.
    return {'optim_wrapper': {'type': 'mmdiverse.AutocastOptimWrapper', 'dtype': dtype,
                              'loss_scale': 16.}}


def amp(dtype: str) -> dict[str, Any]:
    return {'optim_wrapper': {'type': 'AmpOptimWrapper', 'dtype': dtype, 'loss_scale': 16.}}


CHECKPOINTED = {
    'deit': {'activation_checkpointing': ['backbone.layers.0', 'backbone.layers.1']},
    'swin': {'activation_checkpointing': [f'backbone.stages.{i}.blocks.0' for i in range(2)]}}
# The plain loss alone is up to 9e-2 and 5e-3 from fp32, by the order of sums on the machine.
BF16, FP16 = 1.5e-1, 1e-2

LORA = Mode('LoRA, `LoRAModel`', {'lora': True})
MODES = [
    Mode('fp32'),
    Mode('bf16, `mmdiverse.AutocastOptimWrapper`', autocast('bfloat16'), tolerance=BF16),
    Mode('fp16, `mmdiverse.AutocastOptimWrapper`', autocast('float16'), tolerance=FP16),
    Mode('bf16, `AmpOptimWrapper`', amp('bfloat16'), tolerance=BF16, needs='a GPU'),
    Mode('fp16, `AmpOptimWrapper`', amp('float16'), tolerance=FP16, needs='a GPU'),
    Mode('gradient accumulation', accumulate=2),
    Mode('gradient clipping', {'optim_wrapper.clip_grad': {'max_norm': CLIP}}, expected=clipped),
    Mode('exponential moving average, `EMAHook`', {'ema': True}),
    Mode('frozen stages', {'deit': {'model.backbone.frozen_stages': 1},
                           'swin': {'model.backbone.frozen_stages': 0}}, frozen=True),
    Mode('all blocks frozen', {'deit': {'model.backbone.frozen_stages': 2},
                               'swin': {'model.backbone.frozen_stages': 1}},
         refused=dict.fromkeys(LEVELS, 'has no gradient: all parameters .* are frozen')),
    Mode('layer-wise learning-rate decay', {
        'optim_wrapper.constructor': 'LearningRateDecayOptimWrapperConstructor',
        'optim_wrapper.paramwise_cfg': {'layer_decay_rate': 0.75}}),
    Mode('activation checkpointing, re-entrant', CHECKPOINTED,
         refused={'attention': NO_GRADIENT}),
    Mode('activation checkpointing, not re-entrant', CHECKPOINTED,
         around=checkpoints_not_reentrant),
    Mode('`with_cp` of a Swin, re-entrant', {'model.backbone.with_cp': True}, families=('swin', ),
         refused={'attention': NO_GRADIENT}),
    Mode('`with_cp` of a Swin, not re-entrant', {'model.backbone.with_cp': True},
         families=('swin', ), around=checkpoints_not_reentrant),
    Mode('`torch.compile`, backend eager', {'compile': {'backend': 'eager'}},
         around=compiled_afresh),
    Mode('`torch.compile`, backend inductor', {'compile': True}, around=compiled_afresh),
    Mode('DDP, 1 process', ddp(), processes=1),
    Mode('DDP, 2 processes', ddp(), processes=2),
    Mode('DDP, 2 processes, gradient accumulation', ddp(), processes=2, accumulate=2),
    Mode('DDP, 2 processes, bf16', {**ddp(), **autocast('bfloat16')}, processes=2, tolerance=BF16),
    Mode('DDP, 2 processes, `static_graph`', ddp(static_graph=True), processes=2),
    Mode('DDP, 2 processes, `find_unused_parameters`', ddp(find_unused_parameters=True),
         processes=2),
    Mode('DDP, 2 processes, activation checkpointing, re-entrant', {
        family: {**ddp(), **options} for family, options in CHECKPOINTED.items()},
        processes=2, refused={'attention': NO_GRADIENT, 'weight': READY_TWICE}),
    Mode('DDP, 2 processes, `static_graph`, activation checkpointing, re-entrant', {
        family: {**ddp(static_graph=True), **options} for family, options in CHECKPOINTED.items()},
        processes=2, refused={'attention': NO_GRADIENT}),
    Mode('DDP, 2 processes, activation checkpointing, not re-entrant', {
        family: {**ddp(), **options} for family, options in CHECKPOINTED.items()},
        processes=2, around=checkpoints_not_reentrant),
    Mode('DDP of each sub-module, `MMSeparateDistributedDataParallel`',
         {'launcher': 'pytorch',
          'model_wrapper_cfg': {'type': 'MMSeparateDistributedDataParallel', 'device_ids': None}},
         processes=2, refused=dict.fromkeys(
             LEVELS, 'no tap knows the backbone MMDistributedDataParallel')),
    Mode('`FlexibleRunner`', {'strategy': {'type': 'SingleDeviceStrategy'}}),
    Mode('FSDP, `SHARD_GRAD_OP`', fsdp('SHARD_GRAD_OP'), processes=2),
    Mode('FSDP, `FULL_SHARD`', fsdp('FULL_SHARD'), processes=2, refused={'weight': SHARDED}),
    Mode('FSDP, `FULL_SHARD`, one unit', fsdp('FULL_SHARD', auto_wrap_policy=None), processes=2),
    Mode('FSDP, `SHARD_GRAD_OP`, activation checkpointing',
         fsdp('SHARD_GRAD_OP', checkpointing=True), processes=2),
    Mode('FSDP, `use_orig_params=False`', fsdp('SHARD_GRAD_OP', use_orig_params=False),
         processes=2, refused=dict.fromkeys(LEVELS, '`use_orig_params=True`')),
    *(Mode(f'DeepSpeed, ZeRO {stage}', deepspeed(stage), processes=2, needs='deepspeed',
           refused={'weight': SHARDED} if stage == 3 else {}) for stage in (1, 2, 3)),
]


# A run

class ByHand(Hook):
    """Adds the terms to the loss without a DiversityHook: what every run is compared with."""

    def __init__(self, terms: list[dict]) -> None:
        self.terms = [DiversityTerm(**term) for term in terms]

    def before_train(self, runner: Runner) -> None:
        model, loss = runner.model, runner.model.loss
        tap = build_tap(model.backbone)
        tap.attach([request for term in self.terms for request in term.requests(tap)])

        def with_terms(*args: Any) -> dict[str, Tensor]:
            with tap.recording():
                total = loss(*args)['loss']
                for term in self.terms:
                    total = total + term.weight * term.evaluate(tap)
            return dict(loss=total)

        model.loss = with_terms


class Recorded(Exception):
    """Ends a run that cannot go on after its gradients are known."""


class GradientRecorder(Hook):
    """Keeps the gradients of every parameter at every step of the optimizer."""

    def __init__(self) -> None:
        self.steps: list[Gradients] = []

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        if type(wrapper).__name__ == 'DeepSpeedOptimWrapper':
            wrapper.step = partial(self._record_deepspeed, runner.model.module)
        else:
            wrapper.optimizer.register_step_pre_hook(
                lambda optimizer, args, kwargs: self._record(runner.model))

    @torch.compiler.disable
    def _record(self, model: nn.Module) -> None:
        whole = nullcontext()
        if isinstance(model, FullyShardedDataParallel):
            whole = FullyShardedDataParallel.summon_full_params(model, with_grads=True)
        with whole:
            model = model.module if is_model_wrapper(model) else model
            self.steps.append({plain_name(name): None if p.grad is None else p.grad.cpu().clone()
                               for name, p in model.named_parameters()})

    def _record_deepspeed(self, model: nn.Module) -> None:
        from deepspeed.utils import safe_get_full_grad
        self.steps.append({name: safe_get_full_grad(p) for name, p in model.named_parameters()})
        raise Recorded  # its ZeRO 1 and 2 cannot step on CPUs under current torch


def plain_name(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, '')
    return name


def mode_config(mode: Mode, family: str, work_dir: Path) -> Config:
    """The config of a run without terms."""
    cfg = digits_config(f'{family}-nano_digits', work_dir)
    cfg.log_level = 'ERROR'
    cfg.experiment_name = f'mode-{next(_numbers)}'  # by which MMEngine finds loggers again
    cfg.model.backbone.arch.update(
        dict(num_layers=2) if family == 'deit' else dict(depths=[1, 2]))
    cfg.model.backbone.drop_path_rate = 0.
    # A classifier that starts at zero hands no gradient to its backbone.
    cfg.model.head.init_cfg = dict(type='TruncNormal', layer='Linear', std=0.3)
    cfg.model.train_cfg = None
    cfg.train_dataloader.update(
        batch_size=BATCH // max(mode.processes, 1) // mode.accumulate,
        sampler=dict(type='DefaultSampler', shuffle=False))
    cfg.train_dataloader.pop('num_batch_per_epoch')
    cfg.train_dataloader.dataset.update(indices=IMAGES, pipeline=[dict(type='PackInputs')])
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0., weight_decay=0.))
    if mode.accumulate > 1:
        cfg.optim_wrapper.accumulative_counts = mode.accumulate
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = None
    options = dict(mode.options.get(family, mode.options))
    if options.pop('lora', False):
        cfg.model.backbone = dict(type='LoRAModel', module=cfg.model.backbone, alpha=4, rank=2,
                                  targets=[dict(type='qkv'), dict(type='proj')])
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)] if options.pop('ema', False) else []
    if not cfg.custom_hooks:  # the moving average is exchanged for the model in validation
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.merge_from_dict(options)
    return cfg


def run_mode(mode: Mode, family: str, work_dir: Path, terms: Sequence[dict] = (),
             hooks: Sequence[Hook] = ()) -> list[Gradients]:
    """The gradients of each step of a run.

    Args:
        mode: How to train.
        family: Which model.
        work_dir: Where to.
        terms: Of its DiversityHook; without any, it has none.
        hooks: Further hooks.
    """
    cfg = mode_config(mode, family, work_dir)
    if terms:
        cfg.custom_hooks.append(dict(type='mmdiverse.DiversityHook', terms=terms))
    recorder = GradientRecorder()
    with mode.around():
        runner = (FlexibleRunner if 'strategy' in cfg else Runner).from_cfg(cfg)
        runner.register_hook(recorder, priority='LOWEST')
        for hook in hooks:
            runner.register_hook(hook)
        try:
            runner.train()
        except Recorded:
            pass
    return recorder.steps


Outcome = list[Gradients] | str


def try_mode(mode: Mode, family: str, level: str, work_dir: Path) -> Outcome:
    """The gradients of a run, or the error that it ended with."""
    try:
        return run_mode(mode, family, work_dir, LEVELS[level])
    except (RuntimeError, ValueError) as error:
        return f'{type(error).__name__}: {error}'


def try_everything(mode: Mode, work_dir: Path) -> dict[tuple[str, str], Outcome]:
    """The outcome for every family and level."""
    return {(family, level): try_mode(mode, family, level, work_dir)
            for family in mode.families for level in LEVELS}


def run_process(rank: int, index: int, folder: Path) -> None:
    """One process of a distributed run of ``MODES[index]``; the first saves the outcomes."""
    mode = MODES[index]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(mode.processes),
                      DS_ACCELERATOR='cpu')
    torch.distributed.init_process_group('gloo', rank=rank, world_size=mode.processes,
                                         init_method=f'file://{folder}/store')
    if 'deepspeed' in mode.needs:
        import mmengine._strategy.deepspeed as strategy
        strategy.register_deepspeed_optimizers()
        # MMEngine would register them again with every run, and fail.
        strategy.register_deepspeed_optimizers = lambda: None
    outcomes = try_everything(mode, folder)
    if rank == 0:
        torch.save(outcomes, folder / 'outcomes.pth')
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
