"""What a measure of redundancy is."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

#: What one value of a measure belongs to, for every layer: the layer itself, each of its heads,
#: each pair of its heads, a matrix of weights, or its components; or each pair of layers.
AXES = ('layer', 'head', 'head pair', 'matrix', 'component', 'layer pair')


@dataclass(frozen=True)
class Measure:
    """A number, or several, that say how redundant a part of a network is.

    Attributes:
        name (str): In configs, logs and files.
        title (str): In words.
        level (str): ``'patch'``, ``'attention'`` or ``'weight'``.
        axis (str): One of ``AXES``.
        function (Callable): From a record of ``B`` items to ``(B, ...)``; of axis
            ``'layer pair'``, from the records of all layers to ``(B, L, L)``.
        meaning (str): What it tells, in a sentence for those who do not know it.
        formula (str): The definition, for pages without mathematical type.
        range (str): Values and unit.
        diverse (str): ``'lower'`` or ``'higher'``, which is more diverse, or ``'neither'``.
        source (str): Where it comes from.
        captured (str): What a tap captures for it: ``'patch'``, ``'maps'``, ``'outputs'``, or
            ``'weight'``, which takes no forward pass.
        subsampled (bool): Whether it is too dear for every image, because it takes an
            eigen-decomposition or the like: an audit takes a part of the images.
        finish (Callable, optional): From the mean over all images to the value.
        width (str): How values of models of different width compare: ``'free'``, as they are;
            ``'rank'``, in parts of the largest rank that a shape allows; ``'noise'``, in parts of
            the way from noise of that shape to 1; or ``'bound'``, not at all, because width alone
            moves them.
    """

    name: str
    title: str
    function: Callable[..., Tensor]
    level: str
    captured: str
    axis: str
    meaning: str
    formula: str
    range: str
    diverse: str
    source: str
    subsampled: bool = False
    finish: Callable[[Tensor], Tensor] | None = None
    width: Literal['free', 'rank', 'noise', 'bound'] = 'free'
