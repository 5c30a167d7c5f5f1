"""hwmodels.residency: what stays and what goes."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from hwmodels.residency import Claim, Pool


def test_the_least_recently_used_goes_first():
    pool = Pool(10)
    assert pool.insert("a", 4, use=0) == {}
    assert pool.insert("b", 4, use=1) == {}
    pool.touch("a", use=2)
    gone = pool.insert("c", 4, use=3)
    assert list(gone) == ["b"]
    assert gone["b"].last_use == 1
    assert pool.kept() == (("a", 4), ("c", 4))


def test_pinned_tensors_stay_and_a_failed_insert_changes_nothing():
    pool = Pool(10, kept=(("a", 6), ("b", 4)))
    assert pool.insert("c", 5, use=0, pinned={"a"}) is None
    assert pool.kept() == (("a", 6), ("b", 4))
    assert list(pool.insert("c", 4, use=0, pinned={"a"})) == ["b"]


def test_a_tensor_larger_than_the_pool_never_stays():
    pool = Pool(10, kept=(("a", 6),))
    assert pool.insert("b", 11, use=0) is None
    assert "a" in pool


def test_inserting_again_replaces():
    pool = Pool(10)
    pool.insert("a", 8, use=0, is_dirty=True)
    assert pool.insert("a", 9, use=1) == {}
    assert pool.used_bytes == 9
    pool.drop("a")
    pool.drop("a")
    assert (pool.used_bytes, pool.kept()) == (0, ())


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 7)), max_size=60))
def test_it_behaves_as_an_lru_cache_of_bytes(accesses):
    sizes = dict(accesses)
    pool, oracle = Pool(12), OrderedDict()
    for number, (name, _) in enumerate(accesses):
        if name in oracle:
            oracle.move_to_end(name)
            pool.touch(name, use=number)
        else:
            oracle[name] = sizes[name]
            while sum(oracle.values()) > 12:
                oracle.popitem(last=False)
            pool.insert(name, sizes[name], use=number)
        assert pool.kept() == tuple(oracle.items())


def test_room_is_claimed_from_the_end_of_the_last_op_that_left_too_little():
    # 100 bytes: op 0 keeps 30, op 1 also 50, which go behind it; 60 are free from op 2 on, and 10
    # more were at all times. At op 4 nothing is left of them.
    pool = Pool(100)
    pool.insert("a", 30, use=0)
    pool.insert("b", 50, use=1)
    pool.drop("b")
    pool.insert("c", 60, use=4)
    assert pool.claim_before(60, use=4) == 1
    assert pool.claim_before(10, use=4) == -1
    pool.drop("a")
    pool.insert("d", 20, use=5)
    assert pool.claim_before(20, use=5) == 4


def test_a_use_is_repeated_only_where_its_claims_find_the_same_room():
    def busy(size):
        pool = Pool(10)
        pool.insert("a", size, use=0)
        pool.drop("a")
        pool.insert("b", 2, use=1)
        return pool

    first = busy(6)
    first.insert("c", 5, use=2)  # free behind op 0: during op 1, 2 bytes are in use
    assert first.claim_before(5, use=2) == 0
    use = first.since(2, 0)
    assert first.most == [6, 7, 7]
    assert use == ((7,), (Claim(5, 2, 0),))
    again = busy(7)
    assert again.allows(use)
    again.repeat(use)
    assert again.most == [7, 7, 7]
    assert again.claims == first.claims
    assert not busy(5).allows(use)  # there it was free all the time
    assert busy(5).most == [5, 2]
