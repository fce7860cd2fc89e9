"""Items whose metadata choose a partition, items that moved to another, and what asks for them."""

import torch
from hypothesis import strategies as st

TENANTS = [1, 1.0, True, "1", "a", "b'\"\\", None, 2.5, [1], {"x": 1}]
FACTS = [{"tenant": tenant, "n": n} for n in range(3) for tenant in TENANTS] + [{"n": 3}, {}]

equalities = st.one_of(
    st.sampled_from(TENANTS),
    st.lists(st.sampled_from(TENANTS), max_size=3),
    st.sampled_from(TENANTS).map(lambda value: {"==": value}),
    st.lists(st.sampled_from(TENANTS), max_size=3).map(lambda values: {"in": values}),
    st.just({">=": 1}),
    st.just({">": "1"}),
).filter(lambda value: value != {"x": 1})  # which is an operator that there is not
tests = st.one_of(
    st.fixed_dictionaries({"tenant": equalities}),
    st.fixed_dictionaries({"tenant": equalities, "n": st.sampled_from([0, 3, [0, 1], {"<": 2}])}),
    st.fixed_dictionaries({"n": st.sampled_from([0, [1, 2], {">": 0}])}),
)
WHERES = st.recursive(
    tests,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=4,
)


def fill(one):
    """Add items, move some to another tenant and rename others."""
    rows = torch.arange(float(len(FACTS)))[:, None]
    one.add(rows, labels=["a"] * len(FACTS), metadata=FACTS, payloads=[b"x"] * len(FACTS))
    moved = [*range(10), 30, 31]
    facts = [FACTS[(at + 4) % 10] for at in range(10)] + [{"tenant": "a"}, {"tenant": "new"}]
    one.upsert(rows[moved] + 0.25, ids=moved, labels=["b"] * 12, metadata=facts)
    one.upsert(rows[[5, 6]], ids=[5, 6], labels=["b", "b"], metadata=[{}, {"n": 9}])
    one.relabel([0, 11, 12, 13], ["c"] * 4)
    one.remove([14, 21])


def answers(one, where):
    """Ids and names of all that pass."""
    found = one.lookup(torch.zeros(1, 1), k=len(one), where=where)
    return found.ids.tolist(), found.names
