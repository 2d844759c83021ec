"""Where pictures come from: names, labels and contents of every kind of source, and what is said of unusable ones."""

import sys

import numpy as np
import pytest
from PIL import Image

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data import image_sources, tf_examples
from pretrainx.data.decoding import BadPictureError, decode, limited
from toys.pictures import encoded, idx_bytes, noise, write, write_folder, write_idx, write_records
from toys.tf_example import example_class


def all_of(source):
    return list(zip(source.names, source.read(range(len(source.names))), strict=True))


def png(array):
    return encoded(Image.fromarray(array))


def test_a_folder_of_classes(tmp_path):
    made = write_folder(tmp_path / "pets", each=3)
    write(tmp_path / "pets" / "dog" / "deep" / "x.JPG", noise(5, 12, 12))
    (tmp_path / "pets" / "notes.txt").write_text("not read")
    (tmp_path / "pets" / ".hidden.png").write_text("not read")
    found = all_of(image_sources.folder((str(tmp_path / "pets"),)))
    assert [name for name, _ in found] == [*sorted(made)[:3], *sorted(made)[3:], "dog/deep/x.JPG"]
    assert [picture.label for _, picture in found] == ["cat"] * 3 + ["dog"] * 4
    for name, picture in found[:6]:
        assert (decode(picture.content, 0, 0, 10**6) == made[name]).all()
    for name in ("Mixed.Png", "b.pnG"):
        write(tmp_path / "pets" / "eel" / name, noise(5, 12, 12))
    source = image_sources.folder((str(tmp_path / "pets"),))
    assert source.names[-2:] == ["eel/Mixed.Png", "eel/b.pnG"] and len(source.names) == 9 and source.passed_over == 1
    flat = all_of(image_sources.folder((str(tmp_path / "pets" / "cat"),)))
    assert [(name, picture.label) for name, picture in flat] == [(f"00{n}.png", None) for n in range(3)]
    # Some of them, in one go.
    source = image_sources.folder((str(tmp_path / "pets"),))
    assert [picture.label for picture in source.read([2, 3])] == ["cat", "dog"]
    (tmp_path / "empty").mkdir()
    for path, says in ((tmp_path / "empty", "no files ending in"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(DataError, match=says):
            image_sources.folder((str(path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_pairs(tmp_path, zipped):
    images, labels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3), np.array([3, 0, 1, 3, 2])
    path = write_idx(tmp_path, "train", images, labels, zipped)
    source = image_sources.idx((str(path),))
    found = all_of(source)
    assert [name for name, _ in found] == [f"{path.name}:{n}" for n in range(5)] and source.classes == ()
    assert [picture.label for _, picture in found] == labels.tolist()
    assert all((picture.content[..., 0] == image).all() for (_, picture), image in zip(found, images, strict=True))
    coloured = write_idx(tmp_path / "colour", "x", np.ones((2, 4, 4, 3)))
    assert [picture.label for _, picture in all_of(image_sources.idx((str(coloured),)))] == [None, None]
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    both = image_sources.idx((str(path), str(coloured)))
    assert both.classes == ("a", "b", "c", "d") and len(both.names) == 7
    assert [picture.content.shape for picture in both.read([4, 5])] == [(4, 3, 1), (4, 4, 3)]


@pytest.mark.parametrize(
    "content, says",
    [
        (b"\x00\x00\x0d\x03" + bytes(12), "begins with 00000d03"),
        (idx_bytes(np.zeros((2, 2))), "begins with 00000802, not 00000803 or 00000804"),
        (idx_bytes(np.zeros((2, 2, 2)))[:-1], "23 bytes"),
        (idx_bytes(np.zeros((2, 2, 2))) + b"x", r"its header says \[2, 2, 2\]"),
        (b"\x00", "struct.error|error: "),
    ],
)
def test_idx_files_of_another_form_are_named(tmp_path, content, says):
    path = tmp_path / "x-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        image_sources.idx((str(path),))
    assert str(path) in str(caught.value)


def test_idx_pairs_that_do_not_fit_and_cut_archives(tmp_path):
    path = write_idx(tmp_path, "train", np.zeros((3, 2, 2)), np.zeros(4))
    with pytest.raises(DataError, match="3 pictures, and labels of shape"):
        image_sources.idx((str(path),))
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match=path.name):
        image_sources.idx((str(path),))
    # A directory would silently bring the test set with it.
    write_idx(tmp_path, "t10k", np.zeros((3, 2, 2)), np.zeros(3))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte.gz, train-images-idx3-ubyte.gz"):
        image_sources.idx((str(tmp_path),))
    with pytest.raises(DataError, match="not named as IDX pictures are"):
        image_sources.idx((str(tmp_path / "train-labels-idx1-ubyte.gz"),))


def test_npz_files(tmp_path):
    images = np.stack([noise(n, 6, 6) for n in range(3)])
    np.savez(tmp_path / "a.npz", images=images, labels=np.array(["x", "y", "x"]))
    np.savez_compressed(tmp_path / "b.npz", images=images[..., 0])
    found = all_of(image_sources.npz((str(tmp_path),)))
    assert [(name, picture.label) for name, picture in found[:4]] == [
        *[(f"a.npz:{n}", label) for n, label in enumerate("xyx")],
        ("b.npz:0", None),
    ]
    assert (found[1][1].content == images[1]).all() and found[4][1].content.shape == (6, 6, 1)
    for name, arrays, says in (
        ("float", {"images": images / 255}, "float64"),
        ("flat", {"images": images[0, 0, 0]}, r"uint8\[3\]"),
        ("keys", {"image": images}, "did you mean 'image'"),
        ("labels", {"images": images, "labels": np.zeros(3)}, "labels are float64"),
        ("pickle", {"images": images, "labels": np.array([{}, 1, 2], object)}, "allow_pickle=False"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(DataError, match=says):
            image_sources.npz((str(tmp_path / f"{name}.npz"),))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(DataError, match="cut.npz"):
        image_sources.npz((str(tmp_path / "cut.npz"),))


@pytest.fixture(scope="module")
def example():
    made = example_class()

    def serialised(**values):
        record = made()
        for key, value in values.items():
            feature = record.features.feature[key.replace("__", "/")]
            value = value if isinstance(value, list) else [value]
            kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(value[0])]
            getattr(feature, kind).value.extend(value)
        return record.SerializeToString()

    return serialised


def test_examples_are_read_as_they_were_written(example):
    given = {"image": bytes(range(256)) * 3, "label": -3, "many": [0, 1, 2**63 - 1, -(2**63), 300], "file": b"a/b.png"}
    found = tf_examples.features(example(**given, bbox=[0.5, 1.5]))
    assert found.pop("bbox") == []
    assert found == {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    assert tf_examples.features(b"") == {}
    # Integers that do not stand packed in one field: {"k": [5, 6]} written out.
    apart = bytes([10, 15, 10, 13, 10, 1, ord("k"), 18, 8, 26, 6, 8, 5, 8, 6, 8, 7])
    assert tf_examples.features(apart) == {"k": [5, 6, 7]}
    record = example(**given)
    for cut in (1, 5, len(record) // 2, len(record) - 1):
        with pytest.raises(ValueError):
            tf_examples.features(record[:cut])


def test_array_records_of_examples_and_of_bare_pictures(tmp_path, example):
    images = [noise(n, 8, 8) for n in range(5)]
    tagged = [example(image=png(image), label=n % 2) for n, image in enumerate(images)]
    write_records(tmp_path / "a.array_record", tagged)
    write_records(tmp_path / "b.array_record", [png(image) for image in images])
    other = [example(image__encoded=png(images[0]), image__class__label=7), b"\x08\x01", example(label=1)]
    write_records(tmp_path / "c.array_record", other)
    source = image_sources.array_record((str(tmp_path),))
    found = all_of(source)
    assert [name for name, _ in found[4:6]] == ["a.array_record:4", "b.array_record:0"]
    assert [picture.label for _, picture in found] == [0, 1, 0, 1, 0, *[None] * 5, 7, None, 1]
    for (_, picture), image in zip(found[:10], images * 2, strict=True):
        assert (decode(picture.content, 0, 0, 1000) == image).all()
    assert isinstance(found[11][1].content, BadPictureError) and "no tf.train.Example" in str(found[11][1].content)
    assert "image/encoded: label" in str(found[12][1].content)
    chosen = source.read([1, 4, 6, 10])
    assert [picture.label for picture in chosen] == [1, 0, None, 7]
    write_records(tmp_path / "d.array_record", [b"neither"])
    with pytest.raises(DataError, match="d.array_record"):
        all_of(image_sources.array_record((str(tmp_path / "d.array_record"),)))


def test_digits_and_what_is_said_without_scikit_learn(monkeypatch):
    pytest.importorskip("sklearn")
    found = all_of(image_sources.digits())
    assert len(found) == 1797 and {picture.label for _, picture in found} == set(range(10))
    values = np.unique(np.stack([picture.content for _, picture in found]))
    assert len(values) == 17 and values[0] == 0 and values[-1] == 255 and found[0][1].content.shape == (8, 8, 1)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pretrainx\[test\]"):
        image_sources.digits()


def test_paths_must_fit_the_source():
    with pytest.raises(ConfigError, match="takes no paths"):
        image_sources.check_paths("shapes", ("a",), ())
    with pytest.raises(ConfigError, match="config.data.test_paths"):
        image_sources.check_paths("digits", (), ("a",))
    with pytest.raises(ConfigError, match="needs paths"):
        image_sources.check_paths("folder", (), ())


def red_and_blue(width, height):
    """The left half red, the right half blue."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2, 0] = array[:, width // 2 :, 2] = 255
    return array


def test_orientation_is_that_of_the_exif_record():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    content = encoded(Image.fromarray(red_and_blue(40, 20)), "JPEG", quality=95, exif=exif)
    array = decode(content, 0, 0, 10**6)
    assert array.shape == (40, 20, 3)
    assert array[5, :, 0].min() > 200 and array[-5, :, 2].min() > 200, "what was left is above"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_what_is_transparent_shows_white(mode):
    array = np.zeros((6, 6, 4), np.uint8)
    array[:3, :, 3] = 255  # black above, nothing below
    image = Image.fromarray(array).convert(mode) if mode != "P" else Image.fromarray(array).quantize(4)
    kind = "PNG" if mode != "PA" else "TIFF"
    found = decode(encoded(image, kind) if mode != "PA" else encoded(image.convert("RGBA")), 0, 3, 10**6)
    assert found.shape == (6, 6, 3) and found[:3].max() < 8 and found[3:].min() > 247


def test_modes_become_the_channels_that_are_wanted():
    grey = Image.fromarray(noise(1, 5, 5, 1))
    assert decode(encoded(grey), 0, 0, 100).shape == (5, 5, 1)
    assert (decode(encoded(grey), 0, 3, 100) == np.asarray(grey)[..., None]).all()
    colour = Image.fromarray(noise(2, 5, 5))
    assert decode(encoded(colour), 0, 0, 100).shape == (5, 5, 3)
    luma = np.asarray(colour) @ [0.299, 0.587, 0.114]
    assert abs(decode(encoded(colour), 0, 1, 100)[..., 0] - luma).max() <= 1
    assert decode(encoded(colour.convert("1")), 0, 0, 100).shape == (5, 5, 1)
    deep = Image.fromarray((np.asarray(grey).astype(np.uint16) << 8) + 77)
    assert (decode(encoded(deep), 0, 0, 100)[..., 0] == np.asarray(grey)).all(), "sixteen bits keep the upper eight"
    assert decode(encoded(colour.convert("CMYK"), "JPEG"), 0, 0, 100).shape == (5, 5, 3)
    for mode in ("I", "F"):
        with pytest.raises(BadPictureError, match="what is white is not known"):
            decode(encoded(Image.fromarray(np.asarray(grey).astype(float)).convert(mode), "TIFF"), 0, 0, 100)


def test_the_centre_square_is_resized_without_aliasing():
    wide = np.concatenate([np.zeros((10, 30, 3), np.uint8), noise(3, 10, 10), np.zeros((10, 30, 3), np.uint8)], 1)
    assert (decode(encoded(Image.fromarray(wide)), 10, 0, 10**6) == noise(3, 10, 10)).all()
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = decode(encoded(Image.fromarray(stripes)), 8, 0, 10**6)
    assert small.shape == (8, 8, 1) and abs(small.astype(int) - 127).max() < 12, "half of each, not one or the other"
    expected = Image.fromarray(noise(4, 33, 33)).resize((16, 16), Image.Resampling.BICUBIC)
    assert (decode(noise(4, 33, 33), 16, 0, 10**6) == np.asarray(expected)).all()
    same = noise(5, 7, 7)
    assert decode(same, 7, 3, 100) is same and decode(same, 0, 0, 1) is same


def test_a_sliver_does_not_become_an_enormous_picture():
    sliver = np.zeros((1, 50_000, 3), np.uint8)
    assert decode(encoded(Image.fromarray(sliver)), 64, 3, 10**6).shape == (64, 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_cut_files_and_foreign_ones_are_bad(kind):
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)), kind)
    for bad in (content[: len(content) // 2], content[:20], b"", b"\x89PNG\r\n\x1a\n", b"<html></html>"):
        with pytest.raises(BadPictureError):
            decode(bad, 8, 3, 10**6)


def test_bombs_are_refused_by_their_header():
    content = encoded(Image.new("L", (3000, 3000)))
    assert len(content) < 20_000
    with pytest.raises(BadPictureError, match="3000 x 3000 pixels, above the limit of 1000000"):
        decode(content, 8, 1, 10**6)
    before = Image.MAX_IMAGE_PIXELS
    for pixels in (10**6, 10**7):
        with limited(pixels):
            if pixels > 9 * 10**6:
                assert decode(content, 8, 1, pixels).shape == (8, 8, 1)
            else:
                with pytest.raises(BadPictureError, match="(?i)bomb"):
                    decode(content, 8, 1, pixels)
    assert Image.MAX_IMAGE_PIXELS == before
