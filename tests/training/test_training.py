"""The glue from manifest to Learner: what reaches the network, what is kept, what can be repeated."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from covidlab import training
from covidlab.datasets import DatasetError, Split, from_folder, split
from covidlab.training import arrays

RECIPE = training.Recipe(
    name="tiny",
    network="CoV-CTNet",
    options={"widths": (4, 4, 8, 8)},
    size=24,
    lr=1e-2,
    epochs=3,
    batch_size=8,
)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COVIDLAB_RUNS", str(tmp_path / "runs"))
    arrays._recent.clear()
    return tmp_path


@pytest.fixture
def data(own_cache):
    """40 images of two kinds that a small network can tell apart: a bright square left or right."""
    rng, root = np.random.default_rng(0), own_cache / "squares"
    for i in range(40):
        side = ("left", "right")[i % 2]
        (root / side).mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 90, (32, 40)).astype(np.uint8)
        at = 4 if side == "left" else 24
        image[8:24, at : at + 12] += 120
        Image.fromarray(image).save(root / side / f"{i:02d}.png")
    return from_folder(root, positive="right")


@pytest.fixture
def parts(data):
    with pytest.warns(UserWarning, match="patient"):
        return split(data, seed=0)


def test_batches_are_the_images_resized_and_standardised(parts):
    from covidlab.imaging import resize

    dls = training.dataloaders(parts, RECIPE, progress=False)
    train = np.stack([resize(parts.train.image(i), 24) for i in range(len(parts.train))])
    expected = np.stack([resize(parts.valid.image(i), 24) for i in range(len(parts.valid))])
    expected = (expected - train.mean()) / train.std()
    x, y = next(iter(dls.valid))
    np.testing.assert_allclose(x.numpy()[:, 0], expected, atol=1e-4)
    assert [dls.vocab[i] for i in y] == list(parts.valid.frame["label"])


def test_every_training_image_is_seen_once_an_epoch_in_a_new_order(parts):
    dls = training.dataloaders(parts, RECIPE.but(batch_size=5), progress=False)
    epochs = [torch.cat([x for x, _ in dls.train]).numpy() for _ in range(2)]
    sums = [sorted(e.sum((1, 2, 3)).round(2)) for e in epochs]
    assert len(sums[0]) == len(parts.train) // 5 * 5 and sums[0] == sums[1]
    assert not np.allclose(epochs[0], epochs[1])


def test_three_channels_repeat_the_grey_one(parts):
    x, _ = training.dataloaders(parts, RECIPE.but(channels=3), progress=False).one_batch()
    assert x.shape[1:] == (3, 24, 24)
    assert torch.equal(x[:, 0], x[:, 2])


def test_augmentation_moves_training_images_only(parts):
    dls = training.dataloaders(
        parts, RECIPE.but(augment={"max_rotate": 30.0, "p_affine": 1.0}), progress=False
    )
    valid = [next(iter(dls.valid))[0] for _ in range(2)]
    assert torch.equal(*valid)
    rows = dls.train.dataset
    plain = rows.batch(range(8))[0]
    turned = dls.train.after_batch((plain, rows.batch(range(8))[1]))[0]
    straight = dls.valid.after_batch((plain, rows.batch(range(8))[1]))[0]
    assert (turned - straight).abs().mean() > 0.1


def test_training_learns_and_writes_its_record(parts):
    dls = training.dataloaders(parts, RECIPE.but(epochs=8), progress=False)
    learn = training.learner(dls)
    record = training.fit(learn, show_progress=False)
    assert record.history[-1]["train_loss"] < record.history[0]["train_loss"]
    predictions = training.predict(learn, parts.test, name="squares")
    assert (predictions.predicted == predictions.truth).mean() >= 0.8
    assert (predictions.positive, predictions.name) == ("right", "squares")
    written = json.loads((record.folder / "record.json").read_text())
    assert written["recipe"]["hash"] == RECIPE.but(epochs=8).hash()
    assert written["data"]["images"] == {k: len(d) for k, d in parts.parts.items()}
    assert written["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(written["history"]) == 8
    again = training.RunRecord.load(record.folder)
    assert again == record


def test_the_best_epoch_is_the_one_that_is_kept(parts):
    """A step so large that it spoils the network in the last epochs must not spoil the result."""
    recipe = RECIPE.but(epochs=6, schedule="step", steps=(3,), gamma=1e4)
    learn = training.learner(training.dataloaders(parts, recipe, progress=False))
    record = training.fit(learn, show_progress=False)
    losses = [row["valid_loss"] for row in record.history]
    assert record.best_epoch == int(np.nanargmin(losses)) + 1 <= 3
    assert learn.validate()[0] == pytest.approx(min(losses), rel=1e-4)


def test_step_schedule_multiplies_at_its_epochs(parts):
    recipe = RECIPE.but(epochs=4, schedule="step", steps=(1, 3), gamma=0.1, optimiser="sgd")
    learn = training.learner(training.dataloaders(parts, recipe, progress=False))
    training.fit(learn, show_progress=False)
    n = len(learn.dls.train)
    assert [learn.recorder.lrs[i * n] for i in range(4)] == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4])


def test_optimiser_is_the_published_one(parts):
    """fastai's SGD with L2 takes the same steps as torch's, over ten steps of a real loss."""
    recipe = RECIPE.but(optimiser="sgd", lr=0.01, momentum=0.95, weight_decay=1e-2)
    dls = training.dataloaders(parts, recipe, progress=False)
    x, y = dls.one_batch()
    x, y = x.as_subclass(torch.Tensor).flatten(1), y.as_subclass(torch.Tensor)
    torch.manual_seed(0)
    ours, theirs = nn.Linear(576, 2, bias=False), nn.Linear(576, 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    learn = training.learner(dls, model=nn.Sequential(nn.Flatten(), ours))
    learn.create_opt()
    learn.opt.set_hypers(lr=recipe.lr, wd=recipe.weight_decay)
    reference = torch.optim.SGD(theirs.parameters(), 0.01, momentum=0.95, weight_decay=1e-2)
    for _ in range(10):
        for layer, opt in ((ours, learn.opt), (theirs, reference)):
            opt.zero_grad()
            nn.functional.cross_entropy(layer(x), y).backward()
            opt.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-6)


def test_bfloat16_on_the_processor_agrees_with_float32_to_its_precision(parts):
    dls = training.dataloaders(parts, RECIPE, progress=False)
    full, half = (training.learner(dls, precision=p) for p in ("fp32", "bf16"))
    a, b = (training.predict(learn, parts.test).probabilities for learn in (full, half))
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.01)
    records = [training.fit(learn, show_progress=False) for learn in (full, half)]
    assert records[0].folder != records[1].folder
    assert [r.environment["precision"] for r in records] == ["fp32", "bf16"]
    with pytest.raises(ValueError, match="precision='fp8'"):
        training.learner(dls, precision="fp8")


def test_same_seed_same_network_other_seed_another(parts):
    def weights(seed):
        learn = training.learner(training.dataloaders(parts, RECIPE, seed=seed, progress=False))
        training.fit(learn, show_progress=False)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

    first, second, other = weights(1), weights(1), weights(2)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_finished_training_is_reused_and_another_is_not(parts, monkeypatch):
    def trained(recipe, **options):
        learn = training.learner(training.dataloaders(parts, recipe, progress=False))
        return learn, training.fit(learn, show_progress=False, **options)

    learn, record = trained(RECIPE)
    expected = training.predict(learn, parts.test).probabilities
    monkeypatch.setattr("covidlab.training.learners._fit", lambda *a: pytest.fail("trained again"))
    again, same = trained(RECIPE, reuse=True)
    assert same == record
    np.testing.assert_array_equal(training.predict(again, parts.test).probabilities, expected)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        trained(RECIPE.but(lr=2e-2), reuse=True)


def test_an_interrupted_training_leaves_no_record(parts, monkeypatch):
    learn = training.learner(training.dataloaders(parts, RECIPE, progress=False))
    record = training.fit(learn, show_progress=False)
    learn = training.learner(training.dataloaders(parts, RECIPE, progress=False))

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("covidlab.training.learners._fit", killed)
    with pytest.raises(KeyboardInterrupt):
        training.fit(learn, show_progress=False)
    with pytest.raises(FileNotFoundError, match="did not finish"):
        training.RunRecord.load(record.folder)


def test_weights_are_read_without_running_code(parts, own_cache):
    class Evil:
        def __reduce__(self):
            return (print, ("run!",))

    torch.save({"x": Evil()}, own_cache / "evil.pth")
    learn = training.learner(training.dataloaders(parts, RECIPE, progress=False))
    with pytest.raises(Exception, match="[Ww]eights.only"):
        training.load_weights(learn, own_cache / "evil.pth")


def test_images_are_decoded_once_however_they_are_split(data, monkeypatch):
    seen = []
    original = arrays.check_row
    monkeypatch.setattr(arrays, "check_row", lambda d, i: seen.append(i) or original(d, i))
    with pytest.warns(UserWarning):
        first, second = split(data, seed=0), split(data, seed=5)
    training.dataloaders(first, RECIPE, progress=False)
    assert len(seen) == 40
    training.dataloaders(second, RECIPE.but(batch_size=4, lr=1.0), progress=False)
    arrays._recent.clear()  # a new session: from disk
    training.dataloaders(first, RECIPE, progress=False)
    assert len(seen) == 40
    training.dataloaders(first, RECIPE.but(enhance="idwt"), progress=False)
    assert len(seen) == 80


def test_a_changed_image_is_noticed(data, parts):
    before = training.dataloaders(parts, RECIPE, progress=False).prepared
    time.sleep(0.01)
    path = parts.train.path(0)
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    after = training.dataloaders(parts, RECIPE, progress=False).prepared
    assert after.fingerprint != before.fingerprint and after.key != before.key


def test_what_is_written_can_be_read_by_who_may_read_files(parts):
    """A temporary file of the safest kind is readable by its owner alone, and so would be its heir."""
    learn = training.learner(training.dataloaders(parts, RECIPE.but(epochs=1), progress=False))
    record = training.fit(learn, show_progress=False)
    plain = record.folder / "plain"
    plain.write_text("")
    assert (record.folder / "record.json").stat().st_mode == plain.stat().st_mode
    assert not list(record.folder.glob(".*"))


def test_large_arrays_are_memory_mapped_with_the_same_values(parts, monkeypatch):
    small = training.prepare(*parts, recipe=RECIPE, progress=False).array
    arrays._recent.clear()
    monkeypatch.setattr(arrays, "MEMORY_LIMIT", 10)
    mapped = training.prepare(*parts, recipe=RECIPE, progress=False).array
    assert isinstance(mapped, np.memmap) and not isinstance(small, np.memmap)
    np.testing.assert_array_equal(small, mapped)


def test_bad_files_stop_before_training_all_at_once_and_leave_no_cache(data, parts, own_cache):
    data.path(3).write_bytes(data.path(3).read_bytes()[:100])
    data.path(5).write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        training.dataloaders(parts, RECIPE, progress=False)
    assert sorted(p.where for p in caught.value.problems) == sorted(
        map(str, (data.path(3), data.path(5)))
    )
    assert not list((own_cache / "cache" / "prepared").iterdir())


def test_predicting_keeps_the_order_of_the_rows(data, parts):
    learn = training.learner(training.dataloaders(parts, RECIPE, progress=False))
    shuffled = data.where(np.random.default_rng(0).permutation(len(data)))
    forward, back = training.predict(learn, data), training.predict(learn, shuffled)
    assert list(back.frame["image"]) == list(shuffled.frame["image"])
    by_name = pd.Series(list(forward.probabilities), index=forward.frame["image"])
    np.testing.assert_allclose(
        np.stack(by_name[back.frame["image"]].to_list()), back.probabilities, atol=1e-5
    )


def test_predicting_unseen_data_uses_the_same_steps(data, parts, own_cache):
    """Images outside the prepared set are prepared in the same way, one class being enough."""
    learn = training.learner(training.dataloaders(parts, RECIPE, progress=False))
    new = own_cache / "new" / "left"
    new.mkdir(parents=True)
    copied = data.where("label == 'left'").path(0)
    (new / "a.png").write_bytes(copied.read_bytes())
    fresh = from_folder(own_cache / "new", check=False, classes=("left", "right"))
    out = training.predict(learn, fresh).probabilities
    np.testing.assert_allclose(
        out, training.predict(learn, data.where("label == 'left'")).probabilities[:1], atol=1e-5
    )


def test_other_classes_are_refused_with_the_remedy(data, parts):
    learn = training.learner(training.dataloaders(parts, RECIPE, progress=False))
    with pytest.raises(ValueError, match="relabel"):
        training.predict(learn, data.relabel({"left": "L", "right": "R"}))


def test_class_weights_are_inverse_frequencies(data):
    train = data.where(np.r_[0:20, 35:40])  # 20 left, 5 right
    parts = Split(train, data.where([25, 26]), data.where([27, 28]), "by hand")
    learn = training.learner(
        training.dataloaders(parts, RECIPE.but(class_weights=True), progress=False)
    )
    counts = np.bincount(train.targets)
    np.testing.assert_allclose(learn.loss_func.func.weight.numpy(), 25 / (2 * counts), rtol=1e-6)
    one_sided = Split(data.where(np.r_[0:20]), parts.valid, parts.test, "by hand")
    with pytest.raises(ValueError, match="no training image of right"):
        training.learner(
            training.dataloaders(one_sided, RECIPE.but(class_weights=True), progress=False)
        )


def test_rarer_classes_are_shown_again_until_all_are_seen_as_often(data):
    train = data.where(np.r_[0:20, 33:40])
    counts = np.bincount(train.targets)  # of other sizes, and one no multiple of the other
    parts = Split(train, data.where([25, 26]), data.where([27, 28]), "by hand")
    dls = training.dataloaders(
        parts, RECIPE.but(oversample=True, batch_size=2 * counts.max()), progress=False
    )
    images, labels = next(iter(dls.train))
    assert np.bincount(labels.numpy()).tolist() == [counts.max()] * 2
    seen = images.flatten(1).unique(dim=0, return_counts=True)[1]
    assert len(seen) == len(train)  # every image at least once
    most, least = counts.max(), counts.min()
    assert sorted(seen.tolist()) == sorted(
        [1] * most + [most // least + (i < most % least) for i in range(least)]
    )
    assert len(dls.valid.dataset) == 2
    with pytest.raises(ValueError, match="oversample"):
        RECIPE.but(oversample=True, class_weights=True)


# fastai's image tensors predate NumPy 2's `copy` keyword; matplotlib only passes the news on
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_size_too_small_for_the_network_is_refused_before_training(parts):
    small = training.dataloaders(parts, RECIPE.but(network="VGG16", options={}), progress=False)
    with pytest.raises(
        ValueError, match="size=24 is too small for VGG16, which takes 32 px or more"
    ):
        training.learner(small)


def test_it_is_fastais_own_learner(parts):
    """Anything that works on a Learner works on ours: interpretation, batches, results."""
    import matplotlib.pyplot as plt
    from fastai.interpret import ClassificationInterpretation

    learn = training.learner(training.dataloaders(parts, RECIPE, progress=False))
    with learn.no_bar(), learn.no_logging():
        seen = ClassificationInterpretation.from_learner(learn)
        matrix = seen.confusion_matrix()
        losses, at = seen.top_losses(3)
        seen.plot_top_losses(2)
        learn.dls.show_batch()
    plt.close("all")
    assert matrix.sum() == len(parts.valid)
    assert list(losses) == sorted(losses, reverse=True)
    assert set(learn.dls.vocab) == {"left", "right"}


def test_a_rate_that_waits_and_a_training_that_stops(parts):
    """Weights that do not move: nothing is gained after the first epoch. The rate falls to a fifth
    after three epochs without gain, again after three more, and the eighth is the last."""
    recipe = RECIPE.but(
        lr=1e-30, epochs=40, schedule="plateau", gamma=0.2, patience=3, stop_after=8
    )
    dls = training.dataloaders(parts, recipe, progress=False)
    learn = training.learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 2)))
    record = training.fit(learn, show_progress=False)
    assert (len(record.history), record.best_epoch) == (1 + 8, 1)
    assert len({epoch["valid_loss"] for epoch in record.history}) == 1
    each = np.array(learn.recorder.lrs).reshape(9, -1)[:, -1] / recipe.lr
    np.testing.assert_allclose(each, [1, 1, 1, 1, 1 / 5, 1 / 5, 1 / 5, 1 / 25, 1 / 25])


def test_a_scheme_of_three_channels_reaches_the_network(parts):
    from covidlab.cascade import _probabilities
    from covidlab.explain.maps import _opened
    from covidlab.imaging import resize, three_channels

    recipe = RECIPE.but(enhance="3-channel", channels=3)
    dls = training.dataloaders(parts, recipe, progress=False)

    def stack(data):
        planes = [[resize(p, 24) for p in three_channels(data.image(i))] for i in range(len(data))]
        return np.clip(planes, 0, 1)

    train = stack(parts.train)
    mean, std = (f(train, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    x, _ = next(iter(dls.valid))
    np.testing.assert_allclose(x.numpy(), (stack(parts.valid) - mean) / std, atol=1e-3)
    np.testing.assert_allclose(dls.prepared.grey, dls.prepared.array[:, 0])
    learn = training.learner(dls)
    found = training.predict(learn, parts.valid).probabilities
    pictures = [parts.valid.image(i) for i in range(len(parts.valid))]
    np.testing.assert_allclose(_probabilities(learn, pictures), found, atol=1e-4)
    np.testing.assert_allclose(_opened(learn, pictures, None)[2](slice(None)), x, atol=1e-4)


def test_best_weights_stay_whole_when_the_next_writing_breaks_off(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from fastai.callback.tracker import TrackerCallback

    from covidlab.training.learners import KeepBest

    monkeypatch.setattr(TrackerCallback, "after_epoch", lambda self: None)
    keep, model = KeepBest(tmp_path / "weights.pth"), torch.nn.Linear(2, 1)
    keep.learn, keep.new_best = SimpleNamespace(model=model, epoch=0), True
    keep.after_epoch()
    first = {k: v.clone() for k, v in model.state_dict().items()}

    def broken(state, file):
        Path(file).write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="no space"):
        keep.after_epoch()
    kept = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert all(torch.equal(kept[k], first[k]) for k in first)
    assert [f.name for f in tmp_path.iterdir()] == ["weights.pth"]
