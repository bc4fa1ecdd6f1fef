"""Dry runs: what passes, what fails and what is said of it, and estimates against closed forms."""
import json
import re
import runpy
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from PIL import Image

from mmdiverse.config import CONFIGS, load_config
from mmdiverse.evaluation.preflight import (
    IMAGENET_1K,
    Check,
    FirstBatches,
    Preflight,
    planned_gpus,
    preflight,
)
from mmdiverse.report.preflight import check_line, terms_table, to_json
from tests.runs import digits_config, train

ROOT = Path(__file__).resolve().parents[2]
# Of ImageNet's 1,000, so that a sample lacks most.
CLASSES = ('n01440764', 'n01443537', 'n15075141')


@pytest.fixture(scope='module')
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each of three classes for training, and one for validation."""
    folder = tmp_path_factory.mktemp('sample')
    for split, count in (('train', 2), ('val', 1)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(256, (40, 50, 3), dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / split / name / f'{index}.JPEG')
    return folder


def digits(tmp_path: Path, **options) -> Config:
    cfg = digits_config('deit-nano_diverse_digits', tmp_path, epochs=4)
    cfg.merge_from_dict(options)
    return cfg


def small(name: str = 'deit/deit-tiny_diverse_8xb128_in1k.py', **options) -> Config:
    """A recipe with a backbone of two narrow blocks and no worker processes."""
    cfg = load_config(CONFIGS / name)
    cfg.model.backbone.arch = dict(embed_dims=32, num_layers=2, num_heads=2,
                                   feedforward_channels=64)
    cfg.merge_from_dict({
        'model.head.in_channels': 32,
        'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0, **options})
    return cfg


def verdicts(found: Preflight) -> dict[str, str]:
    return {check.name: check.verdict for check in found.checks}


def text(found: Preflight, name: str) -> str:
    return next(check.text for check in found.checks if check.name == name)


@pytest.fixture(scope='module')
def flown(sample: Path) -> Preflight:
    """A recipe that passes."""
    return preflight(small(), gpus=8, batch_size=2, steps=2, sample=sample)


def test_a_recipe_passes_on_a_sample(flown: Preflight) -> None:
    assert flown.ok
    assert verdicts(flown) == {
        'learning rate': 'ok', 'model': 'ok', 'training data': 'note', 'validation data': 'note',
        'checkpoint': 'ok', 'training': 'ok', 'validation': 'ok', 'memory': 'ok', 'time': 'ok',
        'disk': verdicts(flown)['disk'], 'diversity': 'note'}


def test_a_sample_is_told_from_the_whole(flown: Preflight) -> None:
    assert text(flown, 'training data') == (
        '6 images, 1,000 classes; the whole ImageNet-1k has 1,281,167, with which time is '
        'estimated')


def test_terms_have_their_values_and_shares(flown: Preflight) -> None:
    assert [term.name for term in flown.terms] == [
        'patch_cosine', 'patch_contrastive', 'attention_cosine', 'weight_conditional_orthogonality']
    for term in flown.terms:
        assert term.weighted == pytest.approx(term.weight * term.value, rel=1e-5)
        assert 0 < term.gradient_share < 1


def test_terms_with_next_to_no_part_are_named(flown: Preflight) -> None:
    small = [term.name for term in flown.terms if term.gradient_share < 1e-3]
    assert 'attention_cosine' in small
    assert text(flown, 'diversity') == (
        f'4 terms; {", ".join(small)} give less than 0.1% of the gradient')


def test_the_number_of_steps_is_that_of_the_whole_run(flown: Preflight) -> None:
    assert flown.estimates['steps'] == 300 * -(-IMAGENET_1K['train'] // 1024)


def test_hours_are_those_of_steps_and_validation(flown: Preflight) -> None:
    steps = flown.estimates['steps'] * flown.estimates['step_seconds'] / 3600
    validation = (300 * IMAGENET_1K['val'] / 8 * flown.estimates['val_seconds_per_image']) / 3600
    assert flown.estimates['hours'] == pytest.approx(steps + validation, rel=1e-6)


def test_a_checkpoint_holds_weights_average_and_two_moments(flown: Preflight) -> None:
    model = 4 * sum(parameter.numel() for parameter in _parameters(small()))
    # Weights, their average, and two moments of AdamW.
    assert flown.estimates['bytes_per_checkpoint'] == pytest.approx(4 * model, rel=1e-2)
    assert flown.estimates['bytes_on_disk'] == 300 * flown.estimates['bytes_per_checkpoint']


def _parameters(cfg: Config) -> list[torch.nn.Parameter]:
    from mmpretrain.models import build_backbone, build_head

    return [*build_backbone(dict(cfg.model.backbone)).parameters(),
            *build_head(dict(cfg.model.head)).parameters()]


def test_memory_grows_with_the_images_of_a_step(flown: Preflight) -> None:
    estimates = flown.estimates
    fixed = estimates['bytes_per_checkpoint']
    # 128 images need much more than 2 do, and not more than 64 times as much.
    assert 10 < (estimates['bytes_per_gpu'] - fixed) / estimates['bytes_of_measured_step'] <= 64


def test_nothing_is_scaled_where_the_batch_is_that_of_the_config(tmp_path: Path) -> None:
    found = preflight(digits(tmp_path, **{'auto_scale_lr.enable': True}), gpus=1, steps=2)
    assert found.ok and 'scaled' not in text(found, 'memory') + text(found, 'time')


def test_a_plain_twin_has_no_terms(sample: Path) -> None:
    found = preflight(small('deit/deit-tiny_8xb128_in1k.py'), 8, 2, 1, sample)
    assert found.ok and found.terms == [] and text(found, 'diversity') == 'no terms'


def test_nothing_is_written_to_the_work_dir(tmp_path: Path) -> None:
    work_dir = tmp_path / 'run'
    preflight(digits(work_dir), gpus=1, steps=1)
    assert not work_dir.exists() or not list(work_dir.iterdir())


def test_the_config_is_left_alone(tmp_path: Path) -> None:
    cfg = digits(tmp_path)
    before = cfg.to_dict()
    preflight(cfg, gpus=1, steps=1)
    assert cfg.to_dict() == before


@pytest.mark.parametrize(('gpus', 'rate'), [(4, '0.0005'), (16, '0.002')])
def test_a_learning_rate_for_other_steps_fails_with_the_scaled_rate(gpus: int, rate: str,
                                                                    sample: Path) -> None:
    found = preflight(small(), gpus, 2, 1, sample)
    assert not found.ok
    assert [check.name for check in found.checks if check.verdict == 'failed'] == ['learning rate']
    assert f'`optim_wrapper.optimizer.lr={rate}`' in text(found, 'learning rate')


def test_a_scaled_rate_passes(sample: Path) -> None:
    cfg = small(**{'auto_scale_lr.enable': True})
    assert verdicts(preflight(cfg, 4, 2, 1, sample))['learning rate'] == 'ok'


def test_missing_images_fail_and_end_the_checks(tmp_path: Path) -> None:
    cfg = small(**{'train_dataloader.dataset.data_root': str(tmp_path)})
    found = preflight(cfg, 8, 2, 1)
    assert found.checks[-1].name == 'training data' and found.checks[-1].verdict == 'failed'
    assert str(tmp_path / 'train') in found.checks[-1].text
    assert '`train_dataloader.dataset.data_root`' in found.checks[-1].text


def test_half_of_the_classes_fail_without_sample(sample: Path) -> None:
    cfg = small(**{'train_dataloader.dataset.data_root': str(sample)})
    found = preflight(cfg, 8, 2, 1)
    assert '1000 folders, one for each class, but holds 3; 997 missing' in found.checks[-1].text


def test_another_number_of_classes_fails(sample: Path) -> None:
    found = preflight(small(**{'model.head.num_classes': 10}), 8, 2, 1, sample)
    assert found.checks[-1].verdict == 'failed'
    assert 'the training data have 1000 classes, but the head has 10' in found.checks[-1].text


@HOOKS.register_module()
class Watcher(Hook):
    """Keeps what a hook sees of the latest run."""

    latest: 'Watcher'

    def before_train(self, runner: Runner) -> None:
        Watcher.latest = self
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.lengths = (runner.max_epochs, runner.max_iters, len(runner.train_dataloader),
                        runner.train_dataloader.batch_size,
                        runner.val_loop and runner.val_dataloader.batch_size)
        self.kinds = [type(hook).__name__ for hook in runner.hooks
                      if not type(hook).__name__.startswith('_')]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None,
                         outputs: dict | None = None) -> None:
        self.losses.append(outputs['loss'].item())
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])


BY_ITERATION = dict(
    train_cfg=dict(by_epoch=False, max_iters=10, val_interval=4),
    param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3),
                     dict(type='CosineAnnealingLR', by_epoch=False, begin=3)],
    default_hooks=dict(checkpoint=dict(type='mmdiverse.SafeCheckpointHook', by_epoch=False,
                                       interval=4)),
    log_processor=dict(by_epoch=False))
BY_EPOCH = dict(param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=1,
                                      convert_to_iter_based=True)],
                default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)))


def watched(work_dir: Path, *, by_epoch: bool, **options: Any) -> Config:
    """A diversified run of batches of another size in validation, as a Watcher sees it."""
    cfg = digits(work_dir, **{'train_cfg.max_epochs': 3, 'val_dataloader.batch_size': 16})
    for key, value in (BY_EPOCH if by_epoch else BY_ITERATION).items():
        cfg[key] = deepcopy(value)
    if not by_epoch:
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.custom_hooks.append(dict(type='Watcher'))
    cfg.randomness = dict(seed=3)
    cfg.auto_scale_lr.base_batch_size = 8
    cfg.merge_from_dict(options)
    return cfg


class Enough(Exception):
    """Ends a dry run whose further checks are not looked at."""


def checks_up_to(name: str, cfg: Config, **options: Any) -> list[Check]:
    """The checks of a dry run, which ends after the last of this name."""
    found: list[Check] = []

    def tell(check: Check) -> None:
        if found and found[-1].name == name != check.name:
            raise Enough
        found.append(check)

    try:
        preflight(cfg, tell=tell, **{'gpus': 1, 'steps': 1, **options})
    except Enough:
        pass
    return [check for check in found if check.name == name]


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_run_that_is_tried_is_the_real_one(by_epoch: bool, tmp_path: Path) -> None:
    options = {} if by_epoch else {'optim_wrapper.accumulative_counts': 2,
                                   'auto_scale_lr.base_batch_size': 16}
    train(watched(tmp_path / 'run', by_epoch=by_epoch, **options))
    real = Watcher.latest
    found = preflight(watched(tmp_path / 'run', by_epoch=by_epoch, **options), gpus=1, steps=5)
    tried = Watcher.latest
    assert found.ok, found.checks
    assert real is not tried and len(real.losses) > 5  # 5 steps lie beyond the first epoch
    assert tried.losses[:5] == real.losses[:5] and tried.rates[:5] == real.rates[:5]
    assert tried.lengths == real.lengths and tried.kinds == real.kinds
    assert all(0 < term.gradient_share < 1 for term in found.terms) and found.terms


@pytest.fixture(scope='module')
def odd(tmp_path_factory: pytest.TempPathFactory) -> Preflight:
    """A run that validates after 4 steps, by metrics that are no numbers as well, and saves none.

    It would publish its logs.
    """
    folder = tmp_path_factory.mktemp('odd')
    cfg = watched(folder / 'run', by_epoch=False, **{'default_hooks.checkpoint': None})
    cfg.val_evaluator = [dict(type='SingleLabelMetric', items=['precision'], average=None),
                         dict(type='Accuracy', topk=(1, )), dict(type='ConfusionMatrix')]
    cfg.visualizer = dict(type='Visualizer', save_dir=str(folder / 'logs'), vis_backends=[
        dict(type='LocalVisBackend'), dict(type='WandbVisBackend')])
    found = preflight(cfg, gpus=1, steps=1)
    assert not list(folder.iterdir())
    return found


def test_validation_is_tried_though_it_comes_later(odd: Preflight) -> None:
    assert odd.ok and text(odd, 'validation').startswith('16 images, ')
    assert '10 steps of' in text(odd, 'time') and 'and 2 validations;' in text(odd, 'time')


def test_metrics_that_are_no_numbers_are_left_out(odd: Preflight) -> None:
    assert re.fullmatch(r'16 images, accuracy/top1 \d+\.\d\d', text(odd, 'validation'))


def test_one_thing_is_no_plural(odd: Preflight) -> None:
    assert text(odd, 'training').startswith('1 step of 8 images')
    assert 'on 1 GPU like' in text(odd, 'time')


def test_logs_go_to_no_service(odd: Preflight) -> None:
    assert text(odd, 'model').endswith('; tried in one process, without WandbVisBackend')


def test_a_run_without_checkpoints_needs_no_disk(odd: Preflight) -> None:
    assert odd.estimates['bytes_on_disk'] == 0
    assert text(odd, 'disk') == 'no checkpoints: `default_hooks.checkpoint` saves none'


def test_a_run_shorter_than_the_steps_is_tried_whole(tmp_path: Path) -> None:
    cfg = watched(tmp_path, by_epoch=True, **{'train_cfg.max_epochs': 1})
    found = preflight(cfg, gpus=1, steps=50)
    assert found.ok and '3 steps of 8 images' in text(found, 'training')
    assert all(0 < term.gradient_share < 1 for term in found.terms)


def test_a_data_set_smaller_than_a_step_fails(tmp_path: Path) -> None:
    cfg = watched(tmp_path, by_epoch=True, **{
        'train_dataloader.num_batch_per_epoch': None, 'train_dataloader.batch_size': 10_000,
        'train_dataloader.drop_last': True})
    check, = checks_up_to('training data', cfg)
    assert re.fullmatch(
        r'ValueError: 1,\d{3} images, 10 classes, which are no step of 10000 images: lower '
        '`train_dataloader.batch_size`, or set `train_dataloader.drop_last=False`', check.text)


def test_a_metric_that_there_is_not_cannot_be_saved_by(tmp_path: Path) -> None:
    cfg = watched(tmp_path, by_epoch=True)
    cfg.default_hooks.checkpoint.update(save_best='accuracy/top7', rule='greater')
    check, = checks_up_to('training', cfg)
    assert check.text == (
        "ValueError: `save_best` of CheckpointHook names 'accuracy/top7', but validation gives "
        'accuracy/top1: set `default_hooks.checkpoint.save_best` to one of these')


@pytest.mark.parametrize('batch_size', [None, 2])
def test_the_scaled_rate_is_that_of_all_gpus(batch_size: int | None, tmp_path: Path) -> None:
    cfg = watched(tmp_path, by_epoch=True, **{
        'auto_scale_lr': dict(enable=True, base_batch_size=32), 'param_scheduler': []})
    checks_up_to('training', cfg, gpus=8, batch_size=batch_size)
    assert Watcher.latest.rates[0] == pytest.approx(cfg.optim_wrapper.optimizer.lr * 8 * 8 / 32)


def test_images_that_the_loader_cannot_stack_fail(tmp_path: Path) -> None:
    (tmp_path / 'crack').mkdir()
    for height in (30, 40):
        pixels = torch.zeros(height, 50, 3, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / 'crack' / f'{height}.png')
    cfg = watched(tmp_path / 'run', by_epoch=True, **{
        'train_dataloader.num_batch_per_epoch': None, 'val_dataloader': None, 'val_cfg': None,
        'val_evaluator': None, 'model.head.num_classes': 1})
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset', data_root=str(tmp_path), data_prefix='crack', with_label=False,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    check, = checks_up_to('training', cfg)
    assert check.verdict == 'failed' and 'equal size' in check.text  # MMPretrain's default_collate


def test_a_rate_for_other_steps_says_how_to_keep_it(tmp_path: Path) -> None:
    cfg = watched(tmp_path, by_epoch=True)
    check, = checks_up_to('learning rate', cfg, gpus=2)
    assert check.verdict == 'failed' and check.text.endswith(
        'or, if the rate is right for these steps, `auto_scale_lr.base_batch_size=16`')
    cfg.auto_scale_lr.base_batch_size = 16
    check, = checks_up_to('learning rate', cfg, gpus=2)
    assert check.verdict == 'ok'
    cfg.auto_scale_lr = None
    check, = checks_up_to('learning rate', cfg, gpus=2)
    assert check.text == (
        'no `auto_scale_lr.base_batch_size` to check the learning rate against: the images for '
        'which `optim_wrapper.optimizer.lr` is meant, 16 if for the steps of this run')


def test_every_checkpoint_of_a_part_is_counted(tmp_path: Path) -> None:
    cfg = watched(tmp_path / 'run', by_epoch=True)
    path = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict=MODELS.build(deepcopy(cfg.model)).state_dict()), path)
    cfg.model.backbone.init_cfg = [
        dict(type='TruncNormal', layer='Linear', std=.02),
        dict(type='Pretrained', checkpoint=path, prefix='backbone')]
    cfg.model.head.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='head.')
    cfg.load_from, cfg.resume = path, True
    assert [(check.verdict, check.text) for check in checks_up_to('checkpoint', cfg)] == [
        ('ok', '`model.backbone.init_cfg[1]`: 54 of the 54 parameters of VisionTransformer are in '
               f"{path} below 'backbone'"),
        ('ok', '`model.head.init_cfg`: 2 of the 2 parameters of PatchMixingClsHead are in '
               f"{path} below 'head.'"),
        ('ok', f'`load_from`: 56 of the 56 parameters of ImageClassifier are in {path}'),
        ('note', '`resume` is not tried: the run starts anew here')]
    cfg.model.backbone.init_cfg[1].prefix = 'bakbone'
    check, = checks_up_to('checkpoint', cfg)
    assert check.verdict == 'failed'
    assert check.text.endswith("set `model.backbone.init_cfg[1].prefix='backbone'`")


def test_a_broken_term_fails_before_training(sample: Path) -> None:
    cfg = small()
    cfg.custom_hooks[-1].terms[0].layers = 7
    found = preflight(cfg, 8, 2, 1, sample)
    assert found.checks[-1].name == 'training' and found.checks[-1].verdict == 'failed'
    assert 'terms[0] (patch_cosine)' in found.checks[-1].text


def test_a_missing_checkpoint_fails(sample: Path) -> None:
    found = preflight(small(load_from='nowhere.pth'), 8, 2, 1, sample)
    assert found.checks[-1].name == 'checkpoint'
    assert '`load_from`: there is no checkpoint nowhere.pth' in found.checks[-1].text


def test_a_checkpoint_of_another_architecture_fails(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / 'other.pth'
    torch.save({'state_dict': {'stages.0.weight': torch.zeros(3)}}, path)
    found = preflight(small(load_from=str(path)), 8, 2, 1, sample)
    assert 'of another architecture' in found.checks[-1].text
    assert found.checks[-1].verdict == 'failed'


def test_an_unreadable_image_fails(sample: Path, tmp_path: Path) -> None:
    for split in ('train', 'val'):
        (tmp_path / split / CLASSES[0]).mkdir(parents=True)
        (tmp_path / split / CLASSES[0] / 'broken.JPEG').write_bytes(b'no image')
    found = preflight(small(), 8, 2, 1, tmp_path)
    assert found.checks[-1].name == 'training' and found.checks[-1].verdict == 'failed'


def test_an_empty_sample_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ImageNet's layout.*none in .*train/n"):
        preflight(small(), 8, 2, 1, tmp_path)


def test_a_sample_is_for_imagenet(tmp_path: Path, sample: Path) -> None:
    with pytest.raises(ValueError, match='`train_dataloader.dataset` is a mmdiverse.Digits'):
        preflight(digits(tmp_path), 1, sample=sample)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(gpus=0), '`gpus` must be at least 1'),
    (dict(gpus=1, batch_size=1), '`batch_size` must be at least 2'),
    (dict(gpus=1, steps=0), '`steps` must be at least 1')])
def test_too_few_are_refused(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        preflight(digits(tmp_path), **options)


@pytest.mark.parametrize(('name', 'gpus'), [
    ('configs/deit/deit-small_8xb128_in1k.py', 8), ('vit-base-p16_32xb128-mae_in1k.py', 32),
    ('deit_small_diverse_8xb128_in1k.py', 8), ('configs/digits/deit-nano_digits.py', 1)])
def test_gpus_stand_in_the_name(name: str, gpus: int) -> None:
    assert planned_gpus(name) == gpus


def test_first_batches_are_as_long_as_all() -> None:
    loader = torch.utils.data.DataLoader(list(range(10)), batch_size=2)
    few = FirstBatches(loader, 2)
    assert len(few) == 5 and len(list(few)) == 2 and few.dataset is loader.dataset


def test_lines_and_table_say_what_was_found(flown: Preflight) -> None:
    lines = [check_line(check) for check in flown.checks]
    assert lines[0].startswith('ok      learning rate    0.001 for steps of 1,024 images')
    assert len(terms_table(flown).splitlines()) == 5
    content = json.loads(json.dumps(to_json(flown)))
    assert content['ok'] is True and content['machine']['device'] == 'cpu'
    assert len(content['terms']) == 4 and len(content['checks']) == len(lines)


# The other recipes share these backbones, and tests/test_config.py builds each.
@pytest.mark.parametrize('name', [
    'configs/deit/deit-tiny_diverse_4xb256_in1k.py',
    'configs/swin_transformer/swin-tiny_diverse_16xb64_in1k.py',
    'configs/timm/vit-small-p16_diverse_8xb128_in1k.py',
    'mmdiverse/configs/deit/deit_small_diverse_8xb128_in1k.py'])
def test_whole_recipes_pass(name: str, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / 'preflight.json'
    ended = subprocess.run(
        [sys.executable, 'tools/preflight.py', name, '--sample', sample, '--batch-size', '2',
         '--steps', '1', '--out', out, '--cfg-options', 'train_dataloader.num_workers=0',
         'val_dataloader.num_workers=0'], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert 'ok      training' in ended.stdout and 'share of gradient' in ended.stdout
    assert json.loads(out.read_text())['ok'] is True


def test_what_a_config_loses_is_a_note(tmp_path: Path) -> None:
    (tmp_path / 'child.py').write_text(
        "_base_ = ['mmdiverse::digits/deit-nano_diverse_digits.py']\n"
        "custom_hooks = [dict(type='EMAHook', momentum=1e-3)]\n")
    cfg = load_config(tmp_path / 'child.py')
    cfg.merge_from_dict({'train_dataloader.num_batch_per_epoch': 1,
                         'val_dataloader.num_batch_per_epoch': 1})
    found = preflight(cfg, gpus=1, steps=1)
    assert found.checks[0].name == 'config' and found.checks[0].verdict == 'note'
    assert 'drops its mmdiverse.DiversityHook' in found.checks[0].text
    assert found.checks[-1] == Check('diversity', 'note', 'no terms: see `config` above')


@pytest.mark.parametrize('key', ['model', 'train_dataloader', 'train_cfg', 'optim_wrapper'])
def test_a_config_that_trains_nothing_is_refused(key: str, tmp_path: Path) -> None:
    cfg = digits(tmp_path)
    cfg[key] = None
    with pytest.raises(ValueError, match=f'a training run needs `{key}`, a dict, but the config '
                                         'has None'):
        preflight(cfg, gpus=1)


def test_bad_input_of_the_tool_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture) -> None:
    main = runpy.run_path(str(ROOT / 'tools/preflight.py'))['main']
    (tmp_path / 'broken.py').write_text('model = dict(')
    nano = str(CONFIGS / 'digits/deit-nano_digits.py')
    for words, message in (
            (['nosuch.py'], 'config nosuch.py cannot be read'),
            ([str(tmp_path / 'broken.py')], 'broken.py cannot be read: SyntaxError'),
            ([nano, '--gpus', '0'], '`gpus` must be at least 1, but got 0'),
            ([nano, '--steps', '0'], '`steps` must be at least 1'),
            ([nano, '--cfg-options', 'train_cfg=None'], 'a training run needs `train_cfg`'),
            ([nano, '--sample', str(tmp_path)], 'a sample takes the place of ImageNet')):
        monkeypatch.setattr(sys, 'argv', ['preflight.py', *words])
        assert main() == 1
        error = capsys.readouterr().err
        assert message in error and 'Traceback' not in error and error.count('\n') == 1


def test_the_tool_exits_with_1_where_a_run_would_not_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, 'tools/preflight.py', 'configs/deit/deit-tiny_8xb128_in1k.py',
         '--cfg-options', f'train_dataloader.dataset.data_root={tmp_path}'],
        cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1 and 'failed  training data' in ended.stdout
