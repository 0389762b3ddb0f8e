#!/usr/bin/env bash
# Resolves run.in and dev.in into run.txt and dev.txt: versions and hashes, no addresses, no paths.
#   lock.sh           writes what has to change; pins that still fit stay
#   lock.sh --check   changes nothing, and fails if something had to change
#   lock.sh --upgrade takes the newest versions
set -euo pipefail
cd "$(dirname "$0")"
uv=${UV:-../.venv/bin/uv}
flags=(--quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -- *.in *.txt "$work"

before=$PWD
cd "$work"
case $uv in */*) uv=$before/$uv ;; esac
upgrade=()
[ "${1:-}" = --upgrade ] && upgrade=(--upgrade)
"$uv" pip compile "${flags[@]}" ${upgrade[@]+"${upgrade[@]}"} run.in --output-file run.txt >/dev/null
"$uv" pip compile "${flags[@]}" ${upgrade[@]+"${upgrade[@]}"} --constraint run.txt dev.in --output-file dev.txt >/dev/null

status=0
for file in run.txt dev.txt; do
  if grep -nE '://|@ |^(-|--)|/' "$file"; then
    echo "requirements/$file names an address or a path." >&2
    status=1
  fi
  if [ "${1:-}" = --check ]; then
    diff -u "$before/$file" "$file" >&2 || { echo "requirements/$file is not current: run make lock." >&2; status=1; }
  elif ! cmp -s "$before/$file" "$file"; then
    cp "$file" "$before/$file"
    echo "requirements/$file is new."
  fi
done
exit $status
