from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.blocks import choose, frame_budget
from dagrad_bus.codec import Codec, encode, to_wire
from dagrad_bus.settings import ExchangeSettings, Settings, TransportSettings, WireType
from dagrad_bus.workers.launch.forecast import (
    VALUES,
    ack_size,
    expected_index,
    heartbeat_size,
    node_of,
    plan_frame,
    plan_graph,
    plan_hosts,
    plan_memory,
    plan_traffic,
)

EIGHT = tuple(f"local.{number}" for number in range(8))


def _encoded(elements: int, settings: ExchangeSettings, block: int, codecs: frozenset[Codec]) -> tuple[int, int]:
    """Return raw and compressed bytes of a frame as a run makes it, of weights at random."""
    rng = np.random.default_rng(7)
    blocks = -(-elements // block)
    count, stripe = frame_budget(settings.density, blocks, settings.refresh)
    indices = choose(rng.permutation(blocks), np.arange(stripe), np.empty(0, np.int64), count)
    weights = rng.normal(0, 0.03, (len(indices), block)).astype(np.float32)
    values, scales = to_wire(weights, VALUES[settings.wire])
    payload = encode(indices, values, scales, total=blocks, allow=codecs)
    return payload.raw_size, len(payload.data)


@pytest.mark.parametrize("wire", ["bf16", "f16", "f32", "int8"])
@pytest.mark.parametrize(
    ("elements", "density", "block"), [(301_066, 0.01, 0), (301_066, 0.001, 64), (2_000_000, 0.02, 0), (5000, 0.5, 1)]
)
def test_a_frame_is_as_large_as_a_really_encoded_one(elements: int, density: float, block: int, wire: WireType) -> None:
    settings = ExchangeSettings(density=density, block=block, wire=wire)
    frame = plan_frame(elements, settings)
    raw, size = _encoded(elements, settings, frame.block, frozenset(Codec))
    assert frame.raw == pytest.approx(raw, rel=0.03)
    assert frame.payload == pytest.approx(size, rel=0.04)
    plain = plan_frame(elements, settings, codec="raw")
    assert plain.payload == pytest.approx(_encoded(elements, settings, frame.block, frozenset())[1], rel=0.03)


@given(st.integers(1, 4000), st.integers(1, 400_000))
@settings(max_examples=50)
def test_the_index_is_as_long_as_expected(count: int, blocks: int) -> None:
    count = min(count, blocks)
    rng = np.random.default_rng(count * 7919 + blocks)
    indices = np.sort(rng.choice(blocks, count, replace=False)).astype(np.int64)
    payload = encode(indices, np.zeros((count, 1), np.uint16), None, total=blocks, allow=frozenset())
    real = payload.raw_size - 2 * count
    assert expected_index(count, blocks) == pytest.approx(real, rel=0.1, abs=20)


def test_frames_keep_to_the_largest_that_peers_take() -> None:
    frame = plan_frame(10**9, ExchangeSettings(density=1.0), max_frame=1 << 20)
    assert frame.raw < 1.02 * (1 << 20) and frame.refresh <= frame.count
    huge = plan_frame(10**10, ExchangeSettings())
    assert huge.raw <= 8 << 20 and huge.header_bytes > 3 * 37


def test_traffic_follows_graph_interval_and_fanout() -> None:
    frame = plan_frame(301_066, ExchangeSettings())
    full = plan_traffic(301_066, frame, 4.0, 10.0, ExchangeSettings(), 1.0)
    assert full.frames_per_step == 4 and full.dense_share == full.bytes_per_step / (8 * 301_066)
    beats = full.heartbeat_bytes_per_second / 10
    assert full.bytes_per_step - beats == pytest.approx(4 * (frame.size + ack_size()))
    for chosen, share in ((ExchangeSettings(interval=4), 1 / 4), (ExchangeSettings(fanout=1), 1 / 4),
                            (ExchangeSettings(fanout=9), 1.0), (ExchangeSettings(rule="local"), 0.0)):  # fmt: skip
        less = plan_traffic(301_066, frame, 4.0, 10.0, chosen, 1.0)
        assert less.bytes_per_step - beats == pytest.approx(share * (full.bytes_per_step - beats))
    assert full.wire_bytes_per_second > full.bytes_per_second
    assert 100 < heartbeat_size(4) < heartbeat_size(64) < 1000


def test_the_graph_is_that_of_a_run() -> None:
    frame = plan_frame(301_066, ExchangeSettings())
    graph, near = plan_graph(EIGHT, Settings(), frame)
    assert (graph.degree, graph.links, graph.workers) == (4.0, 16, 8) and len(near) == 8
    assert graph.gap is not None and 0.2 < graph.gap < 0.9 and graph.rounds
    assert graph.refresh_steps == -(-frame.blocks // frame.refresh)
    ring, _ = plan_graph(EIGHT, Settings(topology="ring", exchange=ExchangeSettings(interval=2)), frame)
    assert ring.degree == 2 and ring.gap is not None and ring.gap < graph.gap
    assert ring.refresh_steps == 2 * graph.refresh_steps
    alone, _ = plan_graph(EIGHT[:1], Settings(), frame)
    assert alone.gap is None and alone.links == 0


def test_memory_holds_every_vector_once() -> None:
    frame = plan_frame(2_000_000, ExchangeSettings())
    parts = plan_memory(2_000_000, frame, 4, Settings(), copied=False)
    assert parts["anchor"] == 8_000_000 and parts["replica"] == 0 and parts["scores"] == 4 * frame.blocks
    assert plan_memory(2_000_000, frame, 4, Settings(), copied=True)["replica"] == 8_000_000
    local = Settings(exchange=ExchangeSettings(rule="local"))
    assert not any(plan_memory(2_000_000, frame, 4, local, copied=True).values())


def test_only_links_between_hosts_leave_them() -> None:
    frame = plan_frame(301_066, ExchangeSettings())
    _, near = plan_graph(EIGHT, Settings(), frame)
    traffic = plan_traffic(301_066, frame, 4.0, 10.0, ExchangeSettings(), 1.0)
    one = plan_hosts(dict.fromkeys(EIGHT, "a"), near, traffic)
    assert one == {"a": 0.0}
    each = plan_hosts({name: name for name in EIGHT}, near, traffic)
    assert all(rate == pytest.approx(traffic.wire_bytes_per_second) for rate in each.values())
    halves = {name: "a" if at < 4 else "b" for at, name in enumerate(EIGHT)}
    two = plan_hosts(halves, near, traffic)
    crossing = sum(halves[a] != halves[b] for a in EIGHT for b in EIGHT if node_of(b) in near[node_of(a)]) / 2
    assert two["a"] == two["b"] == pytest.approx(crossing * traffic.wire_bytes_per_second / 4)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_sends_what_was_planned(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "dagrad_bus.tools.cli", "run", "-n", "4", "--progress", "none", "--no-figures",
             "--dir", str(folder), "--", "python", "-m", "dagrad_bus.workers.digits", "--steps", "120",
             "--eval-every", "120", "--pace", "0.1"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    rate = summary["rate"] / 4
    settings = Settings(transport=TransportSettings())
    frame = plan_frame(summary["parameters"], settings.exchange)
    graph, _ = plan_graph([f"local.{number}" for number in range(4)], settings, frame)
    planned = plan_traffic(summary["parameters"], frame, graph.degree, rate, settings.exchange, settings.beat.interval)
    frames = sum(worker["frames_sent"] for worker in summary["workers"]) / summary["steps"]
    assert frames == pytest.approx(planned.frames_per_step, rel=0.15)  # links without credit skip some
    assert summary["bytes_per_step"] == pytest.approx(planned.bytes_per_step, rel=0.10)
    assert summary["dense_share"] == pytest.approx(planned.dense_share, rel=0.10)
