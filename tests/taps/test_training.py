"""One diversified step of every family on the embedded digits."""
import pytest
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmdiverse.datasets import Digits
from mmdiverse.hooks import DiversityHook
from mmdiverse.taps import build_tap
from tests.taps.families import FAMILIES, Family, everything
from tests.taps.families.timm_volo import volo

TERMS = {
    'patch': dict(type='CosineLoss'),
    'attention': dict(type='CosineLoss'),
    'weight': dict(type='ConditionalOrthogonalityLoss'),
}


class Model(BaseModel):
    """A backbone, and a loss of all that it gives."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Tensor, data_samples: None = None, mode: str = 'tensor'
                ) -> dict[str, Tensor]:
        outputs = tree_leaves(self.backbone(inputs))
        return {'loss': sum(output.square().mean() for output in outputs
                            if output.is_floating_point())}


def digits(size: int) -> Tensor:
    dataset = Digits('train', size)
    return torch.stack([torch.from_numpy(dataset[index]['img']).permute(2, 0, 1) / 255.
                        for index in range(3)])


@pytest.mark.parametrize('on', TERMS)
@pytest.mark.parametrize('family', FAMILIES, ids=str)
def test_every_level_has_a_finite_loss_and_a_gradient(family: Family, on: str) -> None:
    model = Model(family.build()).train()
    tap = build_tap(model.backbone)
    source = {'attention': 'maps'}.get(on, on)
    layers = [layer for found, layer in everything(tap) if found == source and layer != 'embed'
              and not (on == 'attention' and tap.count_heads(layer) == 1)]
    layers = 'all' if on == 'weight' else layers
    if not layers:
        with pytest.raises(ValueError, match="on='attention'"):
            tap.attach([(source, 0)])
        return
    hook = DiversityHook([dict(TERMS[on], on=on, layers=layers, weight=1., name='term')])
    hook.attach(model)
    losses = model(digits(family.image_size), mode='loss')
    assert losses['loss_term'].isfinite()
    losses['loss_term'].backward()
    gradients = [parameter.grad for block in tap.blocks for parameter in block.parameters()
                 if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def test_a_term_of_weights_may_leave_outlookers_out() -> None:
    model = Model(volo(outlook_attention=(True, False))).train()
    term = dict(type='SoftOrthogonalityLoss', on='weight', weight=1.)
    hook = DiversityHook([dict(term, layers=-1)])
    hook.attach(model)
    model(torch.randn(2, 3, 32, 32), mode='loss')['loss_weight_soft_orthogonality'].backward()
    assert model.backbone.network[2][0].attn.qkv.weight.grad.any()
    with pytest.raises(ValueError, match=r"in block 1 \(Outl.*`layers` of a term may be among \[2"):
        DiversityHook([dict(term, layers=[2, 1])]).attach(model)
