"""Splits go by person, whatever the raw data says of single pictures."""

from __future__ import annotations

from dataclasses import replace

from maskfer.data.ingest import Record
from maskfer.data.split import split_records


def records(people: int, *, each: int = 4) -> list[Record]:
    return [
        Record(f"{p}-{i}.png", f"{p}-{i}", f"person {p}", None, "neutral", None, False)
        for p in range(people)
        for i in range(each)
    ]


def sides(split: list[Record]) -> dict[str | None, set[str | None]]:
    return {record.person: {r.split for r in split if r.person == record.person} for record in split}


def test_no_person_is_on_two_sides() -> None:
    split = split_records(records(60), val=0.2, test=0.3, seed=1)
    assert all(len(found) == 1 for found in sides(split).values())
    assert {record.split for record in split} == {"train", "val", "test"}


def test_more_data_moves_nobody_across() -> None:
    before = sides(split_records(records(40), val=0.2, test=0.3, seed=1))
    after = sides(split_records(records(60), val=0.2, test=0.3, seed=1))
    assert all(after[person] == found for person, found in before.items())


def test_the_raw_datas_own_test_people_are_kept() -> None:
    raw = [replace(r, split="test" if r.person in {"person 3", "person 5"} else None) for r in records(30)]
    split = split_records(raw, val=0.2, test=0.5, seed=1)
    assert {r.person for r in split if r.split == "test"} == {"person 3", "person 5"}


def test_a_person_on_both_sides_of_the_raw_data_moves_to_test_as_a_whole() -> None:
    raw = [replace(r, split="test" if r.image == "3-0.png" else "train") for r in records(10)]
    split = split_records(raw, val=0.2, test=0.2, seed=1)
    assert sides(split)["person 3"] == {"test"}


def test_without_persons_every_picture_stands_alone() -> None:
    unknown = [replace(r, person=None) for r in records(60)]
    split = split_records(unknown, val=0.2, test=0.3, seed=1)
    assert 0.15 < sum(r.split == "test" for r in split) / len(split) < 0.45


def test_where_everybody_is_named_train_or_val_some_of_train_become_test() -> None:
    raw = [replace(r, split="val" if r.person in {"person 3", "person 5"} else "train") for r in records(30)]
    split = split_records(raw, val=0.2, test=0.3, seed=1)
    assert {r.person for r in split if r.split == "val"} == {"person 3", "person 5"}
    assert {r.split for r in split} == {"train", "val", "test"}


def test_two_people_are_enough_for_a_test() -> None:
    split = split_records(records(2), val=0.0, test=0.01, seed=1)
    assert sorted(r.split or "" for r in split) == ["test"] * 4 + ["train"] * 4
