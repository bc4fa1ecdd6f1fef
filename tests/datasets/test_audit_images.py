import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import fileio
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image
from torch.utils.data import Dataset

from mmdiverse.datasets import Digits
from mmdiverse.datasets.audit_images import Unreadable, build_loader, open_images

LOAD = dict(type='LoadImageFromFile', imdecode_backend='pillow')
RESIZE = dict(type='Resize', scale=(8, 6))
PACK = dict(type='PackInputs')
PIPELINE = [LOAD, RESIZE, PACK]


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
                                        'JPG', 'Png', 'TIFF'])
    def test_suffixes(self, tmp_path: Path, suffix: str) -> None:
        draw(tmp_path / f'image.{suffix}')
        assert open_images(str(tmp_path), PIPELINE)[0]['inputs'].shape == (3, 6, 8)

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
        with pytest.raises(ValueError, match=r'--images: neither .* holds an image \(\.jpg, \.jp'):
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

    @pytest.mark.parametrize('mode, suffix', [
        ('1', 'png'), ('L', 'png'), ('LA', 'png'), ('P', 'png'), ('RGBA', 'png'), ('CMYK', 'jpg'),
        ('CMYK', 'tif')])
    def test_modes(self, tmp_path: Path, mode: str, suffix: str) -> None:
        draw(tmp_path / f'a.{suffix}', mode)
        item = open_images(tmp_path, PIPELINE)[0]
        assert item['inputs'].shape == (3, 6, 8) and item['inputs'].float().mean() > 50

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
