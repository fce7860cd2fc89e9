import copy
import doctest
import importlib
import importlib.util
import json
import socket
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

import likewise as lw
from likewise.encoders import Backbone, backbone, backbones, encode
from likewise.encoders._timm import unpooled
from likewise.encoders._torchvision import retried
from likewise.model import ArtifactError
from oracles import seal_model

if importlib.util.find_spec("timm") is None:
    pytest.skip('needs timm: pip install "likewise[backbones]"', allow_module_level=True)
timm = retried(lambda: importlib.import_module("timm"))

FAMILIES = ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"]
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
GRAY = IMAGES[:, :1]


def made(name="test_resnet", *, seed=0, pretrained=False, **settings):
    """An encoder of small images; timm keeps tiny networks of several families for tests."""
    torch.manual_seed(seed)
    return backbone(name, pretrained=pretrained, **{"image_size": 32, **settings})


def by_timm(name, *, seed=0, **settings):
    torch.manual_seed(seed)
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    size = {"img_size": (32, 32)} if fixed else {}
    return timm.create_model(name, **{"num_classes": 0, **size, **settings}).eval()


def unit(features):
    return features / features.norm(dim=1, keepdim=True)


def copied(module):
    return {name: values.clone() for name, values in module.state_dict().items()}


def changed(module, before):
    """The weights that are not what they were."""
    now = module.state_dict()
    return {name for name in now if not torch.equal(now[name], before[name])}


def step(encoder, images=IMAGES):
    """One step of training that gives every weight that trains a gradient."""
    encoder.train()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    embeddings = encoder(images)
    (embeddings * torch.randn(embeddings.shape)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_gives_the_features_of_timm_at_unit_length(name):
    encoder = made(name, trainable="frozen")
    with torch.no_grad():
        expected = by_timm(name)(IMAGES)
    assert encoder.embedding_dim == expected.shape[1]
    torch.testing.assert_close(encoder(IMAGES), unit(expected))
    assert expected.std(dim=0).max() > 0  # the images are told apart


@pytest.mark.parametrize(
    ("name", "cut", "dimensions"),
    [
        ("test_resnet", "layer2", (2, 3)),
        ("test_resnet", "layer2.0.conv1", (2, 3)),
        ("test_convnext", "stages.1", (2, 3)),
        ("test_efficientnet", "blocks.1", (2, 3)),
        ("test_vit", "blocks.2", 1),
        ("test_mambaout", "stages.1", (1, 2)),  # channels last, as timm says of it
    ],
)
def test_a_cut_network_gives_the_mean_of_what_stands_there(name, cut, dimensions):
    network = by_timm(name)
    seen = []
    network.get_submodule(cut).register_forward_hook(lambda *call: seen.append(call[-1]))
    network(IMAGES)
    encoder = made(name, cut=cut, normalize=False).eval()
    torch.testing.assert_close(encoder(IMAGES), seen[0].mean(dim=dimensions))
    weights = encoder.network.state_dict()
    assert 0 < len(weights) < len(network.state_dict())  # the rest is gone
    assert set(weights) <= set(network.state_dict())


def test_a_cut_reaches_nodes_that_are_no_modules():
    sums = made(cut="layer2.0.add", normalize=False).eval()(IMAGES)
    after = made(cut="layer2.0.act2", normalize=False).eval()(IMAGES)  # the rectifier behind it
    assert not torch.allclose(sums, after)
    assert (after >= sums).all()


def seen_at(network, cut, images):
    """What a network gives at a module, and of all of it before anything is pooled."""
    seen = []
    if cut is None:
        found = network.forward_features(images)
        norm = getattr(getattr(network, "head", None), "norm", None)
        return found if norm is None else norm(found)
    network.get_submodule(cut).register_forward_hook(lambda *call: seen.append(call[-1]))
    network(images)
    return seen[0]


def pooled_by_loops(places, pooling):
    """Features of (n, c, places), position by position."""
    columns = places.unbind(dim=2)
    if pooling == "max":
        largest = columns[0]
        for column in columns:
            largest = torch.maximum(largest, column)
        return largest
    power = {"average": 1, "gem": 3}[pooling]
    least = 1e-6 if pooling == "gem" else -torch.inf
    return (sum(c.clamp(min=least) ** power for c in columns) / len(columns)) ** (1 / power)


@pytest.mark.parametrize("pooling", ["average", "max", "gem"])
@pytest.mark.parametrize(
    ("name", "cut", "places"),
    [
        ("test_resnet", None, lambda maps: maps.flatten(2)),
        ("test_convnext", None, lambda maps: maps.flatten(2)),
        ("test_vit", None, lambda tokens: tokens[:, 1:].transpose(1, 2)),  # without the class token
        ("test_resnet", "layer3", lambda maps: maps.flatten(2)),
        ("test_vit", "blocks.2", lambda tokens: tokens.transpose(1, 2)),
        ("test_mambaout", "stages.1", lambda maps: maps.movedim(3, 1).flatten(2)),
    ],
)
def test_a_pooling_is_that_of_all_places_by_loops(name, cut, places, pooling):
    side = 32 if name == "test_vit" else 96  # so that a map has more than one pixel
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    asked = {"cut": cut, "normalize": False, "image_size": side}
    encoder = made(name, pooling=pooling, **asked).eval()
    with torch.no_grad():
        expected = pooled_by_loops(places(seen_at(by_timm(name), cut, images)), pooling)
        found = encoder(images)
    assert encoder.embedding_dim == expected.shape[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    own = made(name, **asked).eval()
    assert set(encoder.state_dict()) <= set(own.state_dict())  # the same weights fit
    with torch.no_grad():
        is_own = torch.allclose(own(images), found, atol=1e-5)
    # A convnext has a norm behind its own pooling, and a transformer takes its class token.
    assert is_own == (pooling == "average" and (cut is not None or name == "test_resnet"))


def test_a_pooling_that_is_not_chosen_leaves_no_trace():
    assert "pooling" not in made().config
    assert made(pooling="gem").config["pooling"] == "gem"
    with pytest.raises(ValueError, match="pooling must be left out for x, whose own one cannot"):
        unpooled(nn.Linear(1, 1), "x", "gem")


def test_a_head_of_the_size_asked_for():
    encoder = made(embedding_dim=7)
    assert encoder(IMAGES).shape == (4, 7)
    assert encoder.embedding_dim == 7
    torch.testing.assert_close(encoder(IMAGES).norm(dim=1), torch.ones(4))
    assert not torch.allclose(made(normalize=False)(IMAGES).norm(dim=1), torch.ones(4))


def test_frozen_trains_the_head_alone_and_no_statistic_moves():
    encoder = made(trainable="frozen", embedding_dim=5)
    before = copied(encoder)
    assert any("running_mean" in name for name in before)
    step(encoder)
    assert changed(encoder, before) == {"head.0.weight", "head.0.bias"}
    assert not any(module.training for module in encoder.network.modules())
    assert encoder.training
    assert encoder.head.training


def test_full_trains_everything():
    encoder = made()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01)  # some start at zero and would keep the gradient from others
    before = copied(encoder)
    step(encoder)
    assert changed(encoder, before) == set(before)
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize("cut", [None, "blocks.1.0"])
def test_partial_keeps_the_statistics_of_what_is_frozen_and_moves_the_others(cut):
    # Cutting must leave this family's batch norms whole, which are timm's own.
    encoder = made("test_efficientnet", trainable="partial", cut=cut)
    before = copied(encoder)
    step(encoder)
    moved = changed(encoder, before)
    first = next(name for name, p in encoder.named_parameters() if p.requires_grad)
    trained = list(before)[list(before).index(first) :]
    assert moved == set(trained)
    assert 0 < len(moved) < len(before)
    for kind in ("running_mean", "weight"):
        assert any(kind in name for name in moved)
        assert any(kind in name for name in set(before) - moved)


@pytest.mark.parametrize(
    ("name", "cut", "first"),
    [
        ("resnet18", None, "layer4."),
        ("resnet18", "layer3", "layer3."),
        ("resnet18", "layer3.0", "layer3."),
        ("convnext_atto", None, "stages.3."),
        ("vit_tiny_patch16_224", None, "blocks.11."),
        ("mobilenetv3_small_050", None, "blocks.4."),
        ("densenet121", None, "features.transition3."),  # its last stage is called norm5
    ],
)
def test_partial_is_what_follows_the_last_stage_but_one(name, cut, first):
    with torch.no_grad():
        encoder = made(name, cut=cut, trainable="partial")
    trained = [name for name, p in encoder.network.named_parameters() if p.requires_grad]
    assert trained[0].startswith(first)
    last = list(encoder.network.named_parameters())[-1][0]
    assert trained[-1] == last


def test_training_from_any_module_on_splits_the_network_there():
    modules = [name for name, _ in made().network.named_modules()][1:]
    whole = [name for name, _ in made().network.named_parameters()]
    for module in modules[::3]:
        encoder = made(trainable=module)
        trained = [n for n, p in encoder.network.named_parameters() if p.requires_grad]
        assert trained == whole[len(whole) - len(trained) :]
        inside = [n for n in whole if n.startswith(f"{module}.")]
        assert trained[: len(inside)] == inside
        awake = {n for n, m in encoder.network.named_modules() if m.training}
        holders = {n for n in ["", *modules] if not n or module.startswith(f"{n}.")}
        assert awake == holders | set(modules[modules.index(module) :])


def test_tokens_of_their_own_are_frozen_with_what_comes_first():
    encoder = made("test_vit", trainable="blocks.3")
    frozen = {name for name, p in encoder.network.named_parameters() if not p.requires_grad}
    assert {"cls_token", "pos_embed"} <= frozen


def saved_weights(path, name="test_resnet", **settings):
    network = by_timm(name, seed=7, **settings)
    safetensors.torch.save_file(network.state_dict(), path)
    return network


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
@pytest.mark.parametrize("classes", [0, 13, 1000])
def test_weights_come_from_a_file_with_any_classifier(name, classes, tmp_path):
    network = saved_weights(tmp_path / "w.safetensors", name, num_classes=classes)
    network.reset_classifier(0)
    encoder = made(name, weights=tmp_path / "w.safetensors", trainable="frozen")
    torch.testing.assert_close(encoder(IMAGES), unit(network(IMAGES)).detach())
    assert not torch.allclose(encoder(IMAGES), made(name, trainable="frozen")(IMAGES))


def test_a_cut_network_takes_its_part_of_a_file(tmp_path):
    network = saved_weights(tmp_path / "w.safetensors", num_classes=10)
    encoder = made(weights=str(tmp_path / "w.safetensors"), cut="layer2", trainable="frozen")
    weights = network.state_dict()
    found = encoder.network.state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in found)


def test_color_weights_are_added_up_for_gray_images(tmp_path):
    saved_weights(tmp_path / "w.safetensors", num_classes=1000)
    settings = {"weights": tmp_path / "w.safetensors", "trainable": "frozen"}
    gray, color = made(channels=1, **settings), made(**settings)
    torch.testing.assert_close(gray(GRAY), color(GRAY.expand(-1, 3, -1, -1)))


def test_gray_weights_stay_as_they_are(tmp_path):
    network = saved_weights(tmp_path / "w.safetensors", in_chans=1)
    encoder = made(channels=1, weights=tmp_path / "w.safetensors", trainable="frozen")
    torch.testing.assert_close(encoder(GRAY), unit(network(GRAY)).detach())


def test_pretrained_weights_are_those_of_the_hub(tmp_path, monkeypatch):
    network = saved_weights(tmp_path / "model.safetensors", num_classes=1000)
    network.reset_classifier(0)
    asked = []

    def fetch(repo_id, filename, **_):
        asked.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", fetch)
    encoder = made(pretrained=True, trainable="frozen")
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    torch.testing.assert_close(encoder(IMAGES), unit(network(IMAGES)).detach())


def test_weights_that_cannot_be_fetched_end_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = r"weights of test_resnet must be on this machine or be fetched .* or use pretrained="
    with pytest.raises(FileNotFoundError, match=message):
        made(pretrained=True)


def truncated(path):
    saved_weights(path)
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("file", "write", "error", "message"),
    [
        ("w.safetensors", None, FileNotFoundError, "weights must exist, got"),
        ("w.pth", None, FileNotFoundError, "weights must exist, got"),
        ("w.txt", None, ValueError, r"must be a \.safetensors, .* file, got .*w\.txt'\. Save"),
        ("w.safetensors", truncated, ValueError, "must be a whole .safetensors file"),
        (
            "w.safetensors",
            lambda path: saved_weights(path, "test_vit"),
            ValueError,
            r"weights must be those of test_resnet for 3 channels .*, got others in",
        ),
        (
            "w.safetensors",
            lambda path: saved_weights(path, in_chans=1),
            ValueError,
            "weights must be those of test_resnet for 3 channels",
        ),
        (
            "w.safetensors",
            lambda path: safetensors.torch.save_file(
                {n: w for n, w in by_timm("test_resnet").state_dict().items() if "layer1" not in n},
                path,
            ),
            ValueError,
            "weights must be those of test_resnet",
        ),
    ],
    ids=["absent", "absent-pickled", "unknown", "truncated", "another", "gray", "incomplete"],
)
def test_files_of_other_weights_are_named(file, write, error, message, tmp_path):
    if write is not None:
        write(tmp_path / file)
    with pytest.raises(error, match=message):
        made(weights=tmp_path / file)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": "resnet43"}, ValueError, r"got 'resnet43'\. Near it: .*resnet34.* A newer"),
        ({"name": "resnet18.a1_in2k"}, ValueError, r"Near it: resnet18\.a1_in1k"),
        ({"name": "hf-hub:timm/resnet18"}, ValueError, "name must be one of timm.list_models()"),
        ({"name": "local-dir:/tmp"}, ValueError, "name must be one of timm.list_models()"),
        ({"name": None}, TypeError, "name must be a name of timm.list_models"),
        ({"cut": "layr3"}, ValueError, r"node of test_resnet, got 'layr3'\. Near it: layer3,"),
        ({"cut": "fc.weights"}, ValueError, "cut must name a node of test_resnet"),
        ({"trainable": "layr4"}, ValueError, r"got 'layr4'\.? Near it: layer4"),
        ({"trainable": ""}, ValueError, "full, partial, frozen or a module of test_resnet"),
        ({"cut": "conv1", "trainable": "partial"}, ValueError, "has no two stages"),
        ({"cut": "lay.r3"}, ValueError, "cut must name a node"),
        ({"channels": 0}, ValueError, "channels must be at least 1"),
        ({"embedding_dim": 0}, ValueError, "embedding_dim must be at least 1"),
        ({"image_size": 0}, ValueError, "image_size must be at least 1"),
        ({"image_size": (1, 2, 3)}, ValueError, r"image_size must be \(height, width\)"),
        ({"name": "test_vit", "image_size": 5}, ValueError, r"must suit test_vit, got 3 and"),
        ({"pooling": "mean"}, ValueError, "pooling must be one of average, gem, max, got 'mean'"),
        ({"cut": "global_pool", "pooling": "max"}, ValueError, "which gives no maps and no tokens"),
    ],
)
def test_what_cannot_be_made_is_named(settings, error, message):
    with pytest.raises(error, match=message):
        made(**settings)


def test_networks_without_pretrained_weights_say_so():
    without = set(timm.list_models("mobilenet*")) - {
        name.split(".")[0] for name in timm.list_models("mobilenet*", pretrained=True)
    }
    with pytest.raises(ValueError, match="name must be of a network with pretrained weights"):
        made(min(without), pretrained=True)


def test_a_node_that_gives_no_features_is_named():
    with pytest.raises(ValueError, match="cut must name a node of test_vit with features"):
        made("test_vit", cut="getattr")


def test_images_of_another_size_are_named():
    with pytest.raises(ValueError, match=r"shape \(n, 3, 32, 32\), got \(4, 1, 32, 32\)\. Resize"):
        made()(GRAY)


def test_the_settings_of_the_weights_make_a_preprocess():
    settings = made("resnet18", image_size=None).preprocess_settings
    preprocess = lw.data.Preprocess(**settings)
    assert preprocess.item_shape == (3, 224, 224)
    assert preprocess.mean == (0.485, 0.456, 0.406)
    assert preprocess.std == (0.229, 0.224, 0.225)
    own = made("vit_tiny_patch16_224", image_size=(32, 48)).preprocess_settings
    assert own.pop("framing") == {
        "height": 32,
        "width": 48,
        "crop": 0.9,
        "mode": "center",
        "interpolation": "bicubic",
        "fill": [0.5] * 3,
    }
    assert own == {"item_shape": (3, 32, 48), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    gray = made("resnet18", channels=1).preprocess_settings
    assert gray["mean"] == pytest.approx((0.449,), abs=1e-3)
    five = made("resnet18", channels=5).preprocess_settings
    assert five["std"] == (0.229, 0.224, 0.225, 0.229, 0.224)
    assert lw.data.Preprocess(**five).apply(torch.rand(2, 5, 32, 32)).shape == (2, 5, 32, 32)


SETTINGS = [
    {},
    {"cut": "layer3", "trainable": "partial", "embedding_dim": 6},
    {"trainable": "frozen", "channels": 1, "normalize": False},
    {"name": "test_vit", "trainable": "blocks.3"},
    {"name": "test_efficientnet", "cut": "blocks.1", "image_size": (32, 48)},
    {"pooling": "gem", "embedding_dim": 6},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_config_survives_json_and_rebuilds_the_encoder(settings):
    encoder = made(**settings)
    config = json.loads(json.dumps(encoder.config))
    assert config == encoder.config
    again = Backbone(**config)
    assert again.config == config
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(3, *encoder.preprocess_settings["item_shape"])
    assert torch.equal(encode(again, images), encode(encoder, images))
    now = [(name, p.requires_grad) for name, p in again.named_parameters()]
    assert now == [(name, p.requires_grad) for name, p in encoder.named_parameters()]


def no_network(*_):
    raise AssertionError("something wants the network")


@pytest.mark.parametrize("settings", [*SETTINGS[1:3], SETTINGS[-1]], ids=repr)
def test_a_saved_model_loads_without_network_and_bit_equal(settings, tmp_path, monkeypatch):
    saved_weights(tmp_path / "w.safetensors", num_classes=1000)
    encoder = made(weights=tmp_path / "w.safetensors", **settings)
    preprocess = lw.data.Preprocess(**encoder.preprocess_settings)
    images = torch.rand(6, *preprocess.item_shape)
    model = lw.SimilarityModel(encoder, preprocess=preprocess)
    model.save(tmp_path / "model")
    (tmp_path / "w.safetensors").unlink()  # what the folder holds is enough
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    again = lw.load(tmp_path / "model")
    assert torch.equal(again.embed(images), model.embed(images))
    assert again.preprocess == preprocess
    assert again.encoder.config == encoder.config


@pytest.mark.parametrize(
    "wish",
    [
        {"pretrained": True},
        {"weights": "/tmp/other.safetensors"},
        {"name": "hf-hub:someone/theirs"},
        {"name": "local-dir:."},
        {"cut": "__import__('os')"},
        {"pooling": "__import__('os')"},
    ],
    ids=repr,
)
def test_a_folder_cannot_make_its_loader_fetch_or_run_anything(wish, tmp_path, monkeypatch):
    folder = lw.SimilarityModel(made()).save(tmp_path / "model")
    manifest = json.loads((folder / "model.json").read_text())
    manifest["encoder"]["config"] |= wish
    seal_model(folder, manifest)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(ArtifactError, match="model must be whole"):
        lw.load(folder)


def test_users_without_timm_get_one_sentence(tmp_path, monkeypatch):
    folder = lw.SimilarityModel(made()).save(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "timm", None)
    message = r"timm must be installed .*\. Use pip install \"likewise\[backbones\]\"\.$"
    with pytest.raises(ImportError, match=message):
        backbone("resnet18", pretrained=False)
    with pytest.raises(ArtifactError, match=message):
        lw.load(folder)


def test_a_network_of_timm_is_made_in_a_new_process_whatever_torchvision_is_there():
    code = (
        "import likewise as lw\n"
        "encoder = lw.encoders.backbone('test_resnet', pretrained=False)\n"
        "print(encoder.embedding_dim)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == str(made().embedding_dim), ran.stderr


def test_users_whose_torchvision_does_not_load_get_one_sentence(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('built for another')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import likewise as lw\n"
        "for _ in range(2):\n"
        "    try: lw.encoders.backbone('test_resnet', pretrained=False)\n"
        "    except ImportError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = ran.stdout.splitlines()
    assert first.startswith("torchvision must be built for the installed torch, ")
    assert "built for another. Install both from one place" in first
    assert second == first


def test_fit_trains_the_head_alone_on_a_frozen_network():
    digits = lw.data.load("digits", split="train", image_size=32)
    few = lw.data.sample_items(digits, per_class=6)
    encoder = made(channels=1, trainable="frozen", embedding_dim=8)
    before = copied(encoder)
    preprocess = lw.data.Preprocess(**encoder.preprocess_settings)
    loss = lw.losses.MultiSimilarityLoss(distance=lw.distances.COSINE)
    lw.fit(encoder, loss, few, epochs=1, batches=2, preprocess=preprocess.apply)
    assert changed(encoder, before) == {"head.0.weight", "head.0.bias"}


def test_encoding_between_two_steps_changes_nothing():
    encoder = made("test_efficientnet", trainable="partial", cut="blocks.1")
    modes = [module.training for module in encoder.modules()]
    before = copied(encoder)
    torch.testing.assert_close(encode(encoder, IMAGES), encoder.eval()(IMAGES).detach())
    encoder.train()
    assert [module.training for module in encoder.modules()] == modes
    assert changed(encoder, before) == set()


@pytest.mark.parametrize("cut", [None, "layer2"])
def test_copies_live_apart(cut):
    encoder = made(cut=cut, trainable="partial")
    twin = copy.deepcopy(encoder)
    before = copied(encoder)
    step(twin)
    assert changed(twin, before)
    assert changed(encoder, before) == set()
    assert [m.training for m in twin.modules()] == [m.training for m in encoder.modules()]


def test_the_example_runs():
    text = backbones.backbone.__doc__.replace("  # doctest: +SKIP", "")
    names = {"torch": torch, "backbone": backbone}
    example = doctest.DocTestParser().get_doctest(text, names, "backbone", None, 0)
    assert len(example.examples) == 2
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert result.failed == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cut_network_runs_on_a_gpu():
    encoder = made(cut="layer2", trainable="frozen", embedding_dim=4)
    expected = encode(encoder, IMAGES)
    torch.testing.assert_close(encode(encoder.cuda(), IMAGES), expected, atol=1e-3, rtol=1e-3)
    assert isinstance(encoder.head, nn.Sequential)
