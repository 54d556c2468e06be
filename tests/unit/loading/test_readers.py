"""Readers and rows: every format, and a row for each way a line can be bad."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from feedcore.loading.readers import BadLine, Line, Source, SourceError, newest_time
from feedcore.loading.rows import Edge, InteractionRow, PostRow

HEADER = "post_key,author_id,created_at_ms,text,likes,comments\n"


def write(tmp_path: Path, content: str | bytes, name: str = "file") -> Source:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Source(path)


def test_edges_by_tab_space_or_comma_with_comments_and_header(tmp_path: Path) -> None:
    source = write(
        tmp_path, "follower_id,followee_id\n# a comment\n1\t2\n3 4\n5,6\n\n7, 8\r\n9 10 0.5\n"
    )
    got = list(source.edges())
    assert got == [
        Line(3, Edge(1, 2)),
        Line(4, Edge(3, 4)),
        Line(5, Edge(5, 6)),
        Line(7, Edge(7, 8)),
        Line(8, Edge(9, 10)),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1", "two ids"),
        ("0 1", "first id is 0"),
        ("1 0", "second id is 0"),
        ("1 -2", "second id is -2"),
        ("1 9223372036854775808", "ids are 1 to 9223372036854775807"),
        ("1 2.5", "whole number"),
        ("1 x", "whole number"),
        ("1 ٣", "whole number"),
        ("1 1_0", "whole number"),
        ("7 7", "themselves"),
        ("1 " + "9" * 5_000, "5002 characters"),
    ],
)
def test_bad_edges_say_where_and_why(tmp_path: Path, line: str, reason: str) -> None:
    bad, good = write(tmp_path, f"{line}\n1 2\n").edges()
    assert isinstance(bad, BadLine) and bad.line == 1 and reason in bad.reason
    assert good == Line(2, Edge(1, 2))


def test_the_same_rows_from_csv_json_and_gzip(tmp_path: Path) -> None:
    text = HEADER + '"k1",7,1000,"two\nlines, ""quoted""",3,\nk2,8,2000,plain,,1\n'
    json_lines = (
        '{"post_key": "k1", "author_id": 7, "created_at_ms": 1000,'
        ' "text": "two\\nlines, \\"quoted\\"", "likes": 3}\n'
        '\n{"key": "k2", "author": "8", "at_ms": "2000", "body": "plain",'
        ' "comments": 1, "lang": "en"}\n'
    )
    want = [
        PostRow("k1", 7, 1000, 'two\nlines, "quoted"', 3, 0, 0),
        PostRow("k2", 8, 2000, "plain", 0, 1, 0),
    ]
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), json_lines.encode()):
        for packed in (content, gzip.compress(content)):
            got = [item.row for item in write(tmp_path, packed).posts()]
            assert got == want


def test_csv_line_numbers_survive_quoted_newlines(tmp_path: Path) -> None:
    got = list(write(tmp_path, HEADER + 'a,1,5,"x\ny\nz",0,0\nb,0,5,t,0,0\n').posts())
    assert [item.line for item in got] == [2, 5]
    assert isinstance(got[1], BadLine)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("k,0,5,t,0,0", "author_id is 0"),
        ("k,x,5,t,0,0", "author_id is 'x'"),
        ("k,1,-5,t,0,0", "at_ms is -5"),
        ("k,1,,t,0,0", "at_ms is ''"),
        (",1,5,t,0,0", "post_key has 0 bytes"),
        ("k" * 122 + ",1,5,t,0,0", "post_key has 122 bytes; allowed are 1 to 121"),
        ("k,1,5,,0,0", "body has 0 characters; allowed are 1 to 10000"),
        ("k,1,5," + "t" * 10_001 + ",0,0", "body has 10001 characters"),
        ("k,1,5,t,-1,0", "likes is -1"),
        ("k,1,5,t,many,0", "likes is 'many'"),
        ("k,1,5,t", "4 columns; the header has 6"),
        ('k,1,5,"t"x,0,0', "not CSV"),
        (
            b"k,1,5,\xff\xfe,0,0".decode("utf-8", "surrogateescape"),
            "body is not UTF-8 at character 0",
        ),
    ],
)
def test_bad_posts_say_where_and_why(tmp_path: Path, line: str, reason: str) -> None:
    content = (HEADER + line + "\nz,1,5,good,0,0\n").encode("utf-8", "surrogateescape")
    bad, good = write(tmp_path, content).posts()
    assert isinstance(bad, BadLine) and bad.line == 2 and reason in bad.reason, bad
    assert isinstance(good, Line) and good.line == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"post_key": "k"', "not JSON"),
        ("[1, 2]", "not a JSON object but list"),
        ('{"post_key": "k", "author_id": 1.5, "at_ms": 5, "body": "t"}', "author_id is 1.5"),
        ('{"post_key": "k", "author_id": true, "at_ms": 5, "body": "t"}', "author_id is True"),
        ('{"post_key": "k", "author_id": 1, "at_ms": 5}', "body is missing"),
        ('{"post_key": "k", "author_id": 1, "at_ms": 5, "body": ["t"]}', "body is ['t']"),
        ('{"post_key": "k", "author_id": 1, "at_ms": 5, "body": "\\ud800"}', "body is not UTF-8"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_json_lines_say_where_and_why(tmp_path: Path, line: str, reason: str) -> None:
    good = '{"post_key": "z", "author_id": 1, "at_ms": 5, "body": "t"}'
    first, bad, last = write(tmp_path, f"{good}\n{line}\n{good}\n").posts()
    assert isinstance(bad, BadLine) and bad.line == 2 and reason in bad.reason, bad
    assert isinstance(first, Line) and isinstance(last, Line)


def test_interactions_by_post_key_or_content_id(tmp_path: Path) -> None:
    text = (
        "user_id,post_key,author_id,content_id,kind,at_ms\n"
        "5,k,7,,like,1000\n5,,,99,SHARE,1000\n5,,,,like,1000\n5,k,7,,poke,1000\n"
    )
    first, second, third, fourth = write(tmp_path, text).interactions()
    assert first == Line(2, InteractionRow(5, "k", 7, 0, "like", 1000))
    assert second == Line(3, InteractionRow(5, "", 0, 99, "share", 1000))
    assert isinstance(third, BadLine) and "post_key" in third.reason
    assert isinstance(fourth, BadLine) and "like, comment, share, click, hide" in fourth.reason


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="absent"):
        Source(tmp_path / "absent")
    with pytest.raises(SourceError, match="no column author_id/author"):
        list(write(tmp_path, "post_key,at_ms,body\nk,1,t\n").posts())
    broken = gzip.compress(b"1 2\n" * 10_000)[:-20]
    with pytest.raises(SourceError, match="cannot be read to its end"):
        list(write(tmp_path, broken).edges())
    assert list(write(tmp_path, "").posts()) == []
    assert list(write(tmp_path, "").edges()) == []


def test_newest_time_ignores_bad_lines(tmp_path: Path) -> None:
    source = write(tmp_path, HEADER + "a,1,5,t,0,0\nb,1,9,t,0,0\nc,0,99,t,0,0\n")
    assert newest_time(source, source.posts()) == 9
