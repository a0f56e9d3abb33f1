"""The few numbers of inputs with which graphs are called on a GPU, which prepares itself anew for each."""

_LEAST = 16  # below this a GPU takes the same time for fewer inputs


def padded_batch(count: int, most: int) -> int:
    """Return the smallest of `most` and its halves (at least 16) that fits `count` inputs, since padding costs as much
    as inputs.
    """
    while most % 2 == 0 and most // 2 >= max(count, _LEAST):
        most //= 2
    return most
