"""Measures of redundancy in the logs of real training runs."""
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdiverse.evaluation.redundancy import RedundancyMeter, name_summaries
from mmdiverse.hooks import RedundancyHook
from mmdiverse.measures import DEFAULT
from tests.runs import digits_config, same_state, train
from tests.taps.families.vit import vit


def run(work_dir: Path, name: str = 'deit-nano_digits', hooks: list | None = None, **options: Any
        ) -> Runner:
    cfg = digits_config(name, work_dir, batches=4)
    hook = dict(type='mmdiverse.RedundancyHook', interval=2, **options)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *(hooks or [hook])]
    return train(cfg)


def scalars(runner: Runner) -> list[dict]:
    path = Path(runner.visualizer._vis_backends['LocalVisBackend']._scalar_save_file)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if any(key.startswith('redundancy/') for key in line)]


def test_every_interval_is_logged_per_layer(tmp_path: Path) -> None:
    logged = scalars(run(tmp_path))
    assert [line['step'] for line in logged] == [2, 4]
    expected = {f'redundancy/{name}{layer}' for name in DEFAULT
                for layer in ('', *(f'/block_{block}' for block in range(4)))}
    assert all(set(line) == {*expected, 'step'} for line in logged)


def test_what_is_logged_is_the_training_batch(tmp_path: Path) -> None:
    class Check(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            if batch_idx == 1:
                self.measure(runner.model, data_batch)

        def measure(self, model: torch.nn.Module, data: dict) -> None:
            meter = RedundancyMeter(model.backbone, DEFAULT)
            inputs = model.data_preprocessor(data, False)['inputs']
            model.eval()
            with torch.no_grad(), meter.measuring():
                model.backbone(inputs)
            model.train()
            self.expected = name_summaries(meter)
            meter.detach()

    check = Check()
    cfg = digits_config('deit-nano_digits', tmp_path, batches=2)
    cfg.model.train_cfg = None  # which would mix the images
    cfg.model.backbone.drop_path_rate = 0.
    cfg.custom_hooks = [dict(type='mmdiverse.RedundancyHook', interval=2)]
    runner = Runner.from_cfg(cfg)
    runner.register_hook(check)
    runner.train()
    line, = scalars(runner)
    for name, value in check.expected.items():
        assert line[f'redundancy/{name}'] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize('name', ['deit-nano_diverse_digits', 'swin-nano_diverse_digits'])
def test_training_is_the_same_with_and_without(name: str, tmp_path: Path) -> None:
    plain = train(digits_config(name, tmp_path / 'plain', batches=4))
    watched = run(tmp_path / 'watched', name, measures='all')
    assert same_state(plain.model.state_dict(), watched.model.state_dict())


def test_compiled_models_are_measured_too(tmp_path: Path) -> None:
    logged = []
    for name, compile in (('eager', False), ('compiled', dict(backend='eager'))):
        cfg = digits_config('vit-nano_digits', tmp_path / name, batches=2)
        cfg.custom_hooks = [dict(type='mmdiverse.RedundancyHook', interval=2)]
        cfg.compile = compile
        line, = scalars(train(cfg))
        logged.append(line)
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)


def test_with_interval_0_nothing_is_logged(tmp_path: Path) -> None:
    assert not scalars(run(tmp_path, hooks=[dict(type='mmdiverse.RedundancyHook', interval=0)]))


def test_nothing_stays_attached(tmp_path: Path) -> None:
    runner = run(tmp_path)
    assert not any(module._forward_hooks or module._forward_pre_hooks
                   for module in runner.model.modules())


def test_the_model_of_timms_classifier_is_measured(tmp_path: Path) -> None:
    cfg = digits_config('deit-nano_digits', tmp_path, batches=2)
    cfg.model = dict(type='TimmClassifier', model_name='xcit_nano_12_p16_224', num_classes=10,
                     patch_size=8, img_size=16, embed_dim=16, depth=2, num_heads=2)
    cfg.custom_hooks = [dict(type='mmdiverse.RedundancyHook', interval=2)]
    line, = scalars(train(cfg))
    # It has no attention maps.
    expected = {f'redundancy/{name}{layer}' for name in DEFAULT if name != 'head_cosine'
                for layer in ('', '/block_0', '/block_1')}
    assert set(line) == {*expected, 'step'}


@pytest.mark.parametrize('interval', [-1, 1.5, 'often'])
def test_other_intervals_are_refused(interval: Any) -> None:
    with pytest.raises(ValueError, match='RedundancyHook `interval`'):
        RedundancyHook(interval=interval)


def test_unknown_measures_are_refused() -> None:
    with pytest.raises(ValueError, match='`measures`'):
        RedundancyHook(measures=['likeness'])


def test_a_model_without_backbone_is_refused(tmp_path: Path) -> None:
    cfg = digits_config('deit-nano_digits', tmp_path)
    cfg.custom_hooks = [dict(type='mmdiverse.RedundancyHook')]
    runner = Runner.from_cfg(cfg)
    runner.model.head.backbone = runner.model.backbone
    del runner.model.backbone
    with pytest.raises(ValueError, match='`backbone`'):
        RedundancyHook().before_train(runner)


def test_training_images_of_different_shapes_are_refused() -> None:
    hook = RedundancyHook()
    hook.meter = RedundancyMeter(vit(), DEFAULT)
    batch = dict(inputs=[torch.zeros(3, 32, 48), torch.zeros(3, 48, 32)])
    with pytest.raises(ValueError, match=r'measure padding: .* sizes \[\(32, 48\), \(48, 32\)\]. Re'
                                         r'size.*`train_dataloader.dataset.pipeline`.*`interval=0`'):
        hook.before_train_iter(None, 0, batch)
