"""Documents come in one order, and whatever is wrong with a source is named by file and line."""

import json

import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data.sources import documents


def test_standard_library_is_sorted_repeatable_and_without_tests():
    found = list(documents("stdlib"))
    names = [document.name for document in found]
    assert names == sorted(set(names))
    assert found == list(documents("stdlib"))
    # Ranges, not hashes: the number differs between Python versions and distributions.
    assert 500 < len(found) < 1200
    assert 8e6 < sum(len(document.text) for document in found) < 25e6
    assert "json/decoder.py" in names and "os.py" in names
    parts = {part for name in names for part in name.split("/")[:-1]}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def test_files_directories_and_patterns_give_each_file_once_by_relative_name(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.txt", "deep/.hidden", "deep/d.md"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name}\r\n".encode())
    corpus = tmp_path / "corpus"
    whole = list(documents("text", (str(corpus),)))
    assert [document.name for document in whole] == ["a.txt", "b.txt", "deep/c.txt", "deep/d.md"]
    assert whole[0].text == "a.txt\r\n"  # no newline is translated
    globbed = list(documents("text", (f"{corpus}/**/*.txt",)))
    assert [document.name for document in globbed] == ["a.txt", "b.txt", "deep/c.txt"]
    assert list(documents("text", (f"{corpus}/**/*.txt", str(corpus)))) == globbed + whole[-1:]
    assert [d.name for d in documents("text", (str(corpus / "b.txt"), str(corpus / "a.txt")))] == ["b.txt", "a.txt"]


def test_lines_of_json(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"body": "eins\u00e9"}) + "\n\n" + json.dumps({"body": "zwei"}) + "\n")
    assert list(documents("jsonl", (str(path),), "body")) == [
        ("corpus.jsonl:1", "eins\u00e9"),
        ("corpus.jsonl:3", "zwei"),
    ]


@pytest.mark.parametrize(
    "line, says",
    [
        (b'{"text": "cut', "not JSON"),
        (b'["text"]', "holds a list"),
        (b'{"texts": "a"}', "did you mean 'texts'?"),
        (b'{"text": 3}', "is a int"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b'{"text": "\\ud800"}', "not valid Unicode"),
    ],
)
def test_bad_line_is_named_by_file_and_number(tmp_path, line, says):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        list(documents("jsonl", (str(path),)))
    assert f"{path}:2" in str(caught.value) and says in str(caught.value) and caught.value.do


def test_unusable_files_are_named(tmp_path):
    bad = tmp_path / "latin.txt"
    bad.write_bytes(b"ab\xe9cd")
    with pytest.raises(DataError) as caught:
        list(documents("text", (str(bad),)))
    assert str(bad) in str(caught.value) and "byte 2" in str(caught.value) and "iconv" in str(caught.value)
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "nowhere.txt", tmp_path / "empty", tmp_path / "*.nothing"):
        with pytest.raises(DataError, match=missing.name.replace("*", r"\*")) as caught:
            list(documents("text", (str(missing),)))
        assert caught.value.do


def test_source_and_paths_must_fit():
    with pytest.raises(ConfigError, match="did you mean 'stdlib'"):
        documents("stdlb")
    with pytest.raises(ConfigError, match="needs paths"):
        documents("text")
    with pytest.raises(ConfigError, match="takes no paths"):
        documents("stdlib", ("a",))


def write_records(path, records, options="group_size:1"):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def test_records_are_texts_or_objects_as_the_first_of_a_file_says(tmp_path):
    texts = [f"text {index} \u00e9\r\n" for index in range(600)]
    write_records(tmp_path / "a.array_record", [text.encode() for text in texts])
    objects = [json.dumps({"body": text}).encode() for text in texts[:3]]
    write_records(tmp_path / "b.arrayrecord", objects)
    write_records(tmp_path / "c.array_record", [b"plain", objects[0]])
    (tmp_path / "notes.txt").write_text("not read")
    found = list(documents("array_record", (str(tmp_path),), "body"))
    assert [document.text for document in found[:600]] == texts
    assert [document.name for document in found[599:604]] == [
        "a.array_record:599", "b.arrayrecord:0", "b.arrayrecord:1", "b.arrayrecord:2", "c.array_record:0",
    ]  # fmt: skip
    assert [document.text for document in found[600:]] == [*texts[:3], "plain", objects[0].decode()]
    with pytest.raises(DataError, match="did you mean 'body'") as caught:
        list(documents("array_record", (str(tmp_path / "b.arrayrecord"),), "boddy"))
    assert "b.arrayrecord: record 0" in str(caught.value)


@pytest.mark.parametrize("bad, says", [(b"\xff", "not valid UTF-8"), (b"cut {", "not JSON"), (b"[1]", "holds a list")])
def test_a_bad_record_is_named_by_file_and_number(tmp_path, bad, says):
    path = tmp_path / "x.array_record"
    write_records(path, [b'{"text": "good"}'] * 300 + [bad])
    with pytest.raises(DataError) as caught:
        list(documents("array_record", (str(path),)))
    assert f"{path}: record 300" in str(caught.value) and says in str(caught.value) and caught.value.do


def test_a_damaged_or_cut_record_file_is_named(tmp_path):
    path = tmp_path / "x.array_record"
    write_records(path, [b"%05d" % index * 40 for index in range(500)], "group_size:1,uncompressed")
    intact = path.read_bytes()
    at = intact.index(b"00321" * 40)
    path.write_bytes(intact[:at] + b"9" + intact[at + 1 :])
    with pytest.raises(DataError) as caught:
        list(documents("array_record", (str(path),)))
    assert f"{path}: record 321" in str(caught.value)
    for size in (0, 100, at, len(intact) // 2, len(intact) - 1):
        path.write_bytes(intact[:size])
        with pytest.raises(DataError, match="x.array_record"):
            list(documents("array_record", (str(path),)))
    path.write_text("this is no such file")
    with pytest.raises(DataError, match="damaged or incomplete"):
        list(documents("array_record", (str(path),)))
