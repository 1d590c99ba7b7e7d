"""What surprised a new user of a search: its defaults, its images, what it prints and when."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from search.backend import ray_log
from search.cli import main
from search.config import loader
from search.config.schema import Config, DataConfig
from search.data import image_size, splits
from search.frontier.correlation import Correlation
from search.storage import files, record, results
from tests.search.runs import make_rows, make_run


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.name", "mine:net"],
        ["--model.name=resnet20"],
        ["--data.name", "folder", "--data.root", "x"],
        ["--data.root=x", "--trials", "24"],
    ],
)
def test_finding_8_1_neutral_defaults_for_the_users_own(flags: list[str]) -> None:
    source, config = loader.parse(flags)
    assert source == loader.NEUTRAL
    assert config.finetune == Config().finetune
    assert config.base == Config().base
    assert config.resources.gpus_per_trial is None
    assert config.data.val == Config().data.val
    assert config.out == Config().out


def test_finding_8_1_flags_and_a_file_of_the_same_keys_agree(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("model: {name: 'mine:net'}\ndata: {name: folder, root: x}\nout: there\n")
    flags = ["--model.name", "mine:net", "--data.name", "folder", "--data.root", "x"]
    assert loader.parse([*flags, "--out", "there"])[1] == loader.parse([str(file)])[1]


@pytest.mark.parametrize(
    "flags", [[], ["--trials", "3"], ["--data.val", "30%"], ["--model.name", "digits"]]
)
def test_finding_8_1_the_demo_keeps_its_recipe(flags: list[str]) -> None:
    source, config = loader.parse(flags)
    assert source == "digits"
    assert config.finetune.lr == 0.005
    assert config.out == "runs/digits"


def folder(root: Path, sizes: list[tuple[int, int]]) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i, (width, height) in enumerate(sizes):
                pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.jpg")
    return root


@pytest.mark.parametrize(
    ("sizes", "given", "taken", "words"),
    [
        ([(24, 24)] * 3, None, 24, "all 6 images looked at are 24×24, taking 24"),
        ([(24, 24)] * 3, 16, 16, ""),
        ([(20, 24), (30, 40)], None, 224, "lie between 20×24 and 30×40: resized and cropped"),
        ([(30, 20)] * 2, None, 224, "are 30×20: resized"),
    ],
)
def test_finding_8_2_size_of_the_images_in_a_folder(
    sizes: list[tuple[int, int]],
    given: int | None,
    taken: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path / "cache"))
    root = folder(tmp_path / "images", sizes)
    found = splits.load(DataConfig("folder", str(root), val="50%", image_size=given))
    assert found.train.shape == (3, taken, taken)
    assert len(found.notes) == bool(words)
    assert all(words in note for note in found.notes)


def test_finding_8_2_size_of_the_images_in_parquet(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(buffer, "png")
    images = pa.array([{"bytes": buffer.getvalue()}] * 4)
    table = pa.table({"image": images, "label": [0, 1, 0, 1]})
    pq.write_table(table, tmp_path / "train-0.parquet")
    size, said = image_size.of(DataConfig("parquet", str(tmp_path)))
    assert (size, said) == (20, "all 4 images looked at are 20×20, taking 20")


def complete(tmp_path: Path, count: int = 6) -> tuple[str, Config]:
    place = make_run(tmp_path / "run", make_rows(count))
    for rank in range(20):  # as after the export of a whole search
        if (tmp_path / "run" / "points" / f"{rank:03d}").is_dir():
            continue
    (tmp_path / "run" / "report.html").write_text("page")
    config = replace(loader.absolute(loader.parse(["digits"])[1]), out=place, trials=count)
    run = files.open_uri(place)
    record.update(run, results.read_record(place), config=loader.to_dict(config))
    return place, config


def test_finding_8_10_a_finished_search_again_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    place, config = complete(tmp_path)
    assert record.nothing_to_do(config)
    code = (
        "import sys; from search.cli import main; "
        f"code = main(['search', 'digits', '--out', {place!r}, '--trials', '6', "
        "'--resources.address', '127.0.0.1:1']); "  # where no cluster is
        "heavy = {'torch', 'ray', 'optuna'} & set(sys.modules); sys.exit(' '.join(heavy) or code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is complete; nothing is left to do" in " ".join(done.stdout.split())
    assert "points on the frontier" in " ".join(done.stdout.split())


def test_finding_8_10_what_is_left_to_do(tmp_path: Path) -> None:
    place, config = complete(tmp_path)
    search = config.search
    for other in (
        replace(config, trials=7),
        replace(config, seed=1),
        replace(config, search=replace(search, final_seeds=5)),
        replace(config, out=str(tmp_path / "elsewhere")),
    ):
        assert not record.nothing_to_do(other)
    assert record.nothing_to_do(replace(config, trials=3))
    run = files.open_uri(place)
    record.update(run, results.read_record(place), status="interrupted", exported=True)
    assert not record.nothing_to_do(config)


def test_finding_8_13_ray_speaks_into_a_file_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = complete(tmp_path)
    yellow = "\x1b[33m(raylet)\x1b[0m A worker died or was killed" + " while doing" * 90
    logger = logging.getLogger("ray")
    handlers = list(logger.handlers)

    def speak() -> None:
        print(yellow)
        print(yellow, file=sys.stderr)

    console = Console()
    with ray_log.kept(place, console):
        thread = threading.Thread(target=speak, name="ray_listen_error_messages")
        thread.start()
        thread.join()
        logging.getLogger("ray.tune").error("Trial task failed\nTraceback")
        print("mine")
        console.print("ours")
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[:2] == ["mine", "ours"]
    assert "lines of Ray's own are in" in " ".join(said.out.split())
    kept = (Path(place) / "ray.log").read_text()
    assert kept.count("A worker died") == 2
    assert "Trial task failed" in kept
    assert logger.handlers == handlers


def test_finding_8_13_silence_leaves_no_file(tmp_path: Path) -> None:
    place, _ = complete(tmp_path)
    with ray_log.kept(place, Console()):
        pass
    assert not (Path(place) / "ray.log").exists()


def test_finding_8_12_words_are_explained_where_they_stand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = str(Correlation(0.98, 0.9, 19))
    assert "rung" not in said and "strata" not in said
    assert "rank correlation 0.98 (Spearman; 1 is the same order" in said
    assert main(["profile", "digits"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "granularity: so many of them only at once" in text
    assert main(["frontier", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "the knee, where a higher cost begins to bring little" in text


def test_a_machine_too_busy_to_start_ray_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    from pruning.errors import UserError
    from search.backend import cluster

    def busy(**options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", busy)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match="Ray did not start on this machine in time"):
        cluster.connect(Config())


@pytest.mark.parametrize("key", ["out", "trials", "seed"])
def test_a_key_with_nothing_after_it_has_its_default(key: str, tmp_path: Path) -> None:
    """Found by the fuzz: out was None, and its check raised."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"{key}:\nmodel: {{name: resnet20}}\n")
    found = getattr(loader.parse([str(file)])[1], key)
    assert found == ("runs/mine" if key == "out" else getattr(Config(), key))
