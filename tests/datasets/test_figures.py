"""Pictures of a dataset: which images are chosen, and that the masks are drawn where they are."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab.datasets import (
    Card,
    Dataset,
    phantom,
    pick,
    show_beside,
    show_images,
    show_planes,
    show_radiographs,
    show_slice,
)


@pytest.fixture
def data(tmp_path):
    """12 images of 2 classes and 4 patients; each mask is a square at its own place."""
    rows = []
    for i in range(12):
        mask = np.zeros((40, 40), np.uint8)
        mask[5 + i : 15 + i, 10:20] = 255
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40)).astype(np.uint8)).save(
            tmp_path / f"{i}.png"
        )
        Image.fromarray(mask).save(tmp_path / f"m{i}.png")
        rows.append(
            (f"{i}.png", ("ill", "well")[i // 6], f"a-long-name-of-patient-{i // 3}", f"m{i}.png")
        )
    frame = pd.DataFrame(rows, columns=["image", "label", "patient_id", "infection_mask"])
    return Dataset(frame, tmp_path, Card("squares", classes=("ill", "well")))


def test_pick_takes_each_class_and_other_patients_first(data):
    rows = pick(data, 2, seed=1)
    assert [data.frame["label"][r] for r in rows] == ["ill"] * 2 + ["well"] * 2
    assert len({data.frame["patient_id"][r] for r in rows}) == 4
    assert pick(data, 2, seed=1) == rows
    assert sorted(pick(data, 6, seed=0)) == list(range(12))


def test_each_image_is_shown_with_its_own_mask(data):
    figure = show_images(data, rows=[3, 8], masks=True, columns=2)
    for ax, row in zip(figure.axes, [3, 8], strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), data.image(row))
        outline = np.concatenate([p.vertices for p in ax.collections[0].get_paths()])
        assert outline[:, 1].min() == pytest.approx(5 + row, abs=1)
        assert outline[:, 0].min() == pytest.approx(10, abs=1)
        assert data.frame["label"][row] in ax.get_title()
        assert ax.get_title().endswith(f"patient-{row // 3}")


@pytest.fixture(scope="module")
def ill():
    return phantom.patient(4, 0, severity=0.3)


def shown(ax):
    return ax.images[0].get_array().data


def test_rows_of_images_are_named_and_drawn_from_their_dataset(data):
    figure = show_beside(data, data.where([0, 1]), n=3, seed=2)
    lines = np.reshape(figure.axes, (2, 3))
    assert [ax.get_ylabel() for ax in lines[:, 0]] == ["squares", "squares"]
    files = [data.image(i) for i in range(12)]
    assert all(any(np.array_equal(shown(ax), f) for f in files) for ax in lines[0])
    assert [len(ax.images) for ax in lines[1]] == [1, 1, 0]


def test_planes_go_through_the_most_infected_voxel(ill):
    volume = ill.volume(64, 12.0)
    figure = show_planes(volume)
    sick = volume.infection
    most = [sick.sum(axis=a).argmax() for a in ((1, 2), (0, 2), (0, 1))]
    cuts = (volume.hu[most[0]], volume.hu[:, most[1]], volume.hu[:, :, most[2]])
    for ax, cut in zip(figure.axes, cuts, strict=True):
        np.testing.assert_array_equal(shown(ax), cut)
    # 12 mm between slices against a few between pixels: the coronal plane is stretched by as much
    assert figure.axes[1].get_aspect() == pytest.approx(12.0 / volume.spacing[2])


def test_a_slice_is_titled_by_its_height_and_share(ill):
    volume = ill.volume(64, 12.0)
    i = int(volume.infection.sum((1, 2)).argmax())
    title = show_slice(volume, i).axes[0].get_title()
    share = volume.infection[i].sum() / volume.lung[i].sum()
    assert f"z = {volume.z[i]:.0f} mm" in title and f"{share:.0%} infected" in title


def test_radiographs_show_each_film_under_its_name(ill):
    films = {view: ill.xray(64, view=view) for view in ("PA", "AP")}
    figure = show_radiographs(films)
    for ax, (view, film) in zip(figure.axes, films.items(), strict=True):
        assert ax.get_title() == view
        np.testing.assert_array_equal(shown(ax), film.image)
        assert len(ax.collections) >= 3  # right, left, infection
    assert not show_radiographs(films, masks=False).axes[0].collections
