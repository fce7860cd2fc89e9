import json

import pytest
import torch

import likewise as lw
from likewise.distances import EUCLIDEAN
from likewise.encoders import Truncate
from likewise.evaluation import compare, evaluate_dimensions, evaluate_retrieval


def items(count=60, dim=16, classes=12, seed=0):
    """Embeddings whose first numbers tell the classes apart better than the last."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = torch.randn(classes, dim, generator=rng) * torch.linspace(1.5, 0.0, dim)
    return centers[labels] + torch.randn(count, dim, generator=rng), labels


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sample", [True, False])
def test_every_width_is_judged_as_retrieval_on_the_cut_embeddings(normalize, sample):
    embeddings, labels = items()
    options = {"distance": EUCLIDEAN, "classes_as_sample": sample, "ks": [1]}
    found = evaluate_dimensions(embeddings, labels, [4, 16, 2], normalize=normalize, **options)
    assert list(found.results) == [16, 4, 2]
    expected = {}
    for dim, result in found.results.items():
        cut = embeddings[:, :dim]
        cut = torch.nn.functional.normalize(cut, dim=1) if normalize else cut
        expected[dim] = evaluate_retrieval(cut, labels, **options)
        assert result.to_dict() == expected[dim].to_dict()
    paired = compare(
        expected[2],
        expected[16],
        measures=["precision_at_1", "map_at_r"],
        classes_as_sample=sample,
    )
    assert {name: one.to_dict() for name, one in found.differences[2].items()} == {
        name: one.to_dict() for name, one in paired.measures.items()
    }
    assert list(found.differences) == [4, 2]
    assert found.differences[2]["map_at_r"].difference.value < 0
    json.dumps(found.to_dict())


def test_references_are_cut_too_and_widths_are_halved_unless_given():
    embeddings, labels = items(dim=33)
    references, others = items(seed=0, dim=33)[0] + 0.1, labels
    found = evaluate_dimensions(
        embeddings, labels, references=references, reference_labels=others, ks=[1]
    )
    assert list(found.results) == [33, 16, 8]
    cut = Truncate(8)
    expected = evaluate_retrieval(
        cut(embeddings), labels, references=cut(references), reference_labels=others, ks=[1]
    )
    assert found.results[8].to_dict() == expected.to_dict()
    assert list(evaluate_dimensions(embeddings[:, :5], labels, ks=[1]).results) == [5]
    assert "dimensions" in repr(found)
    assert len(repr(found).splitlines()) == 5


@pytest.mark.parametrize("dims", [[], [17], [4, 4]])
def test_widths_that_are_none_are_named(dims):
    with pytest.raises(ValueError, match="dims must be different widths of at most 16, got"):
        evaluate_dimensions(*items(), dims)
    with pytest.raises(TypeError, match=r"dims must be a whole number, got 2\.0"):
        evaluate_dimensions(*items(), [2.0])


def test_training_at_several_widths_keeps_more_in_the_first_numbers():
    digits = lw.data.load("digits", split="train")
    train, test = lw.data.split_items(digits, [0.7, 0.3], seed=0)
    found = {}
    for name, loss in {
        "plain": lw.losses.TripletLoss(distance=lw.distances.COSINE),
        "nested": lw.losses.MatryoshkaLoss(
            lw.losses.TripletLoss(distance=lw.distances.COSINE), (32, 4)
        ),
    }.items():
        torch.manual_seed(0)
        encoder = lw.encoders.MLPEncoder(digits.item_shape, embedding_dim=32)
        lw.fit(encoder, loss, train, epochs=3, seed=0)
        found[name] = evaluate_dimensions(lw.encode(encoder, test), test.labels, [32, 4], ks=[1])
        cut = torch.nn.Sequential(encoder, Truncate(4))
        assert lw.encode(cut, test).shape[1] == 4
    plain, nested = (found[name].results[4].map_at_r.value for name in ("plain", "nested"))
    assert nested > plain + 0.05


def test_a_cut_encoder_is_saved_and_comes_back(tmp_path):
    encoder = torch.nn.Sequential(torch.nn.Linear(4, 8), Truncate(3, normalize=False))
    model = lw.SimilarityModel(encoder)
    model.save(tmp_path / "model")
    again = lw.load(tmp_path / "model")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encoder(x), model.encoder(x))
    assert again.encoder[1].normalize is False
    with pytest.raises(ValueError, match="dim must be at most the width of the embeddings, 2, got"):
        Truncate(3)(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        Truncate(0)
