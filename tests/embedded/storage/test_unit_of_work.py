"""The bounded cache of decoded values."""

from bems.embedded.storage.unit_of_work import LruCache


def test_the_cache_drops_what_was_used_least_recently() -> None:
    cache: LruCache[str, int] = LruCache(2)
    cache.update({"a": 1, "b": 2})
    assert cache.get("a") == 1
    cache.update({"c": 3})
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    cache.update({"a": 4})
    cache.update({"d": 5})
    assert (cache.get("a"), cache.get("c"), cache.get("d")) == (4, None, 5)
