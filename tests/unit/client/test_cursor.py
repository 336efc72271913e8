"""How far RESUME has to ask."""

from __future__ import annotations

from plugins.secure_chat.client.cursor import MAX_BEHIND, Cursor


def test_it_moves_to_the_last_taken_and_never_back() -> None:
    cursor = Cursor().taken([3, 7])
    assert cursor == Cursor(7, 7)
    assert cursor.taken([5]) == cursor
    assert cursor.taken([]) == cursor


def test_it_stays_before_what_came_and_is_not_taken_yet() -> None:
    cursor = Cursor().taken([4, 9], waiting=6)
    assert (cursor.position, cursor.highest) == (5, 9)
    assert cursor.taken([6]) == Cursor(9, 9)


def test_what_the_server_lacks_is_asked_for_again_but_not_for_ever() -> None:
    cursor = Cursor().taken([2])
    for position in range(3, 3 + MAX_BEHIND):
        cursor = cursor.taken([position], complete=False)
        assert cursor.position == 2
    assert cursor.taken([], complete=True).position == 2 + MAX_BEHIND
    assert cursor.taken([5000], complete=False) == Cursor(5000, 5000)


def test_it_goes_back_for_what_was_held_and_forgets_nothing() -> None:
    cursor = Cursor().taken([8]).back_to(3)
    assert cursor == Cursor(3, 8)
    assert cursor.taken([4]) == Cursor(8, 8)
    assert Cursor.decode(cursor.encode()) == cursor
