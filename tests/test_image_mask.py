"""Which tokens count: against loops over pixels, and as data preprocessors say it."""
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from mmdiverse.hooks import DiversityHook
from mmdiverse.image_mask import ImageMask, find_image_mask, group_shapes, group_tokens
from mmdiverse.taps import build_tap
from mmdiverse.terms import DiversityTerm
from tests.taps.families.swin import swin
from tests.taps.families.vit import vit

IGNORED = 255


def loop_tokens(high: int, wide: int, labels: Tensor | None, rows: int, columns: int, step: int
                ) -> list[bool]:
    """Of one image, patch by patch and pixel by pixel."""
    mask = []
    for row in range(rows):
        for column in range(columns):
            pixels = [(y, x) for y in range(row * step, row * step + step)
                      for x in range(column * step, column * step + step)]
            whole = all(y < high and x < wide for y, x in pixels)
            ignored = labels is not None and whole and all(labels[y, x] == IGNORED
                                                           for y, x in pixels)
            mask.append(whole and not ignored)
    return mask


@pytest.mark.parametrize('step', [1, 3, 4])
@pytest.mark.parametrize('labelled', [False, True])
def test_tokens_are_those_of_a_loop(step: int, labelled: bool) -> None:
    height, width = 10, 13
    sizes = [(10, 13), (7, 13), (10, 5), (1, 1), (8, 12)]
    labels = torch.where(torch.rand(5, height, width, generator=torch.Generator().manual_seed(0))
                         < 0.9, IGNORED, 3)
    rows, columns = -(-height // step), -(-width // step)
    mask = ImageMask(sizes, (height, width), labels != IGNORED if labelled else None)
    assert mask.grid((step, step)) == (rows, columns)
    expected = [loop_tokens(*size, labels[index] if labelled else None, rows, columns, step)
                for index, size in enumerate(sizes)]
    assert mask.tokens((rows, columns), (step, step)).tolist() == expected


def test_tokens_are_grouped_by_their_number() -> None:
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]])
    groups = [(items.tolist(), tokens.tolist()) for items, tokens in group_tokens(mask.bool())]
    assert groups == [([2], [[2, 3]]), ([0, 4], [[0, 1, 3], [0, 1, 2]])]


def test_images_are_grouped_by_their_shape_the_last_at_the_end() -> None:
    images = [torch.zeros(3, *size) for size in ((4, 6), (6, 4), (4, 6), (5, 5), (6, 4))]
    assert group_shapes(images) == [[0, 2], [3], [1, 4]]
    assert group_shapes(torch.zeros(3, 1, 2, 2)) == [[0, 1, 2]] and group_shapes([]) == []


def test_images_of_a_group_have_one_shape_in_every_view() -> None:
    first = [torch.zeros(3, 4, 4)] * 3
    second = [torch.zeros(3, *size) for size in ((4, 4), (2, 2), (4, 4))]
    assert group_shapes(first, second) == [[1], [0, 2]]


def sample(labels: Tensor | None = None, **metainfo: Any) -> BaseDataElement:
    """Of MMDetection's or MMSegmentation's, which are made of MMEngine's."""
    element = BaseDataElement(metainfo=metainfo)
    if labels is not None:
        element.gt_sem_seg = PixelData(data=labels[None])
    return element


def test_sizes_are_those_that_were_padded() -> None:
    inputs = torch.zeros(2, 3, 8, 12)
    of_detection = [sample(img_shape=(8, 10), batch_input_shape=(8, 12), pad_shape=(8, 12)),
                    sample(img_shape=(5, 12, 3), batch_input_shape=(8, 12), pad_shape=(8, 12))]
    of_segmentation = [sample(img_shape=torch.Size((8, 10)), padding_size=(0, 2, 0, 0)),
                       sample(img_shape=torch.Size((5, 12)), padding_size=(0, 0, 0, 3))]
    for samples in (of_detection, of_segmentation):
        mask = find_image_mask(inputs, samples)
        assert mask.sizes == [(8, 10), (5, 12)] and mask.batch_size == (8, 12)


def test_nothing_is_left_out_of_images_that_are_not_padded() -> None:
    inputs = torch.zeros(1, 3, 8, 12)
    assert find_image_mask(inputs, [sample(img_shape=(8, 12), batch_input_shape=(8, 12))]) is None
    # Transforms of other libraries leave the size of the file.
    assert find_image_mask(inputs, [sample(img_shape=(4, 4))]) is None
    assert find_image_mask(inputs, None) is find_image_mask(inputs, {}) is None


def test_only_a_segmentation_ignores_pixels() -> None:
    inputs, labels = torch.zeros(1, 3, 4, 4), torch.full((4, 4), IGNORED)
    labels[:2, :2] = 1
    samples = [sample(labels, img_shape=(4, 4), padding_size=(0, 0, 0, 0))]
    assert find_image_mask(inputs, samples) is None
    mask = find_image_mask(inputs, samples, IGNORED)
    assert mask.tokens((2, 2), (2, 2)).tolist() == [[True, False, False, False]]


TERMS = [dict(type='CosineLoss', on='patch', layers=-1), dict(type='ContrastiveLoss', on='patch'),
         *(dict(type='CosineLoss', on='attention', heads=heads)
           for heads in ('maps', 'values', 'outputs'))]


@pytest.mark.parametrize('config', TERMS, ids=lambda term: '-'.join(
    filter(None, (term['type'], term['on'], term.get('heads')))))
def test_a_term_is_the_mean_over_images_cropped_to_their_tokens(config: dict) -> None:
    torch.manual_seed(0)
    backbone = vit()
    backbone.eval()
    term = DiversityTerm(**config, weight=1.)
    tap = build_tap(backbone)
    tap.attach(term.requests(tap))
    sizes, values = [(12, 12), (8, 12), (12, 8), (8, 9)], []
    images = torch.randn(4, 3, 12, 12)
    with tap.recording(ImageMask(sizes, (12, 12))):
        backbone(images)
        value = term.evaluate(tap)
    for index, size in enumerate(sizes):
        with tap.recording(ImageMask([size], (12, 12))):
            backbone(images[index:index + 1])
            values.append(term.evaluate(tap))
    torch.testing.assert_close(value, torch.stack(values).mean())


def diversified(backbone: nn.Module, *terms: dict) -> nn.Module:
    """A segmentor, as far as the hook looks at it."""

    class Segmentor(nn.Module):

        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            self.decode_head = SimpleNamespace(ignore_index=IGNORED)

        def forward(self, inputs: Tensor, data_samples: list, mode: str = 'tensor') -> dict:
            return dict(loss_ce=self.backbone(inputs)[0].mean())

    model = Segmentor()
    DiversityHook([dict(term, weight=1.) for term in terms]).attach(model)
    return model


def test_a_batch_of_which_all_is_ignored_gives_zero() -> None:
    model = diversified(swin(), TERMS[0], TERMS[2])
    labels = torch.full((16, 16), IGNORED)
    losses = model(torch.randn(1, 3, 16, 16), [sample(labels)], mode='loss')
    assert losses['loss_patch_cosine'] == losses['loss_attention_cosine'] == 0
    sum(losses[f'loss_{name}'] for name in ('patch_cosine', 'attention_cosine')).backward()
    assert all(parameter.grad is None or not parameter.grad.any()
               for parameter in model.parameters())


def test_images_smaller_than_two_tokens_are_an_error() -> None:
    model = diversified(swin(), TERMS[0])
    padded = sample(img_shape=(6, 6), batch_input_shape=(16, 16))
    with pytest.raises(ValueError, match=r"patch_cosine.*layer 3 a token stands for 4 x 4 pixels.*"
                                         r"\[\(6, 6\)\].*`train_pipeline`.*`layers`"):
        model(torch.randn(1, 3, 16, 16), [padded], mode='loss')


def test_layers_with_other_tokens_are_not_compared() -> None:
    model = diversified(swin(), dict(type='ContrastiveLoss', on='patch', layers=(0, -1)))
    sizes = [(16, 16), (15, 15)]
    padded = [sample(img_shape=size, batch_input_shape=(16, 16)) for size in sizes]
    padded.append(sample(img_shape=(13, 13), batch_input_shape=(16, 16)))
    with pytest.raises(ValueError, match='ContrastiveLoss compares two layers .*`layers`'):
        model(torch.randn(3, 3, 16, 16), padded, mode='loss')
