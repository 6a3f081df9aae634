"""Filters that say what they remove; sets of several makers as one."""

import numpy as np
import pandas as pd
import pytest

from covidlab.datasets import check, combine, select


@pytest.fixture
def data(make_dataset):
    data = make_dataset()
    ages = ["", "17", "18", "60"] * 3
    views = ["PA"] * 6 + ["L"] * 2 + ["AP"] * 4
    return type(data)(data.frame.assign(age=ages, view=views), data.root, data.card)


def adult(frame):
    return pd.to_numeric(frame["age"]) >= 18


def test_filters_one_after_the_other(data):
    kept, table = select(data, {"frontal": "view in ['PA', 'AP']", "adults": adult})
    assert table.index.tolist() == ["before", "frontal", "adults"]
    assert table["removed"].tolist() == [0, 2, 6]  # the two lateral ones are 18 and 60
    assert table["left"].tolist() == [12, 10, 4]
    assert kept.frame["age"].isin(["18", "60"]).all() and not (kept.frame["view"] == "L").any()
    assert table["patients left"].iloc[-1] == kept.frame["patient_id"].nunique()
    other_way = select(data, {"adults": adult, "frontal": "view in ['PA', 'AP']"})
    pd.testing.assert_frame_equal(other_way[0].frame, kept.frame)
    assert other_way[1]["removed"].tolist() == [0, 6, 2]


def test_no_filter_removes_nothing(data):
    kept, table = select(data, {})
    assert len(kept) == len(data) and table.loc["before"].tolist() == [0, 12, 6]


def test_a_filter_that_cannot_be_is_named(data):
    with pytest.raises(ValueError, match="'from Mars' leaves no image"):
        select(data, {"adults": adult, "from Mars": "view == 'Mars'"})
    for wrong in (lambda f: f["age"], lambda f: np.ones(3, bool)):
        with pytest.raises(ValueError, match="one bool for each of 12"):
            select(data, {"wrong": wrong})


def test_combined_files_are_where_they_were(make_dataset, tmp_path):
    a = make_dataset(tmp_path / "x" / "a")
    b = make_dataset(tmp_path / "b", masks=False)
    b = b.relabel({"COVID": None, "NonCOVID": "Normal"})
    both = combine(a, b)
    assert len(both) == len(a) + len(b) and both.root == tmp_path
    assert both.classes == ("NonCOVID", "COVID", "Normal") and both.card.positive == "COVID"
    assert check(type(both)(both.frame.assign(split=""), both.root, both.card)) == []
    for whole, data, start in ((both, a, 0), (both, b, len(a))):
        for i in range(len(data)):
            assert whole.path(start + i).samefile(data.path(i))
            assert whole.path(start + i, "lung_mask") == data.path(i, "lung_mask")


def test_source_is_the_set_it_came_from(make_dataset, tmp_path):
    from dataclasses import replace

    a, b = make_dataset(tmp_path / "a"), make_dataset(tmp_path / "b")
    b = replace(b, card=replace(b.card, id="other", licence="MIT", synthetic=True))
    both = combine(a, b)
    assert both.frame["source"].tolist() == ["sound"] * 12 + ["other"] * 12
    assert both.card.id == "sound + other" and both.card.synthetic
    assert "other: MIT" in both.card.licence and "sound: " in both.card.licence
    assert len(set(both.patients)) == 6  # the same ids are the same patients


def test_one_dataset_is_none_to_combine(data):
    with pytest.raises(ValueError, match="at least 2"):
        combine(data)
