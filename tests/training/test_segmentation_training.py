"""Masks from file to network and back: aligned, in the right class, weighed and counted as promised."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from covidlab import models, training
from covidlab.datasets import Card, Dataset, DatasetError, split
from covidlab.training import arrays
from covidlab.training.losses import MaskLoss, RegionDice, squared_dice, static_attention

RECIPE = training.Recipe(
    name="tiny",
    network="CoV-RASeg",
    options={"width": 4},
    masks=("infection_mask",),
    size=32,
    lr=2e-2,
    epochs=2,
    batch_size=4,
    folds=3,
)
TWO = ("ground_glass_mask", "consolidation_mask")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COVIDLAB_RUNS", str(tmp_path / "runs"))
    arrays._recent.clear()
    return tmp_path


@pytest.fixture
def data(own_cache):
    """24 noisy images of 12 patients; each of three masks is a bright disc of its own grey."""
    import pandas as pd

    rng, root, rows = np.random.default_rng(0), own_cache / "discs", []
    yy, xx = np.mgrid[:40, :40]
    for i in range(24):
        image, row = rng.uniform(0.0, 0.3, (40, 40)), {"image": f"{i:02d}.png"}
        row |= {"label": "COVID" if i % 4 else "NonCOVID", "patient_id": f"p{i // 2:02d}"}
        y, x = rng.uniform(10, 30, 2)
        for j, name in enumerate(("infection", *(c.removesuffix("_mask") for c in TWO))):
            disc = (yy - y - 2 * (j == 2)) ** 2 + (xx - x) ** 2 < 49 / (1 + (j == 2))
            save(root / f"{name}_{i:02d}.png", disc)
            row[f"{name}_mask"] = f"{name}_{i:02d}.png"
            image[disc] = 0.7 + 0.3 * (j == 2)
        save(root / row["image"], image)
        rows.append(row)
    return Dataset(pd.DataFrame(rows), root, Card("discs", classes=("NonCOVID", "COVID")))


def save(path, values):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.rint(255 * values).astype(np.uint8)).save(path)


@pytest.fixture
def parts(data):
    return split(data, test=0.25, valid=0.25, seed=0)


def loaders(parts, recipe=RECIPE):
    return training.dataloaders(parts, recipe, progress=False)


def fitted(parts, recipe=RECIPE, **options):
    learn = training.learner(loaders(parts, recipe))
    return learn, training.fit(learn, show_progress=False, **options)


def drawn(data, i, column, size=32):
    """The mask of a row as Pillow resizes it."""
    with Image.open(data.root / data.frame[column].iat[i]) as picture:
        mask = Image.fromarray((np.asarray(picture) > 127).astype(np.float32))
    return np.asarray(mask.resize((size, size), Image.Resampling.BILINEAR)) >= 0.5


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_khan_segmentation_is_as_the_paper_says():
    """Section 4.1: 304×304×3; 4.2: SGD, 0.001, momentum 0.95, batch 8, 30 epochs, cross-entropy;
    4.3: 5 folds."""
    r = training.KHAN_SEGMENTATION.at("paper")
    assert (r.optimiser, r.lr, r.momentum, r.batch_size, r.epochs) == ("sgd", 0.001, 0.95, 8, 30)
    assert (r.size, r.channels, r.folds, r.loss, r.enhance) == (304, 3, 5, "cross_entropy", "none")
    assert r.regions == ("background", "infection")
    assert r.network in models.SEGMENTERS
    net = models.create_segmenter(r.network, 3, 2, **r.at("fast").options)
    assert net(torch.zeros(2, 3, 96, 96)).shape == (2, 2, 96, 96)


def test_masks_leave_the_hash_of_classification_alone():
    """The recipe of the screening notebook, hashed before there were masks."""
    assert training.KHAN_SCREENING.hash() == "5a643b342411"
    changed = [
        RECIPE,
        RECIPE.but(masks=TWO),
        RECIPE.but(masks=TWO[::-1]),
        RECIPE.but(loss="dice"),
        RECIPE.but(static_attention=True),
    ]
    assert len({r.hash() for r in changed}) == 5
    assert training.Recipe(**json.loads(json.dumps(RECIPE.asdict()))).hash() == RECIPE.hash()


@pytest.mark.parametrize(
    "wrong",
    [
        {"masks": "infection_mask"},
        {"masks": ("a", "a")},
        {"masks": (), "static_attention": True},
        {"masks": (), "loss": "dice"},
        {"loss": "iou"},
        {"loss": "dice", "static_attention": True},
        {"class_weights": True},
        {"oversample": True},
    ],
)
def test_recipes_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=f"tiny.*{list(wrong)[-1]}"):
        RECIPE.but(**wrong)


def test_batches_are_images_with_the_class_of_each_pixel_later_columns_on_top(parts):
    recipe = RECIPE.but(masks=TWO)
    dls = loaders(parts, recipe)
    assert list(dls.vocab) == ["background", "ground glass", "consolidation"]
    x, y = dls.valid.one_batch()
    assert (x.shape, y.shape, y.dtype) == ((len(y), 1, 32, 32), (len(y), 32, 32), torch.int64)
    overlaps = 0
    for i, pixels in enumerate(y.numpy()):
        glass, solid = (drawn(parts.valid, i, column) for column in TWO)
        np.testing.assert_array_equal(pixels, np.where(solid, 2, glass))
        overlaps += (glass & solid).sum()
    assert overlaps > 0
    _, turned = loaders(parts, recipe.but(masks=TWO[::-1])).valid.one_batch()
    assert (turned == 1).sum() < (y == 2).sum()  # the consolidation is below now


@pytest.mark.parametrize(
    "augment, least",
    [
        ({"max_rotate": 0.0, "max_zoom": 1.0, "max_warp": 0.0, "p_affine": 0.0}, 1.0),
        ({"max_rotate": 45.0, "min_zoom": 0.8, "max_zoom": 1.2, "p_affine": 1.0}, 0.93),
    ],
)
def test_augmentation_moves_image_and_mask_together(parts, augment, least):
    """The image is its own mask, so that where they part is seen."""
    for i in range(len(parts.train)):
        save(parts.train.path(i), drawn(parts.train, i, "infection_mask", 40))
    recipe = RECIPE.but(augment={"max_lighting": 0.0, **augment}, batch_size=len(parts.train))
    dls = loaders(parts, recipe)
    rows = dls.train.dataset
    straight = rows.batch(range(len(rows)))
    _, still = dls.valid.after_batch(straight)
    x, y = dls.train.after_batch(straight)
    assert y.dtype == torch.int64 and set(y.unique().tolist()) == {0, 1}
    white = (x[:, 0] > (x.min() + x.max()) / 2).numpy()
    still, moved = still.numpy() == 1, y.numpy() == 1
    assert min(map(dice, white, moved)) >= least
    assert min(map(dice, still, moved)) < 0.6


def test_a_row_without_its_mask_is_named_with_the_remedy(data):
    frame = data.frame.copy()
    frame.loc[[3, 5, 7, 9], "infection_mask"] = ""
    lacking = Dataset(frame, data.root, data.card)
    parts = split(lacking, seed=0)
    with pytest.raises(DatasetError, match=r"03\.png, 05\.png, 07\.png \(\+1 more\).*where\("):
        loaders(parts)
    kept = lacking.where("infection_mask != ''")  # what the message says
    assert len(loaders(split(kept, seed=0)).prepared.masks) == 20
    with pytest.raises(DatasetError, match="no column 'lesion_mask'.*infection_mask"):
        loaders(parts, RECIPE.but(masks=("lesion_mask",)))


@pytest.mark.parametrize("column", ["infection_mask", "ground_glass_mask"])
def test_bad_masks_stop_before_training_and_leave_no_cache(data, parts, own_cache, column):
    """One is gone, one cut short, one of another size; each is found in any column."""
    recipe = RECIPE.but(masks=(column,))
    files = [data.root / name for name in data.frame[column][:3]]
    files[0].unlink()
    with pytest.raises(DatasetError, match="missing mask") as caught:
        loaders(parts, recipe)
    assert [str(files[0]).endswith(p.where) for p in caught.value.problems] == [True]
    save(files[0], np.zeros((40, 40)))
    files[1].write_bytes(files[1].read_bytes()[:60])
    save(files[2], np.zeros((20, 40)))
    with pytest.raises(DatasetError) as caught:
        loaders(parts, recipe)
    kinds = {p.where: p.kind for p in caught.value.problems}
    assert kinds == {str(files[1]): "unreadable mask", str(files[2]): "mask size"}
    assert not list((own_cache / "cache" / "prepared").glob("*-masks.npy"))


@pytest.mark.parametrize("column", ["infection_mask", "ground_glass_mask"])
def test_a_changed_mask_is_noticed_and_the_images_are_not_read_again(
    data, parts, monkeypatch, column
):
    recipe = RECIPE.but(masks=(column,))
    before = loaders(parts, recipe).prepared
    save(data.root / data.frame[column].iat[0], np.ones((40, 40)))
    monkeypatch.setattr(arrays, "check_row", lambda *a: pytest.fail("image read again"))
    after = loaders(parts, recipe).prepared
    assert before.fingerprint != after.fingerprint and before.key != after.key
    assert (after.masks[0] == 1).all() and not (before.masks[0] == 1).all()
    assert loaders(parts, RECIPE.but(masks=(), network="CoV-CTNet")).prepared.masks is None


def test_each_choice_of_masks_has_its_own_cache(data):
    frame = data.frame.assign(lung_mask=data.frame["consolidation_mask"])
    both = Dataset(frame, data.root, data.card)
    a, b = ("infection_mask", "lung_mask")
    choices = [(a,), (b,), (a, b), (b, a)]
    made = [
        training.prepare(both, recipe=RECIPE.but(masks=c), progress=False).masks for c in choices
    ]
    np.testing.assert_array_equal(made[2], np.where(made[1], 2, made[0]))
    np.testing.assert_array_equal(made[3], np.where(made[0], 2, made[1]))
    assert len({m.tobytes() for m in made}) == 4


def test_masks_come_back_from_disk_memory_mapped_when_large(parts, monkeypatch):
    small = training.prepare(*parts, recipe=RECIPE, progress=False)
    arrays._recent.clear()
    monkeypatch.setattr(arrays, "MEMORY_LIMIT", 10)
    monkeypatch.setattr(arrays, "_write", lambda *a: pytest.fail("made again"))
    mapped = training.prepare(*parts, recipe=RECIPE, progress=False)
    assert isinstance(mapped.masks, np.memmap) and mapped.masks.dtype == np.uint8
    np.testing.assert_array_equal(small.masks, mapped.masks)


def test_static_attention_by_hand():
    """Background 12 of 16 pixels, region 1 3 of 16, region 2 1 of the 8 in the image that has it.

    Frequencies 0.75, 0.1875, 0.125; their median is 0.1875.
    """
    masks = np.array([[[0, 0, 0, 0], [0, 0, 1, 2]], [[0, 0, 0, 0], [0, 0, 1, 1]]], np.uint8)
    weights = static_attention(masks, ("background", "a", "b"))
    np.testing.assert_allclose(weights, [0.25, 1.0, 1.5])
    with pytest.raises(ValueError, match="lesion"):
        static_attention(masks, ("background", "a", "b", "lesion"))


def test_static_attention_is_of_the_training_part_alone(parts):
    learn = training.learner(loaders(parts, RECIPE.but(static_attention=True)))
    share = np.mean([drawn(parts.train, i, "infection_mask") for i in range(len(parts.train))])
    f = np.array([1 - share, share])
    np.testing.assert_allclose(learn.loss_func.weight, 0.5 / f, rtol=1e-5)
    assert training.learner(loaders(parts)).loss_func.weight is None


def test_losses_against_their_formulas():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 5, 7, generator=rng)
    target = torch.randint(0, 3, (3, 5, 7), generator=rng)
    weight = torch.tensor([0.2, 1.0, 3.0])
    p = np.exp(logits.numpy().astype(float))
    p /= p.sum(1, keepdims=True)
    t = np.stack([target.numpy() == c for c in range(3)], 1)
    w = (weight.numpy()[None, :, None, None] * t).sum(1)
    entropy = (-np.log((p * t).sum(1)) * w).sum() / w.sum()
    overlap, size = (p * t).sum((0, 2, 3)), p.sum((0, 2, 3)) + t.sum((0, 2, 3))
    regions = np.mean(1 - 2 * (overlap / size)[1:])
    expected = {"cross_entropy": entropy, "dice": regions, "cross_entropy+dice": entropy + regions}
    for kind, value in expected.items():
        loss = MaskLoss(kind, 3, weight)
        assert float(loss(logits, target)) == pytest.approx(value, rel=1e-5)
        loss.reduction = "none"  # each image alone, as fastai's Interpretation wants it
        each = loss(logits, target)
        loss.reduction = "mean"
        assert float(each[1]) == pytest.approx(float(loss(logits[1:2], target[1:2])), rel=1e-5)
        assert each.shape == (3,)


def test_dice_of_the_validation_is_of_all_its_pixels(parts):
    recipe = RECIPE.but(masks=TWO)
    learn = training.learner(loaders(parts, recipe.but(batch_size=1)))
    with learn.no_bar(), learn.no_logging():
        shown = learn.validate()[1]
    out = training.predict(learn, parts.valid)
    scores = [dice(out.predicted == c, out.truth == c) for c in (1, 2)]
    assert shown == pytest.approx(np.mean(scores), rel=1e-5)
    assert RegionDice().name == "dice"


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "cross_entropy+dice"])
def test_a_tiny_network_finds_bright_discs(parts, loss):
    recipe = RECIPE.but(loss=loss, epochs=5, lr=0.3, monitor="dice")
    learn = training.learner(loaders(parts, recipe), model=nn.Conv2d(1, 2, 1))
    record = training.fit(learn, show_progress=False)
    out = training.predict(learn, parts.test, name="discs")
    assert dice(out.predicted == 1, out.truth == 1) > 0.9
    assert (out.classes, out.name) == (("background", "infection"), "discs")
    assert record.data["masks"] == ["infection_mask"]
    best = [row["dice"] for row in record.history]
    assert record.best_epoch == int(np.argmax(best)) + 1


def test_predictions_are_in_the_order_of_the_rows_with_the_truth_beside(data, parts, monkeypatch):
    learn = training.learner(loaders(parts))
    order = np.random.default_rng(0).permutation(len(data))
    forward, back = training.predict(learn, data), training.predict(learn, data.where(order))
    assert list(back.frame["image"]) == list(data.frame["image"].iloc[order])
    np.testing.assert_allclose(forward.probabilities[order], back.probabilities, atol=1e-5)
    for k, i in enumerate(order[:5]):
        np.testing.assert_array_equal(back.truth[k] == 1, drawn(data, i, "infection_mask"))
    monkeypatch.setattr(arrays, "MEMORY_LIMIT", 10)
    half = training.predict(learn, data).probabilities
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, forward.probabilities, atol=1e-3)


def test_probabilities_of_many_images_are_put_together_in_order(data, parts):
    from covidlab.training.learners import _pixel_probabilities
    from covidlab.training.loaders import loader_for

    learn = training.learner(loaders(parts))
    items = loader_for(learn.dls, data).dataset
    few, all_ = (_pixel_probabilities(learn, items, n) for n in (5, 64))
    np.testing.assert_allclose(few, all_, atol=1e-5)


def test_a_finished_training_is_reused(parts, monkeypatch):
    learn, record = fitted(parts)
    expected = training.predict(learn, parts.test).probabilities
    monkeypatch.setattr("covidlab.training.learners._fit", lambda *a: pytest.fail("trained again"))
    again, same = fitted(parts, reuse=True)
    assert same == record
    np.testing.assert_array_equal(training.predict(again, parts.test).probabilities, expected)
    for other in ({"static_attention": True}, {"loss": "dice"}, {"masks": TWO[:1]}):
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            fitted(parts, RECIPE.but(**other), reuse=True)


def test_bfloat16_agrees_with_float32_to_its_precision(parts):
    dls = loaders(parts, RECIPE.but(loss="cross_entropy+dice"))
    full, half = (training.learner(dls, precision=p) for p in ("fp32", "bf16"))
    a, b = (training.predict(learn, parts.test).probabilities for learn in (full, half))
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.05)
    assert np.isfinite(training.fit(half, show_progress=False).history[-1]["valid_loss"])


def test_estimating_changes_nothing(parts):
    learn = training.learner(loaders(parts))
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    assert training.estimate(learn, batches=1) > 0
    assert all(torch.equal(before[k], v) for k, v in learn.model.state_dict().items())
    record = training.fit(learn, show_progress=False)
    assert [r["train_loss"] for r in record.history] == [
        r["train_loss"] for r in fitted(parts)[1].history
    ]


def test_an_epoch_is_estimated_by_its_batches(parts, monkeypatch):
    """A clock that ticks 10 s at each look: every batch takes 10 s, and so many there are."""
    ticks = itertools.count(0, 10)
    monkeypatch.setattr("covidlab.training.learners.time.perf_counter", lambda: next(ticks))
    learn = training.learner(loaders(parts))
    n = len(learn.dls.train) + len(learn.dls.valid)
    assert training.estimate(learn, batches=2) == 10 * n


def test_weights_of_an_earlier_training_are_where_the_next_begins(parts):
    first, record = fitted(parts)
    second = training.learner(loaders(parts, RECIPE.but(lr=1e-3)), weights=record)
    for k, v in second.model.state_dict().items():
        assert torch.equal(v, first.model.state_dict()[k])
    after = training.fit(second, show_progress=False)
    assert after.weights_from == f"{record.folder.name}/weights.pth"
    assert training.RunRecord.load(after.folder) == after
    plain = fitted(parts, RECIPE.but(lr=1e-3))[1]
    assert plain.folder != after.folder and plain.weights_from == ""


def test_another_last_layer_keeps_its_own_weights_and_says_so(parts):
    _, record = fitted(parts)
    learn = training.learner(loaders(parts, RECIPE.but(masks=TWO)))
    with pytest.raises(RuntimeError, match="size mismatch"):
        training.load_weights(learn, record)
    own = {k: v.clone() for k, v in learn.model.state_dict().items()}
    kept = training.load_weights(learn, record.weights, strict=False)
    saved = torch.load(record.weights, weights_only=True)
    for k, v in learn.model.state_dict().items():
        assert torch.equal(v, own[k] if k in kept else saved[k])
    assert kept and all(k.startswith("head") for k in kept)
    other = training.learner(loaders(parts), model=nn.Sequential(nn.Conv2d(1, 2, 5)))
    with pytest.raises(RuntimeError, match="no tensor"):
        training.load_weights(other, record, strict=False)


def validated(data, recipes, **options):
    return list(training.cross_validate(data, recipes, progress=False, **options))


def test_cross_validation_tests_every_image_once_and_resumes_at_its_fold(data, monkeypatch):
    from covidlab.training import learners

    trained, really = [], learners._fit

    def interrupted_at_the_third(learn, *args):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(1)
        really(learn, *args)

    monkeypatch.setattr(learners, "_fit", interrupted_at_the_third)
    begun = training.cross_validate(data, RECIPE.but(epochs=1), progress=False)
    before = [next(begun), next(begun)]
    with pytest.raises(KeyboardInterrupt):
        next(begun)
    monkeypatch.setattr(learners, "_fit", lambda *a: trained.append(1) or really(*a))
    done = validated(data, RECIPE.but(epochs=1))
    assert len(trained) == 3 and [fold for fold, _, _ in done] == [1, 2, 3]
    for (_, record, out), (_, same, again) in zip(before, done, strict=False):
        assert record == same
        np.testing.assert_array_equal(out.probabilities, again.probabilities)
    tested = [name for _, _, out in done for name in out.frame["image"]]
    assert sorted(tested) == sorted(data.frame["image"])
    patients = [set(out.frame["patient_id"]) for _, _, out in done]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_recipes_are_compared_on_the_same_folds(data):
    """Labels and masks beside each other; a label that no longer occurs does not matter to masks."""
    label = RECIPE.but(name="labels", masks=(), network="CoV-CTNet", epochs=1)
    label = label.but(options={"widths": (4, 4, 8, 8)})
    done = validated(data, [label, RECIPE.but(epochs=1)], folds=2)
    assert [r.recipe["name"] for _, r, _ in done] == ["labels"] * 2 + ["tiny"] * 2
    assert [r.data["split"] for _, r, _ in done[:2]] == [r.data["split"] for _, r, _ in done[2:]]
    assert [type(p).__name__ for *_, p in done] == ["Predictions"] * 2 + ["MaskPredictions"] * 2
    sick = data.where("label == 'COVID'")
    assert len(validated(sick, RECIPE.but(epochs=1), folds=2)) == 2


def test_the_time_left_is_told_before_the_first_training(data, monkeypatch, capsys):
    monkeypatch.setattr("covidlab.training.folds.estimate", lambda learn: 50.0)
    runs = training.cross_validate(data, RECIPE)
    assert next(runs)[0] == 1
    assert "About 5 min on cpu: 3 of 3 trainings" in capsys.readouterr().out
    list(training.cross_validate(data, RECIPE))
    assert "About 3 min on cpu: 2 of 3" in capsys.readouterr().out
    list(training.cross_validate(data, RECIPE))
    assert "All 3 trainings are finished" in capsys.readouterr().out


# fastai's image tensors predate NumPy 2's `copy` keyword; matplotlib only passes the news on
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_fastais_views_show_masks(parts):
    """Batches, results and worst cases, with the background transparent over the image."""
    import matplotlib.pyplot as plt
    from fastai.interpret import SegmentationInterpretation

    learn = training.learner(loaders(parts, RECIPE.but(masks=TWO)))
    with learn.no_bar(), learn.no_logging():
        learn.dls.show_batch(max_n=2)
        grey, mask = plt.gcf().axes[0].images
        assert grey.get_cmap().name == "gray" and set(mask.get_array().compressed()) <= {1, 2}
        assert mask.get_array().mask.any()
        learn.show_results(max_n=2)
        losses, _ = (seen := SegmentationInterpretation.from_learner(learn)).top_losses(3)
        seen.plot_top_losses(2)
    plt.close("all")
    assert list(losses) == sorted(losses, reverse=True)


# ---- equation (1) of Ahmed ----------------------------------------------------------------------


def maps(lung):
    """(N, 2, H, W) probabilities of background and lung."""
    lung = torch.tensor(lung)[None]
    return torch.stack([1 - lung, lung], 1)


def test_squared_dice_by_hand():
    """p = 0.8, 0.5, 0.2, 0 and g = 1, 1, 0, 0: D = 2 · 1.3 / (0.64 + 0.25 + 0.04 + 2)."""
    target = torch.tensor([[[1, 1], [0, 0]]])
    p = maps([[0.8, 0.5], [0.2, 0.0]])
    assert squared_dice(p, target).item() == pytest.approx(1 - 2.6 / 2.93)
    plain = MaskLoss("dice")(p.clamp_min(1e-9).log(), target).item()
    assert plain == pytest.approx(1 - 2.6 / 3.5, abs=1e-5)  # without squares
    loss = MaskLoss("squared_dice")(p.clamp_min(1e-9).log(), target)
    assert loss.item() == pytest.approx(1 - 2.6 / 2.93, abs=1e-5)


def test_squared_dice_ends_at_0_and_1_and_averages_the_regions():
    target = torch.tensor([[[0, 1], [2, 2]]])
    right = torch.nn.functional.one_hot(target).movedim(-1, 1).float()
    assert squared_dice(right, target).item() == 0
    assert squared_dice(right.roll(1, 1), target).item() == 1
    half = right.clone()
    half[:, :, 0, 1] = torch.tensor([1.0, 0, 0])  # the only pixel of class 1 is missed
    assert squared_dice(half, target).item() == 0.5


def test_squared_dice_of_an_absent_region_is_nothing():
    p = maps([[0.3, 0.4], [0.2, 0.1]]).requires_grad_()
    loss = squared_dice(p, torch.zeros(1, 2, 2, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and p.grad.abs().max() == 0


def test_squared_dice_sums_over_the_batch():
    target = torch.tensor([[[1, 1]], [[0, 0]]])
    p = torch.cat([maps([[1.0, 1.0]]), maps([[1.0, 0.0]])])
    assert squared_dice(p, target).item() == pytest.approx(1 - 4 / 5)


def test_ahmeds_recipe_runs_from_files_to_masks(parts):
    """Network, loss and augmentation together: whole classes go in, the loss falls, masks come out."""
    recipe = RECIPE.but(
        network="U-Net (Ahmed)",
        options={"width": 4},
        loss="squared_dice",
        augment=training.AHMED_LUNGS.augment,
        lr=5e-3,
        epochs=8,
    )
    x, y = loaders(parts, recipe).train.one_batch()
    assert x.shape == (4, 1, 32, 32) and set(y.unique().tolist()) == {0, 1}
    learn, record = fitted(parts, recipe)
    losses = [row["valid_loss"] for row in record.history]
    assert losses[-1] < 0.8 * losses[0]
    found = training.predict(learn, parts.test)
    assert found.probabilities.shape[1:] == (2, 32, 32)
