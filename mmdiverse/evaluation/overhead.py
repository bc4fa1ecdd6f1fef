"""What diversity costs: time and memory of a diversified training step beside a plain one."""
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..config import add_mixing, load_fragment, plain_twin, two_sides
from ..hooks import DiversityHook
from ..registry import LOSSES
from .measurement import Result, count_bytes, peak_memory, quartiles, time_call

#: Methods beside the default that cost something else.
METHODS = {('ConditionalOrthogonalityLoss', 'weight'): ('power', 'official'),
           ('SRIPLoss', 'weight'): ('power', )}
#: Pairs of steps before those that count.
WARM_UP = 2
#: Small, because images and labels are random and there is no warm-up of the rate.
LEARNING_RATE = 1e-4
AMP = {'fp16': 'float16', 'bf16': 'bfloat16'}


@dataclass(frozen=True)
class Arm:
    """A way to train that is measured beside a plain step.

    Attributes:
        name (str): What it is called.
        terms (list[dict]): Of its :class:`~mmdiverse.hooks.DiversityHook`.
        model (str): ``'plain'``, MMPretrain's, or ``'mixing'``, with patch-level mixing.
        baseline (str): The model whose plain step it is measured against.
    """

    name: str
    terms: list[dict]
    model: str = 'plain'
    baseline: str = 'plain'


def fragment_arm(fragment: str) -> Arm:
    """The terms of a diversity fragment."""
    return Arm(fragment, load_fragment(fragment).to_dict()['terms'])


def recipe_arm() -> Arm:
    """The authors' recipe: their terms and patch-level mixing, beside MMPretrain's own step."""
    return Arm('official with mixing', fragment_arm('official').terms, model='mixing')


def term_arms() -> list[Arm]:
    """Every registered loss at every level where it works, with its defaults, alone.

    Where another method makes a difference to the cost, it is an arm too. A loss of gradients
    needs a model whose own loss depends on patches: both its steps are of the mixing model.
    """
    LOSSES.import_from_location()
    arms = []
    for type_, loss in LOSSES.module_dict.items():
        model = 'mixing' if loss.of_gradients else 'plain'
        for level in loss.levels:
            term = dict(type=type_, on=level, weight=1)
            arms.append(Arm(f'{type_} on {level}', [term], model, model))
            arms += [Arm(f'{type_} on {level}, {method}', [dict(term, method=method)], model, model)
                     for method in METHODS.get((type_, level), ())]
    return arms


class TrainingSteps:
    """Takes training steps of a config's model, plain, with diversity terms, with mixing.

    Steps are those of MMPretrain's runner, with the optimizer wrapper and the batch augments of
    the config, on random images. The plain and the mixing model share their parameters and the
    optimizer, so that neither lies in better memory than the other.

    Args:
        cfg (Config): Plain or diversified; what diversifies it is taken out.
        batch_size (int): Images of a step.
        img_size (int, optional): Their height and width. Defaults to ``model.backbone.img_size``
            of the config, or 224.
        device (str): Defaults to ``'cpu'``.
        amp (str, optional): ``'fp16'`` or ``'bf16'`` for mixed precision.

    Raises:
        ValueError: If the precision is none that the device can train in.
    """

    def __init__(self, cfg: Config, batch_size: int, img_size: int | None = None,
                 device: str = 'cpu', amp: str | None = None) -> None:
        self.device = torch.device(device)
        if amp is not None and amp not in (AMP if self.device.type == 'cuda' else ('bf16', )):
            raise ValueError(f"`amp` (--amp) must be 'bf16', or 'fp16' on a GPU, but got {amp!r} "
                             f'on {self.device.type}')
        init_default_scope('mmpretrain')
        if not MMLogger.check_instance_created('overhead'):
            MMLogger.get_instance('overhead', log_level='WARNING')
        self._cfg = plain_twin(cfg)
        height, width = two_sides('model.backbone.img_size',
                                  img_size or self._cfg.model.backbone.get('img_size', 224))
        self.img_size = height if height == width else (height, width)
        torch.manual_seed(0)
        self._models = {'plain': self._build(self._cfg)}
        self._models['plain'].init_weights()
        self._start = deepcopy(self._models['plain'].state_dict())
        self._optim_wrapper = self._build_optim_wrapper(amp)
        num_classes = getattr(self._models['plain'].head, 'num_classes', 10)
        self._images = torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8)
        self._labels = torch.randint(0, num_classes, (batch_size, )).tolist()

    def _build(self, cfg: Config) -> nn.Module:
        model = deepcopy(cfg.model)  # because the classifier writes into its config
        if cfg.get('data_preprocessor'):
            model.setdefault('data_preprocessor', deepcopy(cfg.data_preprocessor))
        return MODELS.build(model).to(self.device).train()

    def _build_optim_wrapper(self, amp: str | None) -> OptimWrapper:
        config = dict(deepcopy(self._cfg.get('optim_wrapper')) or
                      dict(optimizer=dict(type='AdamW')))
        config['optimizer']['lr'] = LEARNING_RATE
        for key in ('type', 'loss_scale', 'dtype'):  # ours to choose
            config.pop(key, None)
        if amp is None:
            config['type'] = 'OptimWrapper'
        else:
            config.update(type='mmdiverse.AutocastOptimWrapper', dtype=AMP[amp])
        return build_optim_wrapper(self._models['plain'], config)

    def model(self, name: str) -> nn.Module:
        """The ``'plain'`` or the ``'mixing'`` model.

        Raises:
            ValueError: If patch-level mixing does not know the model.
        """
        if name not in self._models:
            mixing = self._build(add_mixing(deepcopy(self._cfg)))
            state = self._models['plain'].state_dict(keep_vars=True)
            mixing.load_state_dict(state, assign=True)
            self._models[name] = mixing
        return self._models[name]

    def reset(self) -> None:
        """Go back to the initial weights, but for one plain step.

        After that step a classifier that starts from zero hands gradients on to its backbone.
        """
        # Swin V2 takes the tables that follow from the image size out of what it loads.
        self._models['plain'].load_state_dict(self._start, strict=False)
        self.prepare('plain')()

    def prepare(self, model: str, seed: int = 0) -> Callable[[], None]:
        """Load a batch, and make a function that takes a step with it.

        Args:
            model (str): ``'plain'`` or ``'mixing'``.
            seed (int): Two steps of one seed mix the same images alike. Defaults to 0.
        """
        train_step = self.model(model).train_step
        data = dict(inputs=self._images.clone(),
                    data_samples=[DataSample().set_gt_label(label) for label in self._labels])
        for set_seed in (random.seed, np.random.seed, torch.manual_seed):
            set_seed(seed)
        return lambda: train_step(data, self._optim_wrapper)

    def persistent_bytes(self, terms: DiversityHook | None = None) -> int:
        """Memory that outlives a step: parameters, buffers, optimizer, and what terms keep."""
        model = self._models['plain']
        states: list[dict] = [*self._optim_wrapper.optimizer.state.values()]
        states += [term.loss.state for term in terms.terms] if terms else []
        return count_bytes([*model.parameters(), *model.buffers(),
                            *(value for state in states for value in state.values()
                              if isinstance(value, Tensor))])


def measure(steps: TrainingSteps, arm: Arm, pairs: int,
            on_pair: Callable[[], None] = lambda: None) -> Result:
    """Measure time and memory of an arm beside its baseline.

    Plain and diversified steps are taken in turn and in an order that alternates, so that a slow
    moment of the machine meets both; what counts is the ratio of each pair. Memory is that of one
    more step of each. The hook is attached for a diversified step alone, outside the clock; so a
    loss of gradients makes sure in each that there are some, and in a run in the first alone.

    Args:
        steps (TrainingSteps): Takes the steps.
        arm (Arm): What to measure.
        pairs (int): Pairs of steps that count, at least 2.
        on_pair (Callable): Called after each pair, those to warm up included.

    Returns:
        dict: ``median_ratio`` and ``quartiles`` of the times, ``plain_seconds`` and
        ``diverse_seconds`` of every pair, ``plain_peak_bytes`` and ``diverse_peak_bytes`` above
        the start of a step, ``plain_persistent_bytes`` and ``diverse_persistent_bytes`` at its
        start, ``memory_ratio`` of their sums, and ``baseline`` and ``terms`` of the arm.

    Raises:
        ValueError: If the terms do not fit the model, or mixing does not.
    """
    hook = DiversityHook(terms=deepcopy(arm.terms))

    def run(diversified: bool, seed: int, gauge: Callable[..., float]) -> float:
        model = arm.model if diversified else arm.baseline
        if diversified:
            hook.attach(steps.model(model))
        try:
            return gauge(steps.prepare(model, seed), steps.device)
        finally:
            hook.detach()

    steps.reset()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(-WARM_UP, pairs):
        for diversified in (False, True) if pair % 2 else (True, False):
            elapsed = run(diversified, pair + WARM_UP, time_call)
            if pair >= 0:
                seconds[diversified].append(elapsed)
        on_pair()
    peaks = {diversified: run(diversified, 0, peak_memory) for diversified in (False, True)}
    persistent = {False: steps.persistent_bytes(), True: steps.persistent_bytes(hook)}
    low, median, high = quartiles([diverse / plain for plain, diverse in
                                   zip(seconds[False], seconds[True])])
    return dict(median_ratio=median, quartiles=[low, high],
                plain_peak_bytes=peaks[False], diverse_peak_bytes=peaks[True],
                plain_persistent_bytes=persistent[False],
                diverse_persistent_bytes=persistent[True],
                memory_ratio=(peaks[True] + persistent[True]) / (peaks[False] + persistent[False]),
                baseline=arm.baseline, terms=arm.terms,
                plain_seconds=seconds[False], diverse_seconds=seconds[True])
