from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdiverse.gradient_norms import gradient_norms, gradient_shares
from tests.processes import run_processes


def two_losses(model: nn.Linear, x: Tensor) -> dict[str, Tensor]:
    out = model(x)
    return {'square': out.square().mean(), 'sum': 3 * out.sum()}


def data(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def norm_by_backward(name: str, model: nn.Linear, x: Tensor) -> float:
    model.zero_grad()
    two_losses(model, x)[name].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]
                     ).norm().item()


def test_norm_is_that_of_the_gradient_of_a_backward_pass() -> None:
    model = linear()
    norms = gradient_norms(two_losses(model, data()), model.parameters())
    assert list(norms) == ['square', 'sum']
    for name, norm in norms.items():
        assert norm == pytest.approx(norm_by_backward(name, model, data()), rel=1e-5)


def test_frozen_parameters_do_not_count() -> None:
    model = linear()
    whole = gradient_norms(two_losses(model, data()), model.parameters())
    model.bias.requires_grad_(False)
    norms = gradient_norms(two_losses(model, data()), model.parameters())
    assert norms['sum'] == pytest.approx(norm_by_backward('sum', model, data()), rel=1e-5)
    assert norms['sum'] < whole['sum']


def test_a_loss_that_does_not_depend_on_the_parameters_has_no_gradient() -> None:
    model, other = linear(), torch.ones((), requires_grad=True)
    losses = {'constant': torch.tensor(2.), 'other': 2 * other, 'weight': model.weight.sum()}
    norms = gradient_norms(losses, model.parameters())
    assert norms == {'constant': 0., 'other': 0., 'weight': pytest.approx(6**0.5)}


def test_gradients_that_share_their_memory_count_one_by_one() -> None:
    first, second = (nn.Parameter(torch.tensor([1., 2.])) for _ in range(2))
    losses = {'sum': ((first + second) * torch.tensor([3., 4.])).sum()}
    assert gradient_norms(losses, [first, second])['sum'] == pytest.approx(50**0.5)


def test_the_graph_and_the_gradients_of_parameters_are_left_alone() -> None:
    model = linear()
    losses = two_losses(model, data())
    gradient_norms(losses, model.parameters())
    assert all(p.grad is None for p in model.parameters())
    sum(losses.values()).backward()
    assert all(p.grad.any() for p in model.parameters())


def half_loss(model: nn.Linear) -> Tensor:
    with torch.autocast('cpu', torch.float16):
        return model(data()).float().square().mean() * 1e-9


def test_scale_saves_a_gradient_that_half_precision_would_lose() -> None:
    model = linear()
    lost = gradient_norms({'small': half_loss(model)}, model.parameters())['small']
    kept = gradient_norms({'small': half_loss(model)}, model.parameters(), scale=2.**20)['small']
    expected = 1e-9 * norm_by_backward('square', model, data())
    assert lost != pytest.approx(expected, rel=0.5)
    assert kept == pytest.approx(expected, rel=1e-2)


def test_a_gradient_that_overflows_is_not_finite() -> None:
    model = linear()
    norms = gradient_norms({'large': half_loss(model)}, model.parameters(), scale=2.**60)
    assert not torch.tensor(norms['large']).isfinite()


def test_autocast_around_it_changes_nothing() -> None:
    model = linear()
    expected = gradient_norms(two_losses(model, data()), model.parameters())
    losses = two_losses(model, data())
    with torch.autocast('cpu', torch.bfloat16):
        assert gradient_norms(losses, model.parameters()) == expected


def test_re_entrant_checkpointing_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3), linear())
    loss = checkpoint(model[1], model[0](data()), use_reentrant=True).sum()
    with pytest.raises(RuntimeError, match='use_reentrant=True'):
        gradient_norms({'sum': loss}, model.parameters())


def run_process(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2,
                                         init_method=f'file://{folder}/store')
    model = linear()
    norms = gradient_norms(two_losses(model, data()[2 * rank:2 * rank + 2]), model.parameters())
    torch.save(norms, folder / f'{rank}.pth')
    torch.distributed.destroy_process_group()


def test_in_a_distributed_run_it_is_the_gradient_of_the_mean(tmp_path: Path) -> None:
    run_processes(run_process, tmp_path, count=2)
    model = linear()
    halves = [two_losses(model, half) for half in data().split(2)]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    expected = gradient_norms(mean, model.parameters())
    for rank in range(2):
        norms = torch.load(tmp_path / f'{rank}.pth')
        assert norms == {name: pytest.approx(norm, rel=1e-5) for name, norm in expected.items()}


def test_shares_are_parts_of_the_sum() -> None:
    assert gradient_shares({'model': 3., 'term': 1.}) == {'model': 0.75, 'term': 0.25}


def test_shares_are_zero_where_nothing_has_a_gradient() -> None:
    assert gradient_shares({'model': 0., 'term': 0.}) == {'model': 0., 'term': 0.}
