import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import RepeatDataset, default_collate, pseudo_collate
from mmengine.dist import get_dist_info
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset, CustomDataset
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader
from torch.utils.data import default_collate as torch_default_collate

from mmdiverse.config import add_mixing
from mmdiverse.datasets import BatchRandomFlip, Digits, InMemoryDataset
from mmdiverse.evaluation.data_path import ordinary_pipeline
from tests.runs import assert_resumes_as_uninterrupted, digits_config, same_state, train

DIGITS = dict(type='mmdiverse.Digits', split='val')
LOAD = dict(type='LoadImageFromFile')


@pytest.fixture(autouse=True)
def scope() -> None:
    """That of any config of MMPretrain."""
    init_default_scope('mmpretrain')


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of four JPEG files of two classes, the last one larger."""
    noise = np.random.default_rng(0)
    for index, name in enumerate(('cat/0.jpg', 'cat/1.jpg', 'dog/2.jpg', 'dog/3.jpg')):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        size = (12, 8, 3) if index < 3 else (16, 10, 3)
        cv2.imwrite(str(tmp_path / name), noise.integers(0, 256, size, dtype=np.uint8))
    return tmp_path


def folder(root: Path, *pipeline: dict, **options: Any) -> dict[str, Any]:
    return dict(type='CustomDataset', data_root=str(root), pipeline=[LOAD, *pipeline], **options)


RESIZE = dict(type='Resize', scale=(6, 7))


def in_memory(dataset: Any = DIGITS, **options: Any) -> InMemoryDataset:
    return InMemoryDataset(dataset, device='cpu', **options)


@pytest.fixture(scope='module')
def held() -> InMemoryDataset:
    """The digits of validation, which tests leave as they are."""
    return in_memory()


def fast_config(name: str, work_dir: Path, random: bool = False, **options: Any) -> Config:
    """A config of the digits on the fast path, with its crop or with nothing random."""
    cfg = digits_config(name, work_dir, **options)
    for loader, transforms in ((cfg.train_dataloader, cfg.train_pipeline[:1] if random else []),
                               (cfg.val_dataloader, [])):
        loader.dataset.pipeline = []
        loader.dataset = dict(
            type='mmdiverse.InMemoryDataset', device='cpu', dataset=loader.dataset,
            transforms=[dict(each, type=f'mmdiverse.Batch{each.type}') for each in transforms])
    return cfg


# What is held

def test_type_resolves_from_mmpretrain() -> None:
    built = DATASETS.build(dict(type='mmdiverse.InMemoryDataset', dataset=DIGITS))
    assert isinstance(built, InMemoryDataset)


DATA = {
    'arrays': lambda root: DIGITS,
    'files': lambda root: folder(root, RESIZE),
    'packed': lambda root: folder(root, RESIZE, dict(type='PackInputs')),
    'k-fold': lambda root: dict(type='KFoldDataset', dataset=DIGITS, fold=1, seed=0),
    'concatenated': lambda root: dict(type='ConcatDataset', datasets=[DIGITS, DIGITS]),
}


@pytest.mark.parametrize('data', DATA.values(), ids=DATA)
def test_images_and_labels_are_those_of_the_data_set(data: Callable, files: Path) -> None:
    cfg = Config(dict(train_dataloader=dict(dataset=dict(
        type='mmdiverse.InMemoryDataset', dataset=data(files), device='cpu'))))
    held = DATASETS.build(cfg.train_dataloader.dataset)
    ordinary = DATASETS.build(ordinary_pipeline(cfg).train_dataloader.dataset)
    assert len(held) == len(ordinary) > 1
    for index, (one, other) in enumerate(zip(held, ordinary)):
        assert torch.equal(one['inputs'], other['inputs'])
        assert torch.equal(one['data_samples'].gt_label, other['data_samples'].gt_label)
        assert one['data_samples'].sample_idx == index


def test_a_data_set_may_be_given_built() -> None:
    digits = Digits('val')
    assert in_memory(digits).dataset is digits


def test_it_tells_what_the_data_set_tells(files: Path) -> None:
    held, original = in_memory(folder(files, RESIZE)), CustomDataset(str(files))
    assert held.metainfo == original.metainfo == dict(classes=('cat', 'dog'))
    assert (held.get_gt_labels() == original.get_gt_labels()).all()
    assert held.get_cat_ids(2) == original.get_cat_ids(2) == [1]
    assert held.get_data_info(3)['img_path'] == str(files / 'dog' / '3.jpg')


def test_images_are_loaded_once(monkeypatch) -> None:
    held = in_memory()
    held.full_init()
    monkeypatch.setattr(BaseDataset, '__getitem__', None)
    assert len(list(DataLoader(held, 100))) == len(list(DataLoader(held, 100))) == 4


def test_the_device_is_that_of_the_runner(monkeypatch) -> None:
    monkeypatch.setattr('mmdiverse.datasets.in_memory.get_device', lambda: 'cuda')
    assert InMemoryDataset(DIGITS).device.type == 'cuda'


def test_loading_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    in_memory().full_init()
    drawn = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    assert drawn == (torch.rand(1), np.random.rand())


# Batches

@pytest.mark.parametrize('collate', [pseudo_collate, default_collate, torch_default_collate])
def test_no_collate_function_changes_a_batch(collate: Callable, held) -> None:
    batch = held.__getitems__([3, 1])
    assert collate(batch) is batch


def test_pinning_leaves_a_batch_where_it_is(held) -> None:
    batch = held.__getitems__([3, 1])
    assert torch.utils.data._utils.pin_memory.pin_memory(batch) is batch


def test_a_batch_has_no_other_keys(held) -> None:
    batch = held.__getitems__([3, 1])
    assert batch.keys() == {'inputs', 'data_samples'}
    with pytest.raises(KeyError, match='gt_label'):
        batch['gt_label']


def test_samples_are_as_mmpretrains_setters_make_them(held) -> None:
    sample = held.__getitems__([3, 1])['data_samples'][0]
    expected = DataSample(metainfo=dict(sample_idx=3)).set_gt_label(sample.gt_label)
    assert vars(sample) == vars(expected)
    assert sample.set_gt_score(torch.ones(10)).to_dict().keys() == \
        expected.set_gt_score(torch.ones(10)).to_dict().keys()


def test_an_image_may_be_taken_from_the_end(held) -> None:
    assert torch.equal(held[-1]['inputs'], held[len(held) - 1]['inputs'])


@pytest.mark.parametrize(('preprocessor', 'augment'), [
    (dict(type='ClsDataPreprocessor', num_classes=10), 'Mixup'),
    (dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=2), 'mmdiverse.PatchMixup'),
], ids=['images', 'patches'])
def test_mixing_leaves_the_data_set_as_it_is(preprocessor: dict, augment: str, held) -> None:
    preprocessor = MODELS.build(dict(
        preprocessor, batch_augments=dict(augments=dict(type=augment, alpha=1.))))
    before = held.__getitems__(range(8))
    mixed = preprocessor(held.__getitems__(range(8)), training=True)
    assert not torch.equal(mixed['inputs'], before['inputs'].float())
    after = held.__getitems__(range(8))
    assert torch.equal(after['inputs'], before['inputs'])
    assert [vars(sample) for sample in after['data_samples']] == \
        [vars(sample) for sample in before['data_samples']]


def test_an_image_that_comes_twice_in_a_batch_has_two_samples(held) -> None:
    first, second = held.__getitems__([3, 3])['data_samples']
    first.set_gt_score(torch.ones(10))
    assert 'gt_score' not in second


def test_a_batch_that_nobody_holds_is_gone(held) -> None:
    batch = held.__getitems__(range(8))
    left = [weakref.ref(sample) for sample in batch['data_samples']] + [
        weakref.ref(batch['inputs'])]
    del batch
    assert not any(reference() for reference in left)


def test_transforms_get_whole_batches_one_after_the_other(held) -> None:
    random = in_memory(transforms=[dict(type='mmdiverse.BatchRandomCrop', crop_size=(16, 10)),
                                   BatchRandomFlip(prob=1)])
    plain = held.__getitems__([0, 1])['inputs'].flip(3)
    inputs = random.__getitems__([0, 1])['inputs']
    assert inputs.shape == (2, 3, 16, 10)
    assert all(any(torch.equal(image, whole[..., left:left + 10]) for left in range(7))
               for image, whole in zip(inputs, plain))


def test_transforms_apply_to_single_images_too(held) -> None:
    flipped = in_memory(transforms=[BatchRandomFlip(prob=1)])[4]['inputs']
    assert torch.equal(flipped, held[4]['inputs'].flip(2))


def test_wrappers_of_mmengine_take_single_images(held) -> None:
    wrapped = RepeatDataset(dict(type='mmdiverse.InMemoryDataset', dataset=DIGITS, device='cpu'), 2)
    assert torch.equal(wrapped[361]['inputs'], held[1]['inputs'])


def test_workers_load_from_the_main_memory(held) -> None:
    images = torch.cat([batch['inputs'] for batch in DataLoader(held, 100, num_workers=2)])
    assert torch.equal(images, held.__getitems__(range(360))['inputs'])


def test_processes_of_a_run_share_the_images_out(monkeypatch) -> None:
    seen = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        loader = Runner.build_dataloader(dict(
            batch_size=64, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='mmdiverse.InMemoryDataset', dataset=DIGITS, device='cpu')), seed=0)
        seen.append([sample.sample_idx for batch in loader for sample in batch['data_samples']])
    assert len(seen[0]) == len(seen[1]) == 180
    assert sorted(seen[0] + seen[1]) == list(range(360))
    assert get_dist_info() == (0, 1)


# Errors

def test_images_of_different_sizes_are_named(files: Path) -> None:
    message = (r'image 0 \(.*0\.jpg\) has 12 x 8 pixels and image 3 \(.*3\.jpg\) has 16 x 10; put '
               r"dict\(type='Resize'.*dict\(type='CenterCrop'.*`dataset.pipeline`")
    with pytest.raises(ValueError, match=message):
        in_memory(folder(files)).full_init()


def test_an_empty_data_set_is_refused() -> None:
    digits = Digits('val')
    digits.get_subset_(0)
    with pytest.raises(ValueError, match='`dataset` is empty'):
        in_memory(digits).full_init()


def test_a_transform_of_single_images_is_refused() -> None:
    with pytest.raises(TypeError, match=r'`transforms\[1\]` must treat a whole batch, as mmdiverse.'
                       r'BatchRandomCrop.*but got RandomCrop.*`dataset.pipeline`'):
        in_memory(transforms=[BatchRandomFlip(0.5), dict(type='RandomCrop', crop_size=16)])


@pytest.mark.parametrize('wrap', [lambda data: data,
                                  lambda data: dict(type='KFoldDataset', dataset=data),
                                  lambda data: dict(type='ConcatDataset', datasets=[data, data])],
                         ids=['plain', 'k-fold', 'concatenated'])
def test_a_random_pipeline_is_refused(wrap: Callable) -> None:
    data = wrap(dict(DIGITS, pipeline=[dict(type='RandomCrop', crop_size=16, padding=2)]))
    with pytest.raises(ValueError, match='applied once, for all epochs, but RandomCrop.*`transfor'):
        in_memory(data).full_init()


@pytest.mark.parametrize(('pipeline', 'found'), [
    ([], 'NoneType'),
    ([LOAD, RESIZE, dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1])],
     r'a torch.float32 tensor \(3, 7, 6\)'),
], ids=['not loaded', 'normalized'])
def test_what_is_no_uint8_image_is_refused(pipeline: list, found: str, files: Path) -> None:
    with pytest.raises(ValueError, match=rf'one uint8 image, but image 0 \(.*\) became {found}; '
                       "begin with .*'LoadImageFromFile'.*`data_preprocessor`"):
        in_memory(dict(folder(files), pipeline=pipeline)).full_init()


@pytest.mark.parametrize(('change', 'found'), [
    (lambda info: info.pop('gt_label'), 'none'),
    (lambda info: info.update(gt_label=[1, 2]), r'\[1, 2\]')], ids=['none', 'two'])
def test_images_without_one_class_are_refused(change: Callable, found: str, monkeypatch) -> None:
    digits = Digits('val', serialize_data=False)
    change(digits.data_list[5])
    with pytest.raises(ValueError, match=f'must have one class, but image 5 has {found}'):
        in_memory(digits).full_init()


def test_what_is_no_data_set_is_refused() -> None:
    with pytest.raises(TypeError, match='`dataset` must be a data set of MMPretrain.*got list'):
        in_memory([DIGITS])


def test_a_gpu_without_the_memory_is_named(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (2**20, 2**30))
    with pytest.raises(ValueError, match="need 4 MiB, but cuda has 1 MiB free; set `device='cpu'`"):
        InMemoryDataset(dict(DIGITS, img_size=64), device='cuda').full_init()


def test_workers_and_a_gpu_are_refused(monkeypatch) -> None:
    held = in_memory()
    held.full_init()
    held.device = torch.device('cuda')  # none is needed to find out
    with pytest.raises(ValueError, match='workers cannot load from cuda; set `num_workers=0`'):
        next(iter(DataLoader(held, 8, num_workers=1)))


# Whole runs

def test_weights_are_those_of_the_ordinary_path_bit_for_bit(tmp_path: Path) -> None:
    cfg = fast_config('deit-nano_digits', tmp_path / 'fast', epochs=2)
    ordinary = ordinary_pipeline(cfg)
    ordinary.update(work_dir=str(tmp_path / 'ordinary'), experiment_name='ordinary')
    fast, slow = train(cfg), train(ordinary)
    assert isinstance(slow.train_dataloader.dataset._dataset, Digits)
    assert same_state(fast.model.state_dict(), slow.model.state_dict())


def test_validation_is_that_of_the_ordinary_path(tmp_path: Path) -> None:
    cfg = fast_config('deit-nano_digits', tmp_path / 'fast')
    del cfg.val_dataloader.num_batch_per_epoch
    cfg.val_evaluator = [cfg.val_evaluator, dict(type='SingleLabelMetric')]
    ordinary = ordinary_pipeline(cfg)
    ordinary.update(work_dir=str(tmp_path / 'ordinary'), experiment_name='ordinary')
    metrics = [Runner.from_cfg(each).val() for each in (cfg, ordinary)]
    assert metrics[0] == metrics[1]


def test_runs_resume_as_if_uninterrupted(tmp_path: Path) -> None:
    def config(name: str, **options: Any) -> Config:
        cfg = fast_config('deit-nano_digits', tmp_path / name, random=True, epochs=2, **options)
        cfg.custom_hooks = [dict(type='mmdiverse.EpochSeedHook')]
        return cfg

    assert_resumes_as_uninterrupted(config)


def test_diversified_runs_mix_patches_on_it(tmp_path: Path) -> None:
    cfg = add_mixing(fast_config('deit-nano_diverse_digits', tmp_path, random=True))
    runner = train(cfg)
    assert runner.iter == 3


def test_the_recipe_of_the_digits_trains(tmp_path: Path) -> None:
    cfg = fast_config('deit-nano_digits', tmp_path, random=True, epochs=3)
    cfg.train_dataloader.batch_size = 32
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        del loader.num_batch_per_epoch
    runner = train(cfg)
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() > 18  # chance: 10
