# Everything runs in .venv, made on first use from what the machine's Python offers (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin
MINUTES ?= 2.5
BENCH := .venv-bench/bin
DIST := .venv-dist/bin

.PHONY: demo test mutants lint docs dist notebooks browser bench bench-all clean

demo: .venv/demo.stamp
	$(BIN)/elman train lm --run runs/demo --overwrite --minutes $(MINUTES)
	$(BIN)/elman sample runs/demo --prompt "The " --length 600 --seed 1
	$(BIN)/elman explain runs/demo --output runs/demo/gates.png
	$(BIN)/elman explain runs/demo --output runs/demo/page.html
	@echo "Pictures: runs/demo/loss.png, runs/demo/gates.png"
	@echo "Open runs/demo/page.html in a browser to look inside the network."

# Of the planted bugs of tests/test_mutants.py, one of ten; with MUTANTS=all, all.
test: .venv/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal

mutants: .venv/dev.stamp
	MUTANTS=all $(BIN)/python -m pytest -n 2 --dist worksteal tests/test_mutants.py

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: .venv/dev.stamp
	$(BIN)/mkdocs serve

# What would be published: an sdist, and the wheel made from it, which has to work where only what it asks for is installed.
dist: .venv/dev.stamp
	rm -rf dist .venv-dist
	$(BIN)/python -m build
	$(BIN)/python tests/published.py contents
	$(PYTHON) -m venv --without-pip .venv-dist
	$(DIST_INSTALL) "$$(echo dist/*.whl)"
	$(DIST)/python -I tests/published.py layers
	$(DIST_INSTALL) "$$(echo dist/*.whl)[train]"
	$(BIN)/python -m pip --python $(DIST)/python check
	$(DIST)/python -I tests/published.py commands
	rm -rf .venv-dist

# Runs the notebooks of examples/ again, and stores in them what they show.
notebooks: .venv/dev.stamp
	$(BIN)/python tests/notebooks.py

# Fetches onnxruntime-web with npm, and tries the page of examples/browser in Chromium.
ORT_WEB := 1.23.0
ORT_WEB_FILES := ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm

browser: .venv/dev.stamp examples/browser/onnxruntime-web/$(ORT_WEB).stamp
	$(BIN)/python -m pytest -n 0 -s tests/test_onnx_browser.py

examples/browser/onnxruntime-web/$(ORT_WEB).stamp:
	rm -rf $(@D)
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent onnxruntime-web@$(ORT_WEB) && tar -xzf *.tgz --strip-components=2 $(ORT_WEB_FILES:%=package/dist/%) && rm *.tgz
	touch $@

bench: .venv-bench/peers.stamp
	$(BENCH)/python bench/run.py
	$(BENCH)/python bench/lengths.py
	$(BENCH)/python bench/projections.py

bench-all: .venv-bench/all.stamp
	$(BENCH)/python bench/run.py --all

clean:
	rm -rf .venv .venv-bench .venv-dist dist runs

# torch first and pinned: left open, it would fetch gigabytes that a CPU has no use for.
.venv/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"elman needs Python 3.11 or later, this is {sys.version.split()[0]}; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0 -e '.[train]'
	touch $@

.venv/dev.stamp: .venv/demo.stamp
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0 -e '.[dev]'
	tests/chromium.sh
	touch $@

# Without bytecode for all of it, which would take as long as the rest: the checks import little.
DIST_INSTALL = $(BIN)/python -m pip --python $(DIST)/python install -q --no-compile -c constraints.txt torch==2.13.0

# The peers have an environment of their own. One that cannot be installed is left out, and the report names it.
BENCH_INSTALL = $(BENCH)/python -m pip install -q -c constraints.txt -c bench/constraints.txt torch==2.13.0

.venv-bench/own.stamp: pyproject.toml constraints.txt bench/constraints.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH_INSTALL) -e . matplotlib pytest hypothesis
	touch $@

.venv-bench/peers.stamp: .venv-bench/own.stamp
	for peer in jax torchrecurrent "onnx onnxruntime"; do $(BENCH_INSTALL) $$peer || echo "$$peer: not installed"; done
	touch $@

.venv-bench/all.stamp: .venv-bench/peers.stamp
	$(BENCH_INSTALL) tensorflow-cpu keras || echo "Keras on TensorFlow: not installed"
	$(BENCH_INSTALL) flax || echo "Flax: not installed"
	touch $@
