"""Handwritten digits that come with scikit-learn: real images without a download."""
from typing import Any

import cv2
import numpy as np
from mmpretrain.datasets import BaseDataset
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ..registry import DATASETS

SPLITS = ('train', 'val')


@DATASETS.register_module()
class Digits(BaseDataset):
    """The optical recognition of handwritten digits data set, as scikit-learn ships it.

    1,797 grey images of 8 x 8 pixels (UCI, test part; Alpaydin and Kaynak, 1998), of which a
    fixed, stratified fifth is the validation part: 1,437 and 360 images. They are enlarged
    bilinearly and given three equal channels, so that any backbone takes them.

    Args:
        split (str): ``'train'`` or ``'val'``.
        img_size (int): Side of the images in pixels. Defaults to 16.
        **kwargs: Other arguments of MMPretrain's BaseDataset, such as ``pipeline``. An item has
            ``img``, a uint8 array ``(img_size, img_size, 3)``, and ``gt_label``.

    Raises:
        ValueError: If ``split`` is unknown or ``img_size`` below 8.
    """

    METAINFO = {'classes': tuple(str(digit) for digit in range(10))}

    def __init__(self, split: str, img_size: int = 16, **kwargs: Any) -> None:
        if split not in SPLITS:
            raise ValueError(f'`split` must be one of {list(SPLITS)}, but got {split!r}')
        if img_size < 8:
            raise ValueError(f'`img_size` must be at least 8, but got {img_size}')
        self.split = split
        self.img_size = img_size
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Make the list of images and labels."""
        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels,
                                 random_state=0)
        return [dict(img=self._enlarge(images[index]), gt_label=int(labels[index]))
                for index in parts[SPLITS.index(self.split)]]

    def _enlarge(self, pixels: np.ndarray) -> np.ndarray:
        grey = (pixels.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        grey = cv2.resize(grey, (self.img_size, self.img_size), interpolation=cv2.INTER_LINEAR)
        return np.repeat(grey[..., None], 3, axis=-1)

    def extra_repr(self) -> list[str]:
        """The extra lines of ``repr``."""
        return [f'Split: \t{self.split}', f'Image size: \t{self.img_size}']
