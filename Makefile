# whim: from a list of videos to a training-ready dataset of 3D hands. `make help` lists everything.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Torch without CUDA where this index can be reached; with CUDA: make setup TORCH_INDEX=https://download.pytorch.org/whl/cu128
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
WHIM := $(BIN)/python -m pipeline
VIDEOS ?=
DATA ?=
WHERE := $(if $(VIDEOS),--videos $(VIDEOS)) $(if $(DATA),--data $(DATA))
export RAY_USAGE_STATS_ENABLED ?= 0
# A machine that forbids Python to keep what it compiled compiles torch and Ray anew in each of hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env setup demo download run status report check lint types layers test test-rest test-long test-mutation test-cluster test-heavy env-mmpose env-detectron2 weights gpu-check bench-annotate bench-detectors bench-fit bench-fit-quality env-loaders bench-loader env-ultralytics bench-detector bench-table1 bench-detector-real bench-detector-variants bench-regressor bench-regressor-studio bench-regressor-real bench-browse bench-trust bench-camera bench-scale env-exports test-exports bench-exports studio-shards train-detector train-detector-open train-regressor train-regressor-open docs readme clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: env $(VENV)/.compiled ## make the environment (.venv), fetch the open networks, compile the fit

env: $(VENV)/.ready

# Most modules of what is installed are never imported: Python compiles those that are.
$(VENV)/.ready: pyproject.toml constraints.txt manifests/mediapipe.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --retries 1 --extra-index-url $(TORCH_INDEX) -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m stages.detectors.mediapipe.models
	@touch $@

$(VENV)/.compiled: $(VENV)/.ready
	@echo "compiling the fit for this machine, once: about a minute"
	$(BIN)/python -m fitting.warm_up
	@touch $@

demo: setup ## the whole chain on a rendered video (or VIDEOS=my.txt), scored against the truth
	$(WHIM) demo $(WHERE)

download: setup ## fetch the videos of a manifest: make download VIDEOS=manifests/whim.txt
	$(WHIM) run $(if $(VIDEOS),,--videos manifests/whim.txt) $(WHERE) --until download

run: setup ## the whole chain: make run VIDEOS=folder-or-list DATA=data/mine
	$(WHIM) run $(WHERE)

status: setup ## clips by stage, state and reason
	$(WHIM) status $(if $(DATA),--data $(DATA))

report: setup ## one HTML page of a run
	$(WHIM) report $(if $(DATA),--data $(DATA))

lint: env ## ruff format and ruff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: env ## mypy --strict
	$(BIN)/mypy

layers: env ## who may import whom
	$(BIN)/lint-imports

GATE := 'not gpu and not network and not heavy and not cluster and not long'

test: env ## the gate: lint, types, layers, the test suite and a short run of the main job
	$(MAKE) --no-print-directory --output-sync=target -j 2 lint layers types setup
	$(MAKE) --no-print-directory --output-sync=target -j 4 test-rest $(PARTS:%=test-%)

# A folder of tests in a process of its own, which imports and collects that folder alone; the longest first. Whole chains wait for the
# processes that they start, and other tests for kills and pauses: five at a time keep two cores busy.
PARTS := engine pipeline chain stages training benchmarks
.PHONY: $(PARTS:%=test-%)
test-engine: DEAL := -n 2 --dist loadfile
$(PARTS:%=test-%): test-%: setup
	$(BIN)/python -m pytest -m $(GATE) $(DEAL) tests/$*

test-rest: setup
	$(BIN)/python -m pytest -m $(GATE) $(addprefix --ignore tests/,$(PARTS))

test-long: setup ## the tests that take long and hardly ever fail: before a release
	$(BIN)/python -m pytest -m 'long and not gpu and not network and not heavy and not cluster'

# cosmic-ray is no part of the gate's environment: make setup leaves it out.
test-mutation: setup ## small changes of the losses, fusion, metrics and order, of which each should make a test fail: a sample
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt cosmic-ray
	nice -n 15 $(BIN)/python -m benchmarks.trust.mutation $(OPTIONS)

check: test ## the same gate

# What a worker imports of ours, in an environment of another engine.
WORKER := ray pyarrow obstore jaxtyping av safetensors numpy scipy threadpoolctl opencv-python-headless

# mmpose 1.3.2 asks for packages that it never uses and for wheels built against numpy 1: without its dependencies, then what it imports.
env-mmpose: .env-mmpose/.ready ## mmpose in an environment of its own: ViTPose's second engine
.env-mmpose/.ready: constraints.txt
	$(PYTHON) -m venv .env-mmpose
	.env-mmpose/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $(WORKER) torch pillow tqdm rich \
		matplotlib pyyaml addict yapf termcolor six importlib_metadata lazy_importer einops json_tricks munkres model-index ordered-set \
		mat4py markdown click pycocotools shapely terminaltables cython wheel setuptools==80.10.2
	.env-mmpose/bin/pip install --quiet --disable-pip-version-check --no-deps mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0 mmpretrain==1.2.0 mmpose==1.3.2
	.env-mmpose/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary xtcocotools xtcocotools==1.14.3
	@touch $@

# detectron2 is not on PyPI. Its source runs as it is: what ContactHands needs of it is not compiled. It wants torchvision, which loads beside
# a torch of the same build only, and setuptools that still have pkg_resources.
DETECTRON2 := 02b5c4e295e990042a714712c21dc79b731e8833
env-detectron2: .env-detectron2/.ready ## detectron2, from GitHub, in an environment of its own: ContactHands' second engine
.env-detectron2/.ready: constraints.txt
	$(PYTHON) -m venv .env-detectron2
	.env-detectron2/bin/pip install --quiet --disable-pip-version-check -c <(grep -v '^torch==' constraints.txt) $(WORKER) torch==2.15.0 torchvision==0.29.2 \
		pillow matplotlib pycocotools termcolor yacs tabulate cloudpickle tqdm tensorboard 'fvcore<0.1.6' 'iopath<0.1.10' 'omegaconf<2.4' hydra-core \
		packaging setuptools==80.10.2
	git init --quiet .env-detectron2/detectron2
	git -C .env-detectron2/detectron2 fetch --quiet --depth 1 https://github.com/facebookresearch/detectron2.git $(DETECTRON2)
	git -C .env-detectron2/detectron2 checkout --quiet FETCH_HEAD
	echo $(CURDIR)/.env-detectron2/detectron2 > $$(.env-detectron2/bin/python -c 'import site; print(site.getsitepackages()[0])')/detectron2.pth
	@touch $@

test-heavy: setup ## the tests that need an environment of their own (make env-mmpose env-detectron2)
	$(BIN)/python -m pytest -m heavy tests/heavy

weights: setup ## fetch the larger networks that bind nobody to terms; whim weights list names the rest
	$(BIN)/whim weights get

test-cluster: setup ## ray up + ray submit over a loopback sshd (installs openssh-server and rsync), and forty kills on three nodes
	$(BIN)/python -m pytest --capture=no -m cluster tests/cluster

gpu-check: setup ## a machine with a GPU, in under eight minutes: networks and fit against the CPU, then their rates
	$(BIN)/python -m benchmarks.gpu_check

bench-annotate: setup ## frames/s by stage, engine overhead, memory, one worker against two, and mediapipe's own loop
	$(BIN)/python -m benchmarks.annotate

bench-detectors: setup ## ms a frame or crop of every network at batches of 1, 8 and 32, beside the peer that users would pick
	$(BIN)/python -m benchmarks.networks.detectors

bench-fit: setup ## hands/s and objective of the fit beside smplx + Adam and joints + Adam, and 100,000 hands refit from tables
	$(BIN)/python -m benchmarks.fit.speed

bench-fit-quality: setup ## millimetres of the fit under noise and outliers, and from picture to hand
	$(BIN)/python -m benchmarks.fit.quality

# mosaicml-streaming and datasets want different versions of huggingface-hub: datasets stays in .venv.
env-loaders: .env-loaders/.ready ## the peers of bench-loader, in an environment of their own
.env-loaders/.ready:
	$(PYTHON) -m venv .env-loaders
	.env-loaders/bin/pip install --quiet --disable-pip-version-check torch numpy simplejpeg opencv-python-headless pyarrow \
		webdataset==1.0.2 mosaicml-streaming==0.13.0 litdata==0.2.76
	@touch $@

bench-loader: setup env-loaders ## samples/s of our loader beside WebDataset, Mosaic MDS, LitData, HF datasets and row groups
	$(BIN)/python -m benchmarks.loading.loader

# torch and torchvision as PyPI pairs them: torchvision does not load beside the torch of .venv.
env-ultralytics: .env-ultralytics/.ready ## the peer of bench-detector (AGPL-3.0), in an environment of its own; nothing of ours imports it
.env-ultralytics/.ready:
	$(PYTHON) -m venv .env-ultralytics
	.env-ultralytics/bin/pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 ultralytics==8.4.190 onnx onnxruntime onnxslim
	@touch $@

bench-table1: setup ## average precision of an ensemble's members: OPTIONS="--coco-wholebody DIR [--recipe whim_paper]", --oxford-hands or --whim
	$(BIN)/python -m benchmarks.networks.table1 $(OPTIONS)

bench-detector: setup env-ultralytics ## size, speed and training speed of the hand detector beside yolov8n-pose and yolov8s-pose
	$(BIN)/python -m benchmarks.networks.detector

bench-regressor: setup ## hands/s of the regressor, forward and in training, beside the plain style of the release
	$(BIN)/python -m benchmarks.networks.regressor

studio-shards: setup ## rendered hands with exact truth to train on: make studio-shards DATA=data/studio_shards
	$(BIN)/whim render shards $(or $(DATA),data/studio_shards)

bench-regressor-studio: setup ## train on rendered hands for 40 minutes each, with and without refinement, and measure
	$(BIN)/python -m benchmarks.networks.regressor_studio $(OPTIONS)

bench-scale: setup ## what a clip costs the engine at 100 to 10,000 clips: seconds, files, memory; beside Ray Data
	$(BIN)/python -m benchmarks.scale $(OPTIONS)

bench-regressor-real: setup ## regressor, fit and fit with hint on albums nobody trained on, joints by what hides them
	$(BIN)/python -m benchmarks.networks.regressor_real $(OPTIONS)

bench-camera: setup ## one scene by pinhole, fisheye and full sphere, through the chain, against its truth
	$(BIN)/python -m benchmarks.camera $(OPTIONS)

bench-browse: setup ## first page, filters and memory of whim browse on a made-up folder of two million hands
	$(BIN)/python -m benchmarks.browse $(OPTIONS)

bench-trust: setup ## kills, failing system calls and flipped bits against the real chain: rows lost, doubled, silently wrong
	$(BIN)/python -m benchmarks.trust $(OPTIONS)

# The libraries that exports are for, with rerun-sdk, which writes its own. lerobot wants a torch of its own; FiftyOne and Ultralytics (AGPL-3.0)
# want each another opencv. FiftyOne's database is not needed: its importer is read alone.
env-exports: .env-exports/.ready .env-fiftyone/.ready env-ultralytics ## the libraries that exports are read back by, in environments of their own
.env-exports/.ready:
	$(PYTHON) -m venv .env-exports
	.env-exports/bin/pip install --quiet --disable-pip-version-check lerobot==0.4.4 rerun-sdk==0.26.2 pycocotools==2.0.11 webdataset==1.0.2 \
		pygltflib==1.16.5 jaxtyping rich duckdb simplejpeg
	@touch $@
.env-fiftyone/.ready:
	$(PYTHON) -m venv .env-fiftyone
	.env-fiftyone/bin/pip install --quiet --disable-pip-version-check fiftyone==1.22.1
	@touch $@

test-exports: setup env-exports ## every export read back by its own library
	$(BIN)/python -m pytest -m heavy tests/heavy/test_exports.py

bench-exports: setup env-exports ## rows/s and memory of every export of 100,000 hands, and whether it is read back equal
	$(BIN)/python -m benchmarks.exports.rates $(OPTIONS)

train-regressor: setup ## train the MANO regressor: make train-regressor DATA=folder-of-shards SIZE=h
	$(BIN)/whim train regressor --data $(DATA) --recipe regressor_$(or $(SIZE),h) $(OPTIONS)

bench-detector-real: setup ## the shipped detector on labelled frames of real video that it never saw, beside MediaPipe's loop
	$(BIN)/python -m benchmarks.networks.detector_real $(OPTIONS)

bench-detector-variants: setup ## other trainings of the detector, and other sizes of its images, on the same frames
	$(BIN)/python -m benchmarks.networks.detector_variants $(OPTIONS)

# Round one on what people drew, what the ensemble sees and the studio, at 256 px; round two on what the ensemble sees with round one's detector
# in it, and on the films of VIDEOS where that is given. Every step goes on where it stopped. MINUTES of training a round; TIERS of
# images.jsonl that may be learned from; HELD_OUT measures.
OPEN := data/detector_open
MINUTES ?= 60
TIERS ?= a
LEARN = $(BIN)/whim train detector --recipe detector_palm --held-out $(OPEN)/val --minutes $(MINUTES) --threads 1
EYES = WHIM_WEIGHTS=$(abspath $(OPEN)/weights) $(BIN)/whim
FILMS := --set split.frames_per_second=4 --set pack.negatives=1 --set pack.max_side=448
train-detector-open: setup ## the recipe of the detector that ships: make train-detector-open PICTURES=images [VIDEOS=videos] [MINUTES=60]
	$(BIN)/whim render shards $(OPEN)/studio --albums 64
	$(BIN)/whim import images $(PICTURES) --out $(OPEN)/one $(addprefix --tier ,$(TIERS)) --split train
	$(BIN)/whim import images $(PICTURES) --out $(OPEN)/val --split val --labelled
	$(LEARN) --set image_px=256 --data $(OPEN)/one $(OPEN)/studio --weights .85 .15 --out $(OPEN)/round_one
	mkdir -p $(OPEN)/weights/whim && ln -sfn $(abspath $(or $(WHIM_WEIGHTS),weights))/mediapipe $(OPEN)/weights/mediapipe
	$(BIN)/whim export detector $(OPEN)/round_one/last.pt --image 320 --half --out $(OPEN)/weights/whim/detector.onnx
	$(EYES) import images $(PICTURES) --out $(OPEN)/two $(addprefix --tier ,$(TIERS)) --split train
	$(if $(VIDEOS),$(EYES) run --local --videos $(VIDEOS) --data $(OPEN)/films $(FILMS))
	$(LEARN) --data $(OPEN)/two $(OPEN)/studio $(if $(VIDEOS),$(OPEN)/films/shards --weights .52 .1 .38,--weights .85 .15) \
		--set start=$(OPEN)/round_one/last.pt --set train.learning_rate=1e-3 --out $(OPEN)/round_two
	$(BIN)/whim export detector $(OPEN)/round_two/last.pt --half --out $(OPEN)/palm.onnx
	$(BIN)/whim export detector $(OPEN)/round_two/last.pt --out $(OPEN)/palm.pt

train-detector: setup ## train the hand detector: make train-detector DATA=folder-of-shards SIZE=s
	$(BIN)/whim train detector --data $(DATA) --recipe detector_$(or $(SIZE),s) $(OPTIONS)

# Real hands as the chain fits them without a hint, which shall not learn from itself, and the studio's; every step goes on where it stopped.
# PICTURES and VIDEOS: folders, or lists of files (those that may be learned from).
OPEN3D := data/regressor_open
UNHINTED := --set fit.hint=false --set pack.max_side=448 --set pack.negatives=0
train-regressor-open: setup ## the recipe of the hint and the regressor that ship: make train-regressor-open PICTURES=images VIDEOS=films [OPTIONS=]
	$(BIN)/whim render shards $(OPEN3D)/studio --albums 200
	$(BIN)/whim run --local --videos $(PICTURES) --data $(OPEN3D)/images $(UNHINTED)
	$(if $(VIDEOS),$(BIN)/whim run --local --videos $(VIDEOS) --data $(OPEN3D)/films --set split.frames_per_second=4 $(UNHINTED))
	$(BIN)/whim train landmarks --data $(OPEN3D)/studio $(OPEN3D)/images/shards $(if $(VIDEOS),$(OPEN3D)/films/shards) --out $(OPEN3D)/run $(OPTIONS)

docs: setup ## build the documentation as a site: build/site/index.html
	PYTHONPATH=. $(BIN)/python -m mkdocs build --quiet

readme: setup ## write the README's tree anew
	$(BIN)/python docs/tree.py

clean: ## remove the demo's data
	rm -rf data/demo
