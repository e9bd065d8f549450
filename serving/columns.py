"""What client and server both know of the columns of search lists; it needs no library.

A column of rank 1 has one value per list. One of rank 2 has one per candidate, or one per past
action if its name begins with `history_`; those of a kind are as long as each other.
"""

from __future__ import annotations

from collections.abc import Mapping

# The signature that is meant where none is named.
DEFAULT_SIGNATURE = "serving_default"
ITEMS = "item_id"
HISTORY = "history_item_id"
RANKS = (1, 2)
_HISTORY = "history_"


def is_of_history(name: str) -> bool:
    """Whether a column of rank 2 has one value per past action, not per candidate.

    >>> is_of_history("history_item_artist"), is_of_history("item_artist")
    (True, False)
    """
    return name.startswith(_HISTORY)


def along(name: str) -> str:
    """The column that gives a column of rank 2 its length in a search list.

    >>> along("history_age"), along("item_artist")
    ('history_item_id', 'item_id')
    """
    return HISTORY if is_of_history(name) else ITEMS


def first_unequal(lengths: Mapping[str, int]) -> tuple[str, str] | None:
    """Finds a column that is not as long as another of its kind.

    Args:
      lengths: Of columns of rank 2, `item_id` among them, by name.

    Returns:
      Its name and that of the one it is held to; None if there is none.

    >>> first_unequal({"item_id": 3, "item_artist": 3, "history_age": 5})
    >>> first_unequal({"item_id": 3, "item_artist": 4})
    ('item_artist', 'item_id')
    """
    first = {False: ITEMS}
    for name in sorted(lengths):
        other = first.setdefault(is_of_history(name), name)
        if lengths[name] != lengths[other]:
            return name, other
    return None


def as_long_as(other: str, length: int) -> str:
    """What a column was expected to have, for an error message.

    >>> as_long_as("item_id", 3)
    'expected 3 as item_id has'
    """
    return f"expected {length} as {other} has"
