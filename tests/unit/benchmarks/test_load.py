"""The load benchmark asks the same for the same seed, finds wrong answers, and reports its run.

That it runs against a real server is held by `feedcore bench --tiny`, in every `make test`.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from feedcore_bench import goals, graph, html, layers, methods, report
from feedcore_bench import run as runs
from feedcore_bench.checks import Checker
from feedcore_bench.people import Crowd, Scripted
from feedcore_bench.results import Phase, Results
from feedcore_bench.server import Series
from feedcore_bench.workloads import Burst, FirstPages, Prober
from feedcore_pb.v1 import feed_pb2, publish_pb2

USER = 7
CALL = methods.GET_FEED, methods.get_feed(USER, 20)


def body(
    ids: Sequence[int] = (9, 8, 7),
    authors: Sequence[int] = (1, 2, 3),
    scores: Sequence[float] = (3.0, 2.0, 1.0),
    **fields: object,
) -> bytes:
    page = feed_pb2.GetFeedResponse(next_cursor="c", head="h", etag="e", **fields)
    for content_id, author, score in zip(ids, authors, scores, strict=True):
        page.items.add(content_id=content_id, author_id=author, score=score)
    return page.SerializeToString()


# --- checks ---------------------------------------------------------------------------------------
def test_a_right_page_is_right() -> None:
    checker = Checker()
    page = checker.page(body(), 0, USER, 1, CALL, seen=set(), must_have_items=True)
    assert page is not None and page.ids == [9, 8, 7] and page.authors == [1, 2, 3]
    assert not checker.counts and checker.checked == 1


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("duplicate in a page", body((9, 8, 9))),
        ("order", body(scores=(1.0, 2.0, 3.0))),
        ("order", body(scores=(2.0, 1.0, 0.0))),
        ("degraded", body(receipt=feed_pb2.GetFeedResponse().receipt.__class__(degraded=True))),
        ("not modified", body(not_modified=True)),
        ("empty", body((), (), ())),
        ("items", body(range(30, 9, -1), range(21, 0, -1), range(30, 9, -1))),
        ("malformed", b"\xff\xff"),
        ("malformed", body()[:-1]),
    ],
)
def test_a_wrong_page_is_found(what: str, answer: bytes) -> None:
    checker = Checker()
    checker.page(answer, 0, USER, 1, CALL, must_have_items=True)
    assert what in checker.counts
    found = checker.wrong[0]
    assert bytes.fromhex(found.request) == CALL[1] and bytes.fromhex(found.body) == answer
    assert found.user == USER and found.method == "GetFeed"


def test_ids_without_scores_are_in_no_order() -> None:
    checker = Checker()
    checker.page(body(scores=(0, 0, 0)), 0, USER, 1, CALL, view=methods.IDS)
    assert not checker.counts


def test_a_duplicate_in_a_scroll_is_found() -> None:
    checker, seen = Checker(), set[int]()
    checker.page(body((9, 8, 7)), 0, USER, 1, CALL, seen=seen)
    checker.page(body((6, 5, 4)), 0, USER, 1, CALL, seen=seen)
    assert not checker.counts
    checker.page(body((3, 8, 1)), 0, USER, 1, CALL, seen=seen)
    assert checker.counts == {"duplicate in a scroll": 1} and "[8]" in checker.wrong[0].detail


@pytest.mark.parametrize("what", ["muted", "hidden", "deleted"])
def test_what_was_acknowledged_is_honoured_by_later_requests_only(what: str) -> None:
    checker = Checker()
    before = checker.order
    number = checker.acknowledge()
    if what == "deleted":
        checker.deleted[8] = number
    elif what == "hidden":
        checker.state(USER).hidden[8] = number
    else:
        checker.state(USER).muted[2] = number
    checker.page(body(), before, USER, 1, CALL)  # was under way when the acknowledgement came
    assert not checker.counts
    checker.page(body(), checker.order, USER, 1, CALL)
    assert checker.counts == {what: 1}
    checker.page(body(), checker.order, USER + 1, 1, CALL)
    assert checker.counts[what] == (2 if what == "deleted" else 1)


def test_news_of_what_was_deleted_or_hidden_is_found() -> None:
    def news(count: int, newest: int) -> bytes:
        reply = feed_pb2.CheckNewResponse(count=count, newest_content_id=newest)
        return reply.SerializeToString()

    checker = Checker()
    call = methods.CHECK_NEW, methods.check_new(USER, "h")
    checker.deleted[8] = checker.acknowledge()
    checker.state(USER).hidden[9] = checker.acknowledge()
    for right in (news(0, 0), news(99, 7), news(1, 6)):
        checker.news(right, checker.order, USER, 1, call)
    checker.news(news(1, 8), 0, USER, 1, call)  # asked before the acknowledgement
    assert not checker.counts
    for newest in (8, 9):
        checker.news(news(1, newest), checker.order, USER, 1, call)
    checker.news(news(100, 7), 0, USER, 1, call)
    checker.news(news(1, 0), 0, USER, 1, call)
    checker.news(b"\xff", 0, USER, 1, call)
    assert checker.counts == {"deleted": 1, "hidden": 1, "check new": 2, "malformed": 1}


def test_not_modified_is_right_for_the_etag_asked_for() -> None:
    checker = Checker()
    answer = feed_pb2.GetFeedResponse(etag="e", not_modified=True).SerializeToString()
    checker.page(answer, 0, USER, 1, CALL, if_none_match="e")
    assert not checker.counts
    checker.page(answer, 0, USER, 1, CALL, if_none_match="other")
    assert checker.counts == {"not modified": 1}


# --- people ---------------------------------------------------------------------------------------
class Feed:
    """A stand-in for what a server answers: pages without end, acknowledgements."""

    def __init__(self, repeats: bool = False, keeps_deleted: bool = False) -> None:
        self.next_id = 1 << 60
        self.repeats = repeats
        self.keeps_deleted = keeps_deleted
        self.deleted: list[int] = []

    def answer(self, method: int, request: bytes) -> bytes:
        if method == methods.GET_FEED:
            if not self.repeats:
                self.next_id -= 20
            ids = [self.next_id - place for place in range(20)]
            if self.keeps_deleted and self.deleted:
                ids[0] = self.deleted[-1]
            return body(ids, [one + 1 for one in ids], range(20, 0, -1))
        if method == methods.PUBLISH:
            self.next_id -= 20
            return publish_pb2.PublishResponse(content_id=self.next_id).SerializeToString()
        if method == methods.DELETE:
            self.deleted.append(publish_pb2.DeleteRequest.FromString(request).content_id)
        return b""


def run(calls: int, seed: int, feed: Feed) -> tuple[list[tuple[int, bytes]], Checker, Scripted]:
    checker = Checker()
    crowd = Crowd(list(range(1, 1_001)), seed, checker)
    workload = Scripted(crowd.session, checker, gap=10)
    asked = []
    for _ in range(calls):
        asking = workload.next()
        assert asking is not None
        method, request, tag = asking
        asked.append((method, request))
        workload.done(tag, method, 0, feed.answer(method, request), 1_000, 2_000, "")
    return asked, checker, workload


def test_the_same_seed_asks_the_same() -> None:
    first, checker, _ = run(2_000, 1, Feed())
    again, _, _ = run(2_000, 1, Feed())
    other, _, _ = run(2_000, 2, Feed())
    assert first == again and first != other
    assert not checker.counts


def test_ten_pages_are_loaded_to_one_post() -> None:
    asked, _, workload = run(20_000, 3, Feed())
    loads = sum(method == methods.GET_FEED for method, _ in asked)
    posts = sum(method == methods.PUBLISH for method, _ in asked)
    assert 9 < loads / posts < 11
    kinds = {method for method, _ in asked}
    assert kinds == set(range(len(methods.PATHS)))
    assert workload.answered == 20_000


def test_a_server_that_repeats_itself_is_found() -> None:
    _, checker, _ = run(200, 1, Feed(repeats=True))
    assert checker.counts["duplicate in a scroll"]


def test_a_server_that_keeps_what_was_deleted_is_found() -> None:
    _, checker, _ = run(2_000, 1, Feed(keeps_deleted=True))
    assert checker.counts["deleted"]


def test_a_refusal_without_a_retry_hint_is_wrong() -> None:
    for detail in ("", "busy [retry after 50 ms]"):
        checker = Checker()
        workload = Scripted(Crowd([1, 2], 1, checker).session, checker, gap=1)
        method, _, tag = workload.next() or pytest.fail()
        workload.done(tag, method, methods.RESOURCE_EXHAUSTED, b"", 1, 2, detail)
        assert checker.counts == ({} if detail else {"status": 1})
        assert workload.shed == bool(detail)


def test_a_burst_comes_back_when_it_is_told_to() -> None:
    checker, shown = Checker(), set[int]()
    workload = Burst([1, 2, 3], 0.0, checker, shown)
    asked = [workload.next() or pytest.fail() for _ in range(3)]
    assert workload.next() is None
    begin_ns = time.monotonic_ns()
    method, request, tag = asked[0]
    refused = methods.RESOURCE_EXHAUSTED
    workload.done(tag, method, refused, b"", 1, begin_ns - 10**9, "busy [retry after 1000 ms]")
    for _, _, other in asked[1:]:
        workload.done(other, method, 0, body(), 1, begin_ns, "")
    assert not workload.over and workload.shed == 1
    again = workload.next()
    assert again is not None and again[1:] == (request, tag)
    workload.done(tag, method, 0, body((6, 5, 4)), 1, begin_ns + 10**9, "")
    assert workload.over and shown == {4, 5, 6, 7, 8, 9} and not checker.counts
    assert max(workload.took_ms) >= 1_000


def test_a_latency_of_which_too_many_calls_had_none_is_missed() -> None:
    pytest.importorskip(
        "feedcore_bench._native.h2client"
    )  # the engine's, where libnghttp2 is there
    from feedcore_bench.drive import Bench
    from feedcore_bench.run import options_of

    results = sample()
    phase = results.phases[0]
    phase.statuses = {"0": 98, "8": 2}
    bench = Bench(options_of("tiny", 1), results, lambda text: None, lambda name, seen: None)
    bench.latency("hot.p50_ms", phase, 50)
    bench.latency("hot.p99_ms", phase, 99)
    verdicts = {one.goal.key: one for one in goals.judge(results.values, results.spoiled)}
    assert verdicts["hot.p50_ms"].text == "ok"
    assert verdicts["hot.p99_ms"].text == "missed: 2.0% of the calls were refused"


def test_a_reaction_to_a_post_that_is_being_deleted_may_find_nothing() -> None:
    checker = Checker()
    call = methods.INTERACT, methods.interact(USER, 8, 1)
    assert not checker.may_be_gone(call)
    checker.deleting.add(8)
    assert checker.may_be_gone(call) and not checker.may_be_gone(CALL)


def test_a_prober_waits_for_its_post() -> None:
    checker = Checker()
    prober = Prober([(5, 500, [USER])], checker, 1)
    script = prober.script(lambda ms: None)
    workload = Scripted(lambda number: script, checker, sessions_max=1)
    post = 1 << 50
    answers = [publish_pb2.PublishResponse(content_id=post).SerializeToString()]
    answers += [body(), body((post, 8, 7))]
    for answer in answers:
        method, _, tag = workload.next() or pytest.fail()
        now_ns = 3_000_000 * (1 + answers.index(answer))
        workload.done(tag, method, 0, answer, 1_000_000, now_ns, "")
    assert prober.took_ms == [7.0] and not checker.counts  # due at 2 ms, seen at 9 ms


def test_equal_answers_are_judged_once_and_others_always() -> None:
    checker = Checker()
    workload = FirstPages([1, 2], checker)
    for answer in (body(), body(), body(), body((9, 8, 9)), body((9, 8, 9))):
        for _ in range(2):
            method, _, tag = workload.next()
            workload.done(tag, method, 0, answer, 1, 2, "")
    assert checker.counts == {"duplicate in a page": 4} and checker.checked == 10


# --- worlds ---------------------------------------------------------------------------------------
def test_followers_have_the_median_and_the_mean_asked_for() -> None:
    counts = graph.follower_counts(200_000)
    assert 195 <= statistics.median(counts) <= 205
    assert 480 <= statistics.fmean(counts) <= 520  # the cut of the tail takes a little
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 100_000 and counts[0] <= 200_000 * graph.CELEBRITY_SHARE


def test_a_drawn_graph_has_the_counts_and_is_the_same_again() -> None:
    made = list(graph.Graph(1_000, 4, 0.1).follower_lists())
    assert made == list(graph.Graph(1_000, 4, 0.1).follower_lists())
    assert made != list(graph.Graph(1_000, 5, 0.1).follower_lists())
    wanted = sorted(count for count in graph.follower_counts(1_000, 0.1) if count)
    got = sorted(len(followers) for _, followers in made)
    assert len(got) == len(wanted)
    assert all(abs(one - other) <= 1 for one, other in zip(got, wanted, strict=True))
    for author, followers in made:
        assert author not in followers and followers == sorted(set(followers))


def test_a_graph_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "follows.tsv"
    path.write_text("follower\tfollowee\n10\t20\n30\t20\n20\t10\nbad line\n30\t30\n")
    made = graph.FileGraph(path, 1)
    assert list(made.ids) == [10, 20, 30]
    assert list(made.follower_lists()) == [(10, [20]), (20, [10, 30])]
    assert made.popularity[0] == 20


def test_posts_lie_in_six_days_oldest_first() -> None:
    now_ms = 1_800_000_000_000
    made = list(graph.posts([1, 2, 3], 500, now_ms, 1))
    times = [at_ms for at_ms, *_ in made]
    assert times == sorted(times) and times[-1] < now_ms
    assert times[0] >= now_ms - 60_000 - graph.SPREAD_MS
    assert made == list(graph.posts([1, 2, 3], 500, now_ms, 1))
    assert all(20 <= len(text) <= 1_000 for _, _, text, _, _ in made)


# --- report ---------------------------------------------------------------------------------------
def sample() -> Results:
    series = Series(
        [0.25, 0.5, 0.75],
        [100.0, 220.0, 210.0],
        {"worker 0": [0.9, 1.0, 1.0], "generator": [0.4, 0.5, 0.5]},
        {"worker 0": [50_000_000, 51_000_000, 51_000_000], "generator": [9, 9, 9]},
        [0.0, 0.01, 0.0],
    )
    ms = {"50": 400.0, "90": 900.0, "99": 5_000.0, "99.9": 9_000.0, "99.99": 12_000.0}
    curve = [(0.0, 100.0), (50.0, 400.0), (99.0, 5_000.0), (99.99, 12_000.0)]
    phase = Phase(
        "hot", "50,000/s", 50_000.0, 3.0, 150_000, 50_000.0, ms, 13_000.0, curve,
        {"GetFeed": {"calls": 9.0, "p50_us": 1.0, "p99_us": 2.0},
         "Publish": {"calls": 1.0, "p50_us": 1.0, "p99_us": 2.0}},
        {"0": 150_000}, series, {"page_cache{result=hit}": 10.0},
    )  # fmt: skip
    return Results(
        {"date": "2026-01-01", "line": "a machine & more", "commit": "abc"},
        {"seed": 1, "scenarios": []},
        {"hot.rate": 70_000.0, "hot.p99_ms": 25.0},
        {"people": {"users": 2_000}},
        [phase],
        notes={"hot": ["a <note>"]},
    )


def test_goals_are_judged_by_how_much() -> None:
    verdicts = {one.goal.key: one for one in goals.judge(sample().values)}
    assert verdicts["hot.rate"].text == "ok"
    assert verdicts["hot.p99_ms"].text == "short of it by 2.50x"
    assert verdicts["mixed.rate"].state == goals.NOT_MEASURED
    short = {one.goal.key: one for one in goals.judge({"warm.rate": 4_000.0})}["warm.rate"]
    assert short.text == "short of it by 2.00x"


def test_a_report_is_whole_and_comes_back(tmp_path: Path) -> None:
    results = sample()
    text, data, page = report.write(results, tmp_path, "sample")
    assert Results.load(data) == results
    words = text.read_text()
    assert "| hot | first page of 20 items, full view, closed loop |" in words
    assert "not measured" in words and "No wrong answer." in words and "5.00" in words
    source = page.read_text()
    assert "a &lt;note&gt;" in source and "a machine &amp; more" in source
    assert not re.search(r"(src|href)=|@import|url\(", source)
    pictures = re.findall(r"<svg.*?</svg>", source)
    assert len(pictures) >= 4
    for picture in pictures:
        assert ElementTree.fromstring(picture).tag.endswith("svg")


def test_wrong_answers_are_in_the_report() -> None:
    results = sample()
    checker = Checker()
    checker.page(body((9, 8, 9)), 0, USER, 1, CALL)
    results.wrong_counts = dict(checker.counts)
    wrong = checker.wrong[0]
    results.wrong = [
        {"scenario": "hot", **{name: getattr(wrong, name) for name in wrong.__slots__}}
    ]
    assert CALL[1].hex() in report.markdown(results)
    assert CALL[1].hex() in html.page(results)


def test_cost_against_size_is_drawn() -> None:
    values = {
        f"size.{users}.{name}": 5.0 for users in (10_000, 100_000) for name in ("rate", "rss_mb")
    }
    pictures = html.size_pictures(values)
    assert all("10K users" in one and "100K users" in one for one in pictures)
    assert html.size_pictures({}) == ["", ""]


def test_a_logarithmic_axis_has_whole_decades() -> None:
    picture = html.chart("t", {"a": [(0, 0.2), (1, 40.0)]}, "x", "ms", log=True)
    assert all(f">{tick}</text>" in picture for tick in ("0.1", "1", "10", "100"))
    assert html.chart("t", {"a": []}, "x", "y") == ""


# --- the cluster profile --------------------------------------------------------------------------
def test_a_sample_counts_for_its_innermost_layer_and_idle_ones_not_at_all() -> None:
    raw = """run (asyncio/base_events.py:1);epoll_wait (libc.so.6) 50
run (asyncio/base_events.py:1);answer (feedcore/services/batched_reads.py:9);free (libc.so.6) 3
run (asyncio/base_events.py:1);pages_of (feedcore/adapters/cluster/cache_validation.py:2) 4
answer (feedcore/services/batched_reads.py:9);gc_collect_main (libpython3.11.so) 2
main (x.c:1) 1
"""
    found = layers.shares(raw)
    assert found == {
        "validation and proofs": 0.4, "services": 0.3, "garbage collector": 0.2, "other": 0.1,
    }  # fmt: skip
    assert layers.shares("") == {}


def test_each_profile_has_goals_for_its_scenarios() -> None:
    for profile, wanted in goals.BY_PROFILE.items():
        assert {one.scenario for one in wanted} <= set(runs.scenarios_of(profile))
    verdicts = {one.goal.key: one for one in goals.judge({"hot.rate": 15_000.0}, {}, "cluster")}
    assert verdicts["hot.rate"].state == goals.MET and "overload.goodput" not in verdicts
