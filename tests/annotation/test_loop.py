"""The stages without a person: what the annotator decides, what it costs, and that masks are saved."""

import numpy as np
import pandas as pd
import pytest
from small import written

from covidlab import datasets, training
from covidlab.annotation import (
    DecisionLog,
    Proposals,
    SimulatedAnnotator,
    collaborate,
    dice,
    draw,
    effort,
    favourite,
    needed,
    propose,
    queue,
    review,
    saved,
    train,
)

YY, XX = np.mgrid[:32, :32]


def discs(folder, n=24, seed=0) -> datasets.Dataset:
    """Bright discs on noise, with their masks: a network learns them in a few steps."""
    from PIL import Image

    rng, rows = np.random.default_rng(seed), []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(n):
        y, x, r = *rng.uniform(10, 22, 2), rng.uniform(6, 9)
        mask = np.hypot(YY - y, XX - x) <= r
        image = np.clip(0.25 + 0.5 * mask + rng.normal(0, 0.05, mask.shape), 0, 1)
        for name, pixels in (("images", image), ("masks", mask)):
            Image.fromarray(np.uint8(255 * pixels)).save(folder / f"{name}/{i}.png")
        row = {"image": f"images/{i}.png", "label": "disc", "patient_id": f"p{i}"}
        rows.append(row | {"lung_mask": f"masks/{i}.png"})
    return datasets.Dataset(pd.DataFrame(rows), folder, datasets.Card("discs"))


def bare(data):
    return datasets.Dataset(data.frame.assign(lung_mask=""), data.root, data.card)


RECIPE = training.Recipe(
    "discs", network="U-Net (Ahmed)", options={"width": 8}, masks=("lung_mask",), size=32,
    batch_size=4, lr=1e-2, schedule="one_cycle", epochs=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return discs(tmp_path_factory.mktemp("discs") / "set")


def shifted(data, by):
    return [np.roll(data.mask(i, "lung_mask"), by, axis=1) for i in range(len(data))]


# ---- queue --------------------------------------------------------------------------------------


def test_queue_in_each_order(tmp_path):
    few = written(tmp_path / "set")
    names = [f"images/{i}.png" for i in range(4)]
    assert queue(few) == names
    assert queue(few, done={names[1]}) == [names[0], *names[2:]]
    assert queue(few, "least certain", [0.1, 0.4, 0.2, 0.4]) == [names[i] for i in (1, 3, 2, 0)]
    shuffled = queue(few, "random", seed=3)
    assert sorted(shuffled) == names and shuffled == queue(few, "random", seed=3)
    assert len({tuple(queue(few, "random", seed=s)) for s in range(20)}) > 5
    with pytest.raises(ValueError, match="order='best'"):
        queue(few, "best")
    with pytest.raises(ValueError, match="one number for each of 4"):
        queue(few, "least certain")


# ---- the simulated person -----------------------------------------------------------------------


def test_what_is_accepted_doubted_corrected_and_excluded(data):
    name = data.frame["image"][0]
    true = data.mask(0, "lung_mask")
    masks = {by: np.roll(true, by, axis=1) for by in (0, 1, 3, 6)}
    at = {by: dice(mask, true) for by, mask in masks.items()}
    assert at[0] == 1 > at[1] > at[3] > at[6]
    ada = SimulatedAnnotator("Ada", data, accept_from=at[1], unsure_from=at[3])
    decisions = {by: ada.decide(name, {"net": mask})[0] for by, mask in masks.items()}
    assert decisions == {0: "accept", 1: "accept", 3: "unsure", 6: "reject"}
    decision, chosen, mask = ada.decide(name, {"a": masks[6], "b": masks[1], "c": masks[3]})
    assert (decision, chosen) == ("accept", "b") and mask is masks[1], "the best of three"
    np.testing.assert_array_equal(ada.decide(name, {"a": masks[6]})[2], true)
    assert ada.decide(name, {"a": masks[6]}, edit=False) == ("reject", "", None)
    picky = SimulatedAnnotator("Ada", data, excludes=frozenset([name]))
    assert picky.decide(name, {"a": true}) == ("exclude", "", None)


def test_errors_come_as_often_as_asked_and_turn_the_decision_around(data):
    names, good = list(data.frame["image"]), shifted(data, 0)
    for rate in (0.0, 1.0):
        ada = SimulatedAnnotator("Ada", data, error_rate=rate)
        said = [ada.decide(n, {"net": m})[0] for n, m in zip(names, good, strict=True)]
        assert set(said) == {"reject" if rate else "accept"}
    turned = []
    for seed in range(15):
        ada = SimulatedAnnotator("Ada", data, error_rate=0.25, seed=seed)
        turned += [ada.decide(n, {"x": m})[0] == "reject" for n, m in zip(names, good, strict=True)]
    assert abs(np.mean(turned) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(turned))


def test_the_same_hand_draws_the_same_and_another_does_not(data):
    name, true = data.frame["image"][0], data.mask(0, "lung_mask")
    steady = SimulatedAnnotator("Ada", data)
    np.testing.assert_array_equal(steady.draw(name), true)
    shaky = [SimulatedAnnotator(who, data, hand=1.0) for who in ("Ada", "Ada", "Ben")]
    first, again, other = (each.draw(name) for each in shaky)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and dice(first, true) < 1
    worse = np.mean(
        [dice(SimulatedAnnotator("Ada", data, hand=3.0, seed=s).draw(name), true) for s in range(9)]
    )
    better = np.mean(
        [dice(SimulatedAnnotator("Ada", data, hand=0.5, seed=s).draw(name), true) for s in range(9)]
    )
    assert worse < better < 1
    with pytest.raises(KeyError, match="knows no lung_mask of 'images/99.png'"):
        steady.draw("images/99.png")
    with pytest.raises(ValueError, match="unsure_from"):
        SimulatedAnnotator("Ada", data, accept_from=0.9, unsure_from=0.95)


def test_what_a_review_costs(data, tmp_path):
    names = list(data.frame["image"])[:3]
    some = bare(data).where(np.arange(3))
    masks = [data.mask(i, "lung_mask") for i in range(3)]
    off = np.roll(masks[1], 6, axis=1)
    proposals = Proposals(some, {"net": [masks[0], off, masks[2]]}, np.zeros(3), {"net": "run7"})
    log, ada = DecisionLog(tmp_path, some, "Ada"), SimulatedAnnotator("Ada", data)
    review(log, ada, proposals)
    held = log.table()
    assert held["decision"].tolist() == ["accept", "reject", "accept"]
    assert held["changed"].tolist() == [0, (off ^ masks[1]).sum(), 0]
    assert set(held["model"]) == {"run7"} and set(held["stage"]) == {"II"}
    cost = effort(log)
    assert cost.to_dict() == {
        "decisions": 3, "accept": 2, "reject": 1, "unsure": 0, "exclude": 0, "drawn": 1,
        "pixels": (off ^ masks[1]).sum(),
    }  # fmt: skip
    draw(log, ada, names[:1])
    assert effort(log, "I")["pixels"] == masks[0].sum() and effort(log)["drawn"] == 2
    log.undo()
    assert effort(log)["drawn"] == 1


def test_the_favourite_is_the_one_chosen_most_often(data, tmp_path):
    some = bare(data).where(np.arange(4))
    good, bad = shifted(data, 0)[:4], shifted(data, 8)[:4]
    masks = {"a": [good[0], *bad[1:]], "b": [bad[0], *good[1:3], bad[3]]}
    log = DecisionLog(tmp_path, some, "Ada")
    proposals = Proposals(some, masks, np.zeros(4))
    review(log, SimulatedAnnotator("Ada", data), proposals, "III", edit=False)
    assert favourite(log).to_dict() == {"b": 2, "a": 1}
    assert log.state()["images/3.png"].decision == "reject" and not log.state()["images/3.png"].mask


# ---- networks -----------------------------------------------------------------------------------


def test_proposals_are_those_of_the_network_with_a_doubt_each(data, tmp_path):
    learn = train(data, RECIPE, steps=40)
    assert learn.recipe.epochs == 10, "of 19 masks four batches an epoch"
    images = bare(data)
    found = propose({"one": learn, "two": learn}, images)
    alone = propose(learn, images)
    from covidlab.cascade import segment

    for a, b in zip(segment(learn, images), found.masks["two"], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(alone.masks["U-Net (Ahmed)"][0], found.of(0)["one"])
    np.testing.assert_allclose(found.doubt, alone.doubt)
    assert ((alone.doubt > 0) & (alone.doubt < 1)).all()
    assert found.models["one"] == learn.record.folder.name
    with pytest.raises(ValueError, match="region=2"):
        propose(learn, images, region=2)
    with pytest.raises(ValueError, match="three are the least"):
        train(data.where(np.arange(2)), RECIPE)


def test_entropy_of_certain_and_undecided_pixels():
    from covidlab.annotation.loop import _entropy

    certain, half = np.zeros((2, 2, 2)), np.full((2, 2, 2), 0.5)
    certain[0] = 1
    assert _entropy(certain) == pytest.approx(0, abs=1e-9)
    assert _entropy(half) == pytest.approx(1)
    assert _entropy(np.concatenate([certain, half], 2)) == pytest.approx(0.5)


def test_the_loop_draws_fewer_and_ends_with_as_many_masks(data, tmp_path):
    test = discs(tmp_path / "test", 8, seed=1)
    curves, masks = {}, {}
    for proposing in (True, False):
        log = DecisionLog(tmp_path / str(proposing), bare(data), "Ada")
        ada = SimulatedAnnotator("Ada", data, accept_from=0.85)
        curves[proposing] = collaborate(log, ada, RECIPE, [6, 6, 12], test, proposing, steps=40)
        masks[proposing] = log.masked()
    loop, hand = curves[True], curves[False]
    assert hand["drawn"].tolist() == hand["images"].tolist() == [6, 12, 24]
    assert loop["images"].tolist() == [6, 12, 24]
    assert (loop["accepted"] + loop["drawn"]).tolist() == [6, 12, 24]
    assert loop["drawn"].iloc[-1] < 24 and loop["pixels"].iloc[-1] < hand["pixels"].iloc[-1]
    assert loop["dice"].iloc[0] == hand["dice"].iloc[0], "the first round is the same"
    assert loop["dice"].iloc[-1] > 0.8
    assert len(masks[True]) == len(masks[False]) == 24
    accepted = [
        dice(masks[True].mask(i, "lung_mask"), data.mask(i, "lung_mask")) for i in range(24)
    ]
    assert min(accepted) >= 0.85, "what was accepted was at least so good"
    with pytest.raises(ValueError, match="batches of 99"):
        collaborate(log, ada, RECIPE, [99], test)


def test_an_expert_settles_what_was_doubted(data, tmp_path):
    test = discs(tmp_path / "test", 4, seed=1)
    log = DecisionLog(tmp_path / "log", bare(data), "Ada")
    ada = SimulatedAnnotator("Ada", data, accept_from=1.0, unsure_from=0.0)
    doctor = SimulatedAnnotator("Doctor", data, accept_from=1.0)
    collaborate(log, ada, RECIPE, [6, 4], test, expert=doctor, steps=4)
    assert sum(d.decision == "unsure" for d in log.lines()) == 4
    assert {d.decision for d in log.state().values()} <= {"accept", "reject"}
    assert len(log.state("Doctor")) == 4 and len(log.masked()) == 10


# ---- savings ------------------------------------------------------------------------------------


def test_masks_needed_are_read_between_two_rounds():
    curve = pd.DataFrame({"drawn": [10, 20, 40], "dice": [0.5, 0.7, 0.9]})
    assert needed(curve, 0.4) == (10, True)
    assert needed(curve, 0.6) == (pytest.approx(15), True)
    assert needed(curve, 0.9) == (40, True)
    assert needed(curve, 0.95) == (40, False)
    falls = pd.DataFrame({"drawn": [10, 20, 40], "dice": [0.5, 0.8, 0.7]})
    assert needed(falls, 0.75)[0] == pytest.approx(10 + 10 * 0.25 / 0.3)


def test_savings_by_hand():
    hand = pd.DataFrame({"drawn": [10, 30, 70], "pixels": [1e3, 3e3, 7e3], "dice": [0.5, 0.7, 0.9]})
    loop = pd.DataFrame(
        {"drawn": [10, 15, 20], "pixels": [1e3, 1.2e3, 1.4e3], "dice": [0.5, 0.6, 0.8]}
    )
    # as good as 0.8: halfway from 30 to 70 masks, and from 3,000 to 7,000 pixels
    assert list(saved(loop, hand, pixels=100).values()) == pytest.approx([50, 30, 36, True])
    better = loop.assign(dice=[0.5, 0.6, 0.95])
    assert list(saved(better, hand).values()) == pytest.approx([50, 50, 5600, False])
