import functools
import hashlib
import re

import numpy as np
import pytest
import torch
from torch import nn

import likewise as lw
from likewise import data, losses
from likewise.data import TextDataset, has_splits, is_text, load, load_pairs
from likewise.data.texts import checked_texts
from likewise.encoders import encode, takes_texts

WORDS = ("card", "pin", "loan")


class Bag(nn.Module):
    """Texts as the mean of numbers of their words."""

    takes_texts = True

    def __init__(self):
        super().__init__()
        self.words = nn.EmbeddingBag(997, 8)

    def forward(self, texts):
        assert isinstance(texts, list)
        assert all(isinstance(text, str) for text in texts)
        rows = [torch.tensor([sum(map(ord, word)) % 997 for word in t.split()]) for t in texts]
        starts = torch.tensor([0, *map(len, rows[:-1])]).cumsum(0)
        return self.words(torch.cat(rows), starts)


def texts(count, word=None):
    words = [word or WORDS[i % 3] for i in range(count)]
    return [f'my "{word}", number {i}; please' for i, word in enumerate(words)], words


@pytest.fixture
def model():
    torch.manual_seed(0)
    return lw.SimilarityModel(Bag(), reading=data.Reading(text="question", label="intent"))


def test_texts_are_a_dataset_whose_batches_are_lists():
    questions, intents = texts(7)
    whole = TextDataset(questions, intents)
    assert (len(whole), whole.item_shape, whole.class_names) == (7, (), ["card", "loan", "pin"])
    assert whole[3] == (questions[3], 0)
    assert is_text(whole)
    part = data.Subset(whole, [5, 0])
    assert is_text(part)
    assert data.items(part) == [questions[5], questions[0]]
    assert data.items(whole, batch_size=2) == questions
    assert data.fetch(part, [1, 0]).labels.tolist() == [0, 1]
    assert TextDataset(["a"]).labels.tolist() == [-1]
    assert not is_text(data.ArrayDataset(np.eye(2), [0, 1]))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            "a text",
            lw.errors.InputTypeError,
            r"texts must be a list of strings, got one. Use \['a t",
        ),
        (["a", 7], lw.errors.InputTypeError, "texts must be strings, got int as text 1"),
        (["a", "  "], lw.errors.InputError, "texts must not be empty, got '  ' as text 1"),
        ([], lw.errors.InputError, "at least one, got none"),
    ],
)
def test_what_is_no_text_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        checked_texts(given)


def test_labels_of_another_number_are_refused():
    with pytest.raises(ValueError, match="labels must be one per text, 2, got 1"):
        TextDataset(["a", "b"], [0])


def test_fingerprints_of_texts_are_of_their_bytes():
    words = ["naïve", "naive", "", "a\ud800"]
    expected = [
        int.from_bytes(
            hashlib.blake2b(w.encode("utf-8", "surrogatepass"), digest_size=8).digest(),
            "little",
            signed=True,
        )
        for w in words
    ]
    assert data.fingerprints(words).tolist() == expected
    assert len(set(expected)) == 4
    questions, intents = texts(5)
    assert torch.equal(
        data.fingerprints(TextDataset(questions, intents), 2), data.fingerprints(questions)
    )


@pytest.mark.parametrize("given", ["list", "dataset", "part", "foreign", "workers"])
def test_texts_are_encoded_however_given(given):
    questions, intents = texts(6)
    torch.manual_seed(0)
    encoder = nn.Sequential(Bag(), nn.Linear(8, 3))
    assert takes_texts(encoder)
    whole = TextDataset(questions, intents)
    inputs = {
        "list": questions,
        "dataset": whole,
        "part": data.Subset(whole, range(6)),
        "foreign": list(zip(questions, intents, strict=True)),
        "workers": whole,
    }[given]
    if given == "foreign":
        inputs = torch.utils.data.Subset(Foreign(questions, intents), range(6))
    workers = 2 if given == "workers" else 0
    found = encode(encoder, inputs, batch_size=4, workers=workers)
    with torch.no_grad():
        torch.testing.assert_close(found, encoder(questions))


def test_a_module_may_tell_in_any_way_that_it_takes_texts():
    class ByProperty(nn.Module):
        @property
        def takes_texts(self):
            return True

    class ByAsking(nn.Module):
        def __getattr__(self, name):
            return True if name == "takes_texts" else super().__getattr__(name)

    by_itself, shared = nn.Linear(2, 2), nn.ReLU()
    by_itself.takes_texts = True
    for module in (ByProperty(), ByAsking(), by_itself):
        assert takes_texts(nn.Sequential(shared, nn.Sequential(module, shared)))
    assert not takes_texts(nn.Sequential(nn.Linear(2, 2), shared))


def test_a_tensor_is_refused_by_an_encoder_of_texts(model):
    verify = functools.partial(model.verify, torch.ones(2, 3), threshold=0.5)
    for ask in (model.embed, model.embedded, model.lookup, verify):
        with pytest.raises(ValueError, match="items must be texts for this encoder, got numbers"):
            ask(torch.ones(2, 3))


class Foreign(torch.utils.data.Dataset):
    def __init__(self, questions, intents):
        self.questions, self.labels = questions, intents

    def __len__(self):
        return len(self.questions)

    def __getitem__(self, index):
        return self.questions[index], self.labels[index]


@pytest.mark.parametrize("kind", ["dataset", "pair", "foreign", "pairs", "triplets"])
def test_an_encoder_of_texts_is_trained(kind):
    questions, intents = texts(24)
    whole = TextDataset(questions, intents)
    given = {
        "dataset": whole,
        "pair": (questions, intents),
        "foreign": Foreign(questions, intents),
        "pairs": data.PairDataset(whole),
        "triplets": data.TripletDataset(whole),
    }[kind]
    cost = {
        "pairs": losses.GivenPairsLoss(functools.partial(losses.contrastive_loss, margin=1.0)),
        "triplets": losses.GivenTripletsLoss(),
    }
    torch.manual_seed(0)
    encoder = Bag()
    before = encoder.words.weight.detach().clone()
    history = lw.fit(
        encoder, cost.get(kind, losses.TripletLoss()), given, epochs=2, batches=3, device="cpu"
    )
    assert len(history.records) == 2
    assert not torch.equal(encoder.words.weight, before)


@pytest.mark.parametrize("encoder", [None, "small", "none"])
def test_training_on_texts_needs_an_encoder_of_texts(encoder):
    with pytest.raises(lw.InputError, match=r"encoder must be sentence:.* for texts, got"):
        lw.train(TextDataset(*texts(24)), lw.Recipe(encoder=encoder))


def test_texts_and_numbers_are_not_mixed(model):
    numbers = data.ArrayDataset(np.eye(4), [0, 0, 1, 1])
    whole = TextDataset(*texts(24))
    for wrong in (
        lambda: encode(nn.Linear(4, 2), ["a"]),
        lambda: encode(nn.Linear(4, 2), whole),
        lambda: lw.fit(nn.Linear(4, 2), losses.TripletLoss(), whole, epochs=1),
        lambda: lw.SimilarityModel(nn.Linear(4, 2)).embed(whole),
        lambda: data.Preprocess.fit(whole),
    ):
        with pytest.raises(ValueError, match=r"must be .*numbers.*, got texts"):
            wrong()
    for wrong in (
        lambda: encode(Bag(), numbers),
        lambda: lw.fit(Bag(), losses.TripletLoss(), numbers, epochs=1),
        lambda: model.embed([[1.0, 2.0]]),
    ):
        with pytest.raises(lw.errors.InputTypeError, match=r"must be texts .*, got numbers"):
            wrong()
    with pytest.raises(
        lw.errors.InputTypeError, match=r"a list of texts, got one text. Use \['x'\]"
    ):
        model.embed("x")


def test_every_verb_takes_texts(model, tmp_path):
    questions, intents = texts(30)
    known = TextDataset(questions[:15], intents[:15])
    new = TextDataset(questions[15:], intents[15:])
    model.add(known)
    model.calibrate(new)
    model.calibrate(new, rule="pairs")
    assert model.match(questions[:2]).labels.shape == (2,)
    assert model.verify(questions[:1], questions[3:4]).distances.shape == (1,)
    found = model.lookup(questions[:1], k=1)
    assert found.distances.item() < 1e-6
    assert model.evaluate(new).items == 15
    assert len(model.add_new(known)) == 0
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m", encoder=Bag())
    assert again.reading == model.reading
    assert torch.equal(again.match(new).labels, model.match(new).labels)


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.fixture
def table(tmp_path):
    questions, intents = texts(9)
    rows = [
        f'"{q.replace(chr(34), chr(34) * 2)}",{i},{"train" if n % 3 else "test"}'
        for n, (q, i) in enumerate(zip(questions, intents, strict=True))
    ]
    return write(tmp_path, "t.csv", "Question,Intent,split\n" + "\n".join(rows) + "\n")


def test_a_column_of_a_table_holds_the_texts(table):
    questions, intents = texts(9)
    whole = load(table, text="question", label="INTENT")
    assert isinstance(whole, TextDataset)
    assert whole.texts == questions
    assert [whole.class_names[code] for code in whole.labels] == intents
    assert has_splits(table, text="question")
    train = load(table, text="question", label="intent", split="train")
    assert train.texts == [q for n, q in enumerate(questions) if n % 3]
    assert load(table, text="question").labels.tolist() == [-1] * 9


@pytest.mark.parametrize(
    ("text", "asked", "message"),
    [
        ("q,label\na,b\n", {"text": "x"}, r"text must be a column of .* \(q, label\), got 'x'"),
        ("q,label\na,b\n", {"text": "q", "label": "x"}, "label must be a column of .*, got 'x'"),
        ("q,label\na,b\n ,c\n", {"text": "q"}, "row 3 of .* must have a text as q, got none"),
        (
            "q,label\na,b\nc,\n",
            {"text": "q"},
            "row 3 of .* a text or a whole number as label, got n",
        ),
        ("q,label\na,b\nc\n", {"text": "q"}, "row 3 of .* must have 2 columns as the header has"),
        (
            "q,label,split\na,b,dev\n",
            {"text": "q"},
            "row 2 of .* the split train, val or test, got",
        ),
        ("q,label\n", {"text": "q"}, "must have a row, got none"),
        ("q,q\na,b\n", {"text": "q"}, "must name each column once, got q twice"),
    ],
)
def test_a_faulty_table_of_texts_is_named(tmp_path, text, asked, message):
    with pytest.raises(ValueError, match=message) as info:
        load(write(tmp_path, "t.csv", text), **asked)
    assert "\n" not in str(info.value)


def test_no_column_is_asked_of_what_is_no_table(tmp_path):
    for source in ("digits", tmp_path, (np.eye(2), [0, 1])):
        with pytest.raises(ValueError, match="text must be left out unless source is a table"):
            load(source, text="question")


def test_pairs_of_texts(tmp_path):
    path = write(
        tmp_path,
        "pairs.csv",
        'a,b,same\n"one, two",three,1\nthree,four,0\nfour,"one, two",no\nfour,three,0\nx,x,1\n',
    )
    with (
        pytest.warns(UserWarning, match="1 rows with a pair of an earlier row"),
        pytest.warns(UserWarning, match="1 rows that compare a text with itself; they are left"),
    ):
        pairs = load_pairs(path, texts=True)
    assert data.items(pairs.data) == ["one, two", "three", "four"]
    assert pairs.pairs.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert pairs.same.tolist() == [True, False, False]
    (a, b), same = pairs.__getitems__([0, 2])[0]
    assert (a, b, same.tolist()) == (["one, two", "four"], ["three", "one, two"], [True, False])
    for row, message in (
        ("x,x,0", "row 2 of .* must name different texts, got 'x' twice"),
        (",y,1", "row 2 of .* must hold two texts, got an empty cell"),
    ):
        with pytest.raises(ValueError, match=message):
            load_pairs(write(tmp_path, "bad.csv", f"a,b,same\n{row}\n"), texts=True)


# the command line


@pytest.fixture
def saved(model, tmp_path, monkeypatch, table):
    """A model over texts in a folder; the command line is given its encoder by the loader."""
    questions, intents = texts(30)
    model.add(TextDataset(questions[12:], intents[12:]))
    model.save(tmp_path / "MODEL")
    given = lw.load
    monkeypatch.setattr(lw, "load", lambda *a, **k: given(*a, **{**k, "encoder": Bag()}))
    monkeypatch.chdir(tmp_path)
    return model


@pytest.mark.usefixtures("saved")
def test_a_model_remembers_the_columns_on_the_command_line(run, tmp_path, table):
    status, _, err = run("calibrate", "MODEL", "t.csv", "--split", "all")
    assert status == 0, err
    status, out, err = run("match", "MODEL", "t.csv", "--split", "all")
    assert status == 0, err
    assert 'my "card", number 0; please' in out
    assert "named rightly" in out
    new = write(tmp_path, "new.csv", "question\nwhere is my card\n")
    status, out, err = run("match", "MODEL", new)
    assert status == 0, err
    assert "where is my card" in out
    status, out, err = run("match", "MODEL", "where is my card", "and my pin")
    assert status == 0, err
    assert "and my pin" in out
    write(tmp_path, "other.csv", "words,kind\nmy card,card\nmy loan,loan\n")
    status, _, err = run("match", "MODEL", "other.csv")
    assert (status, "text must be a column of 'other.csv' (words, kind)" in err) == (2, True), err
    status, out, err = run("match", "MODEL", "other.csv", "--text", "words", "--label", "kind")
    assert (status, "named rightly" in out) == (0, True), err
    status, out, err = run("lookup", "MODEL", "my loan", "-k", "1")
    assert (status, "my loan" in out, "please" in out) == (0, True, False), err
    status, out, err = run("verify", "MODEL", "my card", "your card", "--point", "pairs")
    assert (status, "different" in out or "same" in out) == (0, True), err
    status, out, err = run("info", "MODEL")
    assert (status, "question" in out, "intent" in out) == (0, True, True), err
    status, out, err = run("evaluate", "MODEL", "t.csv", "--split", "all", "--report", "r.html")
    assert status == 0, err
    assert "The nearest pairs of two classes" in (tmp_path / "r.html").read_text()
    status, out, err = run("map", "MODEL", "t.csv", "--split", "all", "--out", "m.html")
    assert status == 0, err


@pytest.mark.usefixtures("saved")
def test_pairs_of_texts_are_verified_from_a_table(run, tmp_path):
    rows = "".join(
        f"my {a} {i},the {b} {i},{int(a == b)}\n" for i in range(4) for a in WORDS for b in WORDS
    )
    write(tmp_path, "pairs.csv", f"a,b,same\n{rows}")
    status, _, err = run("calibrate", "MODEL", "pairs.csv")
    assert status == 0, err
    status, out, err = run("verify", "MODEL", "--pairs", "pairs.csv", "--report", "p.html")
    assert (status, "accuracy" in out) == (0, True), err
    assert re.search(r"my (card|pin|loan) \d", (tmp_path / "p.html").read_text())
    status, out, err = run("verify", "MODEL", "--pairs", "pairs.csv", "--picture", "p.png")
    assert (status, "--picture must be for a model over images" in err) == (2, True), err


def test_train_says_that_its_network_takes_no_texts(run, table, tmp_path):
    status, _, err = run(
        *("train", table, "--text", "question", "--label", "intent", "--out", tmp_path / "m")
    )
    assert (status, "for texts, got none. Use --encoder sentence:" in err) == (2, True), err


def test_texts_are_encoded_once_with_a_cache(tmp_path):
    seen = []

    class Counted(Bag):
        def forward(self, given):
            seen.extend(given)
            return super().forward(given)

    encoder = Counted()
    given = ["a card", "my PIN", "a card"]
    first = lw.embed(encoder, given, cache=tmp_path)
    seen.clear()
    again = lw.embed(encoder, [*given[::-1], "something new"], cache=tmp_path)
    assert seen == ["something new"]
    torch.testing.assert_close(again.embeddings[:3], first.embeddings.flip(0))
    torch.testing.assert_close(again.embeddings, lw.encode(encoder, [*given[::-1], seen[0]]))
    assert torch.equal(again.fingerprints[:3], first.fingerprints.flip(0))
