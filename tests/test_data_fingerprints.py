import torch

from likewise.data import ArrayDataset, fingerprints


def test_equal_items_share_a_fingerprint_whatever_holds_them():
    items = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = fingerprints(ArrayDataset(items, [0] * 50))
    assert torch.equal(fingerprints(items), whole)
    assert torch.equal(fingerprints(items, batch_size=7), whole)
    assert torch.equal(fingerprints(items.flip(0)), whole.flip(0))
    assert len(whole.unique()) == 50


def test_zero_and_minus_zero_are_equal():
    assert torch.equal(fingerprints(torch.zeros(1, 3)), fingerprints(-torch.zeros(1, 3)))


def test_items_of_two_values_differ_in_all_bits_of_their_fingerprints():
    # Zeros and ones are the worst case: as float32 they end in 23 zero bits.
    numbers = torch.arange(2**16)
    items = ((numbers[:, None] >> torch.arange(16)) & 1).float()
    prints = fingerprints(items)
    assert len(prints.unique()) == 2**16
    ones = ((prints[:, None] >> torch.arange(64)) & 1).double().mean(dim=0)
    assert ((ones - 0.5).abs() < 0.02).all(), "every bit is one about half of the time"
