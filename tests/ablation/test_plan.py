"""What a study plans: cells, levels, what it refuses, and the file it is written to."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from covidlab import ablation, datasets
from covidlab.ablation import Study, data
from covidlab.training import ALOM_SEG_XRAY, GARG_FIRST_SOURCE, KHAN_SCREENING, KHAN_SEGMENTATION


def study(base, factors=None, **options):
    factors = factors or {"enhance": ["none", "idwt"], "lr": [0.01, 0.001, 0.1]}
    return Study("s", base, factors, "squares", **options)


def levels(planned):
    return [tuple(row) for row in planned.runs()[[*planned.levels]].to_numpy()]


def test_a_grid_has_every_combination_once_for_every_seed_and_fold(tiny, own):
    planned = study(tiny, seeds=[3, 5], folds=2)
    runs = planned.runs()
    expected = itertools.product((3, 5), (1, 2), ("none", "idwt"), ("0.01", "0.001", "0.1"))
    assert [tuple(r) for r in runs[["seed", "fold", "enhance", "lr"]].to_numpy()] == list(expected)
    assert runs["run"].is_unique and set(runs["state"]) == {"missing"}


def test_one_at_a_time_moves_one_factor_from_its_first_level(tiny, own):
    planned = study(tiny, design="one at a time", seeds=[0])
    assert levels(planned) == [
        ("none", "0.01"),
        ("idwt", "0.01"),
        ("none", "0.001"),
        ("none", "0.1"),
    ]


def test_a_sample_is_part_of_the_grid_and_of_larger_samples(tiny, own):
    grid = levels(study(tiny, seeds=[0]))
    samples = [levels(study(tiny, design="sample", n=n, seed=4, seeds=[0])) for n in range(1, 7)]
    for n, sample in enumerate(samples, 1):
        assert len(set(sample)) == n and set(sample) <= set(grid)
        assert sample[: n - 1] == samples[n - 2][: n - 1]
    others = {tuple(levels(study(tiny, design="sample", n=3, seed=s, seeds=[0]))) for s in range(9)}
    assert len(others) > 1
    with pytest.raises(ValueError, match="n=7 of a grid of 6"):
        study(tiny, design="sample", n=7)


def test_a_level_changes_its_setting_and_nothing_else(tiny, own):
    planned = study(
        tiny,
        {
            "options.widths": [[4, 4, 8, 8], [8, 8, 8, 8]],
            "augment": {"none": False, "turned": {"max_rotate": 5.0}},
            "start": {"slow": {"lr": 1e-4, "schedule": "one_cycle"}, "fast": {}},
            "data.n_patients": [8, 16],
        },
        seeds=[0],
    )
    by_level = {tuple(r.levels.values()): r for r in planned.plan}
    base = by_level["4-4-8-8", "none", "fast", "8"]
    assert base.recipe == tiny and base.data["data"] == {"n_patients": 8}
    other = by_level["8-8-8-8", "turned", "slow", "16"]
    assert set(other.recipe.changed(tiny)) == {"options", "augment", "lr", "schedule"}
    assert other.recipe.options == {"widths": (8, 8, 8, 8)}
    assert other.recipe.augment == {"max_rotate": 5.0}
    assert {k for k in base.data if base.data[k] != other.data[k]} == {"data"}


def test_options_belong_to_the_network_they_were_for(tiny, own):
    factors = {
        "network": {"ours": {"network": "CoV-CTNet"}, "vgg": {"network": "VGG16"}},
        "mlp": {"small": {"options.mlp_ratio": 0.1}, "usual": {}},
    }
    with pytest.raises(ValueError, match="must be text"):  # `network` is a setting, not a bundle
        study(tiny, factors)
    factors["net"] = factors.pop("network")
    recipes = {tuple(r.levels.values()): r.recipe for r in study(tiny, factors).plan}
    assert recipes["usual", "vgg"].options == {}
    assert recipes["small", "vgg"].options == {"mlp_ratio": 0.1}
    assert recipes["usual", "ours"].options == tiny.options


def test_the_profile_is_the_recipes(own):
    fast = study(KHAN_SCREENING, {"lr": [1e-3, 1e-2]}).plan[0].recipe
    assert fast == KHAN_SCREENING.fast().but(lr=1e-3)
    paper = study(KHAN_SCREENING, {"lr": [1e-3, 1e-2]}, profile="paper").plan[0].recipe
    assert paper == KHAN_SCREENING


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ({"enhence": ["none", "idwt"]}, "did you mean 'enhance'"),
        ({"enhance": ["none", "sharper"]}, "refuses enhance: sharper"),
        ({"enhance": ["none"]}, "1 level"),
        ({"enhance": "none"}, "must be a list"),
        ({"enhance": ["none", "none"]}, "two levels called"),
        ({"enhance": {"a": "none", "b": "none"}}, "'a' and 'b' are the same level"),
        ({"lr": [0.1, "high"]}, "lr='high' must be a number"),
        ({"lr": [0.1, -1]}, "must be above 0"),
        ({"epochs": [1, 2.5]}, "must be a whole number"),
        ({"pretrained": [False, "yes"]}, "must be true or false"),
        ({"oversample": [False, 1]}, "must be true or false"),
        ({"train_size": [1, 1.5]}, r"in \(0, 1\]"),
        ({"split_by": ["patient", "slice"]}, "'patient' or 'image'"),
        ({"name": ["a", "b"]}, "no factor 'name'"),
        ({"seed": [1, 2]}, "a column twice"),
        ({"transfer": {"yes": {"weigths": "x"}, "no": {}}}, "did you mean 'weights'"),
        ({"lr": [1, 2], "both": {"a": {"lr": 3}, "b": {}}}, "both set .*'lr'"),
        ({"loss": ["cross_entropy", "dice"]}, "refuses loss: dice: .*for masks"),
        ({}, "factors is empty"),
    ],
)
def test_a_bad_level_is_refused_with_the_remedy(tiny, factors, told):
    with pytest.raises(ValueError, match=told):
        Study("s", tiny, factors, "squares")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "a seed twice"),
        ({"seeds": 3}, "must be a list"),
        ({"folds": 1}, "folds=1"),
        ({"design": "random"}, "design='random' must be one of"),
        ({"n": 5}, "n=5 is for design='sample'"),
        ({"design": "sample"}, "needs it above 0"),
        ({"split": "odd"}, "split='odd'"),
        ({"valid": 1.0}, "between 0 and 1"),
        ({"profile": "slow"}, "profile='slow'"),
    ],
)
def test_a_bad_study_is_refused(tiny, options, told):
    with pytest.raises(ValueError, match=told):
        study(tiny, **options)
    with pytest.raises(ValueError, match="as a folder's"):
        Study("../up", tiny, {"lr": [1, 2]}, "squares")


def test_the_same_training_under_two_names_is_refused(tiny):
    # without patients of several images both splits are the same, but not their names
    factors = {"a": {"x": {"options": {"widths": (4, 4, 8, 8)}}, "y": {}}}
    with pytest.raises(ValueError, match="a: x and a: y are the same training"):
        study(tiny, factors)


def test_two_designs_share_their_runs(tiny, own):
    ids = [set(study(tiny, design=d, seeds=[0]).runs()["run"]) for d in ("grid", "one at a time")]
    assert ids[1] < ids[0] and len(ids[1]) == 4
    more = study(tiny, {"enhance": ["none", "idwt"], "lr": [0.01, 0.5]}, seeds=[0])
    assert len(set(more.runs()["run"]) & ids[0]) == 2


# --- data ----------------------------------------------------------------------------------------


def splits(base, squares, factor, levels, **options):
    planned = Study("s", base, {factor: levels}, str(squares), seeds=[0, 1], **options)
    loaded = data.load(planned.plan[0].data, base)
    return {
        (r.levels[factor], r.seed, r.fold): data.split(loaded, r.data, r.seed, r.fold)
        for r in planned.plan
    }


def images(dataset):
    return set(dataset.frame["image"])


def test_smaller_training_parts_are_parts_of_larger_ones_and_keep_whole_patients(tiny, squares):
    found = splits(tiny, squares, "train_size", [1, 0.5, 0.25])
    for seed in (0, 1):
        whole, half, quarter = (found[s, seed, 0] for s in ("1", "0.5", "0.25"))
        assert images(quarter.train) < images(half.train) < images(whole.train)
        for small, share in ((half, 0.5), (quarter, 0.25)):
            assert images(small.test) == images(whole.test)
            assert images(small.valid) == images(whole.valid)
            for label in ("left", "right"):
                of = [
                    len(set(s.train.where(f"label == '{label}'").patients)) for s in (small, whole)
                ]
                assert of[0] == max(1, round(share * of[1]))
            assert len(small.train) == 2 * len(set(small.train.patients))
    assert images(found["0.5", 0, 0].train) != images(found["0.5", 1, 0].train)


@pytest.mark.filterwarnings("ignore::covidlab.datasets.LeakageWarning")
def test_the_split_rule_is_a_factor(tiny, squares):
    found = splits(tiny, squares, "split_by", ["patient", "image"])
    assert found["patient", 0, 0].shared_patients() == []
    assert found["image", 0, 0].shared_patients()
    assert images(found["patient", 0, 0].test) != images(found["patient", 1, 0].test)
    with pytest.raises(ValueError, match="split='published'"):
        splits(tiny, squares, "split_by", ["patient", "image"], split="published")


def test_folds_are_the_same_for_every_seed_and_cover_everything(tiny, squares):
    found = splits(tiny, squares, "lr", [0.1, 0.2], folds=5)
    for fold in range(1, 6):
        assert (
            len(
                {
                    frozenset(images(found[lr, s, fold].test))
                    for lr in ("0.1", "0.2")
                    for s in (0, 1)
                }
            )
            == 1
        )
    tests = [images(found["0.1", 0, fold].test) for fold in range(1, 6)]
    assert sum(map(len, tests)) == len(set().union(*tests)) == 40


def test_rows_and_options_of_the_data(tiny, squares):
    planned = Study("s", tiny, {"where": ["", "label == 'left'"]}, str(squares))
    assert [len(data.load(r.data, tiny)) for r in planned.plan[:2]] == [40, 20]
    masks = KHAN_SEGMENTATION.fast()
    assert data.load(planned.plan[1].data, masks).classes == ("left",)
    bad = Study("s", tiny, {"where": ["", "lable == 'left'"]}, str(squares)).plan[1]
    with pytest.raises(ValueError, match="lable"):
        data.load(bad.data, tiny)
    bad = Study("s", tiny, {"data.n_patients": [4, 8]}, str(squares)).plan[0]
    with pytest.raises(ValueError, match="not generated"):
        data.load(bad.data, tiny)


def test_published_splits_are_kept_unless_told_otherwise(tiny, squares):
    whole = datasets.load(str(squares))
    part = np.where(np.arange(40) < 10, "test", "train")
    published = datasets.Dataset(whole.frame.assign(split=part), whole.root, whole.card)
    for how, same in (("auto", True), ("published", True), ("random", False)):
        planned = Study("s", tiny, {"lr": [1, 2]}, str(squares), split=how)
        made = data.split(published, planned.plan[0].data, 0, 0)
        assert (images(made.test) == images(published.where(part == "test"))) == same


# --- TOML ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base", [KHAN_SCREENING, KHAN_SEGMENTATION, GARG_FIRST_SOURCE, ALOM_SEG_XRAY]
)
def test_a_written_study_is_read_back_the_same(base, tmp_path):
    planned = Study(
        "a study of all",
        base,
        {
            "lr": [1e-05, 0.5],
            "augment": {"none": None, "turned “5°”": {"max_rotate": 5, "brightness": [0.8, 1.2]}},
            "options.width": [16, 32],
            "a bundle": {"from phantom": {"weights": 'C:\\runs\\"x"'}, "none": {}},
        },
        "ct-covidct-ucsd",
        seeds=[4, 2],
        data={},
        where="label == 'COVID'",
        design="sample",
        n=3,
        seed=7,
        profile="paper",
    )
    again = ablation.read(planned.write(tmp_path / "study.toml"))
    assert again.levels == planned.levels  # None and false are the same level of `augment`
    assert again.but(factors=planned.factors) == planned
    assert again.base.laptop == planned.base.laptop  # which Recipe's own == leaves out
    assert [r.id for r in again.plan] == [r.id for r in planned.plan]


def test_a_study_written_by_hand(tmp_path, squares):
    (tmp_path / "squares").symlink_to(squares)
    (tmp_path / "study.toml").write_text(
        """
        name = "idwt"
        dataset = "squares"
        seeds = [0]
        [base]
        recipe = "KHAN_SCREENING"
        epochs = 2
        [factors]
        enhance = ["none", "idwt"]
        augment = { flips = {max_rotate = 0.0}, none = false }
        """
    )
    planned = ablation.read(tmp_path / "study.toml")
    assert planned.dataset == str(squares.resolve())
    assert planned.plan[0].recipe == KHAN_SCREENING.fast().but(
        epochs=2, enhance="none", augment={"max_rotate": 0.0}
    )
    assert planned.plan[1].recipe.augment is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = 3 4", "study.toml: .*line 1"),
        ('name = "x"\nbase = "KHAN"', "no recipe 'KHAN': there are KHAN_SCREENING"),
        ('name = "x"\nbase = "ALOM_CT"', "has no dataset, factors"),
        ('base = "ALOM_CT"\nseds = [1]', r"unknown keys \['seds'\]"),
        ('name = "x"', "has no base"),
        ('base = { recipe = "ALOM_CT", epoch = 3 }', r"no fields \['epoch'\]"),
        (
            'name="x"\nbase="ALOM_CT"\ndataset="d"\n[factors]\nlrate=[1,2]',
            "study.toml: no factor 'lrate'",
        ),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(text, told, tmp_path):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ValueError, match=told):
        ablation.read(tmp_path / "study.toml")
    with pytest.raises(FileNotFoundError, match="no study at"):
        ablation.read(tmp_path / "other.toml")


def test_planning_loads_neither_torch_nor_dask():
    code = (
        "import sys; from covidlab import training; from covidlab.ablation import Study, compare;"
        "Study('s', training.KHAN_SCREENING, {'lr': [1, 2]}, 'x').runs();"
        "heavy = ('torch', 'fastai', 'loky', 'distributed', 'sklearn', 'matplotlib.pyplot', 'scipy.stats');"
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
