"""Two towers from pairs to a saved model: train, index, lookup, calibrate, verify."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import likewise as lw
from likewise.data import ArrayDataset, CrossPairs, TextDataset, load_cross_pairs
from likewise.errors import ArtifactError, InputError, InputTypeError
from likewise.journeys.fitting import loss_rate_of, rate_of
from likewise.model.trials import cross_trials

COUNT, NAMES = 60, 6
TOLD = {"progress": False, "device": "cpu"}


def sides():
    """Vectors of two widths: many queries, and one known item for each of six groups."""
    rng = torch.Generator().manual_seed(0)
    codes = torch.arange(COUNT) % NAMES
    means, known = torch.randn(NAMES, 8, generator=rng), torch.randn(NAMES, 5, generator=rng)
    queries = means[codes] + 0.2 * torch.randn(COUNT, 8, generator=rng)
    names = [f"group {code}" for code in range(NAMES)]
    return ArrayDataset(queries, codes, names), ArrayDataset(known, range(NAMES), names)


def pairs_of(queries, known, rows):
    rows = torch.as_tensor(rows)
    return CrossPairs(queries, known, torch.stack([rows, queries.labels[rows]], dim=1))


RECIPE = lw.Recipe(
    towers=("none", "none"), epochs=10, batches=20, batch_size=16, learning_rate=0.03
)


@pytest.fixture(scope="module")
def trained():
    queries, known = sides()
    return lw.train(pairs_of(queries, known, range(36)), RECIPE, progress=False, device="cpu")


def test_a_query_finds_its_known_item_before_and_after_saving(trained, tmp_path):
    queries, known = sides()
    model = trained
    assert [model.embed(x, queries=q).shape[1] for x, q in ((queries, True), (known, False))] == [
        5,
        5,
    ]
    model.add(known)
    fresh = lw.data.Subset(queries, range(36, COUNT))
    found = model.lookup(fresh, k=1)
    assert float((found.labels.flatten() == fresh.labels).float().mean()) > 0.9
    again = lw.load(model.save(tmp_path / "model"))
    assert torch.equal(again.embed(queries, queries=True), model.embed(queries, queries=True))
    assert torch.equal(again.embed(known), model.embed(known))
    assert torch.equal(again.lookup(fresh, k=2).distances, model.lookup(fresh, k=2).distances)
    assert model.origin["recipe"]["towers"] == ["none", "none"]
    assert lw.Recipe.from_dict(again.origin["recipe"]) == RECIPE
    assert len(list((tmp_path / "model").glob("queries-*.safetensors"))) == 1
    left_out = lw.load(tmp_path / "model", without_encoder=True)
    assert type(left_out.query_encoder).__name__ == "LeftOut"
    assert left_out.query_encoder is not None


def test_the_same_seed_gives_the_same_model(trained):
    queries, known = sides()
    assert trained.is_new(queries).tolist() == [False] * 36 + [True] * (COUNT - 36)
    assert not trained.is_new(known).any()
    again = lw.train(pairs_of(queries, known, range(36)), RECIPE, progress=False, device="cpu")
    assert torch.equal(again.embed(queries, queries=True), trained.embed(queries, queries=True))


def test_thresholds_for_match_and_verify_are_chosen_across_the_sides(trained):
    queries, known = sides()
    model = lw.SimilarityModel(trained.encoder, query_encoder=trained.query_encoder)
    model.trained_prints = trained.trained_prints
    model.add(known)
    fresh = lw.data.Subset(queries, range(36, COUNT))
    point = model.calibrate(fresh)
    assert point.false_negative_rate.value < 0.2
    right = model.match(fresh).labels == fresh.labels
    assert float(right.float().mean()) > 0.7
    true = pairs_of(queries, known, range(COUNT)).pairs
    wrong = torch.stack([true[:, 0], (true[:, 1] + 1) % NAMES], dim=1)
    truth = torch.arange(2 * COUNT) < COUNT
    judged = CrossPairs(queries, known, torch.cat([true, wrong]), truth)
    made = model.calibrate(judged, rule="pairs")
    assert made.same_total == made.different_total == COUNT - 36  # the others were trained on
    verdicts = model.verify(fresh, lw.data.Subset(known, fresh.labels.tolist()))
    assert float(verdicts.same.float().mean()) > 0.8
    x = model.embed(fresh, queries=True)
    y = model.embed(known)[fresh.labels]
    torch.testing.assert_close(verdicts.distances, lw.distances.COSINE.paired(x, y))
    by_class = model.calibrate(judged, rule="pairs", leave_out="classes", point="new")
    assert by_class.threshold == made.threshold
    new, others = model.embedded(queries, queries=True, only_new=True), model.embedded(known)
    for left_out, count in (("items", COUNT - 36 + NAMES), ("classes", NAMES)):
        trials = cross_trials(new, others, model.compared_by, judged, leave_out=left_out)
        assert len(torch.unique(trials.items)) == count
    assert torch.equal(trials.items[:, 0] == trials.items[:, 1], trials.same)
    found = model.evaluate(fresh)
    assert found.matching is not None


def test_what_compares_items_of_one_side_is_refused_in_a_sentence(trained):
    queries, known = sides()
    with pytest.raises(InputError, match="one encoder for pairs of one side"):
        trained.calibrate(queries, rule="pairs")
    given = lw.data.PairDataset(queries)
    with pytest.raises(InputError, match="one encoder for pairs of one side"):
        trained.calibrate(given, rule="pairs")
    with pytest.raises(InputError, match="one encoder for a cohort"):
        trained.use_cohort(known, nearest=2)
    with pytest.raises(InputTypeError, match=r"query_encoder=towers\.a"):
        lw.SimilarityModel(lw.encoders.TwoTowers(nn.Linear(2, 2), nn.Linear(3, 2)))
    with pytest.raises(InputError, match="query_preprocess must come with a query_encoder"):
        lw.SimilarityModel(None, query_preprocess=lw.data.Preprocess((2,), (0.0,), (1.0,)))


class Own(nn.Module):
    """An encoder of the user's own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, items):
        """Embeddings."""
        return self.layer(items)


def test_a_query_encoder_of_the_users_own_must_be_given_to_load(trained, tmp_path):
    queries, _ = sides()
    model = lw.SimilarityModel(trained.encoder, query_encoder=Own())
    folder = model.save(tmp_path / "model")
    with pytest.raises(ArtifactError, match="query_encoder must be given"):
        lw.load(folder)
    again = lw.load(folder, query_encoder=Own())
    assert torch.equal(again.embed(queries, queries=True), model.embed(queries, queries=True))
    with pytest.raises(ArtifactError, match="query_encoder must be of the architecture"):
        lw.load(folder, query_encoder=nn.Linear(8, 5))
    one = lw.SimilarityModel(trained.encoder).save(tmp_path / "one")
    with pytest.raises(ArtifactError, match="query_encoder must be left out"):
        lw.load(one, query_encoder=Own())


def test_truth_trains_towers_with_a_loss_of_given_pairs_and_small_ones_train_whole():
    queries, known = sides()
    true = pairs_of(queries, known, range(COUNT)).pairs
    wrong = torch.stack([true[:, 0], (true[:, 1] + 1) % NAMES], dim=1)
    both = CrossPairs(queries, known, torch.cat([true, wrong]), torch.arange(2 * COUNT) < COUNT)
    for loss, towers in (("contrastive", ("small", "none")), ("sigmoid-pairs", ("none", "small"))):
        recipe = lw.Recipe(towers=towers, loss=loss, epochs=3, batches=10, embedding_dim=7)
        model = lw.train(both, recipe, progress=False, device="cpu")
        history = model.origin["history"]
        assert history[-1]["loss"] < history[0]["loss"]
        assert model.embed(known).shape[1] == model.embed(queries, queries=True).shape[1] == 7


@pytest.mark.parametrize(
    ("towers", "train", "rates"),
    [
        (("small", "none"), None, (1e-3, None)),
        (("timm:resnet18", "sentence:x"), None, (1e-3, None)),
        (("timm:resnet18", "sentence:x"), "all", (1e-4, 1e-3)),
        (("sentence:x", "sentence:x"), "all", (2e-4, 2e-3)),
    ],
)
def test_towers_learn_at_the_smaller_rate_and_their_loss_beside_pretrained_ones_faster(
    towers, train, rates
):
    recipe = lw.Recipe(towers=towers, train=train, loss="sigmoid-pairs")
    assert (rate_of(recipe), loss_rate_of(recipe)) == rates


def test_the_best_epoch_is_kept_by_a_number_that_came_up():
    queries, known = sides()
    pairs = pairs_of(queries, known, range(36))
    choices = {"epochs": 4, "batches": 3, "learning_rate": 1.0}  # after which later ones are worse
    model = lw.train(pairs, replace(RECIPE, keep_best="loss", **choices), **TOLD)
    losses = [record["loss"] for record in model.origin["history"]]
    best = 1 + losses.index(min(losses))
    assert (model.origin["selected_by"], model.origin["selected_epoch"]) == ("loss", best)
    seen = []

    def see(record, encoder):
        if record["epoch"] == best:
            seen.append(encoder.b(lw.data.items(known)).detach())

    again = lw.train(pairs, replace(RECIPE, keep_best="loss", **choices), callbacks=[see], **TOLD)
    torch.testing.assert_close(again.embed(known), seen[0])
    with pytest.raises(InputError, match="keep_best must be a number that came up"):
        lw.train(pairs, replace(RECIPE, keep_best="other_loss"), **TOLD)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"towers": ("none",)}, "towers must be two names"),
        ({"towers": "none,none"}, "towers must be two names"),
        ({"towers": ("none", "other")}, "towers must be small, timm:NAME"),
        ({"encoder": "small"}, "encoder must be left out with towers"),
        ({"pairs": True}, "pairs must be left out with towers"),
        ({"train": "none"}, "train must be head, last or all with towers"),
        ({"head": "whitening"}, "head must be none, linear or mlp with towers"),
        ({"head": "none"}, "head must be linear or mlp for towers that do not train, got 'none'"),
        ({"train": "all"}, "train must be head or none for the encoder none, got 'all'"),
        ({"keep_aside": 0.3}, "keep_aside must be left out with towers"),
        ({"towers": ("small", 3)}, "towers must be a text, got 3"),
        ({"hold_out_classes": 0.5}, "hold_out_classes must be left out with towers"),
        ({"cross_fit": 3}, "cross_fit must be left out with towers"),
        ({"keep_best": "seen_map_at_r"}, "keep_best must be left out with towers"),
        ({"loss": "triplet"}, "loss must be one of"),
    ],
)
def test_choices_that_towers_have_no_use_for_are_refused(choices, message):
    with pytest.raises(InputError, match=message):
        lw.Recipe(**{"towers": ("none", "none"), **choices})


def test_a_source_that_does_not_suit_two_towers_is_refused():
    queries, known = sides()
    pairs = pairs_of(queries, known, range(COUNT))
    with pytest.raises(InputError, match="towers must name two encoders"):
        lw.train(pairs)
    with pytest.raises(InputError, match="data must be pairs across two sides"):
        lw.train(queries, RECIPE)
    with pytest.raises(InputError, match="evaluate must be left out for two towers"):
        lw.train(pairs, RECIPE, evaluate=queries)
    with pytest.raises(InputError, match="towers must be left out for a stream"):
        lw.train(pairs, RECIPE, buffer=10)
    words = CrossPairs(queries, TextDataset(["a", "b"]), [[0, 0], [1, 1]])
    with pytest.raises(InputError, match="tower for texts on side b, got 'none'"):
        lw.train(words, RECIPE)


def test_tables_of_any_kind_hold_pairs_across_two_sides(tmp_path):
    rows = [("where is my card", "card"), ("my card", "card"), ("a loan", "loan")]
    (tmp_path / "pairs.csv").write_text("a,b\n" + "\n".join(map(",".join, rows)))
    lines = [json.dumps({"a": a, "b": b, "same": True}) for a, b in rows]
    lines.append(json.dumps({"a": "a loan", "b": "card", "same": False}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    one = load_cross_pairs(tmp_path / "pairs.csv", texts=(True, True))
    two = load_cross_pairs(tmp_path / "pairs.jsonl", texts=(True, True))
    for pairs in (one, two):
        assert [pairs[row][0] for row in range(3)] == rows
        assert pairs.b.texts == ["card", "loan"]
        assert [pairs.a.class_names[code] for code in pairs.a.labels] == [a for a, _ in rows]
    assert one.same.tolist() == [True] * 3
    assert two.same.tolist() == [True] * 3 + [False]
    assert (two.a.texts[two.pairs[3, 0]], two.b.texts[two.pairs[3, 1]]) == ("a loan", "card")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,c\nx,y", "must have the columns a and b, got a, c"),
        ("a,b\nx,", "row 2 .* must hold a text or a file as b, got none"),
        ("a,b", "must have a row after its header"),
        ("a,b,same\nx,y,1\nx,y,0", "row 3 .* what an earlier row says"),
        ("a,b,same\nx,y,maybe", "must have 1 or 0"),
        ("a,b,same,different\nx,y,1,0", "got both"),
        ("a,b,same\nx,y,0", "same must be True for some pairs"),
    ],
)
def test_a_faulty_table_is_refused_in_a_sentence(tmp_path, content, message):
    table = tmp_path / "pairs.csv"
    table.write_text(content)
    with pytest.raises(InputError, match=message):
        load_cross_pairs(table, texts=(True, True))


def test_a_pair_that_comes_again_counts_once_and_a_missing_file_is_named(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("a,b\nx,y\nx,y\nz,y")
    with pytest.warns(UserWarning, match="1 rows with a pair of an earlier row"):
        assert len(load_cross_pairs(table, texts=(True, True))) == 2
    with pytest.raises(FileNotFoundError, match="'x'"):
        load_cross_pairs(table)


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).integers(0, 20, (16, 16))
    pixels = np.full((16, 16), 40 * (value % 3)) + noise
    pixels[: 8 if value < 3 else 4] += 100
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_the_command_line_trains_looks_up_and_verifies_across_the_sides(run, tmp_path):

    def told(*arguments):
        status, out, err = run(*arguments)
        assert status == 0, err
        return out

    rows = ["a,b"]
    for kind in range(6):
        picture(tmp_path / "known" / f"kind{kind}" / "k.png", kind)
        for number in range(4):
            name = f"asked/{kind}-{number}.png"
            picture(tmp_path / name, kind)
            rows.append(f"{name},known/kind{kind}/k.png")
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(rows))
    model = tmp_path / "model"
    options = ("--epochs", "12", "--batches", "10", "--device", "cpu", "--batch-size", "12")
    trained = told("train", table, "--towers", "small,small", "--out", model, *options)
    assert "trained on 24 items in pairs" in trained
    told("index", model, tmp_path / "known")
    found = json.loads(told("lookup", model, tmp_path / "asked/2-1.png", "-k", "1", "--json"))
    assert found["queries"][0]["neighbors"][0]["label"] == "kind2"
    asked, known = tmp_path / "asked/2-1.png", tmp_path / "known/kind2/k.png"
    verdict = json.loads(told("verify", model, asked, known, "--threshold", "0.5", "--json"))
    distance = found["queries"][0]["neighbors"][0]["distance"]
    assert verdict["pairs"][0]["distance"] == pytest.approx(distance, abs=1e-5)
    table.write_text("\n".join(rows[:3]))
    many = json.loads(told("verify", model, "--pairs", table, "--threshold", "0.5", "--json"))
    assert [len(many["pairs"]), many["pairs"][0]["a"]] == [2, "asked/0-0.png"]
    assert "queries  " in told("info", model)
    for option, value in (
        ("--split", "train"),
        ("--text", "a"),
        ("--evaluate", "aside"),
        ("--buffer", "9"),
        ("--hold-out-classes", "x"),
    ):
        given = ("train", table, "--towers", "small,small", "--out", tmp_path / "no", option, value)
        status, _, said = run(*given)
        assert (status, f"{option} must be left out with --towers" in said) == (2, True), said
