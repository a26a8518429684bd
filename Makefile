PROFILE ?= demo
PYTHON ?= python3
BIN ?= .venv/bin
READY ?= .venv/ready

.PHONY: export decode report verify test test-tasks lint lab fetch submit status bench stand-ins notebooks docs pictures publish protocols ticket-summary
report: $(READY)
	@$(BIN)/python -m lottery run $(PROFILE)

verify: $(READY)
	@$(BIN)/python -m lottery verify $(PROFILE) $(if $(TRIALS),--trials=$(TRIALS)) $(if $(SEED),--seed=$(SEED))

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-tasks: $(if $(READY),.venv/tasks)
	@$(BIN)/python -m pytest -m tasks

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && { said=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$said"; exit 1; }; } && $(BIN)/python -m pytest -q tests/test_notebooks.py -k "outputs or function or shared"

bench: $(READY)
	@failed=; for benchmark in selection whole_model scored products sparsegpt alps walk real_model perplexity streaming training recovery reconstruction calibration_draws sparse_kernel decoding sparse_gpu full_shapes; do $(BIN)/python -m benchmarks.$$benchmark || failed="$$failed $$benchmark"; done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

lab: $(READY)
	@$(BIN)/python -m ipykernel install --sys-prefix --name lottery --display-name lottery
	@$(BIN)/jupyter lab --notebook-dir=notebooks

export: $(READY)
	@$(BIN)/python -m lottery export $(PROFILE) $(MODEL) "$(VARIANT)"

decode: $(READY)
	@$(BIN)/python -m lottery decode $(FOLDER) $(if $(PROMPT),--prompt="$(PROMPT)") $(if $(TOKENS),--tokens=$(TOKENS))

fetch: $(READY)
	@$(BIN)/python -m lottery fetch $(PROFILE)

submit: $(READY)
	@$(BIN)/python -m lottery submit $(PROFILE) --partition=$(PARTITION) $(if $(SPLIT),--split=$(SPLIT)) $(if $(DRY),--dry) --set $(SET)

status: $(READY)
	@$(BIN)/python -m lottery status $(PROFILE)

stand-ins: $(READY)
	@$(BIN)/python -m lottery stand-ins

notebooks: $(READY)
	@$(BIN)/python -m lottery notebooks

docs: $(READY)
	@$(BIN)/python -m lottery docs

pictures: report
	@mkdir -p docs && cp outputs/$(PROFILE)/figures/bits-over-sparsity.svg docs/figure.svg && cp outputs/$(PROFILE)/figures/what-zeros-save.svg docs/
	@pdftoppm -r 75 -f 1 -l 1 -png -singlefile outputs/$(PROFILE)/report.pdf docs/report

publish: report
	@$(BIN)/python -m lottery publish $(PROFILE) docs/$(PROFILE)

protocols: $(READY)
	@$(BIN)/python -m lottery protocols $(PROFILE) $(MODEL) $(if $(PAGE),--page=$(PAGE))

ticket-summary: $(READY)
	@$(BIN)/python -m lottery ticket-summary $(PROFILE) docs

.venv/ready: requirements.lock pyproject.toml
	@echo "[install] creating .venv with $$($(PYTHON) --version)" && $(PYTHON) -m venv .venv
	@echo "[install] installing $$(grep -c == requirements.lock) packages, exact versions; some minutes" && $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@echo "[install] installing lottery" && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . && touch $@

.venv/tasks: .venv/ready requirements-tasks.lock
	@echo "[install] installing lm_eval, ziglang and NVRTC" && $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -r requirements-tasks.lock && touch $@
