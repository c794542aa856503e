# Every target is a thin line over the `finetune` console script; the first call builds .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs

PRESET ?= quick
OUTPUT ?= runs
# make classify TASK=agnews ATTENTION="softmax sa-softmax" SEEDS="0 1" DATA=folder MODEL=name ARGS="--train.num_train_epochs 2"
OPTIONS = --preset $(PRESET) --output "$(OUTPUT)" \
	$(if $(ATTENTION),--attention "$(ATTENTION)") $(if $(SEEDS),--seeds "$(SEEDS)") \
	$(if $(CONFIG),--config "$(CONFIG)") $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") $(ARGS)

.PHONY: help classify translate pretrain compare view push tasks variants validate env bench study calibration test exhaustive slow kills check docs wheel clean

help:  ## print this
	@echo "make TARGET [TASK=agnews] [PRESET=quick|small|scratch|full] [ATTENTION=\"softmax sa-softmax\"] [SEEDS=\"0 1\"|0-5]"
	@echo "            [DATA=auto|hub|sample|FOLDER] [MODEL=NAME] [CONFIG=FILE] [OUTPUT=runs] [ARGS=\"--key value\"]"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-11s %s\n", $$1, $$2}'
	@echo
	@echo "A look, in two minutes of a CPU, without the Hub on synthetic rows, whose figures mean nothing:"
	@echo "  make classify"
	@echo "A useful number: MiniLM on 4,000 real rows of AG News, three seeds, from the Hub;"
	@echo "about 28 minutes on one core of a CPU (4.7 a run on an AMD EPYC), less on several:"
	@echo "  make classify TASK=agnews PRESET=small DATA=hub ATTENTION=\"softmax sa-softmax\" SEEDS=\"0 1 2\" OUTPUT=runs-small"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

classify: $(READY)  ## fine-tune on a classification task: TASK=agnews|dbpedia|yelp|yahoo|amazon|FILE.py
	@$(BIN)/finetune classify --task "$(or $(TASK),agnews)" $(if $(PAIR),--pair $(PAIR)) $(OPTIONS)

translate: $(READY)  ## fine-tune on a translation task: TASK=iwslt2017 PAIR=de-en
	@$(BIN)/finetune translate --task "$(or $(TASK),iwslt2017)" $(if $(PAIR),--pair $(PAIR)) $(OPTIONS)

pretrain: $(READY)  ## train a language model on text: TASK=books OBJECTIVE=causal
	@$(BIN)/finetune pretrain --task "$(or $(TASK),books)" $(if $(OBJECTIVE),--objective $(OBJECTIVE)) $(OPTIONS)

compare: $(READY)  ## compare the runs in OUTPUT; writes report.html, .md, .csv, .tex, .json and figures/ there
	@$(BIN)/finetune compare "$(OUTPUT)"

view: $(READY)  ## look into the runs in OUTPUT: one offline page, opened in the browser; ARGS=--with-texts
	@$(BIN)/finetune view "$(OUTPUT)" $(ARGS)

push: $(READY)  ## put a finished run on the Hub: RUN=runs/.../seed-0 TO=org/name
	@$(BIN)/finetune push "$(RUN)" --to $(TO) $(ARGS)

tasks: $(READY)  ## list the tasks
	@$(BIN)/finetune tasks

variants: $(READY)  ## list the attention variants and positional encodings
	@$(BIN)/finetune variants

validate: $(READY)  ## check every preset and task, and with TASK (and DATA) its rows
	@$(BIN)/finetune validate $(if $(TASK),--task "$(TASK)") $(if $(PAIR),--pair $(PAIR)) $(if $(DATA),--data "$(DATA)")

env: $(READY)  ## print versions and hardware
	@$(BIN)/finetune env

bench: $(READY)  ## speed and memory of attention, fine-tuning and pretraining, 5 minutes; ARGS=--quick or --full
	@$(BIN)/finetune bench $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") \
		$(if $(filter-out file,$(origin OUTPUT)),--output "$(OUTPUT)") $(ARGS)

study: $(READY)  ## run a grid of runs, several at a time: STUDY=configs/studies/quick.yaml ARGS=--plan
	@$(BIN)/finetune study "$(or $(STUDY),quick)" $(if $(filter-out file,$(origin OUTPUT)),--output "$(OUTPUT)") $(ARGS)

calibration: $(READY)  ## simulate studies: the error rates of the statistics
	@$(BIN)/python -m tests.calibration $(ARGS)

test: $(READY)  ## run the tests (offline, on a CPU); the fast ones alone: ARGS="-m 'not slow'"
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

exhaustive: $(READY)  ## run the longest tests: thousands of damaged inputs, and whole matrices of cases
	$(BIN)/python -m pytest -m exhaustive --timeout 3600 $(ARGS)

slow: exhaustive

kills: $(READY)  ## kill KILLS=100 runs at random and hold what becomes of them against runs left alone
	$(BIN)/python -m tests.kills --kills $(or $(KILLS),100) $(ARGS)

check: $(READY)  ## ruff, mypy and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS)  ## build the documentation into site/; fails on a broken link, a page out of date, or a notebook that does not run
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.generate.notebook
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going --nitpicky -c docs . site

wheel: $(READY)  ## build dist/*.whl for this platform, with the compiled CPU kernel
	FINETUNE_PREBUILT=1 $(BIN)/python -m build --wheel

clean:  ## remove .venv and build outputs; runs stay
	rm -rf $(VENV) build dist jupyter_execute site *.egg-info
