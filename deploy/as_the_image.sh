#!/usr/bin/env bash
# The steps of the Dockerfile in a new virtual environment, with its health check at the end.
#
#     deploy/as_the_image.sh MODEL [FOLDER]
#
# FOLDER gets the environment, a copy of the model, a gallery and keys; by default a new one.
set -euo pipefail
model=$(realpath "$1")
project=$(realpath "$(dirname "$0")/..")
folder=$(realpath "${2:-$(mktemp -d)}")
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check --constraint "$project/constraints.txt" \
    "$project[serve]"
cp -r "$model" model
key=$(env/bin/likewise key keys.json check --write)
env/bin/likewise serve model --gallery known --keep unknowns --keys keys.json --port 0 \
    > address 2> log &
service=$!
trap 'kill $service 2> /dev/null || true' EXIT
for _ in $(seq 1500); do
    [ -s address ] && break
    kill -0 $service
    sleep 0.2
done
address=$(cat address)
env/bin/python - "$address" "$key" <<'PYTHON'
import json
import sys
import urllib.error
import urllib.request

address, key = sys.argv[1:]


def told(path, head):
    asked = urllib.request.Request(address + path, headers=head)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)


ready = told("/v1/ready", {})
try:
    told("/v1/model", {})
    raise SystemExit("the service answered without a key")
except urllib.error.HTTPError as error:
    refused = json.load(error)["code"]
card = told("/v1/model", {"Authorization": f"Bearer {key}"})
print(f"{ready['status']}; without a key: {refused}; {card['indexed']} items, takes {card['takes']}")
PYTHON
kill -TERM $service
wait $service
echo "stopped with status 0; everything is in $folder"
