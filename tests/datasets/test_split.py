import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from covidlab.datasets import Card, Dataset, LeakageWarning, has_official, kfold, official, split

SEEDS = range(12)


def patients(seed=0, known=True, most=4, **counts):
    """A dataset with that many patients of each class, and 1 to `most` images each."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"{label}{p}_{k}.png", label, f"{label}{p}" if known else "")
        for label, n in (counts or {"a": 40, "b": 25}).items()
        for p in range(n)
        for k in range(rng.integers(1, most + 1))
    ]
    frame = pd.DataFrame(rows, columns=["image", "label", "patient_id"])
    return Dataset(frame, ".", Card("toy", classes=tuple(counts) or ("a", "b")))


def images(*parts):
    return sorted(name for part in parts for name in part.frame["image"])


@pytest.mark.parametrize("seed", SEEDS)
def test_split_by_patient_shares_none_loses_none_and_keeps_the_mix(seed):
    data = patients(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = split(data, test=0.2, valid=0.25, seed=seed)
    assert images(*made) == images(data)
    seen = [set(part.patients) for part in made]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert made.shared_patients() == []
    # 65 patients: 13 to test on, a quarter of the other 52 to validate on
    assert [len(s) for s in seen] == [39, 13, 13]
    for patients_ in seen:  # 40 of 65 are a: within one patient of it in every part
        assert abs(sum(p[0] == "a" for p in patients_) - len(patients_) * 40 / 65) <= 1


@pytest.mark.parametrize("by", ["patient", "image"])
def test_the_seed_alone_decides(by):
    data = patients(most=1)
    again = [split(data, by=by, seed=s) for s in (3, 3, 4)]
    assert images(again[0].test) == images(again[1].test) != images(again[2].test)
    shuffled = data.where(np.random.default_rng(0).permutation(len(data)))
    folds = [kfold(d, 3, by=by, seed=1) for d in (data, data)]
    assert [images(s.test) for s in folds[0]] == [images(s.test) for s in folds[1]]
    assert images(*split(shuffled, by=by)) == images(data)


@pytest.mark.parametrize("seed", SEEDS)
def test_image_level_split_warns_exactly_when_patients_repeat(seed):
    once = patients(seed, most=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = split(once, by="image", seed=seed)
    assert made.shared_patients() == []
    often = patients(seed, most=4)
    with pytest.warns(LeakageWarning, match="are in more than one part"):
        made = split(often, by="image", seed=seed)
    assert images(*made) == images(often)
    truly = Counter(p for part in made for p in set(part.patients))
    assert made.shared_patients() == sorted(p for p, n in truly.items() if n > 1) != []


def test_unknown_patients_are_said():
    data = patients(known=False)
    with pytest.warns(LeakageWarning, match=f"{len(data)} of {len(data)} images .* no patient id"):
        made = split(data)
    assert images(*made) == images(data)


@pytest.mark.parametrize("by", ["patient", "image"])
@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.filterwarnings("ignore::covidlab.datasets.LeakageWarning")  # wanted, by image
def test_kfold_tests_every_image_once(by, k, seed):
    data = patients(seed)
    folds = kfold(data, k, by=by, seed=seed)
    assert len(folds) == k
    assert images(*(fold.test for fold in folds)) == images(data)
    for fold in folds:
        assert images(*fold) == images(data)
        if by == "patient":
            assert fold.shared_patients() == []
        share = (fold.test.frame["label"] == "a").mean()
        assert abs(share - (data.frame["label"] == "a").mean()) < 0.1


def test_kfold_warns_once_not_for_every_fold():
    with pytest.warns() as caught:
        kfold(patients(), 5, by="image")
    assert [w.category for w in caught] == [LeakageWarning]


def test_a_patient_with_two_labels_stays_whole():
    data = patients(most=4)
    frame = data.frame.copy()
    frame.loc[0, "label"] = "b"  # of a patient of class a
    made = split(Dataset(frame, ".", data.card))
    assert made.shared_patients() == [] and images(*made) == images(data)


def test_every_class_is_in_every_part_or_it_is_an_error():
    for seed in SEEDS:
        for n in (2, 3, 4, 6):
            data = patients(seed, a=60, b=n)
            try:
                made = split(data, seed=seed)
            except ValueError as error:
                assert "with every class in it" in str(error) and "b: " in str(error)
                assert n < 6
            else:
                for part in made:
                    assert set(part.frame["label"]) == {"a", "b"}


def test_arguments_that_cannot_be():
    data = patients()
    for bad in (0, 1, -0.1, 1.5):
        with pytest.raises(ValueError, match="fraction between 0 and 1"):
            split(data, test=bad)
        with pytest.raises(ValueError, match="fraction between 0 and 1"):
            split(data, valid=bad)
    with pytest.raises(ValueError, match="'patient' or 'image'"):
        split(data, by="slice")
    for k in (1, 0, 2.5):
        with pytest.raises(ValueError, match="at least 2"):
            kfold(data, k)
    with pytest.raises(ValueError, match="class 'b' .* has 4 patient.*lower k"):
        kfold(patients(a=20, b=4), 5)


def test_counts_add_up():
    data = patients()
    made = split(data)
    counts = made.counts()
    assert counts.loc["all", "images"].sum() == len(data)
    assert counts.loc["all", "patients"].sum() == 65
    assert (counts.loc["a"] + counts.loc["b"] == counts.loc["all"]).all()
    assert counts.loc["b", ("images", "test")] == (made.test.frame["label"] == "b").sum()
    assert "seed 0" in made.how and "patient" in made.how


# Published splits


def published(*parts):
    data = patients(a=30, b=30)
    part = data.frame["patient_id"].str[1:].astype(int).map(lambda p: parts[p % len(parts)])
    return Dataset(data.frame.assign(split=part), ".", data.card)


@pytest.mark.parametrize("valid", ["val", "valid", "VALIDATION"])
def test_a_published_split_is_taken_as_it_is(valid):
    data = published("train", "Train", valid, "test")
    made = official(data)
    names = data.frame["split"].str.lower()
    assert images(made.train) == sorted(data.frame["image"][names == "train"])
    assert images(made.valid) == sorted(data.frame["image"][names == valid.lower()])
    assert images(made.test) == sorted(data.frame["image"][names == "test"])
    assert made.how == "as published"


def test_a_missing_validation_part_comes_out_of_the_training_patients():
    data = published("train", "train", "test")
    made = official(data, valid=0.25, seed=1)
    assert images(made.test) == sorted(data.frame["image"][data.frame["split"] == "test"])
    assert images(made.train, made.valid) == sorted(
        data.frame["image"][data.frame["split"] == "train"]
    )
    assert made.shared_patients() == []
    assert len(set(made.valid.patients)) == 10  # a quarter of 40
    assert "0.25" in made.how


def test_no_published_split():
    assert has_official(published("train", "test")) and not has_official(patients())
    with pytest.raises(ValueError, match="no published train or test"):
        official(patients())
    with pytest.raises(ValueError, match="no published test"):
        official(published("train", "val"))


def test_a_published_split_that_shares_patients_is_said():
    data = published("train", "val", "test")
    frame = data.frame.assign(patient_id="the same")
    with pytest.warns(LeakageWarning, match="1 patients are in more than one part"):
        official(Dataset(frame, ".", data.card))
