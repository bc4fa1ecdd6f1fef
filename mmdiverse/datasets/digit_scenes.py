"""Scenes of handwritten digits for detection and segmentation: real digits without a download."""
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .digits import Digits

LAYOUT = 1  # raise it when other files come from the same arguments
RECORD = 'digit_scenes.json'
IGNORED = 255

SIDES = (48, 80)  # of scenes and of digits, in pixels, both included
DIGIT_SIDES = (12, 24)
MOST_DIGITS = 4
# The ink of a digit, from 0 to 255: background up to the first, clear ink from the second on.
FAINT, CLEAR = 64, 128
KEPT = 0.85  # the least share of its ink that a digit keeps under later ones
OVERLAP = 0.15  # the largest share of the smaller of two boxes that the other one may cover


def write_digit_scenes(folder: str | Path, num_train: int = 200, num_val: int = 60,
                       seed: int = 0) -> Path:
    """Write a small data set that MMDetection's and MMSegmentation's own data sets read.

    A scene is a grey image of 48 to 80 pixels a side with one to four digits of :class:`Digits`, of
    its training part in ``train`` and of its validation part in ``val``. Ten digits in turn are of
    ten classes, so that a few scenes have them all. A later digit may hide a little of an earlier
    one; boxes, areas and masks are of what is left to see, and known, because the scene was made
    from them. All digits are small objects to COCO, whose measures for larger ones are -1.

    - ``train/000000.png`` and so on, ``val/``: the scenes, with three equal channels.
    - ``annotations/instances_train.json``, ``instances_val.json``: boxes and masks as in COCO, for
      ``CocoDataset`` with the classes ``('0', ..., '9')``, whose ids are 1 to 10. The masks are
      uncompressed run lengths, which MMDetection's ``LoadAnnotations(with_mask=True)`` reads.
    - ``masks/train/000000.png`` and so on, ``masks/val/``: label maps for ``BaseSegDataset`` with
      ``img_suffix='.png'`` and eleven classes: 0 is the background, ``digit + 1`` its ink, and 255,
      which is ignored, the rim of a digit, neither clear ink nor clear background.
    - ``digit_scenes.json``: the arguments. A folder that has it is complete.

    The same arguments make the same files, and more scenes begin with the same ones. A folder that
    they made before is left as it is.

    Args:
        folder (str | Path): Where to write: a new or an empty folder, or one made before.
        num_train (int): Scenes for training. Defaults to 200.
        num_val (int): Scenes for validation. Defaults to 60.
        seed (int): Seed of all that is drawn. Defaults to 0.

    Returns:
        Path: The folder.

    Raises:
        ValueError: If an argument is no whole number or too small.
        FileExistsError: If the folder was made with other arguments or holds something else.
    """
    for name, value, least in (('num_train', num_train, 1), ('num_val', num_val, 1),
                               ('seed', seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f'`{name}` must be a whole number of at least {least}, but got '
                             f'{value!r}')
    folder = Path(folder)
    record = json.dumps(dict(layout=LAYOUT, num_train=num_train, num_val=num_val, seed=seed))
    if _is_made(folder, record):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f'.{folder.name}.', dir=folder.parent) as temporary:
        made = Path(temporary, 'made')
        for number, (split, count) in enumerate((('train', num_train), ('val', num_val))):
            _write_split(made, split, count, np.random.default_rng([seed, number]))
        (made / RECORD).write_text(record, encoding='utf-8')
        made.replace(folder)
    return folder


def _is_made(folder: Path, record: str) -> bool:
    advice = 'choose another folder (`--out`), or remove this one if you no longer need it'
    if (folder / RECORD).is_file():
        found = (folder / RECORD).read_text(encoding='utf-8')
        if found != record:
            raise FileExistsError(f'{folder} holds digit scenes made with {found}, but they were '
                                  f'to be made with {record}: {advice}')
        return True
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        if names:
            raise FileExistsError(f'{folder} should be new, empty or a folder of digit scenes, but '
                                  f'holds {", ".join(names[:3])} and no {RECORD}: {advice}')
    elif folder.exists():
        raise FileExistsError(f'{folder} should be a folder, but is a file: choose another name '
                              '(`--out`)')
    return False


def _write_split(folder: Path, split: str, count: int, rng: np.random.Generator) -> None:
    images, masks, annotations = folder / split, folder / 'masks' / split, folder / 'annotations'
    for place in (images, masks, annotations):
        place.mkdir(parents=True, exist_ok=True)
    coco: dict[str, Any] = dict(
        info=dict(description=f'Digit scenes, {split}', version=str(LAYOUT)), licenses=[],
        images=[], annotations=[],
        categories=[dict(id=label + 1, name=name, supercategory='digit')
                    for label, name in enumerate(Digits.METAINFO['classes'])])
    digits = _deal(Digits(split, img_size=8), rng)
    for index in range(count):
        name = f'{index:06d}.png'
        drawn = [next(digits) for _ in range(rng.integers(1, MOST_DIGITS, endpoint=True))]
        height, width = map(int, rng.integers(*SIDES, size=2, endpoint=True))
        inks, owners = _place([pixels for pixels, _ in drawn], height, width, rng)
        labels = [label for _, label in drawn]

        scene = _paint(inks, rng)
        Image.fromarray(np.repeat(scene[..., None], 3, axis=-1)).save(images / name)
        classes = np.full(256, IGNORED, np.uint8)
        classes[:len(labels) + 1] = [0, *(label + 1 for label in labels)]
        Image.fromarray(classes[owners]).save(masks / name)
        coco['images'].append(dict(id=index, file_name=name, height=height, width=width))
        coco['annotations'] += [
            dict(id=len(coco['annotations']) + owner, image_id=index, category_id=label + 1,
                 iscrowd=0, **_describe(owners == owner))
            for owner, label in enumerate(labels, 1)]
    (annotations / f'instances_{split}.json').write_text(json.dumps(coco), encoding='utf-8')


def _deal(digits: Digits, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, int]]:
    labels = digits.get_gt_labels()
    while True:
        for label in rng.permutation(len(digits.metainfo['classes'])):
            index = rng.choice(np.flatnonzero(labels == label))
            yield digits[int(index)]['img'][..., 0], int(label)


def _place(digits: list[np.ndarray], height: int, width: int,
           rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw sizes and places until no digit hides much of another.

    Returns:
        tuple[np.ndarray, np.ndarray]: The ink of each, ``(digits, height, width)``, and whose clear
        ink each pixel shows: 0 of none, 1 of the first, and so on, 255 where it is a rim.
    """
    while True:
        inks = np.zeros((len(digits), height, width), np.uint8)
        owners = np.zeros((height, width), np.uint8)
        for owner, (ink, pixels) in enumerate(zip(inks, digits), 1):
            side = rng.integers(*DIGIT_SIDES, endpoint=True)
            top, left = rng.integers(0, (height - side, width - side), endpoint=True)
            ink[top:top + side, left:left + side] = cv2.resize(
                pixels, (int(side), int(side)), interpolation=cv2.INTER_LINEAR_EXACT)
            owners[ink > FAINT] = IGNORED
            owners[ink >= CLEAR] = owner
        clear = inks >= CLEAR
        seen = np.array([(owners == owner).sum() for owner in range(1, len(digits) + 1)])
        boxes = (clear.any(1, keepdims=True) & clear.any(2, keepdims=True)).reshape(len(digits), -1)
        common = boxes.astype(int) @ boxes.T
        sizes = common.diagonal()
        crowded = common > OVERLAP * np.minimum.outer(sizes, sizes)
        np.fill_diagonal(crowded, False)
        if (seen >= KEPT * clear.sum((1, 2))).all() and not crowded.any():
            return inks, owners


def _paint(inks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    _, height, width = inks.shape
    level, slope, tilt = rng.integers((20, -15, -15), (90, 15, 15), endpoint=True)
    scene = (level + slope * np.linspace(-1, 1, height)[:, None]
             + tilt * np.linspace(-1, 1, width))
    for ink in inks:
        scene += ink / 255 * (rng.integers(180, 240, endpoint=True) - scene)
    scene += rng.integers(-8, 8, size=scene.shape, endpoint=True)
    return scene.clip(0, 255).astype(np.uint8)


def _describe(mask: np.ndarray) -> dict[str, Any]:
    """Box, area and run lengths of a mask; these go down the columns and begin with background."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff([0, *edges, flat.size])
    return dict(bbox=[int(value) for value in box], area=int(mask.sum()),
                segmentation=dict(size=list(mask.shape), counts=runs.tolist()))
