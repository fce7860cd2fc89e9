import pytest

import words


@pytest.mark.parametrize(
    ("line", "places"),
    [
        ("Stop after so many epochs.", ["so many"]),
        ("The Neighbours of a centre", ["Neighbours", "centre"]),
        ("        seed: of the pairs.", ["seed: of the pairs."]),
        ("Neighbors of a center, compromised at handling.", []),
        ("        seed: Seed of the pairs.", []),
    ],
)
def test_doubtful_words_are_found_and_others_are_not(line, places):
    assert [word for _, word, _ in words.found_in(f"\n{line}\n")] == places
    assert {number for number, _, _ in words.found_in(f"\n{line}\n")} <= {2}


def test_a_file_with_doubtful_words_fails(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("An unknown is rejected.")
    assert words.main([str(page)]) == 0
    page.write_text("A stranger is turned away.")
    assert words.main([str(page)]) == 1
    assert "'stranger': rather unknown" in capsys.readouterr().out
