"""What every diversity loss shares."""
import torch
from torch import Tensor

from ..precision import without_autocast
from ..records import Record, check_records
from ..spelling import did_you_mean


class DiversityLoss:
    """One formula over one record, or over two for cross-layer losses.

    A subclass sets the class attributes and :meth:`forward`, is registered in
    :data:`mmdiverse.registry.LOSSES`, and knows neither which network nor which level its vectors
    come from.

    Attributes:
        formula (str): The formula of the defaults, for tables; ``x`` are vectors, ``u`` their
            directions, ``G`` their Gram matrix.
        cost (str): How the cost for one item grows with ``M`` vectors in ``D`` dimensions.
        levels (tuple[str]): The levels at which the formula makes sense.
        num_records (int): Records it takes: 1, or 2 for a loss between two layers.
        min_vectors (int): Fewest vectors ``M`` for which it is defined.
        of_gradients (bool): Whether the vectors are not tokens but the gradients of the model's
            loss with respect to them.
        generator (torch.Generator | None): Source of random starts; PyTorch's own when None.
    """

    formula: str
    cost: str
    levels: tuple[str, ...] = ('patch', 'attention', 'weight')
    num_records: int = 1
    min_vectors: int = 2
    of_gradients: bool = False
    generator: torch.Generator | None = None

    @property
    def state(self) -> dict[str, Tensor]:
        """What persists from step to step and belongs into a checkpoint, by ``key`` of a record."""
        return {}

    def __call__(self, *records: Record) -> Tensor:
        """Check the records and evaluate the formula.

        Args:
            records (Record): One record or two, as ``num_records`` says.

        Returns:
            Tensor: ``(B,)``, one value per item of the batch. Lower is more diverse.

        Raises:
            TypeError: If what is given are no records, or not as many as the loss takes.
            ValueError: If there are too few vectors, or two records of different shapes.
        """
        check_records(type(self).__name__, records, self.num_records)
        shapes = [record.shape for record in records]
        if shapes[0][1] < self.min_vectors:
            raise ValueError(
                f'{type(self).__name__} needs at least {self.min_vectors} vectors, but layer '
                f'{records[0].layer!r} has {shapes[0][1]} at level {records[0].level!r}; '
                'change `layers` or `on` of this term')
        if len(set(shapes)) > 1:
            raise ValueError(
                f'{type(self).__name__} compares two layers whose records have equal shapes, '
                f'but layers {[r.layer for r in records]} have (B, M, D) = {shapes}; '
                'change `layers` of this term (in a Swin, stay within one stage: take the fragment '
                'swin or swin_patch, as by `--diversity swin`)')
        # Products of long vectors have no room in half precision.
        with without_autocast(records[0].device):
            return self.forward(*records)

    def forward(self, *records: Record) -> Tensor:
        """The formula. See :meth:`DiversityLoss.__call__`."""
        raise NotImplementedError


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: Naming the config key, what came and what was expected.
    """
    if value not in choices:
        raise ValueError(f'`{key}` must be one of {list(choices)}, but got {value!r}'
                         f'{did_you_mean(value, choices)}')
    return value


def check_not_negative(key: str, value: float) -> float:
    """Return ``value`` if it is finite and not below 0.

    Raises:
        ValueError: Naming the config key and what came.
    """
    if not 0 <= value < float('inf'):
        raise ValueError(f'`{key}` must be finite and not negative, but got {value}')
    return value


def check_positive(key: str, value: float) -> float:
    """Return ``value`` if it is finite and above 0.

    Raises:
        ValueError: Naming the config key and what came.
    """
    if not 0 < value < float('inf'):
        raise ValueError(f'`{key}` must be finite and above 0, but got {value}')
    return value


def off_diagonal(matrix: Tensor) -> Tensor:
    """The entries off the diagonal.

    Args:
        matrix (Tensor): ``(B, M, M)``.

    Returns:
        Tensor: ``(B, M (M - 1))``, row by row.
    """
    num = matrix.size(-1)
    # Without the first entry, every M + 1 entries end in one of the diagonal.
    return matrix.flatten(-2)[..., 1:].unflatten(-1, (num - 1, num + 1))[..., :-1].flatten(-2)
