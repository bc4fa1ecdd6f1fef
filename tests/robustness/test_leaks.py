"""Nothing is kept: not from step to step, not after training, and not after an error.

What must be dead is held by weak references; what a leak would cost is measured, and the measures
are shown to find one.
"""
import ctypes
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from mmdiverse.hooks import DiversityHook
from mmdiverse.taps import build_tap
from mmdiverse.terms import DiversityTerm
from tests.runs import digits_config

MIB = 2**20
WARM, STEPS = 100, 500
#: One tensor of tokens of a nano DeiT, 4 images of 65 tokens in 48 channels, is 0.05 MiB. Kept in
#: every step, it would come to 19 MiB from WARM to STEPS.
BATCH = 4
#: A few buffers of MMEngine's log grow, and memory falls to pieces: by far less than this.
GROWTH = 4 * MIB
#: The last step may leave more or fewer behind than others, while a schedule pauses a term.
FEW = 8


def all_levels(type: str = 'deit') -> list[dict[str, Any]]:
    """Terms of all levels; with a schedule, a state, random starts and the contrast of layers."""
    pauses = dict(type='CosineRestartParamScheduler', periods=[25] * 20, eta_min=0.,
                  restart_weights=[1., 0.] * 10, by_epoch=False)
    return [
        dict(type='CosineLoss', on='patch', weight=0.5, layers='all', schedule=pauses),
        dict(type='ContrastiveLoss', on='patch', weight=0.5,
             layers=['embed', 1 if type == 'swin' else -1]),
        dict(type='CosineLoss', on='attention', layers=[0, -1], weight=0.1),
        dict(type='DisagreementLoss', on='attention', heads='outputs', weight=0.1),
        dict(type='ConditionalOrthogonalityLoss', on='weight', method='power', weight=2e-2),
        dict(type='ConditionalOrthogonalityLoss', on='weight', method='official', weight=1e-3,
             name='official'),
    ]


def config(name: str, work_dir: Path, **options: Any) -> Config:
    cfg = digits_config(f'{name}-nano_digits', work_dir, **options)
    cfg.train_dataloader.batch_size = BATCH
    cfg.custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=all_levels(name))]
    cfg.log_level = 'ERROR'
    return cfg


def iterations(name: str, work_dir: Path, steps: int) -> Config:
    """A run of so many iterations, without validation and checkpoints, which are not ours."""
    cfg = config(name, work_dir)
    cfg.train_cfg = dict(by_epoch=False, max_iters=steps)
    cfg.train_dataloader.num_batch_per_epoch = None
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.param_scheduler = []
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    return cfg


def diversity(runner: Runner) -> DiversityHook:
    """The hook of a run."""
    hook, = (hook for hook in runner.hooks if isinstance(hook, DiversityHook))
    return hook


def hooked(model: nn.Module) -> list[nn.Module]:
    """The modules with a hook of any kind."""
    return [module for module in model.modules()
            if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
            or module._backward_pre_hooks]


# Growth


def resident() -> int:
    """Bytes of this process that lie in memory."""
    # What earlier tests left free would hide a growth.
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096


def live_tensors() -> list[Tensor]:
    gc.collect()
    # Those that torch.compile has traced with, and keeps, have no memory.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)
            and not isinstance(thing, (FakeTensor, FunctionalTensor))]


class Usage(Hook):
    """What is alive after WARM iterations, and after the last."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        if runner.iter + 1 in (WARM, runner.max_iters):
            tensors = live_tensors()
            storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                        for tensor in tensors}
            self.seen.append((len(tensors), sum(storages.values()), resident()))

    def growth(self) -> tuple[int, int, int]:
        """By how many tensors, by how many bytes of theirs, and by how many of the process."""
        first, last = self.seen
        return tuple(after - before for before, after in zip(first, last))


class Leak(Hook):
    """Keeps the tokens of every step."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        runner.model.backbone.layers[0].register_forward_hook(
            lambda module, args, output: self.kept.append(output.detach().clone()))


def measure(cfg: Config, *hooks: Hook) -> tuple[int, int, int]:
    runner, usage = Runner.from_cfg(cfg), Usage()
    for hook in (*hooks, usage):
        runner.register_hook(hook)
    runner.train()
    return usage.growth()


@pytest.mark.parametrize('name', ['deit', 'swin'])
def test_nothing_grows_from_step_to_step(name: str, tmp_path: Path) -> None:
    count, stored, process = measure(iterations(name, tmp_path, STEPS))
    assert count <= FEW and stored < MIB and process < GROWTH


def test_growth_is_found_where_a_step_leaves_one_tensor_of_tokens(tmp_path: Path) -> None:
    count, stored, process = measure(iterations('deit', tmp_path, WARM + 200), Leak())
    assert count > 10 * FEW and stored > 2 * GROWTH and process > 2 * GROWTH


# Weak references


class Watch(Hook):
    """Refers weakly to what modules get and give in training, and to the images of the step.

    Module hooks of its own go before those of the tap: what a tap captures is what these see.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.references: list[weakref.ref[Tensor]] = []
        self.captures: list[int] = []
        self.alive_before_a_step: list[int] = []
        self.captured_in_validation: list[int] = []

    def before_train(self, runner: Runner) -> None:
        tap = build_tap(runner.model.backbone)
        modules = [module for block in tap.blocks for module in (block, *block.modules())]
        self.handles = [module.register_forward_hook(self.see) for module in modules]

    def see(self, module: nn.Module, args: tuple, output: Any) -> None:
        for thing in (*args, output):
            if isinstance(thing, Tensor) and not isinstance(thing, nn.Parameter):
                self.references.append(weakref.ref(thing))

    def alive(self) -> int:
        """How many of the tensors are still there, without any help of the collector."""
        return sum(reference() is not None for reference in self.references)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.alive_before_a_step.append(self.alive())
        self.references = [weakref.ref(thing) for thing in data_batch['inputs']]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        tap = diversity(runner).tap
        self.captures.append(len(tap._captured) + len(tap._records))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                       outputs: Any = None) -> None:
        tap = diversity(runner).tap
        self.captured_in_validation.append(len(tap._captured) + len(tap._records))

    def after_train(self, runner: Runner) -> None:
        for handle in self.handles:
            handle.remove()


def watched(cfg: Config) -> tuple[Runner, Watch]:
    runner, watch = Runner.from_cfg(cfg), Watch()
    runner.register_hook(watch)
    return runner, watch


@pytest.fixture(params=['deit', 'swin'])
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Runner, Watch]:
    runner, watch = watched(config(request.param, tmp_path, epochs=2, batches=3))
    runner.train()
    return runner, watch


def test_tokens_of_a_step_are_dead_before_the_next(trained: tuple[Runner, Watch]) -> None:
    _, watch = trained
    assert watch.alive_before_a_step == [0] * 6


def test_no_capture_outlives_its_step(trained: tuple[Runner, Watch]) -> None:
    _, watch = trained
    assert watch.captures == [0] * 6


def test_nothing_is_captured_in_validation(trained: tuple[Runner, Watch]) -> None:
    _, watch = trained
    assert watch.captured_in_validation == [0] * 2


def test_no_hook_is_left_after_training(trained: tuple[Runner, Watch]) -> None:
    runner, _ = trained
    assert not hooked(runner.model) and diversity(runner).tap is None


def test_last_batch_is_dead_after_training(trained: tuple[Runner, Watch]) -> None:
    _, watch = trained
    assert watch.references and watch.alive() == 0


def test_a_reference_lives_where_something_keeps_the_tokens(tmp_path: Path) -> None:
    runner, watch = watched(config('deit', tmp_path, batches=3))
    kept: list[Tensor] = []
    runner.model.backbone.layers[1].register_forward_hook(
        lambda module, args, output: kept.append(output) if module.training else None)
    runner.train()
    assert min(watch.alive_before_a_step[1:]) > 0 and watch.alive() > 0


# Errors


class Broken(Exception):
    """What a model or a term raises in the middle of a run."""


def break_last_block(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block raises in the third iteration, when the tap has captured all the others."""
    block = build_tap(runner.model.backbone).blocks[-1]
    forward, calls = block.forward, []

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise Broken
        return forward(*args, **kwargs)

    monkeypatch.setattr(block, 'forward', broken)


def break_last_term(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last term raises in the third iteration, when the others have their values."""
    last, evaluate, calls = diversity(runner).terms[-1], DiversityTerm.evaluate, []

    def broken(term: DiversityTerm, *args: Any, **kwargs: Any) -> Tensor:
        if term is last:
            calls.append(None)
            if len(calls) == 3:
                raise Broken
        return evaluate(term, *args, **kwargs)

    monkeypatch.setattr(DiversityTerm, 'evaluate', broken)


@pytest.fixture(params=['deit', 'swin'])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Runner, Watch]:
    return watched(config(request.param, tmp_path, epochs=2, batches=6))


def train_broken(runner: Runner) -> None:
    # The error holds the frames it came through, and these hold tensors: it is dropped here.
    with pytest.raises(Broken):
        runner.train()
    gc.collect()  # frames and tracebacks refer to each other


@pytest.fixture(params=[break_last_block, break_last_term], ids=['model', 'term'])
def broken(request: pytest.FixtureRequest, run: tuple[Runner, Watch],
           monkeypatch: pytest.MonkeyPatch) -> tuple[Runner, Watch]:
    """A run that has ended with an error."""
    request.param(run[0], monkeypatch)
    train_broken(run[0])
    return run


def test_last_batch_is_dead_after_an_error(broken: tuple[Runner, Watch]) -> None:
    runner, watch = broken
    assert watch.references and watch.alive() == 0


def test_capture_ends_with_an_error(broken: tuple[Runner, Watch]) -> None:
    runner, _ = broken
    tap = diversity(runner).tap  # MMEngine calls no after_train then, so it is still attached
    assert not tap._recording and not tap._captured and not tap._records


def test_hook_can_be_detached_after_an_error(broken: tuple[Runner, Watch]) -> None:
    runner, watch = broken
    watch.after_train(runner)
    assert hooked(runner.model)
    diversity(runner).detach()
    assert not hooked(runner.model)


def test_run_goes_on_after_an_error_with_its_hooks_once(
        broken: tuple[Runner, Watch]) -> None:
    runner, watch = broken
    watch.after_train(runner)
    runner.train()
    assert not hooked(runner.model) and diversity(runner).tap is None


def flags() -> tuple[bool, ...]:
    """Which kernels of fused attention PyTorch may choose."""
    return (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled())


def test_error_leaves_the_choice_of_attention_kernels_as_it_was(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A term of gradients before the last block rules fused attention out during the forward pass.
    cfg = config('deit', tmp_path)
    cfg.custom_hooks[0].terms = [dict(type='GradientDiversityLoss', on='patch', layers=1,
                                      weight=1.)]
    runner, before = Runner.from_cfg(cfg), flags()
    break_last_block(runner, monkeypatch)
    train_broken(runner)
    after = flags()
    diversity(runner).detach()  # or the other tests would go without, too
    assert after == before
