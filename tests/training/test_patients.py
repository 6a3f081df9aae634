"""From slices to patients: what is frozen, what is cached, whose scores the ensemble learns from."""

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from PIL import Image
from torch import nn

from covidlab import training
from covidlab.datasets import Dataset, Split
from covidlab.datasets.manifest import Card
from covidlab.explain import features
from covidlab.models.multiscale_resnet import MultiScaleResNet50
from covidlab.predictions import Predictions
from covidlab.training import arrays, patients
from covidlab.training.patients import (
    GARG_PATIENTS,
    Bags,
    PatientRecipe,
    fit_patients,
    infected_slices,
    slice_bags,
    train_only,
)

CLASSES = ("COVID-19", "CAP", "Normal")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COVIDLAB_RUNS", str(tmp_path / "runs"))
    arrays._recent.clear()


# ---- freezing ----------------------------------------------------------------------------------


@pytest.fixture
def slice_learner():
    torch.manual_seed(0)
    model = MultiScaleResNet50(1, 3, backbone="resnet18", hidden=8)
    items = [(torch.randn(1, 32, 32), torch.tensor(i % 3)) for i in range(8)]
    dls = DataLoaders(*(DataLoader(items, bs=4, shuffle=False) for _ in range(2)), device="cpu")
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), lr=1e-2)


def changed(learn):
    """Kinds of tensors that one epoch changes: head, convolutions, batch norm and its averages."""
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    kinds = set()
    for name, value in learn.model.state_dict().items():
        if not torch.equal(value, before[name]):
            running = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
            norm = ".bn" in name or "downsample.1" in name
            part = name.split(".")[0]
            kinds.add("averages" if running else "norm" if norm else part)
    return kinds


def test_the_paper_steps_train_what_they_say(slice_learner):
    everything = {"head", "backbone", "norm", "averages"}
    assert changed(slice_learner) == everything
    assert changed(train_only(slice_learner, "head")) == {"head"}
    assert changed(train_only(slice_learner, "all but batch norm")) == {"head", "backbone"}
    assert changed(slice_learner) == {"head", "backbone"}  # and stays so
    assert changed(train_only(slice_learner, "head")) == {"head"}
    assert changed(train_only(slice_learner, "all")) == everything
    with pytest.raises(ValueError, match="part='tail'"):
        train_only(slice_learner, "tail")


# ---- slices found by the model -----------------------------------------------------------------


def manifest(labels, ids, root="/nowhere", **columns):
    names = [f"{i:03d}.png" for i in range(len(labels))]
    frame = pd.DataFrame({"image": names, "label": labels, "patient_id": ids} | columns)
    return Dataset(frame, root, Card("some", classes=CLASSES))


def test_infected_slices_by_hand():
    labels = ["COVID-19"] * 3 + ["CAP"] * 2 + ["Normal"] * 2
    data = manifest(labels, list("aaabbcc"))
    called = ["COVID-19", "Normal", "CAP", "Normal", "CAP", "Normal", "COVID-19"]
    chances = np.array([np.where(np.array(CLASSES) == c, 0.6, 0.2) for c in called])
    said = Predictions(data.frame, chances, CLASSES)
    found = infected_slices(data, said)
    assert found.frame["image"].tolist() == [f"{i:03d}.png" for i in (0, 2, 4, 5, 6)]
    assert found.frame["label"].tolist() == [labels[i] for i in (0, 2, 4, 5, 6)]
    assert found.frame["found"].tolist() == ["model"] * 3 + [""] * 2
    surer = infected_slices(data, said, agree=True)
    assert surer.frame["image"].tolist() == [f"{i:03d}.png" for i in (0, 4, 5, 6)]

    with pytest.raises(ValueError, match="healthy='Healthy' is none of COVID-19"):
        infected_slices(data, said, healthy="Healthy")
    with pytest.raises(ValueError, match="other rows"):
        infected_slices(data.where([1, 0]), said)
    blind = Predictions(data.frame, np.tile([0.1, 0.1, 0.8], (7, 1)), CLASSES)
    with pytest.raises(ValueError, match="every slice of 2 patients Normal"):
        infected_slices(data, blind)


# ---- bags --------------------------------------------------------------------------------------

RECIPE = training.Recipe(
    name="tiny", network="CoV-CTNet", options={"widths": (4, 4, 4, 8), "hidden": (6, 5)}, size=24
)


@pytest.fixture
def slices(tmp_path):
    """9 patients of three classes with 2, 3 or 4 slices, their rows shuffled; and a learner."""
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "set").mkdir()
    for patient in range(9):
        for i in range(2 + patient // 3):
            name = f"{patient}_{i}.png"
            Image.fromarray(rng.integers(0, 255, (24, 24)).astype(np.uint8)).save(
                tmp_path / "set" / name
            )
            rows.append((name, CLASSES[patient % 3], f"p{patient}", f"{50 - 5 * i}", f"s{patient}"))
    frame = pd.DataFrame(rows, columns=["image", "label", "patient_id", "z_mm", "site"])
    frame = frame.sample(frac=1, random_state=1)
    data = Dataset(frame, tmp_path / "set", Card("set", classes=CLASSES))
    part = [
        np.isin(data.patients, [f"p{i}" for i in ids]) for ids in ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    ]
    dls = training.dataloaders(Split(*map(data.where, part), ""), RECIPE, progress=False)
    return data, training.learner(dls)


def test_bags_hold_what_the_network_says_of_each_slice_head_first(slices):
    data, learn = slices
    bags = slice_bags(learn, data, progress=False)
    theirs, said = features(learn, data), training.predict(learn, data).probabilities
    heights = data.frame["z_mm"].astype(float).to_numpy()
    assert len(bags) == 9 and bags.frame["patient_id"].tolist() == list(
        dict.fromkeys(data.patients)
    )
    for row, one, chances in zip(
        bags.frame.itertuples(), bags.features, bags.probabilities, strict=True
    ):
        at = np.flatnonzero(data.patients == row.patient_id)
        at = at[np.argsort(-heights[at])]
        assert row.slices == len(at) == len(one) and row.site == "s" + row.patient_id[1:]
        assert np.allclose(one, theirs[at], atol=1e-5) and one.shape[1] == 5
        assert np.allclose(chances, said[at], atol=1e-5)
    assert not {"image", "z_mm", "sha256"} & set(bags.frame)
    assert bags.targets.tolist() == [CLASSES.index(c) for c in bags.frame["label"]]


def counted_calls(learn, after):
    """Counts calls of the network, and lets it fail after some."""
    calls = []

    def forward(module, inputs):
        calls.append(len(inputs[0]))
        if len(calls) > after:
            raise RuntimeError("interrupted")

    handle = learn.model.register_forward_pre_hook(forward)
    return calls, handle


def test_features_are_computed_once_and_go_on_after_an_interruption(slices):
    data, learn = slices
    calls, handle = counted_calls(learn, after=4)
    with pytest.raises(RuntimeError, match="interrupted"):
        slice_bags(learn, data, progress=False)
    handle.remove()
    calls, handle = counted_calls(learn, after=5)
    whole = slice_bags(learn, data, progress=False)
    assert len(calls) == 5  # nine patients, four were there
    again = slice_bags(learn, data.where(data.patients != "p4"), progress=False)
    assert len(calls) == 5
    assert again.fingerprint() == whole.where(whole.frame["patient_id"] != "p4").fingerprint()
    with pytest.raises(RuntimeError, match="interrupted"):
        slice_bags(learn, data, reuse=False, progress=False)
    with torch.no_grad():
        next(learn.model.parameters()).add_(0.1)
    with pytest.raises(RuntimeError, match="interrupted"):
        slice_bags(learn, data, progress=False)


def test_patients_must_be_known_and_of_one_label(slices):
    data, learn = slices
    frame = data.frame.copy()
    frame.loc[3, "patient_id"] = ""
    with pytest.raises(ValueError, match="1 slices have no patient_id"):
        slice_bags(learn, Dataset(frame, data.root, data.card))
    frame = data.frame.copy()
    at = frame.index[frame["patient_id"] == "p8"][0]
    frame.loc[at, "label"] = "COVID-19"
    with pytest.raises(ValueError, match=r"1 patients have slices of several labels \(p8"):
        slice_bags(learn, Dataset(frame, data.root, data.card))


def with_heights(data, patient, heights):
    frame = data.frame.copy()
    frame.loc[frame["patient_id"] == patient, "z_mm"] = heights
    return Dataset(frame, data.root, data.card)


def test_heights_that_cannot_be_are_refused_before_any_work(slices):
    data, learn = slices
    calls, handle = counted_calls(learn, after=0)
    with pytest.raises(ValueError, match=r"p7: 1 of 4 slices have no height in z_mm \(7_.*png"):
        slice_bags(learn, with_heights(data, "p7", ["40", "", "30", "20"]), progress=False)
    with pytest.raises(ValueError, match="p7: 2 of 4 slices have no height"):
        slice_bags(learn, with_heights(data, "p7", ["40", "top", "nan", "20"]), progress=False)
    with pytest.raises(ValueError, match="p0: two slices at 40 mm .*one series of one orientation"):
        slice_bags(learn, with_heights(data, "p0", ["40", "40.0"]), progress=False)
    assert not calls
    handle.remove()


def test_without_heights_rows_are_the_order_and_a_missing_slice_is_just_missing(slices):
    data, learn = slices
    theirs = features(learn, data)
    rows = np.flatnonzero(data.patients == "p8")
    bags = slice_bags(learn, with_heights(data, "p8", ""), progress=False)
    at = bags.frame["patient_id"].tolist().index("p8")
    assert np.allclose(bags.features[at], theirs[rows], atol=1e-5)
    fewer = data.where(data.frame["image"].to_numpy() != "8_2.png")
    ordered = sorted(rows, key=lambda i: data.frame["image"][i])
    bags = slice_bags(learn, fewer, progress=False)
    at = bags.frame["patient_id"].tolist().index("p8")
    assert np.allclose(bags.features[at], theirs[np.delete(ordered, 2)], atol=1e-5)


def test_slices_of_other_sizes_are_brought_to_the_recipe_s(slices):
    """A slice saved at three times its size, pixel by pixel, is the same slice."""
    data, learn = slices
    before = slice_bags(learn, data, reuse=False, progress=False)
    path = data.root / "5_1.png"
    small = np.asarray(Image.open(path))
    Image.fromarray(np.kron(small, np.ones((3, 3), np.uint8))).save(path)
    arrays._recent.clear()
    mixed = Dataset(data.frame.copy(), data.root, data.card)
    part = [mixed.where(np.isin(mixed.patients, ids)) for ids in (["p0", "p1"], ["p2"], ["p5"])]
    dls = training.dataloaders(Split(*part, ""), RECIPE, progress=False)
    assert dls.prepared.array.shape[1:] == (24, 24)
    again = slice_bags(learn, mixed, reuse=False, progress=False)
    at = again.frame["patient_id"].tolist().index("p5")
    assert again.features[at].shape == before.features[at].shape
    assert np.allclose(again.features[at], before.features[at], atol=0.05)


def test_a_patient_of_one_slice_is_judged_and_of_none_refused():
    train, valid = drawn(12, 30), drawn(6, 31, first=100)
    one = Bags(
        valid.frame, [f[:1] for f in valid.features], [p[:1] for p in valid.probabilities], CLASSES
    )
    model = fit_patients(train, valid, SMALL, progress=False)
    alone = model.predict(one.where([3]))
    for name, said in model.predict(one).items():
        assert np.isfinite(said.probabilities).all()
        assert np.allclose(said.probabilities[3], alone[name].probabilities[0], atol=1e-5)
    none = [f[:0] if i == 2 else f for i, f in enumerate(valid.features)]
    with pytest.raises(ValueError, match="patient 102 has no slices"):
        Bags(valid.frame, none, valid.probabilities, CLASSES)
    with pytest.raises(ValueError, match="6 patients, but features of 5 and probabilities of 6"):
        Bags(valid.frame, valid.features[:5], valid.probabilities, CLASSES)
    long = next(i for i, f in enumerate(valid.features) if len(f) > 1)
    fewer = [p[:1] if i == long else p for i, p in enumerate(valid.probabilities)]
    with pytest.raises(ValueError, match=f"patient {100 + long}: .* one row for each slice"):
        Bags(valid.frame, valid.features, fewer, CLASSES)


# ---- heads and ensemble ------------------------------------------------------------------------


def drawn(n, seed, d=6, signal=0.0, first=0):
    """Patients of 1 to 5 slices; `signal` raises one feature, their class's, in one slice."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 3
    chances, values = [], []
    for target in targets:
        count = rng.integers(1, 6)
        one = rng.normal(0, 1, (count, d)).astype(np.float32)
        one[rng.integers(count), target] += signal
        values.append(one)
        chances.append(rng.dirichlet(np.ones(3), count).astype(np.float32))
    frame = pd.DataFrame(
        {
            "patient_id": [f"{first + i}" for i in range(n)],
            "label": np.array(CLASSES)[targets],
            "slices": [len(v) for v in values],
        }
    )
    return Bags(frame, values, chances, CLASSES)


SMALL = PatientRecipe(
    max_hidden=16, lstm=4, lstm_hidden=8, epochs=1, ensemble_epochs=2, folds=2, batch_size=16
)


def test_the_paper_settings():
    paper = GARG_PATIENTS.at("paper")
    assert (paper.batch_size, paper.lr, paper.epochs, paper.ensemble_epochs) == (64, 1e-3, 25, 200)
    assert (paper.l1, paper.l2, paper.monitor, paper.class_weights) == (
        1e-5,
        1e-4,
        "accuracy",
        True,
    )
    assert (paper.max_hidden, paper.lstm, paper.lstm_hidden, paper.ensemble_hidden) == (
        512,
        512,
        1024,
        10,
    )
    assert GARG_PATIENTS.at("smoke").epochs == 1 and "laptop" not in paper.asdict()
    for wrong in ({"heads": ("Mean",)}, {"epochs": 0}, {"folds": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GARG_PATIENTS.but(**wrong)
    with pytest.raises(ValueError, match="profile"):
        GARG_PATIENTS.at("quick")


def test_penalty_is_the_gradient_of_l1_and_l2_of_the_weights():
    """One step of plain gradient descent, against autograd of the whole objective."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    loss = nn.functional.cross_entropy(model(x), y)
    for layer in (model[0], model[2]):
        loss = loss + 0.02 * layer.weight.abs().sum() + 0.3 * layer.weight.square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = [p.detach() - 0.1 * g for p, g in zip(model.parameters(), gradients, strict=True)]
    items = list(zip(x, y, strict=True))
    dls = DataLoaders(*(DataLoader(items, bs=6) for _ in range(2)), device="cpu")
    learn = Learner(
        dls,
        model,
        loss_func=CrossEntropyLossFlat(),
        opt_func=SGD,
        lr=0.1,
        cbs=patients.Penalty(0.02, 0.3),
    )
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, wd=0.0)
    for p, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), value)


def test_batches_are_padded_bags_weighted_where_asked():
    bags = drawn(5, 0)
    lengths = [len(f) for f in bags.features]
    for weight, width in ((False, 6), (True, 18)):
        x, n, y = patients.BagItems(bags, weight).batch([3, 0, 4])
        assert x.shape == (3, max(lengths[i] for i in (3, 0, 4)), width)
        assert n.tolist() == [lengths[i] for i in (3, 0, 4)]
        assert y.tolist() == bags.targets[[3, 0, 4]].tolist()
        for row, i in zip(x.numpy(), (3, 0, 4), strict=True):
            f, p = bags.features[i], bags.probabilities[i]
            expected = np.concatenate([p[:, [c]] * f for c in range(3)], 1) if weight else f
            assert np.allclose(row[: lengths[i]], expected) and not row[lengths[i] :].any()


def test_all_heads_and_the_ensemble_speak_of_patients():
    train, valid, test = drawn(18, 1), drawn(6, 2, first=100), drawn(7, 3, first=200)
    model = fit_patients(train, valid, SMALL, progress=False)
    said = model.predict(test)
    assert list(said) == ["Maxpool", "Maxpool-Weighted", "BiLSTM", "BiLSTM-Weighted", "Ensemble"]
    for name, predictions in said.items():
        assert predictions.name == name and predictions.classes == CLASSES
        assert predictions.frame["patient_id"].tolist() == test.frame["patient_id"].tolist()
        assert predictions.truth.tolist() == test.targets.tolist()
    # nor do the others of a set matter to what is said of one patient
    for name, predictions in model.predict(test.where([4, 2])).items():
        assert np.allclose(predictions.probabilities, said[name].probabilities[[4, 2]], atol=1e-5)
    scores = np.concatenate([p.probabilities for p in list(said.values())[:-1]], 1)
    assert scores.shape == (7, 12)
    with torch.no_grad():
        logits = model.combine.model.cpu()(torch.from_numpy(scores))
    assert np.allclose(said["Ensemble"].probabilities, logits.softmax(1).numpy(), atol=1e-5)


def test_a_sign_in_one_slice_is_learnt():
    recipe = SMALL.but(epochs=12, lr=5e-2, ensemble_epochs=15, heads=("Maxpool", "BiLSTM"))
    train, valid = drawn(60, 4, signal=8.0), drawn(15, 5, signal=8.0, first=100)
    test = drawn(45, 6, signal=8.0, first=200)
    for name, said in fit_patients(train, valid, recipe, progress=False).predict(test).items():
        assert (said.predicted == said.truth).mean() > 0.75, name


def test_naive_scores_claim_what_out_of_fold_scores_do_not():
    """Features without any meaning: whoever asks the heads about their own patients believes them."""
    recipe = SMALL.but(
        heads=("Maxpool",), epochs=40, ensemble_epochs=60, lr=1e-2, monitor="train_loss"
    )
    recipe = recipe.but(max_hidden=64)
    train, valid = drawn(48, 7, d=40), drawn(24, 8, d=40, first=100)
    right = {}
    for naive in (True, False):
        model = fit_patients(train, valid, recipe, naive=naive, progress=False)
        claimed = model.claimed
        right[naive] = (claimed.predicted == claimed.truth).mean()
        new = model.predict(drawn(90, 9, d=40, first=500))["Ensemble"]
        assert (new.predicted == new.truth).mean() < 0.5
        assert (model.out_of_fold is None) == naive
    assert right[True] > 0.95 and right[False] < 0.6
    held_out = model.out_of_fold["Maxpool"]
    assert held_out.frame["patient_id"].tolist() == train.frame["patient_id"].tolist()
    assert (held_out.predicted == held_out.truth).mean() < 0.6


def test_out_of_fold_scores_are_of_heads_that_never_saw_the_patient(monkeypatch):
    train, valid = drawn(18, 10), drawn(6, 11, first=100)
    seen, original = [], patients._held_out

    def watched(learn, aside, *rest):
        trained = set(learn.dls.train.dataset.bags.frame["patient_id"])
        assert not trained & set(aside.frame["patient_id"])
        assert len(set(aside.targets)) == 3
        seen.extend(aside.frame["patient_id"])
        return original(learn, aside, *rest)

    monkeypatch.setattr(patients, "_held_out", watched)
    fit_patients(train, valid, SMALL.but(heads=("Maxpool",), folds=3), progress=False)
    assert sorted(seen) == sorted(train.frame["patient_id"])


def test_seeds_repeat_and_finished_heads_are_reused(monkeypatch):
    train, valid = drawn(18, 12), drawn(6, 13, first=100)
    fits, original = [], patients._fit

    def counted(learn, *rest):
        fits.append(type(learn.model).__name__)
        if len(fits) == stop:
            raise KeyboardInterrupt
        original(learn, *rest)

    def probabilities(**options):
        fits.clear()
        recipe = SMALL.but(heads=("Maxpool-Weighted", "BiLSTM"))
        model = fit_patients(train, valid, recipe, progress=False, **options)
        return model.predict(valid)["Ensemble"].probabilities

    monkeypatch.setattr(patients, "_fit", counted)
    stop = 4
    with pytest.raises(KeyboardInterrupt):
        probabilities()
    stop = None
    first = probabilities()
    assert len(fits) == 2 * 3 + 1 - 3  # three trainings were finished
    assert np.array_equal(probabilities(), first) and fits == ["Sequential"]
    assert np.array_equal(probabilities(reuse=False), first) and len(fits) == 7
    assert not np.array_equal(probabilities(seed=1), first) and len(fits) == 7
    probabilities(naive=True)
    assert fits == ["Sequential"]  # only the ensemble


def test_the_first_best_epoch_is_kept():
    train, valid = drawn(18, 14), drawn(9, 15, first=100)
    learn = patients._head_learner("Maxpool", train, valid, SMALL.but(lr=0.05), 0)
    patients._fit(learn, 12, SMALL.but(monitor="valid_loss"))
    losses = [row[1] for row in learn.recorder.values]
    assert learn.validate()[0] == pytest.approx(min(losses), rel=1e-4)
    assert losses[-1] > min(losses)


def test_classes_are_weighed_by_their_rarity():
    train = drawn(18, 16).where([0, 3, 6, 9, 1, 4, 2])
    learn = patients._head_learner("Maxpool", train, train, SMALL, 0)
    assert torch.allclose(learn.loss_func.func.weight.cpu(), torch.tensor([7 / 12, 7 / 6, 7 / 3]))


def test_vectors_are_what_the_last_layer_sees():
    train, valid = drawn(12, 17), drawn(6, 18, first=100)
    model = fit_patients(train, valid, SMALL, progress=False)
    net = model.heads["Maxpool"].model.cpu()
    top = torch.from_numpy(np.stack([f.max(0) for f in valid.features]))
    expected = net.head[0](top).clamp(min=0).detach().numpy()
    assert np.allclose(model.vectors(valid, "Maxpool"), expected, atol=1e-5)
    assert model.vectors(valid).shape == (6, 8)
    with pytest.raises(ValueError, match="head='Mean'"):
        model.vectors(valid, "Mean")


def test_parts_that_cannot_be_are_refused():
    train, valid = drawn(18, 19), drawn(6, 20, first=100)
    for parts, what in (
        ((train, drawn(6, 21)), "6 patients are in train and in valid"),
        ((train.where([0, 3, 6, 1, 4]), valid), "no training patient of Normal"),
        ((train.where([0, 3, 6, 1, 4, 2]), valid), "1 training patients of Normal are too few"),
    ):
        with pytest.raises(ValueError, match=what):
            fit_patients(*parts, SMALL, progress=False)
    for none in ([], train.targets == 7):
        with pytest.raises(ValueError, match="no patient is left"):
            train.where(none)
