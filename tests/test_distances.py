import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise import distances
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, MANHATTAN, SNR, SQUARED_EUCLIDEAN
from likewise.evaluation import evaluate_retrieval
from likewise.index import Index
from likewise.matching import lookup_without_own_class

WAYS = {  # SMALL and WIDE
    "product": (0, 0),
    "in float64": (0, distances.WIDE),
    "differences": (distances.SMALL, 0),
    "as it is": (distances.SMALL, distances.WIDE),
}


@pytest.fixture(scope="module", params=WAYS)
def _small(request):
    small, wide = WAYS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "SMALL", small)
        patch.setattr(distances, "WIDE", wide)
        yield


pytestmark = pytest.mark.usefixtures("_small")
ALL = [pytest.param(d, id=d.name) for d in distances.NAMED.values()]


def points(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_definition(name, a, b):
    difference = a - b
    return {
        "cosine": lambda: 1 - a @ b / (a.norm() * b.norm()),
        "euclidean": lambda: difference.square().sum().sqrt(),
        "squared_euclidean": lambda: difference.square().sum(),
        "manhattan": lambda: difference.abs().sum(),
        "inner_product": lambda: -(a @ b),
        "snr": lambda: difference.var() / a.var(),
    }[name]()


@pytest.mark.parametrize("distance", ALL)
def test_matrix_agrees_with_the_definition_entry_by_entry(distance):
    a, b = points(5, 4), points(7, 4, seed=1)
    expected = torch.stack(
        [torch.stack([by_definition(distance.name, x, y) for y in b]) for x in a]
    )
    assert expected.std() > 0.1
    torch.testing.assert_close(distance.matrix(a, b), expected)


@pytest.mark.parametrize("distance", ALL)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 9), d=st.integers(2, 6))
@settings(max_examples=25)
def test_paired_is_the_diagonal_of_matrix(distance, seed, n, d):
    a, b = points(2, n, d, seed=seed)
    torch.testing.assert_close(distance.paired(a, b), distance.matrix(a, b).diagonal())


@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN])
def test_true_distances_are_symmetric(distance):
    a, b = points(4, 3), points(6, 3, seed=1)
    torch.testing.assert_close(distance.matrix(a, b), distance.matrix(b, a).T)


@pytest.mark.parametrize("distance", [EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, SNR])
def test_equal_rows_are_exactly_zero_apart(distance):
    a = torch.nn.functional.normalize(points(50, 64, dtype=torch.float32))
    assert (distance.matrix(a, a).diagonal() == 0).all()
    assert (distance.paired(a, a) == 0).all()


def near_pairs(apart, dtype=torch.float32, size=40):
    """Unit vectors and others about `apart` from them, row by row."""
    unit = torch.nn.functional.normalize
    a = unit(points(size, 64))
    b = unit(a + apart * unit(points(size, 64, seed=1)))
    return a.to(dtype), b.to(dtype)


LOOKS = pytest.mark.parametrize("looks", [True, False], ids=["CPU", "as on a GPU"])


def in_float64(distance, a, b):
    """The definition in float64, by differences, with its gradient for slopes of our own."""
    a, b = a.double().requires_grad_(), b.double().requires_grad_()
    squares = (a[:, None, :] - b[None, :, :]).square().sum(dim=2)
    matrix = squares if distance is SQUARED_EUCLIDEAN else squares.sqrt()
    return matrix, torch.autograd.grad((matrix * slopes(matrix)).sum(), (a, b))


def slopes(matrix):
    # Heavy on the diagonal, where the near pairs are.
    return torch.eye(len(matrix)) + points(*matrix.shape, seed=5).to(matrix.dtype) * 1e-3


@LOOKS
@pytest.mark.parametrize("distance", [EUCLIDEAN, SQUARED_EUCLIDEAN])
@pytest.mark.parametrize("apart", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.09, 0.11, 1.0])
def test_near_rows_have_value_and_gradient_of_float64(distance, apart, looks, monkeypatch):
    monkeypatch.setattr(distances, "free_to_look", lambda _: looks)
    a, b = (side.requires_grad_() for side in near_pairs(apart))
    matrix = distance.matrix(a, b)
    gradients = torch.autograd.grad((matrix * slopes(matrix)).sum(), (a, b))
    expected, expected_gradients = in_float64(distance, a.detach(), b.detach())
    # On a GPU the last digits of a product in float64 are what is left of 1e-6.
    bound = 5e-3 if apart == 1e-6 and not looks else 1e-4
    torch.testing.assert_close(matrix.double(), expected, rtol=bound, atol=0)
    for found, right in zip(gradients, expected_gradients, strict=True):
        miss = (found.double() - right).norm(dim=1) / right.norm(dim=1)
        # A squared distance pulls near rows hardly at all, so that far ones make the scale.
        assert miss.max() < bound


@pytest.mark.parametrize("apart", [1e-6, 1e-4])
def test_the_plain_product_would_not_do(apart):
    a, b = near_pairs(apart)
    product = (2 - 2 * (a * b).sum(dim=1)).clamp(min=0).sqrt()
    exact = EUCLIDEAN.matrix(a, b).diagonal()
    assert ((product - exact) / exact).abs().max() > 0.1


@LOOKS
@pytest.mark.parametrize("distance", [EUCLIDEAN, SQUARED_EUCLIDEAN, SNR])
def test_gradient_is_the_slope_at_near_rows_too(distance, looks, monkeypatch):
    monkeypatch.setattr(distances, "free_to_look", lambda _: looks)
    a = points(10, 3)
    b = torch.cat([a[:3] + 0.02, points(9, 3, seed=1)])
    near = EUCLIDEAN.paired(a[:3], b[:3])
    assert (near < 0.1).all()
    a, b = a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(distance.matrix, (a, b))
    assert torch.autograd.gradcheck(lambda x: distance.matrix(x, b.detach()), a)


@LOOKS
@pytest.mark.parametrize("distance", [EUCLIDEAN, SQUARED_EUCLIDEAN])
def test_equal_rows_among_others_are_zero_apart_and_pull_nothing(distance, looks, monkeypatch):
    monkeypatch.setattr(distances, "free_to_look", lambda _: looks)
    a = torch.nn.functional.normalize(points(30, 64, dtype=torch.float32))
    a[20:] = a[:10]
    a.requires_grad_()
    matrix = distance.matrix(a, a)
    equal = torch.eye(30) + torch.eye(30).roll(20, 1) * (torch.arange(30) < 10)[:, None]
    assert (matrix[equal.bool()] == 0).all()
    assert (matrix == 0).sum() == 50
    (gradient,) = torch.autograd.grad((matrix * equal).sum(), a)
    assert (gradient == 0).all()


@LOOKS
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e3])
def test_rows_nearly_all_alike_keep_their_digits(shift, looks, monkeypatch):
    monkeypatch.setattr(distances, "free_to_look", lambda _: looks)
    a = (shift + 1e-3 * points(30, 8)).float()
    if shift:
        a[1] = a[0]
        a[1, 0] = a[0, 0].nextafter(torch.tensor(torch.inf))
    a.requires_grad_()
    matrix = EUCLIDEAN.matrix(a, a)
    assert (matrix.diagonal() == 0).all()
    expected = torch.cdist(a.detach().double(), a.detach().double())
    torch.testing.assert_close(matrix.double(), expected, rtol=1e-4, atol=1e-9)
    matrix.sum().backward()
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().max() > 1


@LOOKS
@pytest.mark.parametrize("shift", [0, 100])
@pytest.mark.parametrize("levels", [2, 5])
def test_equal_distances_between_whole_numbers_stay_equal(levels, shift, looks, monkeypatch):
    monkeypatch.setattr(distances, "free_to_look", lambda _: looks)
    a = torch.randint(0, levels, (40, 6), generator=torch.Generator().manual_seed(0)) + shift
    expected = (a[:, None, :] - a[None, :, :]).square().sum(dim=2)
    assert torch.equal(SQUARED_EUCLIDEAN.matrix(a.float(), a.float()), expected.float())


def test_rows_without_embeddings_have_an_empty_matrix():
    assert EUCLIDEAN.matrix(torch.zeros(0, 3), torch.zeros(20, 3)).shape == (0, 20)


def test_equal_rows_are_zero_apart_by_cosine_up_to_rounding_and_never_below():
    a = points(50, 64, dtype=torch.float32)
    apart = COSINE.matrix(a, a).diagonal()
    assert (apart >= 0).all()
    assert apart.max() < 1e-6


def test_a_distance_that_counts_serves_where_infinity_stands_for_none():
    differ = distances.Distance(
        "differing signs",
        lambda a, b: ((a[:, None] > 0) != (b[None] > 0)).sum(dim=-1),
        lambda a, b: ((a > 0) != (b > 0)).sum(dim=-1),
    )
    items = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 4
    counts = differ.matrix(items, items)
    assert counts.dtype == differ.paired(items, items).dtype == torch.float32
    assert 1 < counts.max() == counts.max().round()
    assert differ.matrix(items.double(), items).dtype == torch.float64
    scored = evaluate_retrieval(items, labels, distance=differ)
    signs = evaluate_retrieval(items.sign(), labels, distance=SQUARED_EUCLIDEAN)
    assert float(scored.map_at_r) == float(signs.map_at_r) > 0
    index = Index(differ)
    index.add(items, labels=labels)
    found = lookup_without_own_class(items, labels, index, distance=differ, k=3)
    others = counts.masked_fill(labels[:, None] == labels, torch.inf)
    assert torch.equal(found.distances, others.sort(dim=1).values[:, :3])


def test_smaller_is_closer_for_the_inner_product_too():
    query = torch.tensor([[1.0, 0.0]])
    found = INNER_PRODUCT.matrix(query, torch.tensor([[3.0, 0.0], [-1.0, 0.0]]))
    assert found.tolist() == [[-3.0, 1.0]]


def test_snr_is_not_symmetric():
    a, b = torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, -3.0]])
    assert SNR.paired(a, b).tolist() == [4.0]
    torch.testing.assert_close(SNR.paired(b, a), torch.tensor([4 / 9]))


@pytest.mark.parametrize("distance", ALL)
def test_gradient_is_the_slope(distance):
    a, b = points(3, 4).requires_grad_(), points(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(distance.matrix, (a, b))
    assert torch.autograd.gradcheck(distance.paired, (a, b[:3]))


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("fill", [0.0, 1.0, 1e4])
def test_gradients_stay_finite_at_equal_constant_and_zero_rows(distance, fill):
    a = torch.full((3, 4), fill, requires_grad=True)
    distance.matrix(a, a).sum().backward()
    distance.paired(a, a.detach()).sum().backward()
    assert torch.isfinite(a.grad).all()


def gradients(compare, a, b, slopes):
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    found = compare(a, b)
    return found.detach(), *torch.autograd.grad((found * slopes.to(found.dtype)).sum(), (a, b))


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_zeros_has_gradient_0_by_cosine_and_leaves_the_others_alone(dtype):
    a, b = points(5, 4).to(dtype), points(6, 4, seed=1).to(dtype)
    slopes = points(5, 6, seed=2)
    right = gradients(COSINE.matrix, a, b, slopes)
    a[1] = 0
    value, to_a, to_b = gradients(COSINE.matrix, a, b, slopes)
    assert (value[1] == 1).all()
    assert (to_a[1] == 0).all()
    others = torch.arange(5) != 1
    torch.testing.assert_close(to_a[others], right[1][others])
    torch.testing.assert_close(to_b, gradients(COSINE.matrix, a[others], b, slopes[others])[2])
    value, to_a, to_b = gradients(COSINE.paired, a, b[:5], slopes[:, 0])
    assert value[1] == 1
    assert (to_a[1] == 0).all()
    assert (to_b[1] == 0).all()
    assert to_a[others].abs().amin(dim=1).min() > 0
    itself = a.clone().requires_grad_()
    (COSINE.matrix(itself, itself) * slopes[:, :5].to(value.dtype)).sum().backward()
    assert (itself.grad[1] == 0).all()
    assert itself.grad[others].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constant", [0.0, 0.1, 3.0])
def test_a_constant_anchor_pulls_nothing_by_snr(dtype, constant):
    a, b = points(5, 7).to(dtype), points(6, 7, seed=1).to(dtype)
    slopes = points(5, 6, seed=2)
    a[1] = constant
    others = torch.arange(5) != 1
    value, to_a, to_b = gradients(SNR.matrix, a, b, slopes)
    assert value.isfinite().all()
    assert (value[1] > 1e5).all()
    assert (to_a[1] == 0).all()
    expected = gradients(SNR.matrix, a[others], b, slopes[others])
    torch.testing.assert_close(to_a[others], expected[1])
    torch.testing.assert_close(to_b, expected[2])
    value, to_a, to_b = gradients(SNR.paired, a, b[:5], slopes[:, 0])
    assert (to_a[1] == 0).all()
    assert (to_b[1] == 0).all()
    # As a reference it is a row as any other.
    assert (gradients(SNR.matrix, b, a, slopes.T)[2][1] != 0).any()


@pytest.mark.parametrize("size", [3, 12])
def test_an_item_that_is_not_finite_is_not_0_from_itself(size):
    a = points(size, 4)
    a[1] = torch.nan
    a[2, 0] = torch.inf
    found = EUCLIDEAN.matrix(a, a).diagonal()
    assert not found[1:3].isfinite().any()
    assert (found[3:] == 0).all() or size == 12


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [3, 12], ids=["few", "by a product"])
@pytest.mark.parametrize("fill", ["zero", "smallest", "tiny", "huge", "largest"])
def test_gradients_of_tiny_and_huge_rows_are_finite_where_the_type_can_hold_them(
    fill, size, dtype, distance
):
    info = torch.finfo(dtype)
    scale = {
        "zero": 0.0,
        "smallest": info.smallest_normal,
        "tiny": 1e-5 if dtype is torch.float16 else info.smallest_normal**0.3,
        "huge": 0.1 * info.max**0.7,
        "largest": 0.1 * info.max,
    }[fill]
    a, b = points(size, 4), points(size, 4, seed=1)
    a[1] *= scale
    b[2] *= scale
    for compare, slopes in (
        (distance.matrix, points(size, size, seed=2)),
        (distance.paired, points(size, seed=2)),
    ):
        _, *found = gradients(compare, a.to(dtype), b.to(dtype), slopes)
        if dtype is torch.float64:  # whose true gradient no wider type can tell
            assert all(side.isfinite().all() for side in found) or fill not in ("zero", "tiny")
            continue
        # float64 holds the squares of all others.
        wide = [side.to(dtype).double() for side in (a, b)]
        _, *right = gradients(compare, *wide, slopes)
        for mine, theirs in zip(found, right, strict=True):
            holds = theirs.abs() < info.max / 8
            assert mine[holds].isfinite().all()


def test_cosine_has_the_bits_of_its_formula():
    a, b = points(40, 9, dtype=torch.float32), points(30, 9, seed=1, dtype=torch.float32)
    a[0], b[1], a[2] = 0, 1e-14, a[2] * 1e-15
    units = [x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12) for x in (a, b)]
    assert torch.equal(COSINE.matrix(a, b), (1 - units[0] @ units[1].T).clamp(min=0))
    paired = (1 - (units[0][:30] * units[1]).sum(dim=1)).clamp(min=0)
    assert torch.equal(COSINE.paired(a[:30], b), paired)
    assert all(torch.equal(distances.unit(x), y) for x, y in zip((a, b), units, strict=True))


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_loses_more_than_its_inputs_did(distance, dtype):
    a, b = (200 * points(6, 8)).to(dtype), (200 * points(4, 8, seed=1)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = distance.matrix(a, b)
    torch.testing.assert_close(found, distance.matrix(a.float(), b.float()))
    assert torch.isfinite(found).all()


def test_a_zero_vector_is_one_away_from_everything_by_cosine():
    assert COSINE.matrix(torch.zeros(1, 3), torch.eye(3)).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(3), torch.zeros(2, 3), r"a must have shape \(n, d\) with d >= 1, got \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(2, 4), "b must have as many dimensions as a, 3, got 4"),
        (torch.zeros(2, 3).int(), torch.zeros(2, 3), r"a must be floating point, got torch.int32"),
        ([[1.0]], torch.zeros(2, 3), "a must be a torch tensor, got list"),
    ],
)
def test_what_cannot_be_compared_is_named(distance, a, b, message):
    for compare in (distance.matrix, distance.paired):
        with pytest.raises((ValueError, TypeError), match=message):
            compare(a, b)


def test_paired_refuses_to_broadcast():
    with pytest.raises(ValueError, match="b must have as many rows as a, 4, got 1"):
        EUCLIDEAN.paired(torch.zeros(4, 2), torch.zeros(1, 2))


def test_snr_refuses_a_single_dimension():
    with pytest.raises(ValueError, match="at least 2 dimensions for snr, got 1"):
        SNR.matrix(torch.zeros(4, 1), torch.zeros(4, 1))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"distance must be one of cosine, euclidean, .* got 'cos'"
    ):
        distances.by_name("cos")


@pytest.mark.parametrize("distance", ALL)
def test_comparing_a_set_with_itself_has_the_gradient_of_comparing_it_with_a_copy(distance):
    rows = points(30, 4)
    rows[3], rows[5] = rows[2], rows[4] + 1e-5  # equal and nearly equal rows
    slopes = points(30, 30, seed=2)
    itself = rows.clone().requires_grad_()
    (distance.matrix(itself, itself) * slopes).sum().backward()
    a, b = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    (distance.matrix(a, b) * slopes).sum().backward()
    torch.testing.assert_close(itself.grad, a.grad + b.grad)


@pytest.mark.parametrize("distance", [EUCLIDEAN, SQUARED_EUCLIDEAN], ids=lambda d: d.name)
@pytest.mark.parametrize("others", [None, 40])
@pytest.mark.parametrize("near", [None, 0.0, 1e-6, 1e-3])
def test_float32_of_a_small_batch_has_the_digits_of_float64(near, others, distance):
    rng = torch.Generator().manual_seed(0)
    exact = torch.randn(60, 64, generator=rng, dtype=torch.float64).float().double()
    if near is not None:
        exact[1] = (exact[0] + near).float().double()
    references = None
    if others is not None:
        references = torch.randn(others, 64, generator=rng).double()
        references[0] = exact[1]
    slopes = torch.rand(60, others or 60, generator=rng)
    found = []
    for dtype in (torch.float32, torch.float64):
        a = exact.to(dtype).requires_grad_()
        b = a if references is None else references.to(dtype).requires_grad_()
        distances = distance.matrix(a, b)
        distances.backward(slopes.to(dtype))
        found.append([part.detach().double() for part in (distances, a.grad, b.grad)])
    (values, *gradients), (expected, *of_gradients) = found
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)
    for mine, theirs in zip(gradients, of_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_one_row_expanded_gives_the_same_numbers_as_its_copies():
    one, many = torch.randn(1, 7), torch.randn(5, 7)
    for row in (one, torch.zeros(1, 7)):
        copies = row.repeat(5, 1)
        with torch.no_grad():
            assert torch.equal(COSINE.paired(row.expand(5, -1), many), COSINE.paired(copies, many))
        assert torch.equal(COSINE.paired(row.expand(5, -1), many), COSINE.paired(copies, many))
