import errno
import inspect
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmpretrain.datasets import CustomDataset
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from torch.utils.data import Dataset

from mmdiverse.datasets import Digits
from mmdiverse.datasets.audit_images import (
    LOAD,
    SUFFIXES,
    Unreadable,
    build_loader,
    check_whole,
    name_skipped,
    open_images,
    reads_files,
)

RESIZE = dict(type='Resize', scale=(8, 6))
PACK = dict(type='PackInputs')
PIPELINE = [LOAD, RESIZE, PACK]


@TRANSFORMS.register_module()
class LoadArrayOfTests(BaseTransform):
    """A loader of a user's own, for files that are no images to anybody else."""

    def transform(self, results: dict) -> dict:
        results['img'] = np.load(results['img_path'])
        return results


def draw(path: Path, mode: str = 'RGB', size: tuple[int, int] = (12, 10), **options) -> Path:
    """Save an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (200, 100, 50)).convert(mode).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, of which the second and the fourth cannot be read."""
    for name in 'abcde':
        draw(tmp_path / f'{name}.png')
    (tmp_path / 'b.png').write_bytes(b'')
    (tmp_path / 'd.png').write_text('text')
    return tmp_path


class TestFolders:

    def test_searched_with_subfolders_in_the_order_of_names(self, tmp_path: Path) -> None:
        for name in ('b/2.png', 'b/10.jpg', 'a.bmp', 'c/d/e.webp'):
            draw(tmp_path / name)
        (tmp_path / 'notes.txt').write_text('no image')
        images = open_images(tmp_path, PIPELINE)
        assert images.names == ['a.bmp', 'b/10.jpg', 'b/2.png', 'c/d/e.webp']

    @pytest.mark.parametrize('suffix', ['jpg', 'jpeg', 'png', 'bmp', 'webp', 'tif', 'tiff', 'ppm',
                                        'pgm', 'pbm', 'jp2', 'gif', 'JPG', 'Png', 'TIFF', 'PGM'])
    def test_suffixes(self, tmp_path: Path, suffix: str) -> None:
        draw(tmp_path / f'image.{suffix}')
        assert open_images(str(tmp_path), PIPELINE)[0]['inputs'].shape == (3, 6, 8)

    def test_every_suffix_that_mmpretrain_looks_for_in_a_folder(self) -> None:
        assert {*inspect.signature(CustomDataset).parameters['extensions'].default} <= {*SUFFIXES}

    def test_suffixes_of_a_config_take_their_place(self, tmp_path: Path) -> None:
        for name in ('a.png', 'a_mask.png', 'b.JPG'):
            draw(tmp_path / name)
        images = open_images(tmp_path, PIPELINE, suffixes=('_mask.png', '.jpg'))
        assert images.names == ['a_mask.png', 'b.JPG'] and images.skipped == ['a.png']

    def test_other_files_are_named_but_for_hidden_ones(self, tmp_path: Path) -> None:
        for name in ('a.png', 'x/._b.png', 'x/b.png'):
            draw(tmp_path / name)
        for name in ('.DS_Store', 'x/notes.txt', 'list.csv'):
            (tmp_path / name).touch()
        images = open_images(tmp_path, PIPELINE)
        assert images.names == ['a.png', 'x/b.png'] and images.skipped == ['list.csv',
                                                                           'x/notes.txt']

    @pytest.mark.parametrize('count, text', [
        (1, '1 other file (0.txt)'), (3, '3 other files (0.txt, 1.txt, 2.txt)'),
        (9, '9 other files (0.txt, 1.txt, 2.txt and 6 more)')])
    def test_few_of_them_are_named(self, count: int, text: str) -> None:
        assert name_skipped([f'{index}.txt' for index in range(count)]) == text

    def test_linked_folders_are_searched_once(self, tmp_path: Path) -> None:
        draw(tmp_path / 'elsewhere' / 'a.png')
        folder = tmp_path / 'images'
        folder.mkdir()
        (folder / 'class').symlink_to(tmp_path / 'elsewhere')
        (folder / 'loop').symlink_to(folder)
        assert open_images(folder, PIPELINE).names == ['class/a.png']

    def test_names_can_be_printed(self, tmp_path: Path) -> None:
        # Not every file system takes a name that is no UTF-8.
        try:
            with open(os.path.join(os.fsencode(tmp_path), b'caf\xe9.png'), 'wb') as file:
                Image.new('RGB', (4, 4)).save(file, 'png')
        except OSError:
            pytest.skip('the file system refuses the name')
        images = open_images(tmp_path, PIPELINE)
        assert images.names == [r'caf\xe9.png'] and isinstance(images[0], dict)

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="--images: there is no folder .*nowhere; exp"
                                                    r"ected a folder or one of \['digits', 'photo"):
            open_images(tmp_path / 'nowhere', PIPELINE)

    def test_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='--images: .*one.png is a file; expected a folder'):
            open_images(draw(tmp_path / 'one.png'), PIPELINE)

    def test_folder_without_images(self, tmp_path: Path) -> None:
        (tmp_path / 'notes.txt').write_text('no image')
        with pytest.raises(ValueError, match=r'--images: neither .* holds an image \(\.jpg, \.jp'
                                             r'.*only 1 other file \(notes\.txt\); expected a f'):
            open_images(tmp_path, PIPELINE)


class TestLimit:

    @pytest.mark.parametrize('limit, names', [
        (None, 'abcde'), (9, 'abcde'), (5, 'abcde'), (2, 'ac'), (1, 'a')])
    def test_images_are_evenly_spaced(self, folder: Path, limit: int | None, names: str) -> None:
        assert open_images(folder, PIPELINE, limit).names == [f'{name}.png' for name in names]

    def test_none_at_all(self, folder: Path) -> None:
        with pytest.raises(ValueError, match='`limit` must be at least 1, but got 0'):
            open_images(folder, PIPELINE, 0)


class TestImages:

    def test_item_is_a_bgr_image_in_uint8(self, tmp_path: Path) -> None:
        draw(tmp_path / 'a.png')
        item = open_images(tmp_path, PIPELINE)[0]
        assert item['index'] == 0 and item['inputs'].dtype == torch.uint8
        assert item['inputs'][:, 0, 0].tolist() == [50, 100, 200]

    @pytest.mark.parametrize('options', [
        dict(), dict(color_type='grayscale'), dict(color_type='color_ignore_orientation'),
        dict(color_type='unchanged'), dict(to_float32=True), dict(imdecode_backend='pillow'),
    ], ids=str)
    def test_are_what_a_data_set_of_mmpretrain_gives(self, tmp_path: Path, options: dict) -> None:
        draw_every_mode(tmp_path)
        pipeline = [dict(LOAD, **options), PACK]
        expected = CustomDataset(data_root=str(tmp_path), with_label=False, pipeline=pipeline)
        found = open_images(tmp_path, pipeline)
        assert len(found) == len(expected) == 13
        for item, other in zip(found, expected):
            assert torch.equal(item['inputs'], other['inputs']), other['data_samples'].img_path

    @pytest.mark.parametrize('suffix', ['png', 'tif'])
    def test_16_bits_are_what_8_bits_are(self, tmp_path: Path, suffix: str) -> None:
        wave = np.linspace(20, 200, 48, dtype=np.uint8).reshape(6, 8)
        for name, pixels in (('8', wave), ('16', wave.astype(np.uint16) * 257)):
            Image.fromarray(pixels).save(tmp_path / f'{name}.{suffix}')
        deep, flat = (item['inputs'].int() for item in open_images(tmp_path, [LOAD, PACK]))
        assert (deep - flat).abs().max() <= 1

    def test_loader_of_a_users_own(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 5), dtype=np.uint8)
        np.save(tmp_path / 'a.npy', pixels)
        images = open_images(tmp_path, [dict(type='LoadArrayOfTests'), PACK], suffixes=['.npy'])
        assert (images[0]['inputs'].numpy() == pixels.transpose(2, 0, 1)).all()

    @pytest.mark.parametrize('images', ['photos', 'digits'])
    def test_embedded_ones_pass_the_loader_too(self, images: str) -> None:
        gray = open_images(images, [dict(LOAD, color_type='grayscale'), PACK], 2)
        assert [item['inputs'].shape[0] for item in gray] == [1, 1]

    def test_embedded_ones_can_be_fitted_before(self) -> None:
        assert open_images('photos', [LOAD, PACK], 1, [RESIZE])[0]['inputs'].shape == (3, 6, 8)

    def test_photos_are_the_same_crops_each_time(self) -> None:
        first, second = (open_images('photos', PIPELINE) for _ in range(2))
        assert first.names == second.names and len(set(first.names)) == len(first) == 64
        assert torch.equal(first[5]['inputs'], second[5]['inputs'])

    def test_photos_are_bgr(self) -> None:
        # The first is of a temple under a blue sky.
        blue, _, red = open_images('photos', [PACK])[0]['inputs'][:, 0].float().mean(1)
        assert blue > red

    def test_digits_are_the_validation_part(self) -> None:
        images = open_images('digits', [LOAD, PACK])
        assert len(images) == 360
        wanted = Digits('val')[7]['img'].transpose(2, 0, 1)
        assert (images[7]['inputs'].numpy() == wanted).all()


def draw_every_mode(folder: Path) -> None:
    """Save an image in every form that MMPretrain's folders may hold."""
    for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'):
        draw(folder / f'{mode}.png', mode)
    draw(folder / 'CMYK.jpg', 'CMYK')
    turned = Image.Exif()
    turned[274] = 6
    draw(folder / 'turned.jpg', exif=turned)
    pixels = np.linspace(0, 65535, 120).astype(np.uint16).reshape(10, 12)
    for suffix in ('png', 'tif', 'pgm'):
        Image.fromarray(pixels).save(folder / f'deep.{suffix}')
    draw(folder / 'flat.pgm', 'L')
    draw(folder / 'flat.bmp')


class TestPipelines:

    @pytest.mark.parametrize('pipeline, reads', [
        ([LOAD, RESIZE, PACK], True),
        ([dict(type='mmpretrain.LoadImageFromFile', color_type='grayscale'), PACK], True),
        ([dict(type='LoadArrayOfTests'), PACK], True),
        ([dict(type='RandomApply', transforms=[LOAD], prob=1.), PACK], True),
        ([dict(type='RandomFlip', prob=0.), LOAD, PACK], True),
        ([PACK], False),
        ([RESIZE, PACK], False),
        ([dict(type='ResizeEdge', scale=9), dict(type='CenterCrop', crop_size=8), PACK], False),
    ])
    def test_those_that_read_files_are_told(self, pipeline: list[dict], reads: bool) -> None:
        assert reads_files(pipeline, LOAD) == reads

    @pytest.mark.parametrize('pipeline, got', [
        ([LOAD], r'gives no `inputs`; end it with dict\(type=.PackInputs.\)'),
        ([LOAD, dict(type='Collect', keys=['img'])], 'gives no `inputs`'),
        ([LOAD, dict(type='MultiView', num_views=2, transforms=[[RESIZE]]), PACK],
         'gives a list of views of it'),
        ([LOAD, dict(type='TestTimeAug', transforms=[[RESIZE], [PACK]])],
         'gives a list of views of it'),
        ([dict(LOAD, ignore_empty=True), PACK], 'gives nothing of it, as loaders with `ignore_em'),
    ])
    def test_those_that_give_no_one_image_are_named(self, tmp_path: Path, pipeline: list[dict],
                                                    got: str) -> None:
        draw(tmp_path / 'a.png')
        (tmp_path / 'b.png').touch()
        index = int('ignore_empty' in pipeline[0])
        reason = open_images(tmp_path, pipeline)[index].reason
        assert re.search(rf'test pipeline .*{got}', reason), reason

    def test_those_that_cannot_be_built_are_named(self) -> None:
        with pytest.raises(ValueError, match=r'`test_dataloader\.dataset\.pipeline`\) cannot '
                                             'be built: KeyError: .*NoTransform'):
            open_images('photos', [LOAD, dict(type='NoTransform'), PACK])


class TestUnreadable:

    @pytest.mark.parametrize('content, reason', [
        (b'', 'not an image'),
        (b'text', 'not an image'),
    ], ids=['empty', 'text'])
    def test_other_files(self, tmp_path: Path, content: bytes, reason: str) -> None:
        (tmp_path / 'a.png').write_bytes(content)
        item = open_images(tmp_path, PIPELINE)[0]
        assert (item.index, item.name) == (0, 'a.png') and item.reason.startswith(reason)

    @pytest.mark.parametrize('suffix', ['jpg', 'png', 'bmp', 'webp', 'tif', 'ppm'])
    def test_truncated_files(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f'a.{suffix}'
        pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[:path.stat().st_size * 2 // 3])
        assert isinstance(open_images(tmp_path, PIPELINE)[0], Unreadable)

    @pytest.mark.parametrize('suffix', ['jpg', 'png', 'bmp', 'webp', 'tif', 'ppm', 'gif', 'jp2'])
    def test_what_is_missing_shows_whatever_the_loader_makes_of_it(self, tmp_path: Path,
                                                                   suffix: str) -> None:
        path = tmp_path / f'a.{suffix}'
        pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        check_whole(path)
        path.write_bytes(path.read_bytes()[:path.stat().st_size * 2 // 3])
        with pytest.raises(OSError):
            check_whole(path)

    def test_what_pillow_does_not_know_is_left_to_the_loader(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'a.npy', np.zeros((2, 2)))
        check_whole(tmp_path / 'a.npy')

    def test_files_that_may_not_be_read(self, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: str, **options: object) -> None:  # a superuser may read everything
            raise PermissionError(errno.EACCES, 'Permission denied', path)

        draw(tmp_path / 'a.png')
        monkeypatch.setattr(fileio, 'get', refuse)
        assert open_images(tmp_path, PIPELINE)[0].reason == 'PermissionError: Permission denied'

    def test_dangling_links(self, tmp_path: Path) -> None:
        (tmp_path / 'a.png').symlink_to(tmp_path / 'nowhere.png')
        reason = open_images(tmp_path, PIPELINE)[0].reason
        assert reason == 'FileNotFoundError: No such file or directory'


class TestLoader:

    @pytest.mark.parametrize('num_workers', [0, 2])
    def test_order_is_kept_and_the_unreadable_are_named(self, folder: Path,
                                                        num_workers: int) -> None:
        batches = list(build_loader(open_images(folder, PIPELINE), 2, num_workers))
        assert [batch['indices'] for batch in batches] == [[0], [2], [4]]
        assert [[bad.name for bad in batch['unreadable']] for batch in batches] == [
            ['b.png'], ['d.png'], []]
        assert [tuple(batch['inputs'].shape) for batch in batches] == [(1, 3, 6, 8)] * 3

    def test_batch_without_a_readable_image(self, tmp_path: Path) -> None:
        for name in 'ab':
            (tmp_path / f'{name}.png').write_bytes(b'')
        batch, = build_loader(open_images(tmp_path, PIPELINE), 2)
        assert batch['inputs'] == batch['indices'] == [] and len(batch['unreadable']) == 2

    @pytest.mark.parametrize('pipeline', [PIPELINE, [LOAD, PACK]], ids=['equal', 'different'])
    def test_data_preprocessor_takes_batches(self, tmp_path: Path, pipeline: list) -> None:
        draw(tmp_path / 'a.png')
        draw(tmp_path / 'b.png', size=(16, 10))
        batch, = build_loader(open_images(tmp_path, pipeline), 2)
        inputs = ClsDataPreprocessor(to_rgb=True)(batch)['inputs']
        assert len(inputs) == 2 and inputs[0, :, 0, 0].tolist() == [200, 100, 50]

    def test_workers_leave_interrupts_to_the_main_process(self) -> None:
        assert list(build_loader(Interrupted(), 1, 1))[0]['indices'] == [0]


class Interrupted(Dataset):
    """Gets the signal of Ctrl-C while it loads an image."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        os.kill(os.getpid(), signal.SIGINT)
        return dict(inputs=torch.zeros(3, 2, 2), index=index)
