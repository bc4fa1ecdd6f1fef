import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdiverse.datasets import Digits, digit_scenes
from mmdiverse.datasets.digit_scenes import CLEAR, FAINT, IGNORED, write_digit_scenes

ROOT = Path(__file__).resolve().parents[2]
COUNTS = dict(train=24, val=16)
CLASSES = Digits.METAINFO['classes']

each_split = pytest.mark.parametrize('split', COUNTS)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some scenes, which no test changes."""
    return write_digit_scenes(tmp_path_factory.mktemp('data') / 'scenes', *COUNTS.values())


def read_coco(folder: Path, split: str) -> dict:
    return json.loads((folder / 'annotations' / f'instances_{split}.json').read_text())


def read_map(folder: Path, split: str, image: dict) -> np.ndarray:
    return np.asarray(Image.open(folder / 'masks' / split / image['file_name']))


def read_scenes(folder: Path, split: str) -> list[tuple[dict, list[dict]]]:
    """Every image with its annotations."""
    coco = read_coco(folder, split)
    return [(image, [annotation for annotation in coco['annotations']
                     if annotation['image_id'] == image['id']]) for image in coco['images']]


def decode(segmentation: dict) -> np.ndarray:
    """The mask of uncompressed run lengths, pixel by pixel down the columns."""
    height, width = segmentation['size']
    mask, pixel = np.zeros((height, width), bool), 0
    for number, run in enumerate(segmentation['counts']):
        for _ in range(run):
            mask[pixel % height, pixel // height] = number % 2 == 1
            pixel += 1
    assert pixel == height * width
    return mask


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()}


class Bars(list):
    """Stands in for the digits: lying bars for training, standing ones for validation."""

    METAINFO = metainfo = Digits.METAINFO

    def __init__(self, split: str, img_size: int) -> None:
        bar = np.zeros((img_size, img_size, 3), np.uint8)
        bar[img_size // 2 - 1:img_size // 2 + 1] = 255
        super().__init__([dict(img=bar if split == 'train' else bar.transpose(1, 0, 2))] * 10)

    def get_gt_labels(self) -> np.ndarray:
        return np.arange(10)


@pytest.fixture(scope='module')
def placed() -> list[tuple[np.ndarray, np.ndarray]]:
    """The ink of four digits and its owners, in many small scenes."""
    digits, rng = Digits('val', img_size=8), np.random.default_rng(0)
    return [digit_scenes._place([digits[4 * index + offset]['img'][..., 0] for offset in range(4)],
                                48, 52, rng) for index in range(60)]


class TestScenes:

    @each_split
    def test_files_are_those_that_the_annotations_name(self, folder: Path, split: str) -> None:
        names = [f'{index:06d}.png' for index in range(COUNTS[split])]
        assert [image['file_name'] for image in read_coco(folder, split)['images']] == names
        for place in (folder / split, folder / 'masks' / split):
            assert sorted(path.name for path in place.iterdir()) == names

    @each_split
    def test_images_are_rgb_and_as_large_as_said(self, folder: Path, split: str) -> None:
        for image, _ in read_scenes(folder, split):
            picture = Image.open(folder / split / image['file_name'])
            assert picture.mode == 'RGB' and picture.size == (image['width'], image['height'])
            label_map = Image.open(folder / 'masks' / split / image['file_name'])
            assert label_map.mode == 'L' and label_map.size == picture.size

    @each_split
    def test_sizes_vary_within_their_range(self, folder: Path, split: str) -> None:
        sizes = [(image['height'], image['width']) for image, _ in read_scenes(folder, split)]
        assert len({*sizes}) > len(sizes) / 2
        assert all(48 <= side <= 80 for size in sizes for side in size)
        assert np.ptp(sizes, axis=0).min() > 16

    @each_split
    def test_one_to_four_digits(self, folder: Path, split: str) -> None:
        assert {len(annotations) for _, annotations in read_scenes(folder, split)} == {1, 2, 3, 4}

    @each_split
    def test_digits_are_brighter_than_what_is_around_them(self, folder: Path, split: str) -> None:
        for image, annotations in read_scenes(folder, split):
            grey = np.asarray(Image.open(folder / split / image['file_name']))[..., 0].astype(int)
            ground = grey[read_map(folder, split, image) == 0]
            for annotation in annotations:
                assert grey[decode(annotation['segmentation'])].mean() > ground.mean() + 50

    def test_backgrounds_vary(self, folder: Path) -> None:
        levels = []
        for image, _ in read_scenes(folder, 'train'):
            grey = np.asarray(Image.open(folder / 'train' / image['file_name']))[..., 0]
            levels.append(grey[read_map(folder, 'train', image) == 0].mean())
        assert np.ptp(levels) > 30

    def test_train_and_val_are_of_different_digits(self, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(digit_scenes, 'Digits', Bars)
        write_digit_scenes(tmp_path / 'bars', 8, 8)
        for split, lies in (('train', True), ('val', False)):
            boxes = [annotation['bbox'] for annotation in
                     read_coco(tmp_path / 'bars', split)['annotations']]
            assert boxes and all((width > height) == lies for _, _, width, height in boxes)


class TestAnnotations:

    @each_split
    def test_every_class_occurs(self, folder: Path, split: str) -> None:
        coco = read_coco(folder, split)
        assert [(kind['id'], kind['name']) for kind in coco['categories']] == [
            (digit + 1, str(digit)) for digit in range(10)]
        labels = [annotation['category_id'] for annotation in coco['annotations']]
        counts = np.bincount(labels, minlength=11)[1:]
        assert counts.min() >= 1 and np.ptp(counts) <= 1

    @each_split
    def test_ids_are_unique(self, folder: Path, split: str) -> None:
        coco = read_coco(folder, split)
        for entries in (coco['images'], coco['annotations']):
            assert len({entry['id'] for entry in entries}) == len(entries)
        # COCO's own evaluation takes a match with annotation 0 for none.
        assert min(annotation['id'] for annotation in coco['annotations']) == 1

    @each_split
    def test_box_and_area_are_those_of_the_mask(self, folder: Path, split: str) -> None:
        for annotation in read_coco(folder, split)['annotations']:
            mask = decode(annotation['segmentation'])
            inside = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1])
                      if mask[y, x]]
            left, top = (min(place) for place in zip(*inside))
            right, bottom = (max(place) for place in zip(*inside))
            assert annotation['bbox'] == [left, top, right - left + 1, bottom - top + 1]
            assert annotation['area'] == len(inside) and annotation['iscrowd'] == 0

    @each_split
    def test_label_map_and_masks_agree_in_every_pixel(self, folder: Path, split: str) -> None:
        for image, annotations in read_scenes(folder, split):
            label_map = read_map(folder, split, image)
            masks = [(annotation['category_id'], decode(annotation['segmentation']))
                     for annotation in annotations]
            for y in range(image['height']):
                for x in range(image['width']):
                    covering = [category for category, mask in masks if mask[y, x]]
                    label = int(label_map[y, x])
                    assert covering == ([] if label in (0, IGNORED) else [label])

    @each_split
    def test_every_digit_has_an_ignored_rim(self, folder: Path, split: str) -> None:
        for image, annotations in read_scenes(folder, split):
            label_map = np.pad(read_map(folder, split, image), 1)
            for annotation in annotations:
                left, top, width, height = annotation['bbox']
                around = label_map[top:top + height + 2, left:left + width + 2]
                assert (around == IGNORED).any()

    @pytest.mark.parametrize('inked', [(slice(0, 2), 0), (slice(2, 3), slice(1, 4)), ...],
                             ids=['first pixel', 'last pixel', 'all'])
    def test_run_lengths_of_masks_at_the_border(self, inked: object) -> None:
        mask = np.zeros((3, 4), bool)
        mask[inked] = True
        assert (decode(digit_scenes._describe(mask)['segmentation']) == mask).all()

    @each_split
    def test_masks_are_what_pycocotools_reads(self, folder: Path, split: str) -> None:
        coco_api = pytest.importorskip('pycocotools.coco')
        coco = coco_api.COCO(folder / 'annotations' / f'instances_{split}.json')
        for annotation in read_coco(folder, split)['annotations']:
            read = coco.annToMask(coco.anns[annotation['id']])
            assert (read == decode(annotation['segmentation'])).all()


class TestOverlap:

    def test_the_last_digit_with_ink_owns_a_pixel(self, placed: list) -> None:
        for inks, owners in placed[:10]:
            for place in np.ndindex(*owners.shape):
                owner = 0
                for number in (4, 3, 2, 1):
                    if (ink := inks[number - 1][place]) > FAINT:
                        owner = number if ink >= CLEAR else IGNORED
                        break
                assert owners[place] == owner

    def test_every_digit_keeps_most_of_its_ink(self, placed: list) -> None:
        kept = [(owners == number).sum() / (ink >= CLEAR).sum()
                for inks, owners in placed for number, ink in enumerate(inks, 1)]
        assert 0.85 <= min(kept) < 1 and max(kept) == 1

    def test_boxes_overlap_but_little(self, placed: list) -> None:
        shares = []
        for inks, _ in placed:
            boxes = [np.zeros(inks.shape[1:], bool) for _ in inks]
            for box, ink in zip(boxes, inks):
                rows, columns = np.nonzero(ink >= CLEAR)
                box[rows.min():rows.max() + 1, columns.min():columns.max() + 1] = True
            shares += [(one & other).sum() / min(one.sum(), other.sum())
                       for one, other in combinations(boxes, 2)]
        assert 0 < max(shares) < 0.25


class TestFolder:

    def test_same_arguments_make_the_same_files(self, folder: Path, tmp_path: Path) -> None:
        again = write_digit_scenes(str(tmp_path / 'again'), *COUNTS.values(), seed=0)
        assert again == tmp_path / 'again' and contents(again) == contents(folder)

    def test_seeds_make_different_ones(self, folder: Path, tmp_path: Path) -> None:
        other = contents(write_digit_scenes(tmp_path / 'other', *COUNTS.values(), seed=1))
        first = contents(folder)
        assert other.keys() == first.keys()
        assert not [name for name in first if first[name] == other[name]]

    def test_more_scenes_begin_with_the_same_ones(self, folder: Path, tmp_path: Path) -> None:
        fewer = contents(write_digit_scenes(tmp_path / 'fewer', 2, 3))
        images = [name for name in fewer if name.endswith('.png')]
        assert len(images) == 10 and fewer.items() >= {
            name: contents(folder)[name] for name in images}.items()

    def test_a_folder_made_with_the_same_arguments_is_reused(self, tmp_path: Path) -> None:
        made = write_digit_scenes(tmp_path / 'scenes', 2, 1)
        (made / 'train' / '000000.png').write_bytes(b'as it was found')
        assert write_digit_scenes(made, 2, 1) == made
        assert (made / 'train' / '000000.png').read_bytes() == b'as it was found'

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        assert (write_digit_scenes(tmp_path, 1, 1) / 'digit_scenes.json').is_file()

    def test_folders_above_are_made(self, tmp_path: Path) -> None:
        assert write_digit_scenes(tmp_path / 'a' / 'b', 1, 1).is_dir()

    def test_an_interrupted_run_leaves_nothing(self, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(mask: np.ndarray) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(digit_scenes, '_describe', stop)
        with pytest.raises(KeyboardInterrupt):
            write_digit_scenes(tmp_path / 'scenes', 1, 1)
        assert not [*tmp_path.iterdir()]

    def test_other_arguments_are_refused(self, tmp_path: Path) -> None:
        made = write_digit_scenes(tmp_path / 'scenes', 1, 1)
        before = contents(made)
        with pytest.raises(FileExistsError, match=r'scenes holds digit scenes made with .*"seed": 0'
                                                  r'.*to be made with .*"seed": 5.*: choose anoth'):
            write_digit_scenes(made, 1, 1, seed=5)
        assert contents(made) == before

    def test_another_layout_is_refused(self, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
        made = write_digit_scenes(tmp_path / 'scenes', 1, 1)
        monkeypatch.setattr(digit_scenes, 'LAYOUT', 99)
        with pytest.raises(FileExistsError, match='to be made with .*"layout": 99'):
            write_digit_scenes(made, 1, 1)

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / 'thesis.txt').write_text('mine')
        with pytest.raises(FileExistsError, match=r'should be new, empty or a folder of digit scene'
                                                  r's, but holds thesis\.txt and no digit_scenes\.'
                                                  r'json: choose another folder \(`--out`\)'):
            write_digit_scenes(tmp_path, 1, 1)
        assert contents(tmp_path) == {'thesis.txt': b'mine'}

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / 'scenes').write_text('mine')
        with pytest.raises(FileExistsError, match='scenes should be a folder, but is a file'):
            write_digit_scenes(tmp_path / 'scenes', 1, 1)
        assert (tmp_path / 'scenes').read_text() == 'mine'

    @pytest.mark.parametrize('wrong, message', [
        (dict(num_train=0), '`num_train` must be a whole number of at least 1, but got 0'),
        (dict(num_val=2.5), '`num_val` must be a whole number of at least 1, but got 2.5'),
        (dict(seed=-1), '`seed` must be a whole number of at least 0, but got -1'),
    ], ids=['num_train', 'num_val', 'seed'])
    def test_wrong_arguments(self, tmp_path: Path, wrong: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            write_digit_scenes(tmp_path / 'scenes', **wrong)
        assert not [*tmp_path.iterdir()]


class TestHosts:

    def test_mmdetection_reads_boxes_masks_and_label_maps(self, folder: Path) -> None:
        pytest.importorskip('mmdet')
        from mmdet.datasets import CocoDataset

        dataset = CocoDataset(
            data_root=str(folder), ann_file='annotations/instances_val.json',
            data_prefix=dict(img='val/', seg='masks/val/'), metainfo=dict(classes=CLASSES),
            pipeline=[dict(type='LoadImageFromFile'),
                      dict(type='mmdet.LoadAnnotations', with_mask=True, with_seg=True)])
        scenes = read_scenes(folder, 'val')
        assert len(dataset) == len(scenes)
        for item, (image, annotations) in zip(dataset, scenes):
            assert item['img'].shape == (image['height'], image['width'], 3)
            assert item['gt_bboxes_labels'].tolist() == [
                annotation['category_id'] - 1 for annotation in annotations]
            assert item['gt_bboxes'].tensor.tolist() == [
                [left, top, left + width, top + height] for left, top, width, height in (
                    annotation['bbox'] for annotation in annotations)]
            wanted = [decode(annotation['segmentation']) for annotation in annotations]
            assert (item['gt_masks'].masks == wanted).all() and not item['gt_ignore_flags'].any()
            assert (item['gt_seg_map'] == read_map(folder, 'val', image)).all()

    def test_mmsegmentation_reads_label_maps(self, folder: Path) -> None:
        pytest.importorskip('mmseg')
        from mmseg.datasets import BaseSegDataset

        dataset = BaseSegDataset(
            data_root=str(folder), img_suffix='.png', metainfo=dict(
                classes=('background', *CLASSES)),
            data_prefix=dict(img_path='train', seg_map_path='masks/train'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')])
        images = [image for image, _ in read_scenes(folder, 'train')]
        assert len(dataset) == len(images)
        for item, image in zip(dataset, images):
            assert item['img'].shape == (image['height'], image['width'], 3)
            assert (item['gt_seg_map'] == read_map(folder, 'train', image)).all()


class TestTool:

    def run(self, *args: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, ROOT / 'tools' / 'downstream' / 'make_digit_scenes.py',
             *map(str, args)], capture_output=True, text=True, timeout=300)

    def test_it_writes_says_so_and_names_what_is_wrong(self, tmp_path: Path) -> None:
        arguments = ('--out', tmp_path / 'scenes', '--train', 3, '--val', 2)
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert f'{tmp_path / "scenes"}: 3 scenes in train/, 2 in val/' in done.stdout
        assert contents(tmp_path / 'scenes') == contents(
            write_digit_scenes(tmp_path / 'same', 3, 2))
        refused = self.run(*arguments, '--seed', 4)
        assert refused.returncode == 1
        assert 'FileExistsError' in refused.stderr and 'Traceback' not in refused.stderr
