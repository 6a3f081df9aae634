import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from covidlab.datasets import ImageError, read_hu, read_image, read_mask
from covidlab.datasets.readers import image_size

RAMP8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
RAMP16 = np.linspace(0, 65535, 24 * 20).astype(np.uint16).reshape(24, 20)


def save(path, array, **options):
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


# Pictures: the value of every pixel is known.


def test_8_bit_png_is_value_over_255(tmp_path):
    got = read_image(save(tmp_path / "a.png", RAMP8))
    assert got.dtype == np.float32 and got.shape == (16, 16)
    assert np.array_equal(got, (RAMP8.astype(np.float64) / 255).astype(np.float32))


def test_16_bit_png_is_value_over_65535_and_not_clipped(tmp_path):
    got = read_image(save(tmp_path / "a.png", RAMP16))
    assert got.dtype == np.float32
    assert np.array_equal(got, (RAMP16.astype(np.float64) / 65535).astype(np.float32))
    assert len(np.unique(got)) == RAMP16.size  # 8 bit would leave at most 256


def test_1_bit_png(tmp_path):
    bits = RAMP8 % 3 == 0
    assert np.array_equal(read_image(save(tmp_path / "a.png", bits)), bits.astype(np.float32))


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.JPG"])
def test_jpeg_is_near_the_grey_it_was_made_from(tmp_path, name):
    grey = np.repeat(np.uint8([[20, 128, 235]]), 24, axis=0).repeat(24, axis=1)
    got = read_image(save(tmp_path / name, grey, quality=95, format="JPEG"))
    assert np.abs(got - grey / 255).max() < 3 / 255


def test_colour_becomes_luminance(tmp_path):
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[0], rgb[1], rgb[2], rgb[3] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)
    got = read_image(save(tmp_path / "a.png", rgb))
    # Rec. 601 by hand: 0.299, 0.587 and 0.114 of 255 are 76.2, 149.7 and 29.1
    assert np.allclose(got[:, 0] * 255, [76, 150, 29, 90], atol=1e-4)


def test_transparency_is_dropped(tmp_path):
    rgba = np.dstack([RAMP8] * 3 + [255 - RAMP8])
    grey_alpha = np.dstack([RAMP8, 255 - RAMP8])
    plain = read_image(save(tmp_path / "grey.png", RAMP8))
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", rgba)), plain)
    assert np.array_equal(read_image(save(tmp_path / "la.png", grey_alpha)), plain)


def test_palette_means_the_colours_not_the_numbers(tmp_path):
    picture = Image.fromarray((RAMP8 > 100).astype(np.uint8), mode="P")
    picture.putpalette([200, 200, 200, 10, 10, 10])
    picture.save(tmp_path / "a.png")
    expected = np.where(RAMP8 > 100, 10, 200) / 255
    assert np.allclose(read_image(tmp_path / "a.png"), expected, atol=1e-6)


@pytest.mark.parametrize("array", [RAMP8, RAMP16], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_tiff_of_integers(tmp_path, array, compression):
    got = read_image(save(tmp_path / "a.tif", array, compression=compression))
    expected = array.astype(np.float64) / np.iinfo(array.dtype).max
    assert np.array_equal(got, expected.astype(np.float32))


def test_tiff_of_floats(tmp_path):
    unit = np.linspace(0.1, 0.9, 30, dtype=np.float32).reshape(5, 6)
    tifffile.imwrite(tmp_path / "unit.tiff", unit)
    assert np.array_equal(read_image(tmp_path / "unit.tiff"), unit)  # in [0, 1]: as it is
    tifffile.imwrite(tmp_path / "hu.tiff", unit * 1000 - 500)
    stretched = (unit - unit.min()) / (unit.max() - unit.min())
    assert np.allclose(read_image(tmp_path / "hu.tiff"), stretched, atol=1e-5)


def test_tiff_where_zero_is_white_is_turned(tmp_path):
    for array in (RAMP8, RAMP16, RAMP8 > 99):
        tifffile.imwrite(tmp_path / "white.tif", array, photometric="miniswhite")
        tifffile.imwrite(tmp_path / "black.tif", array, photometric="minisblack")
        white, black = read_image(tmp_path / "white.tif"), read_image(tmp_path / "black.tif")
        assert np.allclose(white, 1 - black, atol=1e-6)


def test_exif_rotation_is_applied_to_pixels_and_size_alike(tmp_path):
    picture = Image.fromarray(np.repeat(RAMP8[:4], 2, axis=0))  # 8 high, 16 wide
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "a.jpg").shape == (16, 8)
    assert image_size(tmp_path / "a.jpg") == (16, 8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.dcm"])
def test_size_is_that_of_the_pixels(tmp_path, write_dicom, name):
    array = np.tile(np.arange(30, dtype=np.uint8), (20, 1))
    if name.endswith("dcm"):
        write_dicom(tmp_path / name, array.astype(np.uint16))
    else:
        save(tmp_path / name, array)
    assert image_size(tmp_path / name) == read_image(tmp_path / name).shape == (20, 30)


# DICOM


def test_hounsfield_units_are_slope_times_stored_plus_intercept(tmp_path, write_dicom):
    stored = np.array([[0, 512], [1024, 2000]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, RescaleSlope=2, RescaleIntercept=-1024)
    got = read_hu(path)
    assert got.dtype == np.float32
    assert got.tolist() == [[-1024, 0], [1024, 2976]]


def test_signed_stored_values(tmp_path, write_dicom):
    stored = np.array([[-1000, -1], [0, 3000]], np.int16)
    assert read_hu(write_dicom(tmp_path / "a.dcm", stored)).tolist() == stored.tolist()


def test_window_edges(tmp_path, write_dicom):
    hu = np.array([[-1000, -160, -60], [40, 140, 240], [241, 3000, -161]], np.int16)
    got = read_image(write_dicom(tmp_path / "a.dcm", hu), window=(40, 400))
    assert np.allclose(got, [[0, 0, 0.25], [0.5, 0.75, 1], [1, 1, 0]], atol=1e-6)


def test_window_given_before_window_in_the_file_before_lung_window(tmp_path, write_dicom):
    hu = np.array([[-1350, -600, 0, 150]], np.int16)
    bare = write_dicom(tmp_path / "bare.dcm", hu)
    assert np.allclose(read_image(bare), [[0, 0.5, 0.9, 1]])  # -600 ± 750
    own = write_dicom(
        tmp_path / "own.dcm", hu, WindowCenter=[-600, 40], WindowWidth=[1500 * 2, 400]
    )
    assert np.allclose(read_image(own), [[0.25, 0.5, 0.7, 0.75]])  # the first: -600 ± 1500
    assert np.allclose(read_image(own, window=(-600, 1500)), [[0, 0.5, 0.9, 1]])


def test_an_empty_window_in_the_file_counts_as_none(tmp_path, write_dicom):
    hu = np.array([[-1350, -600, 150]], np.int16)
    path = write_dicom(tmp_path / "a.dcm", hu, WindowCenter="", WindowWidth="")
    assert np.allclose(read_image(path), [[0, 0.5, 1]])


def test_radiograph_without_window_uses_its_full_range(tmp_path, write_dicom):
    stored = np.array([[100, 200], [300, 500]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, Modality="DX")
    assert np.allclose(read_image(path), [[0, 0.25], [0.5, 1]])
    with pytest.raises(ImageError, match="a.dcm.*DX"):
        read_hu(path)


def test_monochrome1_is_inverted(tmp_path, write_dicom):
    stored = RAMP8.astype(np.uint16)
    plain = write_dicom(tmp_path / "2.dcm", stored, Modality="CR")
    inverted = write_dicom(
        tmp_path / "1.dcm", stored, Modality="CR", PhotometricInterpretation="MONOCHROME1"
    )
    assert np.allclose(read_image(inverted), 1 - read_image(plain))
    assert read_image(plain)[0, 0] == 0 and read_image(inverted)[0, 0] == 1


def test_voi_lookup_table(tmp_path, write_dicom):
    from pydicom.dataset import Dataset as Tags

    table = Tags()
    table.LUTDescriptor = [4, 0, 16]  # four entries from stored value 0, 16 bit each
    table.LUTData = np.array([0, 10, 40, 50], np.uint16).tobytes()
    stored = np.array([[0, 1, 2, 3]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, Modality="DX", VOILUTSequence=[table])
    assert np.allclose(read_image(path), [[0, 0.2, 0.8, 1]])


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113.7"])
def test_dicom_without_a_suffix_is_recognised(tmp_path, write_dicom, name):
    path = write_dicom(tmp_path / name, np.array([[-600, 150]], np.int16))
    assert np.allclose(read_image(path), [[0.5, 1]])


# Masks


def test_masks_0_1_and_0_255_and_1_bit(tmp_path):
    mask = RAMP8 > 99
    for stored in (mask.astype(np.uint8), mask.astype(np.uint8) * 255, mask):
        got = read_mask(save(tmp_path / "m.png", stored))
        assert got.dtype == bool and np.array_equal(got, mask)
    tifffile.imwrite(tmp_path / "m.tif", (mask * 65535).astype(np.uint16))
    assert np.array_equal(read_mask(tmp_path / "m.tif"), mask)
    tifffile.imwrite(tmp_path / "p.tif", np.where(mask, 0.8, 0.2).astype(np.float32))
    assert np.array_equal(read_mask(tmp_path / "p.tif"), mask)


def test_ringing_of_a_jpeg_is_not_mask(tmp_path):
    mask = np.zeros((40, 40), bool)
    mask[5:21, 13:30] = True  # off the 8-pixel grid, so that it rings
    path = save(tmp_path / "m.jpg", (mask * 255).astype(np.uint8), quality=60)
    assert len(np.unique(np.asarray(Image.open(path)))) > 2
    assert np.array_equal(read_mask(path), mask)
    empty = save(tmp_path / "e.jpg", np.full((16, 16), 3, np.uint8))
    assert not read_mask(empty).any()


@pytest.mark.parametrize(
    "stored",
    [RAMP8.astype(np.uint16) // 128 * 255, RAMP8 // 100],
    ids=["0/255 in 16 bit", "class numbers"],
)
def test_values_that_would_silently_give_an_empty_mask_are_refused(tmp_path, stored):
    with pytest.raises(ImageError, match="m.png.*neither 0/1 nor"):
        read_mask(save(tmp_path / "m.png", stored))


def test_an_all_black_mask_is_empty_not_wrong(tmp_path):
    assert not read_mask(save(tmp_path / "m.png", np.zeros((5, 5), np.uint8))).any()


# What cannot be read says which file, and what to do.


def truncated(content):
    return content[: len(content) // 2]


def encoded(form, **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format=form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("empty.png", b"", "fetch it again"),
        ("empty.dcm", b"", "fetch it again"),
        ("page.png", b"<html>Not found</html>", "intact copy"),
        ("cut.png", truncated(encoded("PNG")), "intact copy"),
        ("cut.jpg", truncated(encoded("JPEG")), "intact copy"),
        ("cut.tif", truncated(encoded("TIFF")), "export it again"),
        ("noise.dcm", bytes(range(256)) * 4, "export it again"),
        ("nosuffix", b"plain text", "intact copy"),
    ],
)
def test_damaged_files(tmp_path, name, content, remedy):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=remedy) as error:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.png"):
        read_image(tmp_path / "gone.png")


def test_dicom_without_pixels(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "report.dcm", np.zeros((2, 2), np.uint16), PixelData=b"")
    with pytest.raises(ImageError, match="report.dcm"):
        read_image(path)


def test_more_than_one_frame(tmp_path, write_dicom):
    pages = [Image.fromarray(RAMP8 // k) for k in (1, 2, 3)]
    pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:])
    tifffile.imwrite(tmp_path / "a.tif", np.stack([RAMP8] * 5))
    write_dicom(tmp_path / "a.dcm", np.zeros((5, 16, 16), np.uint16), NumberOfFrames=5)
    for name in ("a.png", "a.tif", "a.dcm"):
        with pytest.raises(ImageError, match=f"{name}.*one file per"):
            read_image(tmp_path / name)


def test_values_that_cannot_be_a_picture(tmp_path):
    tifffile.imwrite(tmp_path / "nan.tif", np.array([[0, np.nan]], np.float32))
    with pytest.raises(ImageError, match="nan.tif.*NaN"):
        read_image(tmp_path / "nan.tif")
    tifffile.imwrite(tmp_path / "neg.tif", np.array([[-5, 7]], np.int16))
    with pytest.raises(ImageError, match="neg.tif.*unsigned"):
        read_image(tmp_path / "neg.tif")
    tifffile.imwrite(
        tmp_path / "pal.tif",
        RAMP8,
        photometric="palette",
        colormap=np.zeros((3, 256), np.uint16),
    )
    with pytest.raises(ImageError, match="pal.tif.*palette"):
        read_image(tmp_path / "pal.tif")


def test_a_window_needs_hounsfield_units_and_a_width(tmp_path, write_dicom):
    with pytest.raises(ImageError, match="Hounsfield"):
        read_image(save(tmp_path / "a.png", RAMP8), window=(-600, 1500))
    with pytest.raises(ImageError, match="Hounsfield"):
        read_hu(tmp_path / "a.png")
    with pytest.raises(ImageError, match="window width"):
        read_image(write_dicom(tmp_path / "a.dcm", np.zeros((2, 2), np.int16)), window=(0, 0))


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they then refuse
@pytest.mark.parametrize("form", ["png", "jpg", "tif", "bmp", "dcm"])
def test_flipped_bytes_never_raise_anything_else(tmp_path, write_dicom, form):
    """One damaged file must not stop a check: readers raise ImageError, or read it."""
    sound = tmp_path / f"a.{form}"
    if form == "dcm":
        write_dicom(sound, RAMP16, WindowCenter=0, WindowWidth=100)
    else:
        save(sound, RAMP8)
    content, damaged = sound.read_bytes(), tmp_path / f"b.{form}"
    refused = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        changed = np.frombuffer(content, np.uint8).copy()
        head = min(len(changed), int(rng.choice([64, 512, len(changed)])))
        changed[rng.integers(0, head, rng.choice([1, 3, 10]))] = rng.integers(0, 256)
        damaged.write_bytes(changed.tobytes())
        for read in (read_image, read_mask, image_size):
            try:
                read(damaged)
            except (ImageError, MemoryError):
                refused += 1
    assert 0 < refused < 120, "the damage is such that some of it shows, and not all"
