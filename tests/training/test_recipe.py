"""What a recipe promises: the paper's numbers, an identity that follows them, and clear errors."""

import json
from dataclasses import FrozenInstanceError

import pytest

from covidlab import training
from covidlab.evaluation import published
from covidlab.training import (
    AHMED_HRNET,
    AHMED_LUNGS,
    ALOM_CT,
    ALOM_SEG_CT,
    ALOM_SEG_XRAY,
    ALOM_XRAY,
    KHAN_SCREENING,
    Recipe,
)


def test_khan_is_as_the_paper_says():
    """Section 4.2: SGD, learning rate 0.001, momentum 0.95, batch 8, 30 epochs; 82 × 82 × 1; 5 folds."""
    r = KHAN_SCREENING.at("paper")
    assert (r.optimiser, r.lr, r.momentum, r.batch_size, r.epochs) == ("sgd", 0.001, 0.95, 8, 30)
    assert (r.size, r.channels, r.folds, r.enhance, r.schedule) == (82, 1, 5, "idwt", "constant")


def test_alom_is_as_the_paper_says():
    """Section 4.3: Adam, 1e-3 ÷ 10 every 25 of 75 epochs, batch 32; CT: 150 epochs, batch 16."""
    xray, ct, seg, seg_ct = ALOM_XRAY, ALOM_CT, ALOM_SEG_XRAY, ALOM_SEG_CT
    assert (xray.optimiser, xray.lr, xray.batch_size, xray.size) == ("adam", 1e-3, 32, 128)
    assert (xray.epochs, xray.schedule, xray.steps, xray.gamma) == (75, "step", (25, 50), 0.1)
    assert (ct.epochs, ct.batch_size, ct.size, ct.lr) == (150, 16, 192, 1e-3)
    assert (seg.size, seg.channels, seg.loss, seg.lr) == (192, 3, "dice", 3e-4)
    assert (seg_ct.size, seg_ct.channels, seg_ct.batch_size) == (256, 1, 8)


def test_ahmed_is_as_the_paper_says():
    """Sections 4.2 and 4.3, Table 5, typed from it: and the steps that 25 epochs never reach."""
    lungs, covid = AHMED_LUNGS, AHMED_HRNET
    assert (lungs.lr, lungs.epochs, lungs.folds, lungs.loss) == (5e-3, 25, 10, "squared_dice")
    assert (lungs.size, lungs.channels, lungs.options) == (512, 1, {})
    assert (covid.optimiser, covid.lr, covid.momentum, covid.weight_decay) == (
        "sgd",
        0.01,
        0.8,
        1e-4,
    )
    assert (covid.batch_size, covid.epochs, covid.folds, covid.size) == (8, 25, 10, 512)
    assert (covid.schedule, covid.steps, covid.gamma) == ("step", (30, 60, 90), 0.1)
    assert min(covid.steps) > covid.epochs
    said = published("ahmed", 5, numeric=False).set_index("Hyper-parameter")["Selected Value"]
    assert said["Learning Rate Step"] == "30, 60, 90" and float(said["Weight Decay"]) == 1e-4


def test_profiles():
    fast, smoke = KHAN_SCREENING.at("fast"), KHAN_SCREENING.at("smoke")
    assert fast.epochs < 30 and fast.size < 82
    assert smoke == fast.but(epochs=1)
    assert set(KHAN_SCREENING.changed(fast)) == set(KHAN_SCREENING.laptop)
    with pytest.raises(ValueError, match="slow"):
        KHAN_SCREENING.at("slow")


def test_hash_changes_when_and_only_when_a_result_could():
    r = KHAN_SCREENING
    assert r.hash() == r.but(name="other", source="elsewhere", folds=3, laptop={}).hash()
    changed = [
        r.but(lr=2e-3),
        r.but(size=64),
        r.but(options={"dropout": 0.1}),
        r.but(enhance="none"),
    ]
    assert len({x.hash() for x in [r, *changed]}) == 5


def test_a_recipe_survives_json():
    r = KHAN_SCREENING.but(steps=(10, 20), augment={"max_rotate": 5.0})
    again = Recipe(**json.loads(json.dumps(r.asdict())))
    assert again.hash() == r.hash()


def test_recipes_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        KHAN_SCREENING.lr = 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimiser": "lion"},
        {"enhance": "hdr"},
        {"size": 0},
        {"epochs": -1},
        {"channels": 2},
        {"laptop": {"ep": 1}},
    ],
)
def test_errors_name_the_field(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KHAN_SCREENING.but(**wrong)


# every recipe as it was hashed before a schedule could wait and a training could stop
EARLIER = {
    "AHMED_HRNET": ("1f9a54362dfa", "1aac6e889d1b"),
    "AHMED_LUNGS": ("b352c8d5bfea", "f2a3dd3a6c74"),
    "ALOM_CT": ("5778f8f730ca", "4cc00b738783"),
    "ALOM_SEG_CT": ("ed3ba17705d6", "89e6a460fa29"),
    "ALOM_SEG_XRAY": ("3810cbffdd14", "89e6a460fa29"),
    "ALOM_XRAY": ("aadb15e8ed3b", "4cc00b738783"),
    "GARG_FINE_TUNING": ("1e997f1d3d87", "15ee882cefa9"),
    "GARG_FIRST_SOURCE": ("a4ba51470f7b", "35d32af5004b"),
    "GARG_LAST_LAYERS": ("9279f4bec5d6", "3eda1a469caa"),
    "GARG_SELF_TRAINING": ("963eb09d7005", "15ee882cefa9"),
    "KHAN_SCREENING": ("5a643b342411", "303c4a9bedaa"),
    "KHAN_SEGMENTATION": ("36d2da4c78c1", "68932bc9d909"),
}


@pytest.mark.parametrize("name", EARLIER)
def test_earlier_run_records_are_still_found(name):
    recipe = getattr(training, name)
    assert (recipe.hash(), recipe.fast().hash()) == EARLIER[name]


def test_waiting_and_stopping_change_the_hash_where_they_are_used():
    r = KHAN_SCREENING
    assert r.but(patience=5).hash() == r.hash()  # no plateau is waited for
    waiting = r.but(schedule="plateau")
    changed = [r, r.but(stop_after=8), waiting, waiting.but(patience=5)]
    assert len({x.hash() for x in changed}) == 4


def test_tahir_is_as_the_thesis_says():
    """Section 4.1: Adam 1e-4, betas 0.9 and 0.999, a fifth after 3 epochs, stop after 8, batch 4,
    40 epochs; Section 4: 256×256, 5 folds, turns up to 25 degrees, shifts up to a tenth."""
    for r in (training.TAHIR_SEGMENTATION, training.TAHIR_CLASSIFICATION, training.TAHIR_FAMILY):
        assert (r.optimiser, r.lr, r.momentum, r.batch_size, r.epochs) == ("adam", 1e-4, 0.9, 4, 40)
        assert (r.schedule, r.patience, r.stop_after, r.size) == ("plateau", 3, 8, 256)
        assert r.gamma == pytest.approx(1 / 5) and r.loss == "cross_entropy" and r.pretrained
        assert not r.at("fast").pretrained
    family = training.TAHIR_FAMILY
    assert (family.folds, family.oversample) == (5, True)
    assert (family.augment["max_rotate"], family.augment["max_shift"]) == (25.0, 0.1)
    assert training.TAHIR_SEGMENTATION.channels == 1 and family.channels == 3
    assert len(set(training.TAHIR_SEGMENTERS)) == 15


def test_three_channels_need_three():
    with pytest.raises(ValueError, match="'3-channel' needs channels=3"):
        KHAN_SCREENING.but(enhance="3-channel")
    assert KHAN_SCREENING.but(enhance="3-channel", channels=3).channels == 3
