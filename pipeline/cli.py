"""Commands that build a dataset and look at it, with their options: where and how many. What runs is a recipe."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.commands import build, learn, look, use
from pipeline.exports.formats import FORMATS
from stages.errors import at_least_one, none_or_more, number

Handler = Callable[[argparse.Namespace], int | None]
Add = Callable[[str, str, Handler], argparse.ArgumentParser]
"""Group of the help, words of the command, handler: returns the command's parser."""

LEAVE = "let videos go that the list no longer names, and from shards the frames of those that cannot be made again"
VIDEOS = "lists of videos (docs/formats.md), folders, videos, images, globs or http addresses, one or several"
LABELS = "a label file (docs/labels.md), COCO's or COCO-WholeBody's, or a folder of YOLO's"


def add_commands(add: Add) -> None:
    """Every command of the pipeline with its options."""
    _building(add)
    _looking(add)
    _evaluations(add)
    _learning(add)
    _rendering(add)
    _weights(add)
    _exports(add)


def _building(add: Add) -> None:
    run_ = _on_run(add("build", "run", build.run))
    run_.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run_.add_argument(
        "--drop-media",
        action="store_true",
        help="remove fetched videos once packed: hands found anew, and other images, need them again",
    )
    plan_ = _on_settings(_on_data(add("build", "plan", build.plan)))
    _on_videos(plan_)
    plan_.add_argument("--leave", action="store_true", help=LEAVE)
    plan_.add_argument("--json", action="store_true")
    status_ = _on_data(add("build", "status", build.status))
    status_.add_argument("--json", action="store_true")
    status_.add_argument(
        "--watch", type=at_least_one, nargs="?", const=5, metavar="SECONDS", help="again every so often, until the run ends"
    )
    doctor_ = add("build", "doctor", build.doctor)
    doctor_.add_argument("--data", help="the data folder that a run is to have (default: data/demo)")
    doctor_.add_argument("--json", action="store_true")
    doctor_.set_defaults(recipe=None)
    _on_data(add("build", "retry", build.retry)).add_argument(
        "--reason", metavar="REASON", help="only failures of this reason of whim status"
    )
    _on_run(add("build", "demo", build.demo))
    settings_ = add("build", "settings", build.settings)
    settings_.add_argument("stage", nargs="?", help="only those of this stage, such as fit")
    settings_.add_argument("--recipe", help="whose stages, with its values (default: every stage there is)")
    settings_.add_argument("--json", action="store_true")
    refresh_ = _on_settings(_on_data(add("build", "refresh", build.refresh)))
    refresh_.add_argument("--json", action="store_true")
    removal = add("build", "remove", build.remove)
    removal.add_argument("names", nargs="+", metavar="VIDEO", help="by its id, its address or its path")
    removal.add_argument("--data", required=True, help="data folder")
    removal.set_defaults(recipe=None)
    labels = _on_run(add("build", "import whim", build.import_whim))
    labels.add_argument("--annotations", required=True, metavar="DIR", help="the unpacked labels: DIR/VIDEO/FRAME.npy, or below train/anno")
    images = add("build", "import images", build.import_images)
    images.add_argument("folder", type=Path, help="images.jsonl, COCO's or YOLO's labels, or images without any (docs/images.md)")
    images.add_argument("--out", type=Path, required=True, help="folder for the shards")
    images.add_argument("--tier", action="append", default=[], metavar="NAME", help="only images of this tier; again for more")
    images.add_argument("--split", choices=("train", "val", "test"), help="only images of this split")
    images.add_argument("--labelled", action="store_true", help="only images that somebody labelled")
    images.add_argument("--leave", action="store_true", help="let images go that are no longer among those named")
    images.add_argument("--recipe", default="whim", help="whose detectors label: whim, fast, whim_full, whim_paper, or file.py:function")


def _looking(add: Add) -> None:
    _on_data(add("look", "report", look.report)).add_argument("--out", help="where to write the page (default: <data>/report.html)")
    browse_ = add("look", "browse", look.browse)
    browse_.add_argument("folder", nargs="?", help="data folder (default: --data)")
    browse_.add_argument("--data", default="data/demo", help="data folder (default: %(default)s)")
    browse_.add_argument("--port", type=int, default=8766, help="of the local page, 0 takes a free one (default: %(default)s)")
    browse_.add_argument("--who", default=os.environ.get("USER", "somebody"), help="whose decisions they are (default: the user's name)")
    export_ = add("look", "verdicts export", look.verdicts_export)
    export_.add_argument("out", type=Path, metavar="FILE", help="file to write")
    export_.add_argument("--format", choices=("csv", "coco", "labelstudio"), default="csv", help="of the file (default: csv)")
    import_ = add("look", "verdicts import", look.verdicts_import)
    import_.add_argument("file", type=Path, metavar="FILE", help="CSV, COCO or Label Studio; boxes drawn there become added hands")
    import_.add_argument("--who", default=os.environ.get("USER", "somebody"), help="who drew what the file names nobody for")
    for one in (export_, import_):
        one.add_argument("--data", default="data/demo", help="data folder (default: %(default)s)")
    verify_ = add("look", "verify", look.verify)
    verify_.add_argument("folder", nargs="?", help="data folder (default: --data)")
    verify_.add_argument("--data", default="data/demo", help="data folder (default: %(default)s)")
    verify_.add_argument("--json", action="store_true")
    verify_.add_argument("--repair", action="store_true", help="set what is damaged aside, so that the next run makes it again")


def _on_data(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--data", help="data folder (default: data/ and the name of the recipe or of the list, else data/demo)")
    parser.add_argument("--recipe", help="whim, fast, whim_full, whim_paper, demo, or file.py:function (default: as the folder's last run)")
    return parser


def _on_settings(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    help = "a setting, such as split.frames_per_second=10; again for more; whim settings lists them; NAME= takes it back"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=help)
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings as TOML: a table a stage")
    return parser


def _on_videos(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--videos", nargs="+", help=VIDEOS)
    parser.add_argument("--max-pixels", type=at_least_one, metavar="N", help="refuse videos of larger images (default: 67,108,864)")
    return parser


def _on_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _on_videos(_on_settings(_on_data(parser)))
    parser.add_argument("--leave", action="store_true", help=LEAVE)
    parser.add_argument("--local", action="store_true", help="in this process, without Ray")
    parser.add_argument("--workers", type=at_least_one, help="at most so many workers of each kind (default: what the cluster holds)")
    parser.add_argument(
        "--gpus", type=none_or_more, metavar="N", help="at most so many GPUs, 0 for none (default: all that the cluster has)"
    )
    return parser


def _evaluations(add: Add) -> None:
    found = add("look", "evaluate annotators", look.evaluate_annotators)
    found.add_argument("--labels", required=True, help=LABELS)
    found.add_argument("--media", default=os.environ.get("WHIM_MEDIA", "."), help="folder of the labelled videos and images")
    found.add_argument("--recipe", default="whim", help="whose detectors: whim, fast, whim_full, whim_paper, or file.py:function")
    found.add_argument(
        "--fold",
        nargs=2,
        action="append",
        default=[],
        metavar=("RECIPE", "VIDEOS"),
        help="a recipe whose networks never saw the videos that the file VIDEOS lists: it judges these; once for each part of the videos",
    )
    found.add_argument("--mirror", action="store_true", help="show all frames mirrored: nothing was tuned on those")
    found.add_argument("--landmarks", metavar="FILE", type=Path, help="judged hands (docs/landmarks.md): are landmarks right?")
    found.add_argument("--pictures", metavar="FOLDER", type=Path, help="where those hands lie that are not below --media")
    found.add_argument("--alone", action="store_true", help="show each frame without its neighbours: no track helps")
    found.add_argument("--json", metavar="FILE", help="write the metrics there too")
    found.add_argument("--overlays", metavar="FOLDER", help="draw every labelled frame there")
    found.add_argument(
        "--detections", metavar="FILE", help="write what was found there, and the people beside it in people-FILE, to learn from"
    )
    found.add_argument(
        "--clips", metavar="FILE", help="labelled clips (docs/labels_clips.md): sides, identities, false hands over all frames"
    )
    studio = _on_data(add("look", "evaluate studio", look.evaluate_studio))
    studio.add_argument("--truth", help="folder of *.truth.parquet (default: <data>/studio)")


def _learning(add: Add) -> None:
    prior = add("train", "learn prior", learn.learn_prior)
    prior.add_argument("--arctic", type=Path, metavar="FOLDER", help="ARCTIC's raw_seqs; without it, from invented poses")
    prior.add_argument("--model", type=Path, metavar="FILE", help="hand model (default: MANO_RIGHT.pkl; the stand-in for invented poses)")
    prior.add_argument(
        "--every", type=at_least_one, default=4, metavar="N", help="take every Nth frame (default: 4 of ARCTIC's 30 a second)"
    )
    prior.add_argument(
        "--worst", type=number(0, 1), default=0.02, help="share of a hand's frames to leave out by fitting_err (default: 0.02)"
    )
    methods = ("moment", "incremental")
    prior.add_argument("--method", choices=methods, default="moment", help="exact in one pass, or scikit-learn's of meshes")
    where = "default: weights/arctic/pose_prior.npz, or the shipped file for invented poses"
    prior.add_argument("--out", type=Path, metavar="FILE.npz", help=where)
    offsets = add("train", "learn offsets", learn.learn_offsets)
    offsets.add_argument("labelled", type=Path, help="npz of hands that detectors found beside the model's true joints")
    offsets.add_argument("--out", type=Path, help="offsets to update (default: those that ship)")
    every = add("train", "learn all", learn.learn_all)
    every.add_argument("--recipe", default="whim_full", help="whose members: whim_full (default), whim_paper, or file.py:function")
    every.add_argument("--albums", type=at_least_one, default=40, help="of 24 rendered images, about 27 hands, to learn from")
    every.add_argument("--labels", type=Path, help=f"calibrate on {LABELS} in place of rendered images")
    every.add_argument("--media", type=Path, default=Path(os.environ.get("WHIM_MEDIA", ".")), help="folder of the labelled videos")
    every.add_argument("--again", action="store_true", help="learn those anew that come with the project too")
    every.add_argument("--out", type=Path, help="folder for calibration.json and landmark_offsets.json (default: that of the weights)")
    calibration = add("train", "learn calibration", learn.learn_calibration)
    calibration.add_argument("--labels", nargs="+", type=Path, required=True, help=LABELS)
    calibration.add_argument("--detections", nargs="+", type=Path, required=True, help="of whim evaluate annotators --detections")
    calibration.add_argument("--people", nargs="*", type=Path, default=[], help="the tables people-* beside them")
    calibration.add_argument("--out", type=Path, help="the JSON to write (default: calibration.json among the weights)")


def _rendering(add: Add) -> None:
    videos = add("build", "render videos", build.render_videos)
    videos.add_argument("--out", type=Path, required=True, help="folder for the videos, truths and labels.json")
    videos.add_argument("--num-videos", type=at_least_one, default=2)
    videos.add_argument("--seconds", type=number(0, 86_400, above=True), default=6.0)
    videos.add_argument("--frames-per-second", type=number(0, 1000, above=True), default=25.0)
    videos.add_argument("--seed", type=none_or_more, default=0, help="of the first video; the others follow")
    shards = add("build", "render shards", build.render_shards)
    shards.add_argument("out", type=Path, help="folder for the shards")
    shards.add_argument("--albums", type=at_least_one, default=800, help="of 24 images, about 27 hands")
    shards.add_argument("--seed", type=none_or_more, default=0, help="of the first album")
    shards.add_argument("--size", type=at_least_one, default=256, help="side of the images, pixels")
    shards.add_argument("--threads", type=at_least_one, default=1, help="of the renderer")


def _weights(add: Add) -> None:
    add("use", "weights list", use.weights_list)
    get = add("use", "weights get", use.weights_get)
    get.add_argument("names", nargs="*", metavar="NAME", help="of whim weights list (default: all that are free)")
    get.add_argument("--agree", action="store_true", help="you agree to the terms that `whim weights list` names")
    add("use", "weights check", use.weights_check).add_argument("names", nargs="*", metavar="NAME")


def _exports(add: Add) -> None:
    for format in FORMATS.values():
        parser = add("take", f"export {format.name}", use.exporter(format))
        parser.add_argument("data", help="data folder, or one of shards")
        parser.add_argument("--out", type=Path, required=True, help="folder; an export that lies there is replaced, anything else refused")
        parser.add_argument(
            "--where", default="", metavar="FILTER", help='hands to take, such as "quality > .8 and side = right" (docs/exports.md)'
        )
        if format.name == "lerobot":
            parser.add_argument("--images", action="store_true", help="store images instead of videos: exact, and larger")
