"""timm's ConVit: gated attention first, then blocks with a class token and maps."""
import torch

from tests.taps.families import attached
from tests.taps.families.timm_convit import convit


def test_the_class_token_joins_behind_the_gated_blocks() -> None:
    backbone, joined = convit(local_up_to_layer=2), []
    backbone.timm_model.blocks[2].register_forward_hook(
        lambda module, args, output: joined.append(output))
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        assert [tap.record('patch', layer).shape for layer in ('embed', 0, 1, 2)] == \
            [(2, 16, 32)] * 4
        assert torch.equal(tap.record('patch', 2).vectors(), joined[0][:, 1:])
        maps = tap.record('maps', 2)
        assert maps.num_prefix == 1 and maps.maps.shape == (2, 4, 17, 17)
