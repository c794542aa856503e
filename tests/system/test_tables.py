"""Tables of cells: aligned for a terminal, and Markdown that no cell can break."""

import pytest

from finetune.system.sheet import Sheet
from finetune.system.tables import Markup, fence, markdown


def test_text_is_aligned_to_the_left_and_numbers_to_the_right() -> None:
    rows = [("name", "kind", "n"), ("a", "second kind", "10"), ("longer name", "", "7")]
    assert Sheet().table(rows, "llr").splitlines() == [
        "name         kind          n",
        "a            second kind  10",
        "longer name                7",
    ]


def test_letters_that_take_two_places_are_counted_as_two() -> None:
    first, second = Sheet().table([("注意", "1"), ("abcd", "2")]).splitlines()
    assert (first, second) == ("注意  1", "abcd  2")


def test_the_last_letter_holds_for_all_columns_that_follow() -> None:
    assert markdown([("a", "b", "c")], "lr") == "| a | b | c |\n| --- | ---: | ---: |\n"
    assert markdown([("a", "b", "c")], "rl") == "| a | b | c |\n| ---: | --- | --- |\n"


def test_cells_are_escaped_but_for_markup() -> None:
    assert markdown([("a|b", Markup("**c**"))]).startswith("| a\\|b | **c** |\n")


@pytest.mark.parametrize("rows", [[("head", "other")], [("a", ""), ("", "")]])
def test_tables_without_rows_or_values(rows: list[tuple[str, ...]]) -> None:
    assert len(Sheet().table(rows).split("\n")) == len(rows)
    assert len(markdown(rows).splitlines()) == len(rows) + 1


def test_no_code_ends_its_fence() -> None:
    assert fence("a ``` b ```` c", "sh") == "`````sh\na ``` b ```` c\n`````\n"
