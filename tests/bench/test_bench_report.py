"""The page from a small result."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import report, result, scenes, tables
from bench.plan import parse, told

PROCESSES = [
    {"role": "server", "memory": 100 * 2**20, "fds": 10, "threads": 20},
    {"role": "engine", "memory": 700 * 2**20, "fds": 5, "threads": 9},
]
FACTS = {
    "made": "2026-01-01",
    "arguments": "--rounds 2",
    "backend": "cpu",
    "machine": {
        "processor": "A Processor",
        "cores": 2,
        "usable_processors": 4,
        "memory": 8 * 2**30,
        "gpus": [],
        "gpu_driver": "",
        "system": "Linux 6",
        "load_average": 0.1,
    },
    "versions": {"python": "3.12.0", "mlx": "0.32.4"},
    "model": {"name": "m", "precision": "float32", "parameters": 10**8, "weight_bytes": 4 * 10**8},
    "blas": {"library": "libopenblas.so", "threads": 2},
    "plan": {
        "levels": [1, 8],
        "requests": 2,
        "tokens": 64,
        "rounds": 2,
        "soak": 4.0,
        "seed": "7",
        "quick": False,
    },
    "contestants": {name: {"command": f"{name} MODEL"} for name in ("ceiling", "daemon", "mlx_lm.server")},
    "absent": {"llama-server": "not installed"},
    "bare_interpreter": {"memory": 80 * 2**20},
}
RATES = {
    ("ceiling", 0): 100,
    ("ceiling", 1): 50,
    ("daemon", 0): 110,
    ("daemon", 1): 54,
    ("mlx_lm.server", 0): 80,
}


def level(rate, **changes):
    spread = {"n": 4, "p50": 0.0123, "p99": 0.25, "max": 0.3}
    work = {"requests": 16, "output_tokens": 1024, "prompt_tokens": 960, "cached_tokens": 0, "faults": 0}
    figures = {
        "concurrency": 8,
        "dialect": "openai",
        "tokens_per_second": float(rate),
        "ttft": spread,
        "gap": spread,
    }
    return {**work, **figures, "client_cpu": 0.021, "processes": PROCESSES, **changes}


@pytest.fixture
def small(tmp_path):
    made = result.Result(dict(FACTS), path=tmp_path / "benchmarks" / "cpu-m.json")
    for (name, round_), rate in RATES.items():
        made.add("start", name, round_, port_up=0.5, first_token=2.5, processes=PROCESSES)
        made.add("level", name, round_, **level(rate))
    made.complete = True
    made.save()
    return made


def page_of(folder, *results):
    page = folder / "benchmarks.md"
    page.write_text(f"# By hand\n\n{report.BEGIN}\n{report.END}\n\n## Also by hand\n")
    report.write(page, list(results))
    return page.read_text()


def test_a_result_is_read_as_it_was_kept(small):
    again = result.read(small.path)
    assert (again.facts, again.measurements, again.complete) == (small.facts, small.measurements, True)


def test_a_result_of_another_schema_is_refused(small):
    small.path.write_text(small.path.read_text().replace('"schema": 1', '"schema": 0'))
    with pytest.raises(ValueError, match="another schema"):
        result.read(small.path)


def test_ratios_are_taken_within_a_round(small):
    assert tables.level_ratio(small, "daemon", "ceiling", 8) == [1.1, 1.08]
    assert tables.level_ratio(small, "daemon", "mlx_lm.server", 8) == [110 / 80]
    assert "| 8 | 1.09 (1.08 to 1.10) | 0.80 | 1.38 |" in tables.ratios(small)


def test_the_page_has_the_figures_and_what_was_written_by_hand(small, tmp_path):
    page = page_of(tmp_path, small.path)
    assert page.startswith("# By hand\n")
    assert page.endswith("## Also by hand\n")
    assert "| daemon / ceiling, 8 concurrent | 1.09 (1.08 to 1.10) |" in page
    assert "| 8 | 75.0 | 82.0 | 80.0 |" in page
    assert "| 8 | 12.3 / 250 | 12.3 / 250 | 12.3 / 250 |" in page
    assert "| daemon | 0.50 | 2.50 | - | - | - | 800 | - | 800 | - |" in page
    assert "llama-server: not measured, not installed" in page
    assert "at most 2.1% of one core" in page


def test_a_start_that_found_kernels_says_so(small):
    for each in small.of("start", contestant="daemon"):
        each["kept"] = True
    assert "| daemon, kernels kept | 0.50 |" in tables.starts(small)
    assert "| ceiling" in tables.starts(small)


def test_a_later_start_stands_beside_the_first(small):
    small.add("again", "daemon", 0, at="waves", port_up=0.5, first_token=1.5, ready=1.75, processes=PROCESSES)
    assert "| daemon | 0.50 | 2.50 | - | 1.50 | 1.75 | 800 | 800 | 800 | - |" in tables.starts(small)


def test_waves_are_medians_over_starts_and_their_ratios_within_one(small):
    for round_, (first, later) in enumerate([(0.06, 0.05), (0.09, 0.03), (0.04, 0.04)]):
        each = {
            name: {"n": 1, "p50": p99 / 2, "p99": p99} for name, p99 in (("first", first), ("later", later))
        }
        small.add("wave", "daemon", round_, concurrency=4, **each)
    assert "| daemon, 4 | 30.0 | 60.0 | 20.0 | 40.0 | 1.20 (1.00 to 3.00) |" in scenes.waves(small)


def test_a_restart_is_a_median_over_rounds_and_its_ratios_within_one(small):
    for round_, (new, again) in enumerate([(20.0, 1.0), (10.0, 1.0), (40.0, 1.0)]):
        times = {"new": new, "seen": new / 2, "restarted": again}
        asked = {name: {"ttft": ttft, "prompt_tokens": 9, "cached_tokens": 4} for name, ttft in times.items()}
        small.add("restart", "daemon", round_, **asked)
    assert "| seen before a restart | 4 of 9 | 1,000 | 0.050 (0.025 to 0.100) |" in scenes.restart(small)


def test_a_wave_that_nobody_answered_has_no_ratio(small):
    silence = {"n": 0, "p50": None, "p99": None}
    small.add("wave", "daemon", 0, concurrency=4, first=silence, later={"n": 12, "p50": 0.02, "p99": 0.04})
    assert "| daemon, 4 | - | - | 20.0 | 40.0 | - |" in scenes.waves(small)


def test_every_table_comes_with_its_command(small, tmp_path):
    small.add("port", "daemon", 0, imports=0.5, port_up=0.6)
    page = page_of(tmp_path, small.path)
    for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        if "\n| " in section:
            assert "python -m bench --rounds 2 --parts" in section, section
    assert "| 0.500 | 0.600 | 1.20 |" in page


def test_the_page_made_twice_is_the_same(small, tmp_path):
    page_of(tmp_path, small.path)
    plots = {path: path.read_bytes() for path in (tmp_path / "benchmarks").glob("*.svg")}
    first = (tmp_path / "benchmarks.md").read_text()
    report.write(tmp_path / "benchmarks.md", [small.path])
    assert (tmp_path / "benchmarks.md").read_text() == first
    assert {path: path.read_bytes() for path in plots} == plots
    assert len(plots) == 4
    for path, content in plots.items():
        assert ET.fromstring(content).tag.endswith("svg")
        assert f"(benchmarks/{path.name})" in first


def test_work_that_was_not_equal_is_told(small, tmp_path):
    small.add("level", "daemon", 2, **level(90, output_tokens=900, faults=2))
    small.add("level", "ceiling", 2, **level(90))
    told_ = tables.unequal(small)
    assert told_ == [
        "daemon at 8: 2 of 16 requests failed",
        "daemon at 8: 56.2 output tokens a request, the ceiling's were 64.0",
    ]
    assert told_[0] in page_of(tmp_path, small.path)


def test_a_run_cut_short_and_a_failure_are_told(small, tmp_path):
    small.complete = False
    small.add("failure", "mlx_lm.server", 0, where="fair", reason="it ended with -9")
    page = page_of(tmp_path, small.path)
    assert "This run was cut short." in page
    assert "mlx_lm.server failed in fair: it ended with -9" in page


def soaked(minute, rate, **more):
    figures = {"tokens_per_second": rate, "answers": 9, "faults": 0, "cpu": 120.0, "processes": PROCESSES}
    return {"minute": minute, **figures, **more}


def test_soak_compares_the_second_minute_with_the_last(small, tmp_path):
    for minute, rate in enumerate((50.0, 100.0, 101.0, 99.0), start=1):
        small.add("soak", "daemon", 0, **soaked(minute, rate, ceiling=rate / 1.25))
    page = page_of(tmp_path, small.path)
    assert "| tok per second of processor time | 50.0 | 49.5 | 49.5 | 50.5 | -1.0% | -1.0% |" in page
    assert "| tok/s | 100.0 | 99.0 | 99.0 | 101.0 | -1.0% | -1.0% |" in page
    assert "| tok/s by the ceiling's | 1.25 | 1.25 | 1.25 | 1.25 | +0.0% | +0.0% |" in page
    assert "python -m bench --rounds 2 --only ceiling,daemon --parts '' --soak 4" in page
    assert "| threads | 29 | 29 | 29 | 29 | +0.0% | +0.0% |" in page
    assert "| memory of the engine, MiB | 700 | 700 | 700 | 700 | +0.0% | +0.0% |" in page
    assert "0 requests failed" in page


def test_a_soak_without_the_ceiling_has_no_line_for_it(small, tmp_path):
    for minute in (1, 2):
        small.add("soak", "daemon", 0, **soaked(minute, 50.0))
    page = page_of(tmp_path, small.path)
    assert "| tok/s | 50.0 |" in page
    assert "by the ceiling's" not in page
    assert "the host took" not in page


def test_a_soak_tells_what_was_produced_but_for_what_the_host_took(small):
    for minute, (rate, share) in enumerate([(50.0, 0.0), (80.0, 0.2), (100.0, 0.0), (20.0, 0.9)], start=1):
        small.add("soak", "daemon", 0, **soaked(minute, rate, stolen=share))
    told_ = "| tok/s but for what the host took | 100.0 | 40.0 | 40.0 | 100.0 | -60.0% | -60.0% |"
    assert told_ in scenes.soak(small)  # no minute counts for more than twice what it had


def fair(**more):
    gaps = {"n": 9, "p50": 0.2, "p99": 0.5}
    figures = {"before": gaps, "during": gaps, "together": 120.0, "alone": 60.0, "work_kept": 0.9}
    return {**figures, "long_prompt": 8030, **more}


def test_what_the_host_took_beside_a_long_prompt_is_told_where_processors_wait_for_each_other(small):
    shares = {"alone": 0.0, "before": 0.0, "together": 0.123, "after": 0.0}
    small.add("fair", "daemon", 0, **fair(stolen=shares, own_work_kept=0.98))
    small.add("fair", "mlx_lm.server", 0, **fair(stolen=shares, own_work_kept=None))
    assert "| 0.90 | 12.3% | 0.98 |" in scenes.fair(small)
    assert "| 0.90 | 12.3% | - |" in scenes.fair(small)
    small.facts["backend"] = "cuda"
    assert "12.3%" not in scenes.fair(small)


def test_an_earlier_result_does_not_tell_what_the_host_took(small):
    small.add("fair", "daemon", 0, **fair())
    assert "by the host" not in scenes.fair(small)


def test_a_page_without_a_place_is_an_error():
    with pytest.raises(ValueError, match="no place"):
        report.replaced("# By hand\n", "figures")


def test_the_page_in_the_repository_has_the_place():
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    assert report.replaced(page.read_text(), "figures").count("figures\n") == 1


def test_the_command_that_is_told_has_no_folders_of_this_machine():
    words = (
        "--model",
        "/a/b/smol",
        "--out=/c/d.json",
        "--cache-dir",
        "/e/f",
        "--gguf=/g/h.gguf",
        "--soak",
        "30",
        "--parts",
        "fair",
        "--tokens",
        "9",
    )
    assert told(words) == ["--model", "smol", "--gguf=h.gguf", "--tokens", "9"]


@pytest.mark.parametrize(
    "words", [["--only", "nobody"], ["--parts", "levels,everything"], ["--concurrency", "1,x"]]
)
def test_a_word_that_means_nothing_is_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(words)
    assert words[1].rpartition(",")[2] in capsys.readouterr().err
