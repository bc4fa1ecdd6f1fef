"""Measures of redundancy, each defined once: functions of the records that losses see too."""
from functools import partial

from ..losses import mean_cosine
from .base import Measure
from .heads import (
    attention_entropy,
    head_cosine,
    head_jensen_shannon,
    head_output_cka_terms,
    mean_attention_distance,
)
from .layers import cross_layer_cosine, linear_cka, linear_cka_terms
from .tokens import RIDGE, effective_rank, rank_collapse_residual, ridge_error
from .weights import (
    eigenvalue_spread,
    neuron_cosine_max,
    neuron_cosine_mean,
    noise_quarter_energy,
    pca_energy,
    stable_rank,
)

__all__ = [
    'DEFAULT', 'MEASURES', 'SETS', 'Measure', 'attention_entropy', 'cross_layer_cosine',
    'effective_rank', 'eigenvalue_spread', 'find_measures', 'head_cosine', 'head_jensen_shannon',
    'head_output_cka_terms', 'linear_cka', 'linear_cka_terms', 'mean_attention_distance',
    'neuron_cosine_max', 'neuron_cosine_mean', 'noise_quarter_energy', 'pca_energy',
    'rank_collapse_residual', 'ridge_error', 'stable_rank',
]

CHEN = 'Chen et al., CVPR 2022 (arXiv 2203.06345)'
KORNBLITH = 'Kornblith et al., ICML 2019 (arXiv 1905.00414)'
CLARK = 'Clark et al., BlackboxNLP 2019 (arXiv 1906.04341)'

_token = partial(Measure, level='patch', captured='patch', axis='layer')
_layers = partial(Measure, level='patch', captured='patch', axis='layer pair')
_head = partial(Measure, level='attention', captured='maps', axis='head')
_heads = partial(Measure, level='attention', captured='maps', axis='head pair')
_matrix = partial(Measure, level='weight', captured='weight', axis='matrix')

#: All measures by name.
MEASURES: dict[str, Measure] = {measure.name: measure for measure in (
    _token(
        'token_cosine_absolute', 'token cosine, absolute', partial(mean_cosine, form='absolute'),
        meaning='How alike the patch tokens of an image are, whatever the sign.',
        formula='mean of |cos(x_i, x_j)| over patch tokens i ≠ j',
        range='0 to 1', diverse='lower', source=CHEN),
    _token(
        'token_cosine_signed', 'token cosine, signed', partial(mean_cosine, form='signed'),
        meaning='How far the patch tokens of an image point in one direction.',
        formula='mean of cos(x_i, x_j) over patch tokens i ≠ j',
        range='−1 to 1', diverse='lower', source=CHEN),
    _token(
        'token_cosine_squared', 'token cosine, squared', partial(mean_cosine, form='squared'),
        meaning='How alike the patch tokens of an image are, close pairs weighing most.',
        formula='mean of cos(x_i, x_j)² over patch tokens i ≠ j',
        range='0 to 1', diverse='lower', source=CHEN),
    _token(
        'rank_collapse_residual', 'rank-collapse residual', rank_collapse_residual,
        meaning='What is left of the patch tokens once their mean is taken away.',
        formula='‖X − 1 mean(X)ᵀ‖ / ‖X‖ of the patch tokens X',
        range='0 (all tokens equal) to 1', diverse='higher',
        source='Dong et al., ICML 2021 (arXiv 2103.03404), in the Frobenius norm'),
    _token(
        'effective_rank', 'effective rank of tokens', effective_rank,
        meaning='How many directions the patch tokens of an image spread over.',
        formula='exp(− sum of p_k log p_k), p_k = σ_k / (sum of all σ), σ the singular values of '
                'the patch tokens',
        range='1 to the lesser of tokens and channels', diverse='higher',
        source='Roy and Vetterli, EUSIPCO 2007', subsampled=True),
    _token(
        'ridge_error', 'ridge reconstruction error of tokens', ridge_error,
        meaning='What of a patch token cannot be told from all the others.',
        formula='mean over patch tokens i of ‖x_i − X₋ᵢᵀ w_i‖² / ‖x_i‖², w_i from ridge regression '
                f'on all other tokens with penalty λ = {RIDGE:g} × mean of ‖x_j‖²',
        range='0 (combinations of each other) to 1 (orthogonal)', diverse='higher',
        source='ridge regression, leave-one-out identities', subsampled=True),
    _layers(
        'cross_layer_cosine', 'same token in two layers, cosine', cross_layer_cosine,
        meaning='How little a patch token turns from one layer to another.',
        formula='mean over patch tokens i of cos(x_i in one layer, x_i in another)',
        range='−1 to 1', diverse='lower', source='Gong et al., 2021 (arXiv 2104.12753)'),
    _layers(
        'linear_cka', 'linear CKA between layers', linear_cka_terms, finish=linear_cka,
        meaning='How alike two layers arrange the patches of an image.',
        formula='mean HSIC(K, L) / √(mean HSIC(K, K) × mean HSIC(L, L)), K and L the Gram matrices '
                'of the patch tokens of an image in two layers; HSIC unbiased, minibatch: the '
                'tokens of one image',
        range='about 0 to 1 (alike up to rotation and scale)', diverse='lower',
        source=f'{KORNBLITH}; minibatch form: Nguyen et al., ICLR 2021 (arXiv 2010.15327)'),
    _heads(
        'head_cosine', 'head cosine', head_cosine,
        meaning='How alike the attention maps of two heads are.',
        formula='⟨A_h, A_l⟩ / (‖A_h‖ ‖A_l‖) of the attention maps of two heads; where attention is '
                'in windows, mean over these',
        range='0 to 1', diverse='lower', source=CHEN),
    _heads(
        'head_jensen_shannon', 'Jensen-Shannon divergence of heads', head_jensen_shannon,
        meaning='How differently two heads share out their attention.',
        formula='H((a_h + a_l) / 2) − (H(a_h) + H(a_l)) / 2 of the rows a of the maps of two '
                'heads, mean over rows; H is the entropy in bits',
        range='0 (heads agree) to 1 bit', diverse='higher',
        source=f'Lin, IEEE Trans. Inf. Theory 1991; between heads: {CLARK}'),
    Measure(
        'head_output_cka', 'linear CKA of head outputs', head_output_cka_terms, finish=linear_cka,
        level='attention', captured='outputs', axis='head pair',
        meaning='How alike what two heads hand on is.',
        formula='linear CKA, as between layers, of what two heads give to the projection, prefix '
                'tokens included',
        range='about 0 to 1', diverse='lower', source=KORNBLITH, subsampled=True),
    _head(
        'attention_entropy', 'attention entropy', attention_entropy,
        meaning='How widely a head attends: to one token, or to all alike.',
        formula='(− sum over j of a_ij log a_ij) / log M, mean over the rows i of a map to '
                'M tokens',
        range='0 (each attends to one token) to 1 (to all alike)', diverse='neither',
        source=f'{CLARK}, there not divided'),
    _head(
        'mean_attention_distance', 'mean attention distance', mean_attention_distance,
        meaning='How far from a patch lies what it attends to, in patches.',
        formula='(sum over j of a_ij d_ij) / (sum over j of a_ij), mean over i; i and j are '
                'patches, d_ij their distance in the grid, of the image or of a window',
        range='0 to the diagonal of the grid, in sides of a patch of that layer',
        diverse='neither',
        source='Dosovitskiy et al., ICLR 2021 (arXiv 2010.11929), there in pixels'),
    _matrix(
        'pca_energy', 'PCA energy', pca_energy, axis='component',
        meaning='How much of a matrix its first principal components hold.',
        formula='(sum of the first k of σ²) / (sum of all σ²), σ the singular values of the '
                'matrix less its mean row',
        range='0 to 1, over k', diverse='lower', source='principal component analysis of the rows'),
    _matrix(
        'stable_rank', 'stable rank', stable_rank,
        meaning='How many directions a matrix really uses.',
        formula='‖W‖² (Frobenius) / σ₁²',
        range='1 to the lesser of rows and columns', diverse='higher',
        source='Rudelson and Vershynin, J. ACM 2007'),
    _matrix(
        'eigenvalue_spread', 'eigenvalue spread', eigenvalue_spread,
        meaning='How unevenly a matrix stretches its directions.',
        formula='(λ_max − λ_min)² of W Wᵀ', range='0 or more', diverse='lower', source=CHEN),
    _matrix(
        'neuron_cosine_mean', 'neuron cosine, mean', neuron_cosine_mean,
        meaning='How alike two neurons of a matrix are on average.',
        formula='mean of |cos(w_i, w_j)| over rows i ≠ j', range='0 to 1', diverse='lower',
        source='the absolute cosine of tokens, of rows'),
    _matrix(
        'neuron_cosine_max', 'neuron cosine, maximum', neuron_cosine_max,
        meaning='How alike a neuron and its nearest twin are.',
        formula='mean over rows i of the maximum over j ≠ i of |cos(w_i, w_j)|',
        range='0 to 1 (every neuron has a twin)', diverse='lower',
        source='the absolute cosine of tokens, of rows'),
)}

#: One for each level, and the one that tells collapse.
DEFAULT = ('token_cosine_absolute', 'rank_collapse_residual', 'head_cosine', 'neuron_cosine_mean')
#: Measures that have a name together, of which a backbone may lack some.
SETS: dict[str, tuple[str, ...]] = {'all': tuple(MEASURES), 'default': DEFAULT}


def find_measures(names: object) -> list[Measure]:
    """The measures of some names.

    Args:
        names (Sequence[str] | str): Names, or one of ``SETS``.

    Raises:
        TypeError: If ``names`` is no list of strings.
        ValueError: If a name is unknown, twice there, or there is none.
    """
    if isinstance(names, str) and names in SETS:
        names = SETS[names]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"`measures` must be 'all', 'default' or a list of names, but got "
                        f'{names!r}')
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f'`measures` must hold different names among {list(MEASURES)}, but got '
                         f'{list(names)}')
    return [MEASURES[name] for name in names]
