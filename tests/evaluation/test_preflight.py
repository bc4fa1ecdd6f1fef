"""Dry runs: what passes, what fails and what is said of it, and estimates against closed forms."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmdiverse.config import CONFIGS, load_config
from mmdiverse.evaluation.preflight import (
    IMAGENET_1K,
    FirstBatches,
    Preflight,
    planned_gpus,
    preflight,
)
from mmdiverse.report.preflight import check_line, terms_table, to_json
from tests.runs import digits_config

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


def test_the_tool_exits_with_1_where_a_run_would_not_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, 'tools/preflight.py', 'configs/deit/deit-tiny_8xb128_in1k.py',
         '--cfg-options', f'train_dataloader.dataset.data_root={tmp_path}'],
        cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1 and 'failed  training data' in ended.stdout
