set positional-arguments := true

# List the recipes
default:
    @{{ just_executable() }} --list --unsorted

# Run the whole platform here until Ctrl-C: just up [--data DIR] [--port N] [--trainers K] [--replicas N]
up *ARGS:
    @exec tuneyard-server up "$@"

# The main job, end to end: start everything, fine-tune a small model, download it, try it
demo *ARGS:
    @exec python -m deploy.local.demo "$@"

# Every test but the benchmarks, or some: just test [pytest's options] [PATH]
test *ARGS:
    @{{ split }} tests/e2e tests/conformance tests/integration tests/unit "$@"

# Tests of single parts, without servers
test-unit *ARGS:
    @{{ split }} tests/unit "$@"

# Tests of each room on real PostgreSQL, NATS and S3
test-integration *ARGS:
    @{{ split }} tests/integration "$@"

# Every request of the public documents against the whole platform, sent by curl where they use it
test-conformance *ARGS:
    @exec pytest tests/conformance "$@"

# Tests of the whole platform over HTTP, with processes killed
test-e2e *ARGS:
    @{{ split }} tests/e2e "$@"

# A whole run is split among processes, more than the two cores that CI has, since most tests wait;
# the longest files come first, the many short ones fill the end. Whoever names a path, or selects by
# -k or --lf, gets one process.
split := 'n=3; for word; do [ ! -e "${word%%::*}" ] || exec pytest "$@"; ' + \
    'case $word in -k*|--lf) n=0 ;; esac; done; exec pytest -n $n'

# Kill every process at every turn, and flood the gateway: a quarter of an hour
chaos *ARGS:
    @exec pytest tests/chaos "$@"

# Replace an older release by this tree while jobs run, and go back: just upgrade REVISION [SERVICE …] [--no-back]
upgrade *ARGS:
    @exec python -m tests.upgrade "$@"

# Send what the contract forbids: the document's requests broken, and bytes that are no requests
fuzz *ARGS:
    @exec python -m tests.fuzz "$@"

# Measure against the baselines, in one run, as ratios
bench *ARGS:
    @exec uv run --group bench python -m tests.bench "$@"

# Grow and contract a toy in every way, against what each promises, as a table
bench-training *ARGS:
    @exec python -m tests.bench.training "$@"

# What only a CUDA card can show: every type of job, resuming, memory that runs out, compiling
test-gpu *ARGS:
    @exec pytest tests/gpu "$@"

# Measure training on a CUDA card against the card's own matrix rate: just bench-gpu [1B] [8B]
bench-gpu *ARGS:
    @exec python -m tests.bench.gpu "$@"

# Release the public contract: write docs/openapi/v1.json, unless clients of the last one would break
openapi *ARGS:
    @exec python -m tests.support.openapi_release "$@"

# Write the SDK's types anew, from the OpenAPI document
sdk:
    @exec python -m tests.support.sdk_types

# Release the interface of the job events: write docs/asyncapi.yaml, unless subscribers would break
asyncapi *ARGS:
    @exec python -m tests.support.asyncapi_release "$@"

# Write dashboards, Kubernetes' alerts and the table of metrics from what declares them
dashboards:
    @exec python -m tests.support.dashboards

# Release what services ask each other: write docs/rpc.json, unless versions side by side would break
rpc *ARGS:
    @exec python -m tests.support.rpc_release "$@"

# Record the examples of the OpenAPI document anew, from a platform that is started for it
examples:
    @exec python -m tests.conformance.record

# Pin what the images install, anew and with hashes
pins *ARGS:
    uv pip compile -q pyproject.toml {{ pin }} -o deploy/images/requirements-services.txt "$@"
    uv pip compile -q pyproject.toml {{ pin }} --extra trainer -c deploy/images/requirements-services.txt -o deploy/images/requirements-trainer.txt "$@"

pin := "--universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes"

# The whole platform on a Docker engine: just compose, just compose down, just compose logs -f gateway
compose *ARGS:
    @tuneyard-server secrets compose .tuneyard/compose.env
    @[ "$#" -gt 0 ] || set -- up --build --wait; \
    exec docker compose --env-file .tuneyard/compose.env -f deploy/compose.yaml "$@"

# Write the users of the containers' NATS from the permission table
nats-users:
    @exec python -m deploy.containers

# Style, types and the arrows between packages
lint:
    ruff check
    ruff format --check
    mypy
    mypy --config-file libs/tuneyard/pyproject.toml
    lint-imports

# Format and fix what can be fixed
fmt:
    ruff check --fix
    ruff format
