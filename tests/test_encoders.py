import copy
import json
import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from likewise.data import ArrayDataset, Preprocess
from likewise.encoders import (
    ConvEncoder,
    GeneralizedMeanPool1d,
    GeneralizedMeanPool2d,
    MLPEncoder,
    Normalize,
    SelectOutput,
    SiameseNet,
    TripletNet,
    encode,
    encoding,
)

# Each seed network twice: as arguments, and as its author wrote it, layer by layer.


def siamese_triplet():
    ours = ConvEncoder(
        (1, 28, 28),
        layers=(32, "pool", 64, "pool"),
        kernel_size=5,
        padding="valid",
        activation="prelu",
        norm=None,
        hidden=(256, 256),
        embedding_dim=2,
        normalize=False,
    )
    theirs = nn.Sequential(
        *(nn.Conv2d(1, 32, 5), nn.PReLU(), nn.MaxPool2d(2, stride=2)),
        *(nn.Conv2d(32, 64, 5), nn.PReLU(), nn.MaxPool2d(2, stride=2)),
        nn.Flatten(),
        *(nn.Linear(64 * 4 * 4, 256), nn.PReLU(), nn.Linear(256, 256), nn.PReLU()),
        nn.Linear(256, 2),
    )
    return ours, theirs


def hello_world(kernels, flat):
    ours = ConvEncoder(
        (1, 28, 28),
        layers=(32, 32, "pool", 64, 64),
        kernel_size=kernels,
        padding="valid",
        norm=None,
        embedding_dim=64,
    )
    a, b, c, d = kernels if isinstance(kernels, tuple) else [kernels] * 4
    theirs = nn.Sequential(
        *(nn.Conv2d(1, 32, a), nn.ReLU(), nn.Conv2d(32, 32, b), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, c), nn.ReLU(), nn.Conv2d(64, 64, d), nn.ReLU(), nn.Flatten()),
        nn.Linear(flat, 64),
    )
    return ours, nn.Sequential(*theirs, L2())


class L2(nn.Module):
    def forward(self, x):
        return x / (x**2).sum(dim=1, keepdim=True).sqrt()


def faces(size=100):
    ours = ConvEncoder(
        (1, size, size),
        layers=(4, 8, 8),
        padding="reflect",
        norm_after_activation=True,
        dropout=0.2,
        hidden=(500, 500),
        embedding_dim=5,
        normalize=False,
    )

    def block(a, b):
        convolution = [nn.ReflectionPad2d(1), nn.Conv2d(a, b, kernel_size=3)]
        return [*convolution, nn.ReLU(), nn.BatchNorm2d(b), nn.Dropout2d(p=0.2)]

    theirs = nn.Sequential(
        *(*block(1, 4), *block(4, 8), *block(8, 8), nn.Flatten()),
        *(nn.Linear(8 * size * size, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU()),
        nn.Linear(500, 5),
    )
    return ours, theirs


def clothes():
    ours = ConvEncoder(
        (1, 28, 28),
        layers=(4, 4, "pool", 8, 8, "pool", 1),
        norm=("batch", "batch", "batch", "batch", None),
        norm_after_activation=True,
        embedding_dim=8,
        normalize=False,
    )

    def block(a, b):
        return [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(b)]

    theirs = nn.Sequential(
        *(*block(1, 4), *block(4, 4), nn.MaxPool2d(2)),
        *(*block(4, 8), *block(8, 8), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 1, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(49, 8)),
    )
    return ours, theirs


SEEDS = {
    "siamese-triplet": siamese_triplet,
    "hello world 0.13": lambda: hello_world((7, 3, 7, 3), 256),
    "hello world 0.15": lambda: hello_world(3, 4096),
    "faces": lambda: faces(20),  # smaller than the 100 x 100 of the original, for speed
    "clothes": clothes,
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def leaves(module):
    """Layers in order. Reflection is a mode of our convolutions and a layer of theirs."""
    kinds = [type(m) for m in module.modules() if not list(m.children())]
    return [kind for kind in kinds if kind is not nn.ReflectionPad2d]


@pytest.mark.parametrize("name", SEEDS)
def test_each_seed_network_is_a_choice_of_arguments(name):
    torch.manual_seed(3)  # the last rectifier of "clothes" starts alive
    ours, theirs = SEEDS[name]()
    assert [L2 if kind is Normalize else kind for kind in leaves(ours)] == leaves(theirs)
    # The same layers in the same order have their weights in the same order.
    weights = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(weights))
    theirs.to(memory_format=torch.channels_last)  # as ours; another layout rounds otherwise
    images = torch.rand(6, *ours.config["input_shape"])
    for mode in (True, False):  # training first, so that the running statistics are compared too
        torch.manual_seed(1)  # for the dropout
        ours_out = ours.train(mode)(images)
        torch.manual_seed(1)
        torch.testing.assert_close(ours_out, theirs.train(mode)(images))
    assert ours_out.std(dim=0).min() > 0  # equal because compared, not because constant


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("siamese-triplet", 832 + 51_264 + 262_400 + 65_792 + 514 + 4),
        ("hello world 0.13", 1_600 + 9_248 + 100_416 + 36_928 + 16_448),
        ("hello world 0.15", 327_200),  # as TensorFlow Similarity prints it
        ("clothes", 40 + 148 + 296 + 584 + 73 + 2 * (4 + 4 + 8 + 8) + 400),
    ],
)
def test_seed_networks_have_the_size_their_authors_give(name, parameters):
    ours, theirs = SEEDS[name]()
    assert count(ours) == count(theirs) == parameters


def test_the_faces_network_has_forty_million_parameters_in_one_layer():
    with torch.device("meta"):  # counted, never allocated
        ours, theirs = faces(100)
    assert count(ours) == count(theirs) == 960 + 40_000_500 + 250_500 + 2_505
    assert ours.head[0].in_features == 80_000


@pytest.mark.parametrize(
    "encoder",
    [
        ConvEncoder((3, 12, 10)),
        ConvEncoder((1, 9, 9), layers=(4, 5), kernel_size=(3, 5), norm=(None, "batch")),
        ConvEncoder((2, 8, 8), layers=(4,), padding="circular", pooling="gem", hidden=(7,)),
        ConvEncoder((2, 8, 8), layers=("pool", 4), activation="gelu", pooling="average"),
        ConvEncoder((2, 8, 8), layers=[4], dropout=0.5, pooling="max", normalize=False),
        MLPEncoder((4, 5), hidden=(8, 9), activation="prelu", norm="layer", dropout=0.1),
        MLPEncoder((7,), hidden=(), embedding_dim=3, normalize=False),
    ],
    ids=repr,
)
def test_config_survives_json_and_rebuilds_the_encoder(encoder):
    config = json.loads(json.dumps(encoder.config))
    assert config == encoder.config
    rebuilt = type(encoder)(**config)
    assert rebuilt.config == config
    assert repr(rebuilt) == repr(encoder)
    rebuilt.load_state_dict(encoder.state_dict())
    items = torch.rand(3, *encoder.config["input_shape"])
    ours, theirs = encode(encoder, items), encode(rebuilt, items)
    assert torch.equal(ours, theirs)
    assert ours.shape == (3, encoder.config["embedding_dim"])


def test_by_default_the_norm_comes_before_the_activation_and_embeddings_have_unit_length():
    encoder = ConvEncoder((1, 8, 8), layers=(4, "pool"), dropout=0.1)
    assert leaves(encoder) == [
        *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout2d, nn.MaxPool2d, nn.Flatten),
        *(nn.Linear, Normalize),
    ]
    assert encoder.features[0].bias is None
    lengths = encoder(torch.rand(5, 1, 8, 8)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(5))


def test_mlp_is_what_its_arguments_say():
    encoder = MLPEncoder((2, 3), hidden=(8,), embedding_dim=4, activation="tanh", dropout=0.5)
    assert leaves(encoder) == [
        *(nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout, nn.Linear, Normalize)
    ]
    assert count(encoder) == 6 * 8 + 2 * 8 + 8 * 4 + 4


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("average", lambda maps: maps.mean(dim=(2, 3))),
        ("max", lambda maps: maps.amax(dim=(2, 3))),
        ("gem", lambda maps: maps.clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)),
        ("flatten", lambda maps: maps.flatten(1)),
    ],
)
def test_pooling_is_what_its_name_says(pooling, pooled):
    encoder = ConvEncoder((1, 8, 6), layers=(4, 5), norm=None, pooling=pooling)
    images = torch.rand(3, 1, 8, 6)
    maps = encoder.features[:4](images)
    torch.testing.assert_close(encoder.features(images), pooled(maps))


def test_padding_makes_up_the_border_as_its_word_says():
    images = torch.rand(3, 1, 8, 6)
    modes = {"same": "constant", "reflect": "reflect", "replicate": "replicate"}
    for padding, mode in {**modes, "circular": "circular"}.items():
        encoder = ConvEncoder((1, 8, 6), layers=(4,), kernel_size=5, norm=None, padding=padding)
        weight, bias = encoder.features[0].parameters()
        framed = nn.functional.pad(images, (2, 2, 2, 2), mode=mode)
        expected = nn.functional.conv2d(framed, weight, bias)
        torch.testing.assert_close(encoder.features[0](images), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (28, 28)}, r"input_shape must be \(channels, height, width\), got"),
        ({"layers": ("pool",) * 4}, r"one pixel of 8 x 8, got none after layers\[3\]\. Use fewer"),
        ({"layers": (4, 4), "kernel_size": 5, "padding": "valid"}, r"none after layers\[1\]"),
        ({"layers": (4, 0)}, r"layers\[1\] must be at least 1, got 0"),
        ({"kernel_size": 4}, r'kernel_size must be odd unless padding is "valid", got 4'),
        ({"kernel_size": (3, 3)}, "one value for each of the 4 convolutions, got 2"),
        ({"norm": ("batch",)}, "norm must have one value for each of the 4 convolutions, got 1"),
        ({"norm": "layer"}, "norm must be one of batch, got 'layer'"),
        ({"padding": "zero"}, "padding must be one of circular, reflect, .* got 'zero'"),
        ({"padding": "reflect", "kernel_size": 9}, r"layers\[3\], got 'reflect'.*wide for 4 x 4"),
        ({"activation": "relu6"}, "activation must be one of elu, .* got 'relu6'"),
        ({"pooling": "mean"}, "pooling must be one of average, flatten, gem, max, got 'mean'"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1, got 1.5"),
        ({"hidden": (0,)}, "hidden must be at least 1, got 0"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvEncoder(**{"input_shape": (1, 8, 8), **arguments})


def test_a_misspelled_layer_is_named():
    with pytest.raises(TypeError, match=r"layers\[1\] must be a whole number, got 'pol'"):
        ConvEncoder((1, 8, 8), layers=(4, "pol"))


@pytest.mark.parametrize("encoder", [ConvEncoder((1, 8, 8)), MLPEncoder((1, 8, 8))])
def test_items_of_another_shape_are_refused(encoder):
    with pytest.raises(ValueError, match=r"shape \(n, 1, 8, 8\), got \(2, 1, 8, 9\)\. Resize"):
        encoder(torch.rand(2, 1, 8, 9))


# Heads


@given(seed=st.integers(0, 2**16), exponent=st.integers(-30, 30))
def test_normalize_gives_unit_length_at_any_scale(seed, exponent):
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, 7, generator=rng)
    scaled = Normalize()(rows * 10.0**exponent)
    torch.testing.assert_close(scaled, nn.functional.normalize(rows), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_normalize_is_the_slope():
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[1] = torch.tensor([0.0, -2.0, 0.0])  # the norm after scaling is exactly 1 here
    assert torch.autograd.gradcheck(Normalize(), rows.requires_grad_())


def test_a_row_of_zeros_stays_and_passes_its_gradient_on():
    rows = torch.zeros(2, 3, requires_grad=True)
    unit = Normalize()(rows)
    assert (unit == 0).all()
    unit.backward(torch.full((2, 3), 2.0))
    assert (rows.grad == 2).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalize_survives_half_precision(dtype):
    rows = torch.tensor([[3e4, 4e4], [3e-7, 4e-7], [0.0, 0.0]], dtype=dtype)
    unit = Normalize()(rows)
    assert unit.dtype == torch.float32
    expected = nn.functional.normalize(rows.double(), eps=1e-300).float()
    torch.testing.assert_close(unit, expected)


def test_nan_is_not_hidden_by_normalize():
    rows = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0]])
    assert Normalize()(rows).isnan().any(dim=1).all()


@pytest.mark.parametrize("p", [-2.0, 0.01, 0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("seed", range(5))
def test_generalized_mean_agrees_with_the_formula(p, seed):
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 4, 5, generator=rng, dtype=torch.float64) + 0.1
    expected = images.pow(p).mean(dim=(2, 3)).pow(1 / p)
    torch.testing.assert_close(GeneralizedMeanPool2d(p)(images), expected)
    torch.testing.assert_close(GeneralizedMeanPool1d(p)(images.flatten(2)), expected)


def test_generalized_mean_has_the_named_means_as_limits():
    values = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(0)) + 0.1
    expected = {
        math.inf: values.amax(-1),
        -math.inf: values.amin(-1),
        0.0: values.log().mean(-1).exp(),
        1.0: values.mean(-1),
    }
    for p, mean in expected.items():
        torch.testing.assert_close(GeneralizedMeanPool1d(p)(values), mean)
    torch.testing.assert_close(
        GeneralizedMeanPool1d(1e4)(values), expected[math.inf], rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        GeneralizedMeanPool1d(1e-2)(values), expected[0.0], rtol=1e-2, atol=0
    )


def test_generalized_mean_raises_negative_values_to_eps():
    values = torch.tensor([[[-5.0, 1.0]]])
    assert float(GeneralizedMeanPool1d(1.0, eps=0.5)(values)) == pytest.approx(0.75)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_generalized_mean_survives_half_precision(dtype):
    images = torch.tensor([0.0, 1e-3, 200.0, 400.0], dtype=dtype).view(1, 1, 2, 2)
    pooled = GeneralizedMeanPool2d(3.0)(images)
    assert pooled.dtype == dtype  # 400³ is beyond float16
    expected = GeneralizedMeanPool2d(3.0)(images.double())
    torch.testing.assert_close(pooled, expected.to(dtype))


def test_the_power_can_be_learned():
    pool = GeneralizedMeanPool2d(3.0, learnable=True).double()
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double() + 0.1
    assert [name for name, _ in pool.named_parameters()] == ["p"]
    assert list(GeneralizedMeanPool2d(3.0).parameters()) == []

    def slope(p, images):
        return torch.func.functional_call(pool, {"p": p}, (images,))

    p = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(slope, (p, images.requires_grad_()))


@pytest.mark.parametrize("p", [0.0, math.inf])
def test_a_power_that_cannot_be_learned_is_refused(p):
    with pytest.raises(ValueError, match=r"p must be finite and not 0 to be learned, got .*from 3"):
        GeneralizedMeanPool1d(p, learnable=True)


def test_a_power_must_be_a_number_and_values_have_their_dimensions():
    with pytest.raises(TypeError, match="p must be a number, got '3'"):
        GeneralizedMeanPool2d("3")
    with pytest.raises(ValueError, match=r"shape \(n, c, h, w\), got \(2, 3, 4\)"):
        GeneralizedMeanPool2d()(torch.rand(2, 3, 4))
    with pytest.raises(ValueError, match=r"shape \(n, c, l\), got \(2, 3, 4, 5\)"):
        GeneralizedMeanPool1d()(torch.rand(2, 3, 4, 5))


class Several(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.pack = pack

    def forward(self, items):
        return self.pack(self.linear(items))


def pair(embeddings):
    return embeddings, -embeddings


def mapping(embeddings):
    return {"here": embeddings, "there": -embeddings}


@pytest.mark.parametrize(
    ("pack", "key", "sign"),
    [(pair, 0, 1), (pair, -1, -1), (mapping, "there", -1), (torch.linalg.qr, "R", None)],
)
def test_one_output_of_several_is_selected(pack, key, sign):
    module, items = Several(pack), torch.rand(4, 3)
    embeddings = module.linear(items)
    expected = sign * embeddings if sign else torch.linalg.qr(embeddings).R
    assert torch.equal(SelectOutput(module, key)(items), expected)


@pytest.mark.parametrize(
    ("pack", "key", "returned"),
    [
        (pair, 2, "a tuple of 2"),
        (mapping, "where", "a dict with 'here', 'there'"),
        (mapping, 0, "a dict with 'here', 'there'"),
        (pair, "here", "a tuple of 2"),
    ],
)
def test_an_output_that_is_not_there_is_refused(pack, key, returned):
    with pytest.raises(
        ValueError, match=f"an output of Several, got {key!r}. It returns {returned}"
    ):
        SelectOutput(Several(pack), key)(torch.rand(4, 3))


# Pairs and triplets


def test_both_sides_of_a_pair_are_one_batch_for_the_encoder():
    torch.manual_seed(0)
    encoder = MLPEncoder((5,), hidden=(6,), embedding_dim=3)
    a, b = torch.randn(4, 5), torch.randn(4, 5) + 3
    together = copy.deepcopy(encoder)(torch.cat([a, b]))
    apart = copy.deepcopy(encoder)(a)
    embeddings_a, embeddings_b = SiameseNet(encoder)(a, b)
    assert torch.equal(torch.cat([embeddings_a, embeddings_b]), together)
    assert not torch.allclose(embeddings_a, apart)  # batch norm saw both sides


def test_triplets_are_encoded_side_by_side():
    encoder = nn.Linear(5, 3)
    sides = torch.randn(3, 4, 5)
    for embeddings, side in zip(TripletNet(encoder)(*sides), sides, strict=True):
        torch.testing.assert_close(embeddings, encoder(side))


# encode


def convolutional():
    torch.manual_seed(0)
    return ConvEncoder((1, 8, 8), layers=(4, "pool", 6), dropout=0.5, embedding_dim=5)


IMAGES = torch.rand(23, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_encode_is_the_encoder_in_evaluation_mode():
    encoder = convolutional()
    found = encode(encoder, IMAGES, batch_size=7)
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float32, "cpu", False)
    expected = copy.deepcopy(encoder).eval()(IMAGES)
    torch.testing.assert_close(found, expected.detach())
    assert not torch.allclose(found, encoder(IMAGES))  # dropout and batch statistics matter
    (found * torch.ones(5, requires_grad=True)).sum().backward()  # no inference tensor


@given(batch_size=st.integers(1, 30))
@settings(max_examples=15)
def test_the_batch_size_is_irrelevant(batch_size):
    encoder = convolutional()
    torch.testing.assert_close(
        encode(encoder, IMAGES, batch_size=batch_size), encode(encoder, IMAGES)
    )


class Held(nn.Module):
    """An encoder with batch statistics that waits inside of `forward` until it may go on."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.layers[2].eval()  # one that is not in the mode of the others
        self.inside = threading.Semaphore(0)
        self.go = {name: threading.Semaphore(0) for name in ("first", "second")}

    def forward(self, items):
        self.inside.release()
        thread = threading.current_thread().name
        assert thread not in self.go or self.go[thread].acquire(timeout=30)
        if bool((items > 90).any()):
            raise RuntimeError("broken")
        return self.layers(items)


def state_of(module):
    return [m.training for m in module.modules()], {
        k: v.clone() for k, v in module.state_dict().items()
    }


@pytest.mark.parametrize("is_broken", [False, True], ids=["well", "first call raises"])
@pytest.mark.parametrize("is_shared", [False, True], ids=["one encoder", "shared submodules"])
def test_threads_that_encode_at_once_leave_modes_and_statistics_as_they_were(is_broken, is_shared):
    encoder = Held()
    other = nn.Sequential(encoder, nn.Linear(4, 2)) if is_shared else encoder
    modes, values = state_of(other)
    assert True in modes, "else nothing could change"
    assert False in modes
    answers = {}

    def call(name, which, items):
        try:
            answers[name] = encode(which, items, batch_size=4)
        except RuntimeError as error:
            answers[name] = str(error)

    items = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    odd = torch.full((4, 3), 99.0 if is_broken else 1.0)
    first = threading.Thread(name="first", target=call, args=("first", encoder, odd))
    second = threading.Thread(name="second", target=call, args=("second", other, items))
    first.start()
    assert encoder.inside.acquire(timeout=30)
    second.start()
    assert encoder.inside.acquire(timeout=30)  # both are in `forward`; now the first one ends
    encoder.go["first"].release()
    first.join(30)
    encoder.go["second"].release(2)
    second.join(30)
    now, after = state_of(other)
    assert now == modes
    assert all(torch.equal(after[name], value) for name, value in values.items())
    assert isinstance(answers["first"], str) == is_broken
    assert torch.equal(answers["second"], encode(other, items, batch_size=4))
    assert not encoding._in_use, "a call left something behind"


def test_encode_gives_the_same_twice_and_leaves_no_trace():
    encoder = convolutional()
    encoder.features[1].eval()  # a batch norm that was frozen on purpose
    modes = [module.training for module in encoder.modules()]
    assert len(set(modes)) == 2
    state = copy.deepcopy(encoder.state_dict())
    random_state = torch.get_rng_state()
    data = ArrayDataset(IMAGES, torch.zeros(23, dtype=torch.int64))

    first, second = encode(encoder, data), encode(encoder, data)

    assert torch.equal(first, second)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()


def test_modes_are_restored_after_an_error():
    encoder = convolutional()
    with pytest.raises(ValueError, match="items must have shape"):
        encode(encoder, torch.rand(2, 1, 9, 9))
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize("workers", [0, 1])
def test_datasets_give_the_same_as_tensors(workers):
    encoder = convolutional()
    expected = encode(encoder, IMAGES)
    labels = torch.arange(23)
    datasets = [ArrayDataset(IMAGES, labels)]
    if workers == 0:  # one worker process is enough to pay for
        datasets += [TensorDataset(IMAGES), TensorDataset(IMAGES, labels), PlainItems()]
    for data in datasets:
        found = encode(encoder, data, batch_size=10, workers=workers)
        torch.testing.assert_close(found, expected)


class PlainItems:
    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return IMAGES[index]


def test_items_are_preprocessed_a_batch_at_a_time():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    sizes = []

    def halve(items):
        sizes.append(len(items))
        return items / 2

    torch.testing.assert_close(
        encode(encoder, IMAGES, batch_size=10, preprocess=halve), encode(encoder, IMAGES / 2)
    )
    assert sizes == [10, 10, 3]
    fitted = Preprocess.fit(ArrayDataset(IMAGES, torch.arange(23)))
    torch.testing.assert_close(
        encode(encoder, IMAGES, preprocess=fitted.apply), encode(encoder, fitted.apply(IMAGES))
    )


def test_progress_is_told_after_each_batch():
    told = []
    data = ArrayDataset(IMAGES, torch.arange(23))
    for inputs in (IMAGES, data):
        encode(convolutional(), inputs, batch_size=10, progress=lambda *done: told.append(done))
    assert told == [(10, 23), (20, 23), (23, 23)] * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_items_take_the_dtype_of_the_encoder(dtype):
    encoder = convolutional().to(dtype)
    found = encode(encoder, IMAGES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, encode(encoder.float(), IMAGES), atol=0.05, rtol=0)


def test_whole_numbers_stay_whole():
    words = nn.Sequential(nn.Embedding(10, 3), nn.Flatten())
    assert encode(words, torch.tensor([[1, 2], [3, 4]])).shape == (2, 6)


def test_an_encoder_without_parameters_runs_on_the_cpu():
    assert torch.equal(encode(nn.Flatten(), IMAGES), IMAGES.flatten(1))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_encode_works_where_the_encoder_is():
    encoder = convolutional().eval()
    expected = encode(encoder, IMAGES)
    found = encode(encoder.cuda(), IMAGES)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("encoder", "inputs", "error", "message"),
    [
        (len, IMAGES, TypeError, "encoder must be a torch module, got builtin_function"),
        (nn.Flatten(), IMAGES[:0], ValueError, "at least one item, got none"),
        (nn.Flatten(), torch.tensor(1.0), ValueError, r"shape \(n, \.\.\.\), got a single number"),
        (nn.Flatten(), {"x": [1.0]}, TypeError, r"dataset, got dict\. Give a tensor, an array"),
        (nn.Flatten(), ["a", "b"], TypeError, "items must be numbers for this encoder, got texts"),
        (nn.Flatten(), [[1.0], [1.0, 2.0]], ValueError, "inputs must have rows of one length"),
        (nn.Flatten(), "text", TypeError, "map-style dataset, got str"),
        (nn.Flatten(), iter([1]), TypeError, "map-style dataset, got list_iterator"),
        (
            Several(pair),
            torch.rand(4, 3),
            TypeError,
            r"one tensor, got a tuple of 2\. Choose one output with SelectOutput",
        ),
        (Several(mapping), torch.rand(4, 3), TypeError, "got a dict with 'here', 'there'"),
        (nn.Identity(), IMAGES, ValueError, r"\(23, d\) for 23 items, got \(23, 1, 8, 8\)\. End"),
        (nn.Flatten(0), IMAGES, ValueError, r"\(23, d\) for 23 items, got \(1472,\)"),
        (
            Several(lambda e: e[:1]),
            torch.rand(4, 3),
            ValueError,
            r"\(4, d\) for 4 items, got \(1, 2\)",
        ),
        (
            nn.Flatten(),
            torch.tensor([[1.0], [float("nan")]]),
            ValueError,
            "embeddings must be finite, got 1 NaN or infinite of 2 values",
        ),
    ],
)
def test_what_cannot_be_encoded_is_named(encoder, inputs, error, message):
    with pytest.raises(error, match=message):
        encode(encoder, inputs)


def test_pairs_are_no_items():
    class Pairs(PlainItems):
        def __getitem__(self, index):
            return (IMAGES[index], IMAGES[index]), True

    with pytest.raises(TypeError, match=r"inputs must give tensors.* got a tuple of 2\. Wrap"):
        encode(nn.Flatten(), Pairs())


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"workers": -1}])
def test_counts_are_checked(arguments):
    with pytest.raises(ValueError, match="must be at least"):
        encode(nn.Flatten(), IMAGES, **arguments)


def test_pooling_before_the_norm_is_convolution_pool_norm_activation():
    kinds = [torch.nn.Conv2d, torch.nn.MaxPool2d, torch.nn.BatchNorm2d, torch.nn.ReLU]
    encoder = ConvEncoder(
        (1, 8, 8), layers=("pool", 4, "pool", "pool", 6), pool_before_norm=True, embedding_dim=2
    )
    first, *rest = encoder.features[:-1]
    assert isinstance(first, torch.nn.MaxPool2d)
    found = [type(layer) for layer in rest]
    expected = [*kinds, torch.nn.MaxPool2d, kinds[0], *kinds[2:]]
    assert found == expected
    assert encoder(torch.rand(3, 1, 8, 8)).shape == (3, 2)
