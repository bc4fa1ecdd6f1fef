"""In every mode of training, the gradient is right or the run is refused.

What a test finds of each model and level is a property of it in the JUnit report, from which
``tools/modes.py`` writes the table of the documentation.
"""
import re
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.models.peft.lora import LoRALinear

from tests.processes import run_processes
from tests.robustness.modes import (
    FAMILIES,
    LEVELS,
    LORA,
    MODES,
    ByHand,
    Gradients,
    Mode,
    Outcome,
    run_mode,
    run_process,
    try_everything,
)

PLAIN = MODES[0]
pytestmark = pytest.mark.slow


def error(actual: list[Gradients], expected: list[Gradients]) -> float:
    """The largest relative error of the gradient of a parameter, in any step.

    A parameter whose gradient is next to nothing beside the others' is measured by theirs.
    """
    worst = 0.
    for ours, theirs in zip(actual, expected):
        largest = max(g.norm().item() for g in theirs.values() if g is not None)
        for name in ours.keys() | theirs.keys():
            pair = [gradients.get(name) for gradients in (ours, theirs)]
            if pair == [None, None]:
                continue
            first, second = (0. if g is None else g.double() for g in pair)
            norm = torch.as_tensor(second).norm().item()
            worst = max(worst, (first - second).norm().item() / max(norm, 1e-3 * largest))
    return worst


@cache
def reference(family: str, level: str, folder: Path) -> list[Gradients]:
    return run_mode(PLAIN, family, folder, hooks=[ByHand(LEVELS[level])])


def is_there(need: str) -> bool:
    return torch.cuda.is_available() if need == 'a GPU' else find_spec(need) is not None


def run_everywhere(mode: Mode, folder: Path) -> dict[tuple[str, str], Outcome]:
    if not mode.processes:
        return try_everything(mode, folder)
    run_processes(run_process, MODES.index(mode), folder, count=mode.processes)
    return torch.load(folder / 'outcomes.pth')


def verdict(mode: Mode, level: str, outcome: Outcome, expected: list[Gradients]) -> str:
    if isinstance(outcome, str):
        assert level in mode.refused, f'{level}: {outcome}'
        assert re.search(mode.refused[level], outcome), f'{level}: {outcome}'
        return 'refused'
    assert level not in mode.refused, f'{level} should have been refused'
    assert outcome
    if mode.frozen:
        frozen = [name for name, gradient in outcome[0].items() if gradient is None]
        assert any(expected[0][name] is not None for name in frozen)
        expected = [{**step, **dict.fromkeys(frozen)} for step in expected]
    found = error(outcome, [mode.expected(step) for step in expected])
    assert found <= mode.tolerance, f'{level}: relative error {found:.1e}'
    return f'right to {found:.0e}'


@pytest.mark.parametrize('mode', MODES, ids=str)
def test_gradient_is_that_of_a_plain_run_or_refused(mode: Mode, tmp_path: Path,
                                                    record_property: Callable) -> None:
    record_property('mode', mode.name)
    if mode.needs and not is_there(mode.needs):
        for family in mode.families:
            for level in LEVELS:
                record_property(f'{family} {level}', f'not tested here (needs {mode.needs})')
        return
    outcomes = run_everywhere(mode, tmp_path)
    for (family, level), outcome in outcomes.items():
        found = verdict(mode, level, outcome, reference(family, level, tmp_path))
        record_property(f'{family} {level}', found)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('level', LEVELS)
def test_terms_make_much_of_the_gradient(family: str, level: str, tmp_path: Path) -> None:
    # Else a mode that loses them would pass.
    plain = run_mode(PLAIN, family, tmp_path)
    expected = reference(family, level, tmp_path)
    assert error(plain, expected) > 0.5
    total = [torch.cat([g.flatten() for g in step.values()]) for step in (plain[0], expected[0])]
    assert 0.1 < (total[1] - total[0]).norm() / total[1].norm() < 0.999


class Weights(Hook):
    """Keeps the weights that a run begins with."""

    def before_train(self, runner: Runner) -> None:
        self.state = {name: value.clone() for name, value in runner.model.state_dict().items()}


class Adapted(Hook):
    """Gives a model with LoRA such weights that it is the model of ``state``."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    @torch.no_grad()
    def before_train(self, runner: Runner) -> None:
        self.layers = {base_name(name): module for name, module in runner.model.named_modules()
                       if isinstance(module, LoRALinear)}
        for name, parameter in runner.model.named_parameters():
            if '.lora_' not in name:
                parameter.copy_(self.state[base_name(name)])
        for layer in self.layers.values():
            layer.lora_up.weight.normal_(std=0.1)  # not the zeros it starts with
            layer.original_layer.weight -= \
                layer.scaling * layer.lora_up.weight @ layer.lora_down.weight


def base_name(name: str) -> str:
    return name.replace('backbone.module.', 'backbone.').replace('.original_layer', '')


@pytest.mark.parametrize('family', FAMILIES)
def test_gradient_of_lora_is_that_of_its_part_in_the_weights(
        family: str, tmp_path: Path, record_property: Callable) -> None:
    record_property('mode', LORA.name)
    weights = Weights()
    run_mode(PLAIN, family, tmp_path, hooks=[weights])
    for level, terms in LEVELS.items():
        adapted = Adapted(weights.state)
        steps = run_mode(LORA, family, tmp_path, terms, hooks=[adapted])
        expected = []
        for whole in reference(family, level, tmp_path):
            own = {name: None for name in steps[0]}
            own.update({name: whole[name] for name in own if name.startswith('head.')})
            for name, layer in adapted.layers.items():
                gradient, path = whole[f'{name}.weight'], name.replace('backbone.',
                                                                       'backbone.module.')
                own[f'{path}.lora_up.weight'] = \
                    layer.scaling * gradient @ layer.lora_down.weight.detach().T
                own[f'{path}.lora_down.weight'] = \
                    layer.scaling * layer.lora_up.weight.detach().T @ gradient
            expected.append(own)
        record_property(f'{family} {level}', verdict(LORA, level, steps, expected))
